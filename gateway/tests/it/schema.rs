//! As much of a JSON Schema validator as `docs/config.schema.json` needs; a keyword that it does not know fails the test.

use std::{cell::RefCell, collections::HashMap};

use regex::Regex;
use serde_json::{Map, Value};

/// What of `value` the schema does not take: the path of each, with the keyword.
pub fn problems(root: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(root, root, value, "", &mut found);
    found
}

/// The schema that a `$ref` of the root means.
fn resolve<'a>(root: &'a Value, reference: &str) -> &'a Value {
    root.pointer(reference.strip_prefix('#').expect("refers to itself")).unwrap_or_else(|| panic!("{reference} is not there"))
}

fn check(root: &Value, schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let Value::Object(keywords) = schema else { return assert_eq!(schema, true) };
    for (keyword, expected) in keywords {
        let holds = match keyword.as_str() {
            "$schema" | "definitions" | "title" | "description" | "default" => true,
            "$ref" => {
                check(root, resolve(root, expected.as_str().unwrap()), value, path, found);
                true
            }
            "allOf" => {
                expected.as_array().unwrap().iter().for_each(|one| check(root, one, value, path, found));
                true
            }
            "anyOf" => any_of(root, expected.as_array().unwrap(), value, path, found),
            "type" => expected.as_array().map_or_else(|| is(expected, value), |kinds| kinds.iter().any(|kind| is(kind, value))),
            "enum" => expected.as_array().unwrap().contains(value),
            "const" => expected == value,
            "pattern" => value.as_str().is_none_or(|text| matches(expected.as_str().unwrap(), text)),
            "minimum" => value.as_f64().is_none_or(|n| n >= expected.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|n| n <= expected.as_f64().unwrap()),
            "minProperties" => value.as_object().is_none_or(|o| o.len() as u64 >= expected.as_u64().unwrap()),
            "maxProperties" => value.as_object().is_none_or(|o| o.len() as u64 <= expected.as_u64().unwrap()),
            "required" => {
                value.as_object().is_none_or(|o| expected.as_array().unwrap().iter().all(|k| o.contains_key(k.as_str().unwrap())))
            }
            "properties" | "additionalProperties" => {
                properties(root, keywords, value.as_object(), path, found);
                true
            }
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, expected, item, &format!("{path}[{i}]"), found);
                }
                true
            }
            other => panic!("this validator does not know `{other}`"),
        };
        if !holds {
            found.push(format!("{path}: {keyword}"));
        }
    }
}

/// Compiling a pattern takes much longer than using it.
fn matches(pattern: &str, text: &str) -> bool {
    thread_local!(static COMPILED: RefCell<HashMap<String, Regex>> = RefCell::default());
    COMPILED.with_borrow_mut(|all| all.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).unwrap()).is_match(text))
}

/// One of them holds. If none does, what is wrong with the one that comes nearest, which is more use than "none".
fn any_of(root: &Value, alternatives: &[Value], value: &Value, path: &str, found: &mut Vec<String>) -> bool {
    let tried = alternatives.iter().map(|one| {
        let mut found = Vec::new();
        check(root, one, value, path, &mut found);
        found
    });
    let nearest = tried.max_by_key(|found| (found.is_empty(), found.iter().map(String::len).max()));
    found.extend(nearest.unwrap_or_default());
    true
}

fn properties(root: &Value, keywords: &Map<String, Value>, value: Option<&Map<String, Value>>, path: &str, found: &mut Vec<String>) {
    for (key, below) in value.into_iter().flatten() {
        let path = format!("{path}.{key}");
        let known = keywords.get("properties").and_then(|known| known.get(key));
        match known.or_else(|| keywords.get("additionalProperties")) {
            Some(Value::Bool(false)) => found.push(format!("{path}: additionalProperties")),
            Some(schema) => check(root, schema, below, &path, found),
            None => {}
        }
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        other => panic!("no type: {other}"),
    }
}
