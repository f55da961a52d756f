//! What the embedded store's records hold, besides the turns.

use crate::{
    api::{FlowState, Slots, Timestamp, TurnError},
    context::codec::{Kind, Reader, open, put_flow, put_slots, seal},
};

/// All of a session but its turns and what its flow keeps.
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

pub(super) fn encode_session(owner: &[u8], head: &SessionHead, flow: &FlowState) -> Vec<u8> {
    seal(Kind::Session, owner, |out| {
        for n in [head.version, head.seq, head.first, head.expires.0] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        put_flow(out, flow);
    })
}

pub(super) fn decode_session(owner: &[u8], record: &[u8]) -> Result<(SessionHead, FlowState), TurnError> {
    open(Kind::Session, owner, record, |r| {
        let head = SessionHead { version: r.u64()?, seq: r.u64()?, first: r.u64()?, expires: Timestamp(r.u64()?) };
        Ok((head, r.flow()?))
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

/// A record that is one number: [`Kind::Generation`], [`Kind::Erasure`] or [`Kind::Erased`].
pub(super) fn encode_number(kind: Kind, owner: &[u8], number: u64) -> Vec<u8> {
    seal(kind, owner, |out| out.extend_from_slice(&number.to_le_bytes()))
}

pub(super) fn decode_number(kind: Kind, owner: &[u8], record: &[u8]) -> Result<u64, TurnError> {
    open(kind, owner, record, Reader::u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Journal, SlotValue},
        context::codec::turn_place,
    };

    #[test]
    fn heads_come_back_as_written() {
        let slots = Slots([("n".into(), SlotValue::Number(-0.5))].into());
        let head = SessionHead { version: 1, seq: 2, first: 3, expires: Timestamp(4) };
        let flow = FlowState { slots: slots.clone(), journal: Journal::new("[]".into()) };
        assert_eq!(decode_session(b"k", &encode_session(b"k", &head, &flow)).unwrap(), (head, flow));
        let user = UserHead { version: 1, expires: Timestamp(4) };
        assert_eq!(decode_user(b"k", &encode_user(b"k", &user, &slots)).unwrap(), (user, slots));
        for kind in [Kind::Generation, Kind::Erasure, Kind::Erased] {
            assert_eq!(decode_number(kind, b"k", &encode_number(kind, b"k", 5)).unwrap(), 5);
        }
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
