//! How records look on the disk, so that damage and mix-ups show when they are read instead of reaching a customer.
//!
//! A record is `format(1) kind(1) checksum(8) owner length(2) owner fields…`, integers little-endian. The owner is its
//! [`place`], which names tenant, user and session; the checksum covers all that follows it, and the kind.

use std::collections::BTreeMap;

use crate::api::{SlotValue, Slots, Text, Timestamp, Turn, TurnError};

/// Changes when the layout does.
const FORMAT: u8 = 1;
/// Bytes before the checked part.
const PREFIX: usize = 10;

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A [`SessionHead`] and the session's slots.
    Session = 1,
    /// A [`UserHead`] and the user's slots.
    User = 2,
    /// A [`Turn`].
    Turn = 3,
    /// How often the directory was opened.
    Generation = 4,
    /// A user's sessions of versions before this are erased, and not all removed yet.
    Erasure = 5,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::User => "user",
            Self::Turn => "turn",
            Self::Generation => "generation",
            Self::Erasure => "erasure",
        }
    }
}

/// All of a session but its turns and slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionHead {
    /// Unique to one state of one session; 0 if it does not exist.
    pub(super) version: u64,
    /// The newest turn's number.
    pub(super) seq: u64,
    /// The oldest kept turn's number; `seq + 1` if none is kept.
    pub(super) first: u64,
    /// From then on it counts as absent.
    pub(super) expires: Timestamp,
}

impl SessionHead {
    /// A session that does not exist.
    pub(super) const ABSENT: Self = Self { version: 0, seq: 0, first: 1, expires: Timestamp(u64::MAX) };

    /// The same after an erasure of what is older than `version`: no turns and no slots, and as long to live as before.
    pub(super) fn erased(self, version: u64) -> Self {
        if self.version == 0 || self.version >= version { self } else { Self { version, first: self.seq + 1, ..self } }
    }

    /// The same, or [`Self::ABSENT`] if it has expired.
    pub(super) fn live(self, now: Timestamp) -> Self {
        if self.expires > now { self } else { Self::ABSENT }
    }
}

/// All of a user but the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UserHead {
    /// Unique to one state of the user's slots; 0 if there are none.
    pub(super) version: u64,
    /// From then on they count as absent.
    pub(super) expires: Timestamp,
}

impl UserHead {
    /// A user without slots.
    pub(super) const ABSENT: Self = Self { version: 0, expires: Timestamp(u64::MAX) };

    /// The same, or [`Self::ABSENT`] if they have expired.
    pub(super) fn live(self, now: Timestamp) -> Self {
        if self.expires > now { self } else { Self::ABSENT }
    }
}

/// Where a record stands: what it is, then whose. All records of a kind are neighbours.
pub(super) fn place(kind: Kind, key: &[u8]) -> Vec<u8> {
    let mut place = Vec::with_capacity(1 + key.len() + 8);
    place.push(kind as u8);
    place.extend_from_slice(key);
    place
}

/// Where a session's turn stands: turns sort by number.
pub(super) fn turn_place(session: &[u8], seq: u64) -> Vec<u8> {
    let mut place = place(Kind::Turn, session);
    place.extend_from_slice(&seq.to_be_bytes());
    place
}

/// The session and the number of the turn that stands at a [`turn_place`].
pub(super) fn session_and_seq(place: &[u8]) -> (&[u8], u64) {
    let (session, seq) = place[1..].split_last_chunk().expect("a turn's place ends with its number");
    (session, u64::from_be_bytes(*seq))
}

/// The user's key that a session's key begins with: two parts, each after its length.
pub(super) fn user_of(session: &[u8]) -> &[u8] {
    let part = |at: usize| at + 1 + session.get(at).copied().map_or(0, usize::from);
    &session[..part(part(0)).min(session.len())]
}

pub(super) fn encode_session(owner: &[u8], head: &SessionHead, slots: &Slots) -> Vec<u8> {
    seal(Kind::Session, owner, |out| {
        for n in [head.version, head.seq, head.first, head.expires.0] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        put_slots(out, slots);
    })
}

pub(super) fn decode_session(owner: &[u8], record: &[u8]) -> Result<(SessionHead, Slots), TurnError> {
    open(Kind::Session, owner, record, |r| {
        let head = SessionHead { version: r.u64()?, seq: r.u64()?, first: r.u64()?, expires: Timestamp(r.u64()?) };
        Ok((head, r.slots()?))
    })
}

pub(super) fn encode_user(owner: &[u8], head: &UserHead, slots: &Slots) -> Vec<u8> {
    seal(Kind::User, owner, |out| {
        out.extend_from_slice(&head.version.to_le_bytes());
        out.extend_from_slice(&head.expires.0.to_le_bytes());
        put_slots(out, slots);
    })
}

pub(super) fn decode_user(owner: &[u8], record: &[u8]) -> Result<(UserHead, Slots), TurnError> {
    open(Kind::User, owner, record, |r| {
        let head = UserHead { version: r.u64()?, expires: Timestamp(r.u64()?) };
        Ok((head, r.slots()?))
    })
}

pub(super) fn encode_turn(owner: &[u8], turn: &Turn) -> Vec<u8> {
    seal(Kind::Turn, owner, |out| {
        out.extend_from_slice(&turn.seq.to_le_bytes());
        out.extend_from_slice(&turn.at.0.to_le_bytes());
        out.push(u8::from(turn.fallback) | u8::from(turn.handoff) << 1);
        for text in [&turn.message_id, &turn.q, &turn.a] {
            put_text(out, text.expose());
        }
    })
}

pub(super) fn decode_turn(owner: &[u8], record: &[u8]) -> Result<Turn, TurnError> {
    open(Kind::Turn, owner, record, |r| {
        let (seq, at, flags) = (r.u64()?, Timestamp(r.u64()?), r.u8()?);
        let (message_id, q, a) = (r.text()?, r.text()?, r.text()?);
        Ok(Turn { seq, message_id, q, a, at, fallback: flags & 1 != 0, handoff: flags & 2 != 0 })
    })
}

/// A record that is one number: [`Kind::Generation`] or [`Kind::Erasure`].
pub(super) fn encode_number(kind: Kind, owner: &[u8], number: u64) -> Vec<u8> {
    seal(kind, owner, |out| out.extend_from_slice(&number.to_le_bytes()))
}

pub(super) fn decode_number(kind: Kind, owner: &[u8], record: &[u8]) -> Result<u64, TurnError> {
    open(kind, owner, record, Reader::u64)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = u32::try_from(text.len()).expect("a body limit far below 4 GiB bounds every text");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_slots(out: &mut Vec<u8>, slots: &Slots) {
    let count = u32::try_from(slots.0.len()).expect("at most MAX_SLOTS");
    out.extend_from_slice(&count.to_le_bytes());
    for (name, value) in &slots.0 {
        put_text(out, name);
        match value {
            SlotValue::Bool(b) => out.extend_from_slice(&[0, u8::from(*b)]),
            SlotValue::Number(n) => {
                out.push(1);
                out.extend_from_slice(&n.to_bits().to_le_bytes());
            }
            SlotValue::Text(t) => {
                out.push(2);
                put_text(out, t.expose());
            }
            SlotValue::Json(t) => {
                out.push(3);
                put_text(out, t.expose());
            }
        }
    }
}

fn seal(kind: Kind, owner: &[u8], fields: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&[FORMAT, kind as u8, 0, 0, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&u16::try_from(owner.len()).expect("three ids and a number").to_le_bytes());
    out.extend_from_slice(owner);
    fields(&mut out);
    let sum = checksum(kind, &out[PREFIX..]);
    out[2..PREFIX].copy_from_slice(&sum.to_le_bytes());
    out
}

fn open<'a, T>(
    kind: Kind,
    owner: &[u8],
    record: &'a [u8],
    fields: impl FnOnce(&mut Reader<'a>) -> Result<T, &'static str>,
) -> Result<T, TurnError> {
    let read = || {
        let mut r = Reader(record);
        if r.u8()? != FORMAT {
            return Err("written in an unknown format");
        }
        if r.u8()? != kind as u8 {
            return Err("is of another kind");
        }
        if r.u64()? != checksum(kind, r.0) {
            return Err("has a wrong checksum");
        }
        let len = usize::from(r.u16()?);
        if r.take(len)? != owner {
            return Err("belongs to another key");
        }
        let value = fields(&mut r)?;
        if r.0.is_empty() { Ok(value) } else { Err("has bytes left over") }
    };
    read().map_err(|what| TurnError::Corrupt(format!("a {} record {what}", kind.name())))
}

/// FNV-1a over words of eight bytes. Each step maps the sum one to one, so no change within one word goes unseen.
/// It tells accidents, not forgeries: who can write the directory can write checksums.
fn checksum(kind: Kind, bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut sum = 0xcbf2_9ce4_8422_2325_u64 ^ (u64::from(kind as u8) << 56) ^ bytes.len() as u64;
    let mut mix = |word: u64| sum = (sum ^ word).wrapping_mul(PRIME).rotate_left(29);
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        mix(u64::from_le_bytes(word.try_into().expect("chunks of eight")));
    }
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    mix(u64::from_le_bytes(last));
    sum
}

/// Takes fields off the front of a record.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], &'static str> {
        let (head, rest) = self.0.split_at_checked(n).ok_or("is cut short")?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        Ok(self.take(N)?.try_into().expect("took N bytes"))
    }

    fn u8(&mut self) -> Result<u8, &'static str> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, &'static str> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        self.array().map(u64::from_le_bytes)
    }

    fn str(&mut self) -> Result<&'a str, &'static str> {
        let len = usize::try_from(self.u32()?).map_err(|_| "is cut short")?;
        std::str::from_utf8(self.take(len)?).map_err(|_| "holds text that is not UTF-8")
    }

    fn text(&mut self) -> Result<Text, &'static str> {
        self.str().map(Text::from)
    }

    fn slots(&mut self) -> Result<Slots, &'static str> {
        let mut slots = BTreeMap::new();
        for _ in 0..self.u32()? {
            let name = self.str()?.into();
            let value = match self.u8()? {
                0 => SlotValue::Bool(self.u8()? != 0),
                1 => SlotValue::Number(f64::from_bits(self.u64()?)),
                2 => SlotValue::Text(self.text()?),
                3 => SlotValue::Json(self.text()?),
                _ => return Err("holds an unknown kind of slot"),
            };
            slots.insert(name, value);
        }
        Ok(Slots(slots))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn() -> Turn {
        Turn { seq: 7, message_id: "m-7".into(), q: "退货".into(), a: "好的".into(), at: Timestamp(99), fallback: false, handoff: true }
    }

    fn slots() -> Slots {
        let mut slots = Slots::default();
        slots.0.insert("b".into(), SlotValue::Bool(true));
        slots.0.insert("n".into(), SlotValue::Number(-0.5));
        slots.0.insert("t".into(), SlotValue::Text("名".into()));
        slots.0.insert("j".into(), SlotValue::Json("{}".into()));
        slots
    }

    #[test]
    fn records_come_back_as_written() {
        let head = SessionHead { version: 1, seq: 2, first: 3, expires: Timestamp(4) };
        assert_eq!(decode_session(b"k", &encode_session(b"k", &head, &slots())).unwrap(), (head, slots()));
        let user = UserHead { version: 1, expires: Timestamp(4) };
        assert_eq!(decode_user(b"k", &encode_user(b"k", &user, &slots())).unwrap(), (user, slots()));
        assert_eq!(decode_turn(b"k", &encode_turn(b"k", &turn())).unwrap(), turn());
        for kind in [Kind::Generation, Kind::Erasure] {
            assert_eq!(decode_number(kind, b"k", &encode_number(kind, b"k", 5)).unwrap(), 5);
        }
    }

    #[test]
    fn no_flipped_bit_no_cut_and_no_added_byte_goes_unseen() {
        let good = encode_turn(b"owner", &turn());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode_turn(b"owner", &bad), Err(TurnError::Corrupt(_))), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(decode_turn(b"owner", &good[..len]).is_err(), "cut to {len}");
        }
        assert!(decode_turn(b"owner", &[&good[..], b"\0"].concat()).is_err());
    }

    #[test]
    fn a_record_is_refused_under_another_key_and_as_another_kind() {
        let record = encode_turn(b"bank-a", &turn());
        let error = decode_turn(b"bank-b", &record).unwrap_err();
        assert_eq!(error, TurnError::Corrupt("a turn record belongs to another key".into()));
        assert!(decode_user(b"bank-a", &record).is_err());
    }

    #[test]
    fn a_session_key_begins_with_its_users_key() {
        let user = crate::api::Tenant::from_config("bank").unwrap().user("u-1").unwrap();
        assert_eq!(user_of(user.session("s").unwrap().as_bytes()), user.as_bytes());
        assert_eq!(session_and_seq(&turn_place(b"session", 258)), (&b"session"[..], 258));
        assert_eq!(user_of(b"\xff"), b"\xff");
        assert_eq!(user_of(b""), b"");
    }
}
