//! Names of keys in Redis. All of a user's are in one hash slot; any id is part of them, and can be read in them.

use std::io::Write as _;

use crate::{
    api::{SessionKey, UserKey},
    redis::put_id,
};

/// Byte strings one after the other, as scripts take them.
#[derive(Debug, Clone, Default)]
pub(super) struct Parts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Parts {
    pub(super) fn with_capacity(bytes: usize, parts: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(parts) }
    }

    /// Adds what `write` appends as one part.
    pub(super) fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
        self
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.add(|out| out.extend_from_slice(bytes))
    }

    pub(super) fn number(&mut self, n: u64) -> &mut Self {
        self.add(|out| write!(out, "{n}").expect("a Vec takes all"))
    }

    /// See [`put_stamp`].
    pub(super) fn stamp(&mut self, n: u64) -> &mut Self {
        self.add(|out| put_stamp(out, n))
    }

    pub(super) fn get(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[start..self.ends[i]]
    }

    /// The first so many of them.
    pub(super) fn first(&self, n: usize) -> Self {
        let ends = self.ends[..n].to_vec();
        Self { bytes: self.bytes[..ends.last().copied().unwrap_or_default()].to_vec(), ends }
    }

    pub(super) fn slices(&self) -> Vec<&[u8]> {
        (0..self.ends.len()).map(|i| self.get(i)).collect()
    }
}

/// Versions, epochs and names, which nobody counts with: 16 hexadecimal digits.
pub(super) fn put_stamp(out: &mut Vec<u8>, n: u64) {
    write!(out, "{n:016x}").expect("a Vec takes all");
}

/// Where the key that gateways wait by stands among a [session's](session).
pub(super) const WAITING: usize = 5;

/// The keys of a user: the user itself and the index of the sessions.
pub(super) fn user(key: &UserKey) -> Parts {
    let mut keys = Parts::with_capacity(512, 8);
    for kind in [b"u", b"i"] {
        keys.add(|out| put_name(out, key, kind));
    }
    keys
}

/// The keys of a session after those of its user: session, turns, claim, waiting.
pub(super) fn session(key: &SessionKey) -> Parts {
    let mut keys = user(key.user());
    add_session(&mut keys, key.user(), &id(key));
    keys
}

/// Adds the keys of the session that has this [id](id).
pub(super) fn add_session(keys: &mut Parts, user: &UserKey, id: &[u8]) {
    for kind in [b"s", b"t", b"c", b"w"] {
        keys.add(|out| {
            put_name(out, user, kind);
            out.push(b':');
            out.extend_from_slice(id);
        });
    }
}

/// Adds the key of one of a user's limits.
pub(super) fn add_limit(keys: &mut Parts, user: &UserKey, name: &str) {
    keys.add(|out| {
        put_name(out, user, b"r");
        out.push(b':');
        put_id(out, name);
    });
}

/// A session's id as keys have it.
pub(super) fn id(key: &SessionKey) -> Vec<u8> {
    let mut id = Vec::with_capacity(key.id().len());
    put_id(&mut id, key.id());
    id
}

/// What stands between the braces decides the slot.
fn put_name(out: &mut Vec<u8>, user: &UserKey, kind: &[u8]) {
    out.extend_from_slice(b"fengda:{");
    out.extend_from_slice(user.tenant().name().as_bytes());
    out.push(b'/');
    put_id(out, user.id());
    out.extend_from_slice(b"}:");
    out.extend_from_slice(kind);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Tenant;

    fn shown(user: &str, id: &str) -> Vec<String> {
        let user = Tenant::from_config("acme-shop").unwrap().user(user).unwrap();
        let mut keys = session(&user.session(id).unwrap());
        add_limit(&mut keys, &user, "per user");
        keys.slices().into_iter().map(|key| String::from_utf8(key.to_vec()).unwrap()).collect()
    }

    #[test]
    fn any_id_can_be_read_in_a_key_and_none_changes_its_slot() {
        assert_eq!(
            shown("u/1", "web:1"),
            [
                "fengda:{acme-shop/u%2F1}:u",
                "fengda:{acme-shop/u%2F1}:i",
                "fengda:{acme-shop/u%2F1}:s:web:1",
                "fengda:{acme-shop/u%2F1}:t:web:1",
                "fengda:{acme-shop/u%2F1}:c:web:1",
                "fengda:{acme-shop/u%2F1}:w:web:1",
                "fengda:{acme-shop/u%2F1}:r:per%20user",
            ]
        );
        assert_eq!(shown("用户 {1}\0%", "}{")[2], "fengda:{acme-shop/用户%20%7B1%7D%00%25}:s:%7D%7B");
    }

    #[test]
    fn different_ids_have_different_keys() {
        let ids = ["a", "a%", "a%25", "a/b", "a%2Fb", "a:b", "a\u{85}", "a%C2%85", "A", "{a}", "}a{"];
        let mut keys: Vec<String> = ids.iter().flat_map(|user| ids.iter().flat_map(|id| shown(user, id)[2..6].to_vec())).collect();
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }

    #[test]
    fn numbers_are_written_as_scripts_read_them() {
        let mut parts = Parts::default();
        parts.number(0).number(u64::MAX).stamp(0xab).bytes(b"");
        assert_eq!(parts.slices(), [&b"0"[..], b"18446744073709551615", b"00000000000000ab", b""]);
    }
}
