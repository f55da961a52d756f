//! What an older deployment's list holds: JSON objects `{"q","a"}`, the newest first.

use serde::Deserialize;
use serde_json::Value;

use super::lists::Element;
use crate::{
    api::{Text, Timestamp, Turn},
    context::Limits,
};

/// From this many on, a time since 1970 is in milliseconds, not in seconds: the year 5138 in these, 1973 in those.
const MILLISECONDS: f64 = 1e11;

/// Why one element of a list is no turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Cut, of another shape, or not UTF-8.
    #[error("is no JSON object with the texts `q` and `a`")]
    Form,
    /// More than [`MAX_ELEMENT`](super::MAX_ELEMENT) bytes.
    #[error("is {0} bytes long")]
    Giant(u64),
    /// So old that it would have been forgotten here.
    #[error("is older than `store.history.keep`")]
    Old,
    /// It and all after it are beyond [`MAX_LIST`](super::MAX_LIST) bytes.
    #[error("and what is older is more than can be taken of one list")]
    Rest,
}

impl Flaw {
    /// The same without what differs from one to another, to count by.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Form => "are no JSON objects with the texts `q` and `a`",
            Self::Giant(_) => "are too long",
            Self::Old => "are older than `store.history.keep`",
            Self::Rest => "and what is older in their lists are more than can be taken of one",
        }
    }
}

/// An element as it was written. Other fields are ignored.
#[derive(Deserialize)]
struct Written {
    q: Text,
    a: Text,
    #[serde(default)]
    ts: Value,
    #[serde(default)]
    timestamp: Value,
}

impl Written {
    /// When it was written, as a number of seconds or milliseconds since 1970. Text is not read: it seldom says of which time zone it is.
    fn at(&self) -> Option<Timestamp> {
        let number = self.ts.as_f64().or(self.timestamp.as_f64()).filter(|n| *n > 0.0)?;
        let ms = if number < MILLISECONDS { number * 1000.0 } else { number };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and what is too large saturates")]
        Some(Timestamp(ms as u64))
    }
}

/// The turns that a list's elements are, oldest first and numbered from 1, and what is wrong with the others, by index.
///
/// A turn whose time is not known is as if it had been now.
pub(super) fn turns(elements: &[Element], cut: bool, limits: Limits, now: Timestamp) -> (Vec<Turn>, Vec<(usize, Flaw)>) {
    let (mut taken, mut flaws) = (Vec::with_capacity(elements.len()), Vec::new());
    for (index, element) in elements.iter().enumerate() {
        match read(element, limits, now) {
            Ok(turn) => taken.push(turn),
            Err(flaw) => flaws.push((index, flaw)),
        }
    }
    if cut {
        flaws.push((elements.len(), Flaw::Rest));
    }
    taken.reverse();
    for (seq, turn) in (1..).zip(&mut taken) {
        turn.seq = seq;
        turn.message_id = format!("import:{seq}").into();
    }
    (taken, flaws)
}

fn read(element: &Element, limits: Limits, now: Timestamp) -> Result<Turn, Flaw> {
    let bytes = match element {
        Element::Bytes(bytes) => bytes,
        Element::Giant(length) => return Err(Flaw::Giant(*length)),
    };
    let written: Written = serde_json::from_slice(bytes).map_err(|_| Flaw::Form)?;
    let at = written.at().map_or(now, |at| at.min(now));
    if at.after(limits.keep) <= now {
        return Err(Flaw::Old);
    }
    Ok(Turn { seq: 0, message_id: Text::default(), q: written.q, a: written.a, at, fallback: false, handoff: false, awaits_past: false })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const LIMITS: Limits = Limits { turns: 100, keep: Duration::from_hours(24) };

    fn read_one(json: &str) -> Result<Turn, Flaw> {
        read(&Element::Bytes(json.into()), LIMITS, NOW)
    }

    #[test]
    fn elements_become_turns_oldest_first() {
        let elements = [r#"{"q": "\u518d\u89c1 \ud83d\ude00", "a": ""}"#, "{", r#"{"a":"您好","q":"你好","id":7}"#];
        let (turns, flaws) = turns(&elements.map(|e| Element::Bytes(e.into())), true, LIMITS, NOW);
        let texts: Vec<_> = turns.iter().map(|t| (t.seq, t.message_id.expose(), t.q.expose(), t.a.expose(), t.at)).collect();
        assert_eq!(texts, [(1, "import:1", "你好", "您好", NOW), (2, "import:2", "再见 😀", "", NOW)]);
        assert_eq!(flaws, [(1, Flaw::Form), (3, Flaw::Rest)]);
    }

    #[test]
    fn what_is_no_question_and_answer_is_refused() {
        for bad in [
            "",
            "null",
            "[]",
            "7",
            r#"{"q":"x"}"#,
            r#"{"q":1,"a":"x"}"#,
            r#"{"q":null,"a":""}"#,
            r#"{"q":"\ud83d","a":""}"#,
            r#"{"q":"x","a":"y"}z"#,
        ] {
            assert_eq!(read_one(bad), Err(Flaw::Form), "{bad}");
        }
        assert_eq!(read(&Element::Bytes(b"{\"q\":\"\xff\",\"a\":\"\"}".to_vec()), LIMITS, NOW), Err(Flaw::Form));
        assert_eq!(read(&Element::Giant(9), LIMITS, NOW), Err(Flaw::Giant(9)));
    }

    #[test]
    fn a_known_time_is_kept_and_what_would_have_been_forgotten_stays_behind() {
        let at = |field: &str| read_one(&format!(r#"{{"q":"x","a":"y",{field}}}"#)).map(|turn| turn.at.0);
        assert_eq!(at(r#""ts": 1799999999"#), Ok(1_799_999_999_000));
        assert_eq!(at(r#""ts": 1799999999.25"#), Ok(1_799_999_999_250));
        assert_eq!(at(r#""timestamp": 1799999999250"#), Ok(1_799_999_999_250));
        for unknown in [r#""ts": "2027-01-01T00:00:00""#, r#""ts": null"#, r#""ts": -1"#, r#""ts": {}"#, r#""timestamp": 1e300"#] {
            assert_eq!(at(unknown), Ok(NOW.0), "{unknown}");
        }
        assert_eq!(at(r#""ts": 1799900000"#), Err(Flaw::Old));
    }
}
