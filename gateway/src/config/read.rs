//! From bytes to the typed [`Raw`]: goes on after each thing that does not fit, by cutting it out, so that all of them are found.

use serde_yaml::{Mapping, Value};

use super::{
    diagnostic::Report,
    marks::{Flaw, MAX_BYTES, Mark, Marks},
    path::{Path, Step},
    raw::Raw,
    wording::reword,
};

/// Most problems of form that are reported at once.
const MAX_PROBLEMS: usize = 100;

/// Parses a file, for its places and for its values.
///
/// # Errors
/// It is no plain YAML.
pub(super) fn parse(bytes: &[u8]) -> Result<(Marks, Value), Vec<Flaw>> {
    if bytes.len() > MAX_BYTES {
        return Err(vec![Flaw::new(Mark::START, "the file is longer than 1MiB", None)]);
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let mark = Mark::of_byte(bytes, e.valid_up_to());
        vec![Flaw::new(mark, "not UTF-8 from here on", "save the file as UTF-8")]
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let marks = Marks::parse(text)?;
    let value = serde_yaml::from_str(text).map_err(|e| {
        let mark = e.location().map_or(Mark::START, |at| Mark { line: at.line(), column: at.column(), ..Mark::START });
        vec![Flaw::new(mark, format!("not valid YAML: {e}"), None)]
    })?;
    Ok((marks, text_keys(value)))
}

/// Keys are names: `1` and `true` are taken as the text that they are.
fn text_keys(value: Value) -> Value {
    let text = |key: Value| match key {
        Value::Number(n) => Value::String(n.to_string()),
        Value::Bool(b) => Value::String(b.to_string()),
        Value::Null => Value::String("null".to_owned()),
        other => other,
    };
    match value {
        Value::Mapping(map) => Value::Mapping(map.into_iter().map(|(key, below)| (text(key), text_keys(below))).collect()),
        Value::Sequence(seq) => Value::Sequence(seq.into_iter().map(text_keys).collect()),
        other => other,
    }
}

/// Reads the tree into its type. What does not fit goes into the report and leaves its default, or a hole, behind.
pub(super) fn typed(mut tree: Value, report: &mut Report) -> Raw {
    if tree.is_null() {
        tree = Value::Mapping(Mapping::new());
    }
    for path in report.unread() {
        cut_out(&mut tree, &path.0);
    }
    for _ in 0..MAX_PROBLEMS {
        let error = match serde_path_to_error::deserialize(&tree) {
            Ok(raw) => return raw,
            Err(error) => error,
        };
        let path = Path::from(error.path());
        let hidden = report.source.hides(&path);
        report.unreadable(path.clone(), reword(&error.into_inner().to_string(), hidden));
        if !cut_out(&mut tree, &path.0) {
            return Raw::default();
        }
    }
    report.unreadable(Path::default(), reword("more than 100 problems of form; here are the first", false));
    Raw::default()
}

/// Takes a value out of the tree; in a list it leaves a hole, so that its neighbours keep their places. False if it is not there.
fn cut_out(tree: &mut Value, path: &[Step]) -> bool {
    match (tree, path) {
        (Value::Mapping(map), [Step::Key(key)]) => map.remove(key.as_str()).is_some(),
        (Value::Mapping(map), [Step::Key(key), rest @ ..]) => map.get_mut(key.as_str()).is_some_and(|below| cut_out(below, rest)),
        (Value::Sequence(seq), [Step::Index(index)]) => {
            seq.get_mut(*index).is_some_and(|hole| !std::mem::replace(hole, Value::Null).is_null())
        }
        (Value::Sequence(seq), [Step::Index(index), rest @ ..]) => seq.get_mut(*index).is_some_and(|below| cut_out(below, rest)),
        _ => false,
    }
}
