//! The reference of all keys, `docs/config.md`: the schema as a person reads it.

use std::fmt::Write as _;

use fengda_plugins::api::Registry;
use serde_json::{Map, Value};

use super::schema::{ENVIRONMENT, schema};

/// What stands above the keys.
const INTRODUCTION: &str = include_str!("reference.md");

/// The page, as Markdown.
pub fn reference(registry: &Registry) -> String {
    let schema = schema(registry);
    let mut page = INTRODUCTION.to_owned();
    let keys = schema["properties"].as_object().into_iter().flatten();
    let (sections, alone): (Vec<_>, Vec<_>) = keys.partition(|(_, key)| !matches!(resolve(&schema, key).1, Shape::Value(_)));
    let mut rows = Rows { root: &schema, all: Vec::new() };
    alone.iter().for_each(|(name, key)| rows.add(name, key, false));
    rows.write("", &mut page);
    for (name, section) in sections {
        let mut rows = Rows { root: &schema, all: Vec::new() };
        rows.below(name, section);
        let said = section.get("description").and_then(Value::as_str).unwrap_or_default();
        rows.write(&format!("\n### {name}\n\n{said}\n"), &mut page);
    }
    page
}

/// What a schema is of, for a reader.
enum Shape<'a> {
    /// A mapping with these keys.
    Keys(&'a Map<String, Value>),
    /// A mapping of names that one chooses to this.
    Named(&'a Value),
    /// A list of these.
    List(&'a Value),
    /// A value, and what it may be.
    Value(String),
}

/// The schema behind references, and without what holds for every value; its name if it has one, and its shape.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> (Option<&'a str>, Shape<'a>) {
    let beside = |one: &&'a Value| one.get("type").is_none_or(|kind| kind != "null") && referred(one) != Some(ENVIRONMENT);
    let alternatives = schema.get("anyOf").or(schema.get("allOf")).and_then(Value::as_array);
    let alternatives: Vec<&Value> = alternatives.into_iter().flatten().filter(beside).collect();
    if let Some(name) = referred(schema) {
        let (inner, shape) = resolve(root, &root["definitions"][name]);
        let shape = match shape {
            // A kind of text with a name of its own, explained above.
            Shape::Value(what) if what == "text" => Shape::Value(name.to_owned()),
            other => other,
        };
        return (inner.or(Some(name)), shape);
    }
    let shape = match (alternatives.as_slice(), schema.get("properties"), schema.get("additionalProperties"), schema.get("items")) {
        ([one], ..) => return resolve(root, one),
        (_, Some(Value::Object(keys)), ..) => Shape::Keys(keys),
        (_, _, Some(named @ Value::Object(_)), _) => Shape::Named(named),
        (.., Some(item)) => Shape::List(item),
        (alternatives @ [_, ..], ..) => {
            let kinds: Vec<_> = alternatives.iter().map(|one| words(resolve(root, one).1)).collect();
            Shape::Value(kinds.join(", "))
        }
        _ => Shape::Value(kind(schema)),
    };
    (None, shape)
}

fn words(shape: Shape<'_>) -> String {
    match shape {
        Shape::Value(what) => what,
        Shape::Keys(_) | Shape::Named(_) => "mapping".to_owned(),
        Shape::List(_) => "list".to_owned(),
    }
}

/// What each of a value's choices means, if they say so.
fn choices(root: &Value, schema: &Value) -> Vec<String> {
    if let Some(name) = referred(schema) {
        return choices(root, &root["definitions"][name]);
    }
    let meant = |one: &Value| Some(format!("`{}`: {}", one.get("const")?.as_str()?, one.get("description")?.as_str()?));
    let alternatives = schema.get("anyOf").or(schema.get("allOf")).and_then(Value::as_array).into_iter().flatten();
    alternatives.flat_map(|one| meant(one).map_or_else(|| choices(root, one), |meant| vec![meant])).collect()
}

/// The name of the definition that a schema refers to.
fn referred(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.rsplit('/').next()
}

/// The kind of a scalar.
fn kind(schema: &Value) -> String {
    let quoted = |words: &[Value]| words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    let kind = schema.get("type").and_then(|kind| kind.as_str().or(kind.get(0).and_then(Value::as_str)));
    match (schema.get("enum").and_then(Value::as_array), schema.get("const"), kind) {
        (Some(words), ..) => quoted(words),
        (_, Some(word), _) => quoted(std::slice::from_ref(word)),
        (.., Some("integer")) => "whole number".to_owned(),
        (.., Some("boolean")) => "`true`, `false`".to_owned(),
        (.., Some("string")) => "text".to_owned(),
        (.., Some("object")) => "no keys".to_owned(),
        (.., Some(other)) => other.to_owned(),
        _ => "anything".to_owned(),
    }
}

/// A table of keys.
struct Rows<'a> {
    root: &'a Value,
    /// Path, kind, default, description.
    all: Vec<[String; 4]>,
}

impl<'a> Rows<'a> {
    /// A key, and what is below it.
    fn add(&mut self, path: &str, schema: &'a Value, required: bool) {
        let (kind, deeper) = match resolve(self.root, schema).1 {
            Shape::Value(kind) => (kind, false),
            Shape::List(item) => match resolve(self.root, item).1 {
                Shape::Value(kind) => (format!("list of {kind}"), false),
                _ => ("list".to_owned(), true),
            },
            Shape::Named(value) => match resolve(self.root, value).1 {
                Shape::Value(kind) => (format!("{kind} by name"), false),
                _ => return self.below(path, schema),
            },
            Shape::Keys(_) => return self.below(path, schema),
        };
        let default = match schema.get("default") {
            Some(Value::String(text)) => format!("`{text}`"),
            Some(other) => format!("`{other}`"),
            None if required => "**required**".to_owned(),
            None => String::new(),
        };
        let said = schema.get("description").and_then(Value::as_str).unwrap_or_default();
        let said = [vec![said.to_owned()], choices(self.root, schema)].concat().join(" ");
        self.all.push([path.to_owned(), kind, default, said.replace('\n', " ").replace('|', "\\|")]);
        if deeper {
            self.below(path, schema);
        }
    }

    /// What is below a key.
    fn below(&mut self, path: &str, schema: &'a Value) {
        match resolve(self.root, schema) {
            (Some("Plugins"), _) if path != "plugins" => {
                let said = "Replaces single keys of `plugins` for this tenant.".to_owned();
                self.all.push([path.to_owned(), "as `plugins`".to_owned(), String::new(), said]);
            }
            (name, Shape::Keys(keys)) => {
                let required = name.and_then(|name| self.root["definitions"][name].get("required")).and_then(Value::as_array);
                for (key, below) in keys {
                    let required = required.is_some_and(|required| required.iter().any(|one| one == key));
                    self.add(&format!("{path}.{key}"), below, required);
                }
            }
            (_, Shape::Named(value)) => self.below(&format!("{path}.<name>"), value),
            (_, Shape::List(item)) => self.below(&format!("{path}[]"), item),
            (_, Shape::Value(_)) => {}
        }
    }

    fn write(&self, heading: &str, page: &mut String) {
        page.push_str(heading);
        page.push_str("\n| key | takes | default | |\n|---|---|---|---|\n");
        for [path, kind, default, said] in &self.all {
            writeln!(page, "| `{path}` | {kind} | {default} | {said} |").expect("text takes text");
        }
    }
}
