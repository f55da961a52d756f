//! Turns what serde says into what an operator can act on, and finds the word that was meant.

use std::borrow::Cow;

/// Longest found value shown, in characters.
const MAX_SHOWN: usize = 60;
/// Longest message taken over as it is, in characters.
const MAX_MESSAGE: usize = 400;

/// A message and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wording {
    pub(super) message: String,
    pub(super) hint: Option<String>,
    /// It is about a key, not about its value.
    pub(super) about_key: bool,
}

/// Rewords a message of serde's, and leaves a `hidden` value, which may be a secret, out of it. A message that is not serde's is
/// taken as it is: whoever wrote it knows what it shows.
pub(super) fn reword(said: &str, hidden: bool) -> Wording {
    if let Some((kind, found, known)) = names_of(said) {
        return match kind {
            "value" if hidden => value("what is given here is not known".to_owned(), Some(list("known here", &known))),
            _ => Wording { about_key: kind == "key", ..unknown(kind, found, known) },
        };
    }
    let Some((found, wanted)) = said.rsplit_once(", expected ") else {
        return value(cut(said, MAX_MESSAGE), None);
    };
    let wanted = plain_wanted(wanted);
    if hidden {
        return value(format!("expected {wanted}; what is given is something else"), None);
    }
    let found = found.strip_prefix("invalid type: ").or_else(|| found.strip_prefix("invalid value: ")).unwrap_or(found);
    value(format!("expected {wanted}, found {}", plain_found(found)), unit(wanted, found))
}

/// What to add to a bare number where one with a unit is wanted, or to a key that was left empty.
fn unit(wanted: &str, found: &str) -> Option<String> {
    if found == "unit value" {
        return Some("fill it in, or remove the key".to_owned());
    }
    let number = found.strip_prefix("integer `").and_then(|n| n.strip_suffix('`'));
    let number = number.or_else(|| found.strip_prefix("string \"").and_then(|n| n.strip_suffix('"')))?;
    let bare = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    match wanted.split_whitespace().nth(1).filter(|_| bare)? {
        "duration" => Some(format!("add the unit: `{number}s` for seconds, or `ms`, `m`, `h`, `d`")),
        "size" => Some(format!("add the unit: `{number}B` for bytes, or `KiB`, `MiB`, `GiB`")),
        _ => None,
    }
}

fn value(message: String, hint: Option<String>) -> Wording {
    Wording { message, hint, about_key: false }
}

/// Takes "unknown field `x`, expected one of `a`, `b`" apart.
fn names_of(said: &str) -> Option<(&'static str, &str, Vec<&str>)> {
    let (kind, rest) = match (said.strip_prefix("unknown field `"), said.strip_prefix("unknown variant `")) {
        (Some(rest), _) => ("key", rest),
        (_, Some(rest)) => ("value", rest),
        _ => return None,
    };
    let (found, known) = rest.split_once("`, ")?;
    Some((kind, found, known.split('`').skip(1).step_by(2).collect()))
}

/// Says that a name of some `kind` is not known, which known one is nearest, and which are known at all.
pub(super) fn unknown<'a>(kind: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Wording {
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_unstable();
    let meant = nearest(name, &known).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
    let hint = if known.is_empty() { format!("no {kind} is known here") } else { list("known here", &known) };
    value(format!("unknown {kind} `{}`{meant}", cut(name, MAX_SHOWN)), Some(hint))
}

fn list(intro: &str, names: &[&str]) -> String {
    format!("{intro}: {}", names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
}

/// The known name that a mistyped one is nearest to, if it is near: at most a third of its letters differ.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let near = known.iter().map(|k| (distance(&lower, &k.to_lowercase()), *k)).min()?;
    (near.0 <= 1.max(name.chars().count().max(near.1.chars().count()) / 3) && near.0 < near.1.chars().count()).then_some(near.1)
}

/// How many letters to insert, remove, replace or swap with their neighbour to get from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(MAX_SHOWN).collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// What was wanted, without Rust's names of types.
fn plain_wanted(wanted: &str) -> &str {
    match wanted {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "`true` or `false`",
        "a string" => "text",
        "path string" => "a path",
        "a Value::Tagged enum" => "a word",
        "a sequence" => "a list",
        "a map" => "a mapping (`key: value`)",
        _ if wanted.starts_with("struct ") => "a mapping (`key: value`)",
        _ => wanted,
    }
}

/// What was found, without serde's names of types.
fn plain_found(found: &str) -> String {
    match found {
        "unit value" | "invalid length 0" => "nothing".to_owned(),
        "sequence" => "a list".to_owned(),
        "map" => "a mapping".to_owned(),
        _ => cut(found.strip_prefix("string ").or_else(|| found.find('`').map(|at| &found[at..])).unwrap_or(found), MAX_SHOWN),
    }
}

/// Shortens text and keeps it on its line, without the login of a URL in it.
fn cut(text: &str, max: usize) -> String {
    let text = without_login(text);
    let mut short: String = text.chars().take(max).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// The same without the user and password that a URL in it has before its host.
pub(super) fn without_login(text: &str) -> Cow<'_, str> {
    match text.split_once("://").map(|(scheme, rest)| (scheme, rest.rsplit_once('@'))) {
        Some((scheme, Some((login, host)))) if login.contains(':') => format!("{scheme}://‹login›@{host}").into(),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_the_one_that_was_meant() {
        let known = ["listen", "admin", "rate_limit", "turn", "log"];
        for (typed, meant) in [
            ("lisen", Some("listen")),
            ("Listen", Some("listen")),
            ("ratelimit", Some("rate_limit")),
            ("rate-limit", Some("rate_limit")),
            ("rateLimit", Some("rate_limit")),
            ("RATE_LIMIT", Some("rate_limit")),
            ("trun", Some("turn")),
            ("lg", Some("log")),
            ("x", None),
            ("plugins", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, &known), meant, "{typed}");
        }
    }

    #[test]
    fn messages_of_serde_become_plain() {
        for (said, shown, hidden) in [
            (
                "invalid type: string \"abc\", expected usize",
                "expected a whole number from 0, found \"abc\"",
                "expected a whole number from 0; what is given is something else",
            ),
            ("invalid type: integer `3`, expected a string", "expected text, found `3`", "expected text; what is given is something else"),
            (
                "invalid type: unit value, expected struct Limits",
                "expected a mapping (`key: value`), found nothing",
                "expected a mapping (`key: value`); what is given is something else",
            ),
            ("unknown variant `ram`, expected `os` or `disk`", "unknown value `ram`", "what is given here is not known"),
            (
                "unknown field `boddy`, expected one of `body`, `headers`",
                "unknown key `boddy`; did you mean `body`?",
                "unknown key `boddy`; did you mean `body`?",
            ),
            ("unknown field `a`, there are no fields", "unknown key `a`", "unknown key `a`"),
            ("a secret has at least 32 bytes", "a secret has at least 32 bytes", "a secret has at least 32 bytes"),
        ] {
            assert_eq!((reword(said, false).message.as_str(), reword(said, true).message.as_str()), (shown, hidden));
        }
        for (said, hint) in [
            (
                "invalid type: integer `60`, expected a duration such as `30s`",
                Some("add the unit: `60s` for seconds, or `ms`, `m`, `h`, `d`"),
            ),
            (
                "invalid value: string \"60\", expected a duration with its unit",
                Some("add the unit: `60s` for seconds, or `ms`, `m`, `h`, `d`"),
            ),
            ("invalid type: integer `3`, expected a size such as `1MiB`", Some("add the unit: `3B` for bytes, or `KiB`, `MiB`, `GiB`")),
            ("invalid value: string \"soon\", expected a duration such as `30s`", None),
            ("invalid type: integer `3`, expected a string", None),
        ] {
            assert_eq!(reword(said, false).hint.as_deref(), hint, "{said}");
            assert_eq!(reword(said, true).hint, None);
        }
        let long = reword(&format!("invalid type: string {:?}, expected u8", "机密\n".repeat(1000)), false).message;
        assert!(long.chars().count() < 120 && !long.contains('\n'), "{long}");
    }
}
