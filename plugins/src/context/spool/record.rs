//! A turn that waits, and how it stands in the file.

use std::sync::Arc;

use crate::{
    api::{Change, Claim, Commit, SessionKey, SlotDelta, Tenant, Timestamp, Turn},
    context::codec::{self, Kind, Reader},
};

/// A turn that was answered and is not stored yet.
pub(in crate::context) struct Entry {
    /// Counts up: the order of arrival.
    pub(super) number: u64,
    /// Whose conversation.
    pub(in crate::context) key: SessionKey,
    /// See [`SessionState::epoch`](crate::api::SessionState::epoch); of what the turn began with.
    pub(in crate::context) epoch: u64,
    /// The newest stored turn's number when it began.
    pub(super) seq: u64,
    /// The number that it will have if nobody else's turn comes before it.
    pub(super) place: u64,
    /// What is to be stored.
    pub(in crate::context) commit: Commit,
    /// The claim it began with, if it began with one and in this process.
    pub(super) claim: Option<Claim>,
    /// Bytes in the file.
    pub(super) size: u64,
}

impl Entry {
    /// The turn as its client was told of it.
    pub(in crate::context) fn as_told(&self) -> Turn {
        self.commit.turn(self.seq)
    }

    /// Appends it to the bytes of a file.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let record = codec::seal(Kind::Aside, self.key.as_bytes(), |out| {
            for n in [self.number, self.epoch, self.seq, self.place, self.commit.at.0] {
                out.extend_from_slice(&n.to_le_bytes());
            }
            let commit = &self.commit;
            out.push(u8::from(commit.fallback) | u8::from(commit.handoff) << 1 | u8::from(commit.awaits_past) << 2);
            for text in [&commit.message_id, &commit.q, &commit.a] {
                codec::put_text(out, text.expose());
            }
            put_deltas(out, &commit.slots);
            put_deltas(out, &commit.user_slots);
            codec::put_journal(out, commit.journal.as_ref());
        });
        put_frame(out, &record);
    }
}

/// What a record of the file says.
pub(super) enum Line {
    /// This turn waits.
    Waits(Arc<Entry>),
    /// The turn with this number waits, but it is nobody's that is configured.
    Foreign(u64),
    /// The turn with this number waits no longer.
    Done(u64),
}

impl Line {
    /// Reads a record; `tenants` are those whose turns can be stored. None if it is damaged in a way that its checksum does not show.
    pub(super) fn decode(record: &[u8], tenants: &[Tenant]) -> Option<Self> {
        let (kind, owner) = codec::kind_and_owner(record)?;
        if kind == Kind::Done as u8 {
            return codec::open(Kind::Done, &[], record, Reader::u64).ok().map(Self::Done);
        }
        let read = |r: &mut Reader<'_>| {
            let (number, epoch, seq, place, at, flags) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?, Timestamp(r.u64()?), r.u8()?);
            let (message_id, q, a) = (r.text()?, r.text()?, r.text()?);
            let (slots, user_slots, journal) = (deltas(r)?, deltas(r)?, r.journal()?);
            let (fallback, handoff, awaits_past) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
            let commit = Commit { message_id, q, a, at, fallback, handoff, awaits_past, slots, user_slots, journal, wait: None };
            Ok((number, epoch, seq, place, commit))
        };
        let (number, epoch, seq, place, commit) = codec::open(Kind::Aside, owner, record, read).ok()?;
        let entry = |key| Entry { number, key, epoch, seq, place, commit, claim: None, size: 4 + record.len() as u64 };
        Some(session_key(owner, tenants).map_or(Self::Foreign(number), |key| Self::Waits(Arc::new(entry(key)))))
    }
}

/// Appends the mark that an entry waits no longer.
pub(super) fn encode_done(out: &mut Vec<u8>, number: u64) {
    put_frame(out, &codec::seal(Kind::Done, &[], |out| out.extend_from_slice(&number.to_le_bytes())));
}

/// A record in a file stands after its length.
pub(super) fn put_frame(out: &mut Vec<u8>, record: &[u8]) {
    let len = u32::try_from(record.len()).expect("a body limit far below 4 GiB bounds every text");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(record);
}

/// The session whose key reads like this: tenant, user, session, each after its length.
fn session_key(bytes: &[u8], tenants: &[Tenant]) -> Option<SessionKey> {
    let mut rest = bytes;
    let mut part = || {
        let (len, after) = rest.split_first()?;
        let (part, after) = after.split_at_checked(usize::from(*len))?;
        rest = after;
        std::str::from_utf8(part).ok()
    };
    let (tenant, user, session) = (part()?, part()?, part()?);
    let key = tenants.iter().find(|t| t.name() == tenant)?.user(user).ok()?.session(session).ok()?;
    (key.as_bytes() == bytes).then_some(key)
}

fn put_deltas(out: &mut Vec<u8>, deltas: &[SlotDelta]) {
    let count = u32::try_from(deltas.len()).expect("a script's budget bounds what it changes");
    out.extend_from_slice(&count.to_le_bytes());
    for SlotDelta { name, change } in deltas {
        codec::put_text(out, name);
        match change {
            Change::Set(value) => {
                out.push(0);
                codec::put_slot(out, value);
            }
            Change::Add(by) => {
                out.push(1);
                out.extend_from_slice(&by.to_bits().to_le_bytes());
            }
            Change::Remove => out.push(2),
        }
    }
}

fn deltas(r: &mut Reader<'_>) -> Result<Vec<SlotDelta>, &'static str> {
    let count = r.u32()?;
    let delta = |_| {
        let name = r.str()?.into();
        let change = match r.u8()? {
            0 => Change::Set(r.slot()?),
            1 => Change::Add(f64::from_bits(r.u64()?)),
            2 => Change::Remove,
            _ => return Err("holds an unknown change"),
        };
        Ok(SlotDelta { name, change })
    };
    (0..count).map(delta).collect()
}
