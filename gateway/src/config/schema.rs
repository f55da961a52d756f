//! The JSON Schema of the file, for editors and documents: made from the types that read it, so that it cannot say anything else.
//!
//! [`Raw`] and what is in it give the shape, the descriptions (doc comments) and the defaults; each plugin gives its own part.
//! Added to them is what is true of every value: it may come from the environment.

use std::borrow::Cow;

use fengda_plugins::api::Registry;
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, transform::transform_subschemas};
use serde_json::{Map, Value, json};

use super::raw::{Entry, Raw};

/// The name under which the schema has `${NAME}`.
pub(super) const ENVIRONMENT: &str = "environment";

/// The schema of `plugins:`, of the file and of a tenant. Only a registry knows what is in it, so it is filled in by [`schema`].
pub(super) struct Plugins;

impl JsonSchema for Plugins {
    fn schema_name() -> Cow<'static, str> {
        "Plugins".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        Schema::default()
    }
}

/// Filled in by [`schema`], as [`Plugins`] is.
impl JsonSchema for Entry {
    fn schema_name() -> Cow<'static, str> {
        "ChainItem".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        Schema::default()
    }
}

/// The schema (draft 7, which editors know best) of a file that may name these plugins.
pub fn schema(registry: &Registry) -> Value {
    let mut generator = SchemaSettings::draft07().with_transform(polish as fn(&mut Schema)).into_generator();
    let mut plugins = Map::new();
    for spec in registry.iter() {
        let config = (spec.schema)(&mut generator);
        every_key_optional(&config, generator.definitions_mut());
        plugins.insert(spec.name.to_owned(), json!({ "anyOf": [config, { "type": "null" }] }));
    }
    generator.subschema_for::<Entry>();
    generator.subschema_for::<Plugins>();
    let definitions = generator.definitions_mut();
    let names: Vec<_> = plugins.keys().cloned().collect();
    let one = json!({ "type": "object", "additionalProperties": false, "properties": plugins, "minProperties": 1, "maxProperties": 1 });
    definitions.insert("Plugins".into(), json!({ "type": "object", "additionalProperties": false, "properties": plugins }));
    definitions.insert("ChainItem".into(), json!({ "anyOf": [{ "type": "string", "enum": names }, one] }));
    let mut root = generator.into_root_schema_for::<Raw>().to_value();
    root["title"] = "config.yaml of Fengda".into();
    root["definitions"][ENVIRONMENT] = json!({
        "type": "string",
        "pattern": r"\$\{",
        "description": "`${NAME}`, or `${NAME:-default}`: from the environment.",
    });
    root
}

/// A plugin's configuration is laid together from the defaults, the route and the tenant: no layer need have all of it.
fn every_key_optional(config: &Schema, definitions: &mut Map<String, Value>) {
    let name = config.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
    if let Some(Value::Object(definition)) = name.and_then(|name| definitions.get_mut(name)) {
        definition.remove("required");
    }
}

/// Leaves out what says nothing to a reader, and lets every value that is not any text come from the environment.
fn polish(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else { return };
    if matches!(object.get("default"), Some(Value::Null)) || object.get("default") == Some(&json!({})) {
        object.remove("default");
    }
    object.remove("format");
    if let Some(one_of) = object.remove("oneOf") {
        object.insert("anyOf".into(), one_of);
    }
    let is_choice = |alternative: &Value| alternative.get("const").is_some();
    if let Some(Value::Array(alternatives)) =
        object.get_mut("anyOf").filter(|any| any.as_array().is_some_and(|any| any.iter().all(is_choice)))
    {
        alternatives.push(from_environment());
        return;
    }
    let text = object.get("type").is_some_and(|kind| kind == "string");
    if scalar(object) && (!text || object.contains_key("enum") || object.contains_key("pattern")) {
        let mut around = Map::new();
        for key in ["description", "title", "default"] {
            around.extend(object.remove_entry(key));
        }
        let alone = std::mem::replace(object, around);
        object.insert("anyOf".into(), json!([alone, from_environment()]));
    } else {
        transform_subschemas(&mut (polish as fn(&mut Schema)), schema);
    }
}

/// Whether a schema is of numbers, truth values or texts, or nothing.
fn scalar(schema: &Map<String, Value>) -> bool {
    let is_scalar = |kind: &Value| kind.as_str().is_some_and(|kind| matches!(kind, "string" | "integer" | "number" | "boolean" | "null"));
    match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().all(is_scalar),
        Some(kind) => is_scalar(kind) && kind != "null",
        None => false,
    }
}

fn from_environment() -> Value {
    json!({ "$ref": format!("#/definitions/{ENVIRONMENT}") })
}
