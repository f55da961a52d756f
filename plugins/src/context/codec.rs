//! How records look where conversations are kept, so that damage and mix-ups show when they are read instead of reaching a customer.
//!
//! A record is `format(1) kind(1) checksum(8) owner length(2) owner fields…`, integers little-endian. The owner is its
//! [`place`], which names tenant, user and session; the checksum covers all that follows it, and the kind.

use std::collections::BTreeMap;

use crate::api::{FlowState, Journal, SlotValue, Slots, Text, Timestamp, Turn, TurnError};

/// Changes when the layout does. No text in UTF-8 holds such a byte, so no message id can pass for a record.
const FORMAT: u8 = 0xfe;
/// Bytes before the checked part.
const PREFIX: usize = 10;

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A session's head and what its flow keeps.
    Session = 1,
    /// A user's head and the user's slots.
    User = 2,
    /// A [`Turn`].
    Turn = 3,
    /// How often the directory was opened.
    Generation = 4,
    /// A user's sessions of versions before this are erased, and not all removed yet.
    Erasure = 5,
    /// What a session's flow keeps; its head is elsewhere.
    Flow = 6,
    /// A turn that waits for its store.
    Aside = 7,
    /// Which waiting turn waits no longer.
    Done = 8,
    /// Until when a session, or a user with all sessions, counts as erased, so that nothing from elsewhere is put in its place.
    Erased = 9,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::User => "user",
            Self::Turn => "turn",
            Self::Generation => "generation",
            Self::Erasure => "erasure",
            Self::Flow => "flow",
            Self::Aside => "waiting turn",
            Self::Done => "done",
            Self::Erased => "erased",
        }
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

pub(super) fn encode_turn(owner: &[u8], turn: &Turn) -> Vec<u8> {
    seal(Kind::Turn, owner, |out| put_turn(out, turn))
}

pub(super) fn put_turn(out: &mut Vec<u8>, turn: &Turn) {
    out.extend_from_slice(&turn.seq.to_le_bytes());
    out.extend_from_slice(&turn.at.0.to_le_bytes());
    out.push(u8::from(turn.fallback) | u8::from(turn.handoff) << 1 | u8::from(turn.awaits_past) << 2);
    for text in [&turn.message_id, &turn.q, &turn.a] {
        put_text(out, text.expose());
    }
}

pub(super) fn decode_turn(owner: &[u8], record: &[u8]) -> Result<Turn, TurnError> {
    open(Kind::Turn, owner, record, Reader::turn)
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = u32::try_from(text.len()).expect("a body limit far below 4 GiB bounds every text");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn put_slots(out: &mut Vec<u8>, slots: &Slots) {
    let count = u32::try_from(slots.0.len()).expect("at most MAX_SLOTS");
    out.extend_from_slice(&count.to_le_bytes());
    for (name, value) in &slots.0 {
        put_text(out, name);
        put_slot(out, value);
    }
}

pub(super) fn put_flow(out: &mut Vec<u8>, flow: &FlowState) {
    put_slots(out, &flow.slots);
    put_journal(out, flow.journal.as_ref());
}

/// Nothing, or a journal after a byte that says so.
pub(super) fn put_journal(out: &mut Vec<u8>, journal: Option<&Journal>) {
    out.push(u8::from(journal.is_some()));
    if let Some(journal) = journal {
        put_text(out, journal.text().expose());
    }
}

/// A slot's value: what it is, then itself.
pub(super) fn put_slot(out: &mut Vec<u8>, value: &SlotValue) {
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

/// A slot's value that stands alone, as [`put_slot`] writes it.
pub(super) fn slot(bytes: &[u8]) -> Result<SlotValue, TurnError> {
    let mut r = Reader(bytes);
    r.slot().ok().filter(|_| r.0.is_empty()).ok_or_else(|| TurnError::Corrupt("a slot cannot be read".into()))
}

/// A record of a kind that belongs to `owner`.
pub(super) fn seal(kind: Kind, owner: &[u8], fields: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&[FORMAT, kind as u8, 0, 0, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&u16::try_from(owner.len()).expect("three ids and a number").to_le_bytes());
    out.extend_from_slice(owner);
    fields(&mut out);
    let sum = checksum(kind as u8, &out[PREFIX..]);
    out[2..PREFIX].copy_from_slice(&sum.to_le_bytes());
    out
}

/// What is in a record, if it is one of this kind and owner and undamaged.
pub(super) fn open<'a, T>(
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
        if r.u64()? != checksum(kind as u8, r.0) {
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

/// What a record that stands by itself is, and whose. None if it is damaged.
pub(super) fn kind_and_owner(record: &[u8]) -> Option<(u8, &[u8])> {
    let (head, checked) = record.split_at_checked(PREFIX)?;
    let kind = head[1];
    let len = usize::from(u16::from_le_bytes(*checked.first_chunk()?));
    let sound = head[0] == FORMAT && head[2..] == checksum(kind, checked).to_le_bytes();
    Some((kind, checked[2..].get(..len)?)).filter(|_| sound)
}

/// FNV-1a over words of eight bytes. Each step maps the sum one to one, so no change within one word goes unseen.
/// It tells accidents, not forgeries: who can write the directory can write checksums.
fn checksum(kind: u8, bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut sum = 0xcbf2_9ce4_8422_2325_u64 ^ (u64::from(kind) << 56) ^ bytes.len() as u64;
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
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], &'static str> {
        let (head, rest) = self.0.split_at_checked(n).ok_or("is cut short")?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        Ok(self.take(N)?.try_into().expect("took N bytes"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, &'static str> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, &'static str> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, &'static str> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, &'static str> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn str(&mut self) -> Result<&'a str, &'static str> {
        let len = usize::try_from(self.u32()?).map_err(|_| "is cut short")?;
        std::str::from_utf8(self.take(len)?).map_err(|_| "holds text that is not UTF-8")
    }

    pub(super) fn text(&mut self) -> Result<Text, &'static str> {
        self.str().map(Text::from)
    }

    pub(super) fn slots(&mut self) -> Result<Slots, &'static str> {
        let mut slots = BTreeMap::new();
        for _ in 0..self.u32()? {
            let name = self.str()?.into();
            let value = self.slot()?;
            slots.insert(name, value);
        }
        Ok(Slots(slots))
    }

    pub(super) fn turn(&mut self) -> Result<Turn, &'static str> {
        let (seq, at, flags) = (self.u64()?, Timestamp(self.u64()?), self.u8()?);
        let (message_id, q, a) = (self.text()?, self.text()?, self.text()?);
        let (fallback, handoff, awaits_past) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
        Ok(Turn { seq, message_id, q, a, at, fallback, handoff, awaits_past })
    }

    pub(super) fn flow(&mut self) -> Result<FlowState, &'static str> {
        Ok(FlowState { slots: self.slots()?, journal: self.journal()? })
    }

    pub(super) fn journal(&mut self) -> Result<Option<Journal>, &'static str> {
        match self.u8()? {
            0 => Ok(None),
            1 => Journal::new(self.text()?).map(Some).ok_or("holds too large a journal"),
            _ => Err("cannot say whether it holds a journal"),
        }
    }

    pub(super) fn slot(&mut self) -> Result<SlotValue, &'static str> {
        Ok(match self.u8()? {
            0 => SlotValue::Bool(self.u8()? != 0),
            1 => SlotValue::Number(f64::from_bits(self.u64()?)),
            2 => SlotValue::Text(self.text()?),
            3 => SlotValue::Json(self.text()?),
            _ => return Err("holds an unknown kind of slot"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::MAX_JOURNAL;

    fn turn() -> Turn {
        Turn {
            seq: 7,
            message_id: "m-7".into(),
            q: "退货".into(),
            a: "好的".into(),
            at: Timestamp(99),
            fallback: false,
            handoff: true,
            awaits_past: true,
        }
    }

    fn flow() -> FlowState {
        let mut slots = Slots::default();
        slots.0.insert("b".into(), SlotValue::Bool(true));
        slots.0.insert("n".into(), SlotValue::Number(-0.5));
        slots.0.insert("t".into(), SlotValue::Text("名".into()));
        slots.0.insert("j".into(), SlotValue::Json("{}".into()));
        FlowState { slots, journal: Journal::new("[]".into()) }
    }

    #[test]
    fn records_come_back_as_written() {
        assert_eq!(decode_turn(b"k", &encode_turn(b"k", &turn())).unwrap(), turn());
        for flow in [flow(), FlowState::default()] {
            let record = seal(Kind::Flow, b"k", |out| put_flow(out, &flow));
            assert_eq!(open(Kind::Flow, b"k", &record, Reader::flow).unwrap(), flow);
        }
        for value in flow().slots.0.into_values() {
            let mut bytes = Vec::new();
            put_slot(&mut bytes, &value);
            assert_eq!(slot(&bytes).unwrap(), value);
            assert!(slot(&bytes[1..]).is_err() && slot(&[&bytes[..], b"\0"].concat()).is_err());
        }
    }

    #[test]
    fn a_journal_has_a_largest_size() {
        let read = |len: usize| {
            let mut bytes = vec![1];
            put_text(&mut bytes, &"x".repeat(len));
            Reader(&bytes).journal().map(|journal| journal.unwrap().text().len())
        };
        assert_eq!((read(MAX_JOURNAL), read(MAX_JOURNAL + 1)), (Ok(MAX_JOURNAL), Err("holds too large a journal")));
        assert_eq!(Reader(&[2]).journal(), Err("cannot say whether it holds a journal"));
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
        assert!(open(Kind::Flow, b"bank-a", &record, Reader::flow).is_err());
    }
}
