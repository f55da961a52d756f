//! The lists of an older deployment where they are: read, and never changed.

use std::sync::Arc;

use redis::Value;

use super::{
    MAX_ELEMENT, MAX_LIST,
    list::{self, Flaw},
};
use crate::{
    api::{Timestamp, Turn},
    context::Limits,
    redis::{Fault, Redis, Scan, Script},
};

static READ: Script = Script::new("read_list", include_str!("read_list.lua"));

/// Redis with the lists in it.
#[derive(Clone)]
pub struct Lists(Arc<Redis>);

/// One element of a list.
#[derive(PartialEq)]
pub(super) enum Element {
    /// All of it.
    Bytes(Vec<u8>),
    /// More than [`MAX_ELEMENT`] bytes: so many.
    Giant(u64),
}

/// What stands under a key.
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// Something else than a list.
    Other,
    /// A list: its turns, oldest first and numbered from 1, and what is wrong with other elements, by their index.
    Turns(Vec<Turn>, Vec<(usize, Flaw)>),
}

impl Lists {
    /// The lists in a Redis.
    pub fn new(redis: Arc<Redis>) -> Self {
        Self(redis)
    }

    /// A walk over the keys that match a pattern.
    pub(super) fn keys(&self, glob: String) -> Scan {
        Scan::new(self.0.clone(), glob)
    }

    /// About how many keys of all kinds there are; `None` if that is not told.
    pub(super) async fn count(&self) -> Option<u64> {
        self.0.count_keys().await.ok()
    }

    /// What stands under a key, of a list the newest elements: one round trip.
    pub(super) async fn read(&self, key: &[u8], limits: Limits, now: Timestamp) -> Result<Found, Fault> {
        let [count, one, all] = [limits.turns.to_string(), MAX_ELEMENT.to_string(), MAX_LIST.to_string()];
        let reply = self.0.run(&READ, &[key], &[count.as_bytes(), one.as_bytes(), all.as_bytes()]).await?;
        let found = understood(reply, |elements, cut| list::turns(&elements, cut, limits, now));
        found.ok_or_else(|| Fault::Refused { code: "ERR".into(), detail: "an unexpected reply to `read_list`".into() })
    }
}

type Read = (Vec<Turn>, Vec<(usize, Flaw)>);

fn understood(reply: Value, read: impl FnOnce(Vec<Element>, bool) -> Read) -> Option<Found> {
    let Value::Array(parts) = reply else { return None };
    let mut parts = parts.into_iter();
    let (Value::BulkString(kind), Value::Int(cut)) = (parts.next()?, parts.next()?) else { return None };
    let element = |value| match value {
        Value::BulkString(bytes) => Some(Element::Bytes(bytes)),
        Value::Int(length) => Some(Element::Giant(length.try_into().ok()?)),
        _ => None,
    };
    match &*kind {
        b"none" => Some(Found::Nothing),
        b"list" => {
            let (turns, flaws) = read(parts.map(element).collect::<Option<_>>()?, cut != 0);
            Some(Found::Turns(turns, flaws))
        }
        _ => Some(Found::Other),
    }
}
