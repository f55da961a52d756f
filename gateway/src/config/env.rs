//! `${NAME}` in text: filled in after the file was parsed, so that nothing in the environment can change the shape of the tree.

use serde_yaml::Value;

use super::{Env, marks::Marks, path::Path};

/// What the environment had to do with a file.
#[derive(Default)]
pub(super) struct Expanded {
    /// The values that hold something from the environment: such a value is never shown, it may be a secret.
    pub(super) paths: Vec<Path>,
    /// Names and what they stood for, in the order of the file: part of the configuration's hash.
    pub(super) used: Vec<(String, String)>,
    /// What could not be filled in.
    pub(super) problems: Vec<(Path, Unfilled)>,
}

/// Why a `${…}` could not be filled in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfilled {
    #[error("the environment variable `{0}` is not set")]
    Unset(String),
    #[error("the environment variable `{0}` is empty")]
    Empty(String),
    #[error("`${{` without its `}}`, or with something else than NAME or NAME:-default in it")]
    Malformed,
}

impl Unfilled {
    pub(super) fn hint(&self) -> String {
        match self {
            Self::Unset(name) => format!("set it, or give a default: `${{{name}:-…}}`"),
            Self::Empty(name) => format!("give it a value, or a default, which may be nothing: `${{{name}:-}}`"),
            Self::Malformed => "write `$${` for a plain `${`".to_owned(),
        }
    }
}

/// Fills in every string value of a tree. An unquoted value that turns out to be a number, `true` or `false` becomes one.
pub(super) fn expand(tree: &mut Value, marks: &Marks, env: Env<'_>) -> Expanded {
    let mut done = Expanded::default();
    walk(tree, &Path::default(), marks, env, &mut done);
    done
}

fn walk(value: &mut Value, path: &Path, marks: &Marks, env: Env<'_>, done: &mut Expanded) {
    match value {
        Value::Mapping(map) => {
            for (key, below) in map.iter_mut() {
                walk(below, &path.at(key.as_str().unwrap_or_default()), marks, env, done);
            }
        }
        Value::Sequence(seq) => {
            for (i, below) in seq.iter_mut().enumerate() {
                walk(below, &path.at(i), marks, env, done);
            }
        }
        Value::String(text) if text.contains("${") => match fill(text, env, &mut done.used) {
            Ok(filled) => {
                let typed = if marks.plain(path) { scalar(&filled) } else { None };
                *value = typed.unwrap_or(Value::String(filled));
                done.paths.push(path.clone());
            }
            Err(why) => done.problems.push((path.clone(), why)),
        },
        _ => {}
    }
}

/// The number or truth value that unquoted text stands for.
fn scalar(text: &str) -> Option<Value> {
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    match text {
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        _ if digits(text.strip_prefix('-').unwrap_or(text)) => text.parse::<i64>().ok().map(Value::from),
        _ => text
            .split_once('.')
            .filter(|(whole, part)| digits(whole) && digits(part))
            .and_then(|_| text.parse::<f64>().ok())
            .map(Value::from),
    }
}

fn fill(text: &str, env: Env<'_>, used: &mut Vec<(String, String)>) -> Result<String, Unfilled> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            filled.push_str(&rest[..at - 1]);
            filled.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        filled.push_str(&rest[..at]);
        let (inside, after) = rest[at + 2..].split_once('}').ok_or(Unfilled::Malformed)?;
        let (name, default) = inside.split_once(":-").map_or((inside, None), |(name, default)| (name, Some(default)));
        if !is_name(name) {
            return Err(Unfilled::Malformed);
        }
        let value = match (env(name), default) {
            (Some(value), _) if !value.is_empty() => value,
            (_, Some(default)) => default.to_owned(),
            (Some(_), None) => return Err(Unfilled::Empty(name.to_owned())),
            (None, None) => return Err(Unfilled::Unset(name.to_owned())),
        };
        filled.push_str(&value);
        used.push((name.to_owned(), value));
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

fn is_name(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && name.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<String, Unfilled> {
        let env = |name: &str| match name {
            "SET" => Some("v".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${SET}".to_owned()),
            _ => None,
        };
        fill(text, &env, &mut Vec::new())
    }

    #[test]
    fn names_defaults_and_escapes_are_filled_in_once() {
        for (text, expected) in [
            ("a${SET}b${SET}", "avbv"),
            ("${NO:-d}", "d"),
            ("${NO:-}", ""),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY:-}", ""),
            ("$${SET} $SET $", "${SET} $SET $"),
            ("${NESTED}", "${SET}"),
            ("${NO:-a:-b c/é}", "a:-b c/é"),
        ] {
            assert_eq!(one(text).as_deref(), Ok(expected), "{text}");
        }
        assert_eq!(one("${NO}"), Err(Unfilled::Unset("NO".to_owned())));
        assert_eq!(one("a${EMPTY}"), Err(Unfilled::Empty("EMPTY".to_owned())));
        for text in ["${", "${SET", "${}", "${1A}", "${A-b}", "${A B}", "${:-x}"] {
            assert_eq!(one(text), Err(Unfilled::Malformed), "{text}");
        }
    }

    #[test]
    fn the_environment_cannot_change_the_shape_of_the_tree() {
        let text = "a: ${V}\nb: \"${V}\"\n${V}: 1\n";
        let evil = "x\nlisten: 0.0.0.0:1\n- {a: *b}";
        for (value, plain) in [
            (evil, Value::from(evil)),
            ("[1]", Value::from("[1]")),
            ("~", Value::from("~")),
            ("8", Value::from(8)),
            ("1.5", Value::from(1.5)),
            ("true", Value::from(true)),
        ] {
            let mut tree: Value = serde_yaml::from_str(text).unwrap();
            expand(&mut tree, &Marks::parse(text).unwrap(), &|_| Some(value.to_owned()));
            assert_eq!((&tree["a"], &tree["b"], &tree["${V}"]), (&plain, &Value::from(value), &Value::from(1)));
            assert_eq!(tree.as_mapping().unwrap().len(), 3);
        }
    }
}
