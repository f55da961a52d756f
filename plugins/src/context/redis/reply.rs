//! What scripts answer, turned into what it means, with every record checked.

use std::sync::Arc;

use redis::Value;

use super::keys::put_stamp;
use crate::{
    api::{FlowState, MAX_SLOTS, SessionKey, SessionState, Slots, Turn, TurnError, Version},
    context::codec::{self, Kind, Reader},
    redis::Fault,
};

/// Bytes of a version.
const STAMP: usize = 16;
/// Turns for which there is room at once; more are read in as they come.
const MOST_AT_ONCE: usize = 1024;

/// A list of values that is read from its front.
pub(super) struct Reply(std::vec::IntoIter<Value>);

impl Reply {
    pub(super) fn of(value: Value) -> Result<Self, TurnError> {
        match value {
            Value::Array(values) => Ok(Self(values.into_iter())),
            _ => Err(unexpected()),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, TurnError> {
        match self.0.next() {
            Some(Value::BulkString(bytes)) => Ok(bytes),
            _ => Err(unexpected()),
        }
    }

    pub(super) fn number(&mut self) -> Result<u64, TurnError> {
        match self.0.next() {
            Some(Value::Int(n)) => u64::try_from(n).map_err(|_| unexpected()),
            _ => Err(unexpected()),
        }
    }

    pub(super) fn list(&mut self) -> Result<Self, TurnError> {
        self.0.next().ok_or_else(unexpected).and_then(Self::of)
    }

    /// Whether nothing is left.
    pub(super) fn is_done(&self) -> bool {
        self.0.as_slice().is_empty()
    }

    fn len(&self) -> usize {
        self.0.as_slice().len()
    }

    pub(super) fn stamp(&mut self) -> Result<u64, TurnError> {
        let digits = self.bytes()?;
        std::str::from_utf8(&digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or_else(unexpected)
    }

    /// A turn's number and record.
    pub(super) fn turn(&mut self, key: &SessionKey) -> Result<Arc<Turn>, TurnError> {
        let seq = self.number()?;
        turn(key, seq, &self.bytes()?)
    }

    /// A session's state: the turns that `known` lacks come with it. What the scripts' checksums do not cover is covered by the records' own.
    pub(super) fn state(&mut self, key: &SessionKey, known: Option<&Arc<SessionState>>) -> Result<Arc<SessionState>, TurnError> {
        let mut r = self.list()?;
        let version = Version { session: r.stamp()?, user: r.stamp()? };
        let (epoch, seq, kept) = (r.stamp()?, r.number()?, r.number()?);
        let (record, mut list) = (r.bytes()?, r.list()?);
        let first = |count| (seq + 1).checked_sub(count).ok_or_else(unexpected);
        let (first, sent) = (first(kept)?, first(u64::try_from(list.len() / 2).map_err(|_| unexpected())?)?);
        let mut turns = Vec::with_capacity(usize::try_from(kept).map_err(|_| unexpected())?.min(MOST_AT_ONCE));
        if first < sent {
            let known = known.ok_or_else(unexpected)?;
            turns.extend(known.turns.iter().filter(|turn| (first..sent).contains(&turn.seq)).cloned());
        }
        if turns.len() as u64 != sent.saturating_sub(first) {
            return Err(unexpected());
        }
        for seq in sent..=seq {
            let id = list.bytes()?;
            let turn = turn(key, seq, &list.bytes()?)?;
            if turn.message_id.expose().as_bytes() != id {
                return Err(TurnError::Corrupt("a turn stands under another's id".into()));
            }
            turns.push(turn);
        }
        let flow = if turns.is_empty() { FlowState::default() } else { flow(key, version.session, &record)? };
        Ok(Arc::new(SessionState { version, epoch, seq, turns, flow, user_slots: r.user_slots()? }))
    }

    /// A user's slots, as names and values.
    pub(super) fn user_slots(&mut self) -> Result<Slots, TurnError> {
        let (mut list, mut slots) = (self.list()?, Slots::default());
        while !list.is_done() {
            let name = String::from_utf8(list.bytes()?).map_err(|_| TurnError::Corrupt("a slot's name is no text".into()))?;
            slots.0.insert(name.into(), codec::slot(&list.bytes()?)?);
        }
        if slots.0.len() <= MAX_SLOTS { Ok(slots) } else { Err(TurnError::Corrupt("there are too many slots".into())) }
    }
}

fn turn(key: &SessionKey, seq: u64, record: &[u8]) -> Result<Arc<Turn>, TurnError> {
    let place = codec::turn_place(key.as_bytes(), seq);
    let turn = codec::open(Kind::Turn, &place, record, |r: &mut Reader<'_>| Ok((r.turn()?, r.take(STAMP)?).0))?;
    if turn.seq == seq { Ok(Arc::new(turn)) } else { Err(TurnError::Corrupt("a turn has another number".into())) }
}

/// A turn as a record that ends with the version that its session had with it, as scripts compare it.
pub(super) fn seal_turn(key: &SessionKey, version: u64, turn: &Turn) -> Vec<u8> {
    codec::seal(Kind::Turn, &codec::turn_place(key.as_bytes(), turn.seq), |out| {
        codec::put_turn(out, turn);
        put_stamp(out, version);
    })
}

/// What the flow of one version of a session keeps, as a record.
pub(super) fn seal_flow(key: &SessionKey, version: u64, flow: &FlowState) -> Vec<u8> {
    codec::seal(Kind::Flow, &codec::place(Kind::Flow, key.as_bytes()), |out| {
        out.extend_from_slice(&version.to_le_bytes());
        codec::put_flow(out, flow);
    })
}

fn flow(key: &SessionKey, version: u64, record: &[u8]) -> Result<FlowState, TurnError> {
    let place = codec::place(Kind::Flow, key.as_bytes());
    let (of, flow) = codec::open(Kind::Flow, &place, record, |r: &mut Reader<'_>| Ok((r.u64()?, r.flow()?)))?;
    if of == version { Ok(flow) } else { Err(TurnError::Corrupt("what its flow keeps is of another version".into())) }
}

/// What a fault means to a turn.
pub(super) fn fault(fault: Fault) -> TurnError {
    match fault {
        Fault::Refused { code, detail } if code == "CORRUPT" => {
            TurnError::Corrupt(detail.split(" script:").next().unwrap_or_default().to_owned())
        }
        Fault::Refused { code, .. } if code == "WRONGTYPE" => TurnError::Corrupt("a key holds another type of value".into()),
        fault => TurnError::Unavailable(fault.to_string()),
    }
}

/// The scripts are ours, so only something between them and us can have changed their answers.
pub(super) fn unexpected() -> TurnError {
    TurnError::Unavailable("an answer of Redis cannot be understood".into())
}
