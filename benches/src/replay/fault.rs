//! What can be wrong with a turn, counted by kind while many dialogues play at once.

use std::{collections::BTreeMap, sync::Mutex};

/// One way in which a gateway can fail a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Fault {
    /// No answer came over the connection.
    #[error("the connection failed or no answer came in time")]
    Connection,
    /// The status was not 200.
    #[error("status {0}")]
    Status(u16),
    /// The answer is not the JSON it should be.
    #[error("the answer cannot be read")]
    Unreadable,
    /// The answer is not the model's answer to this turn.
    #[error("the answer is not this turn's")]
    Answer,
    /// `seq` is not one more than the last.
    #[error("seq does not follow the last")]
    Seq,
    /// `session_id` or `message_id` is not the one sent.
    #[error("session_id or message_id is not the one sent")]
    Echo,
    /// The canned answer came in place of the model's.
    #[error("the fallback answered")]
    Fallback,
    /// The turn was answered without being stored.
    #[error("the turn was not stored")]
    NotStored,
    /// The model was asked something that is no question.
    #[error("the model's request cannot be read")]
    ModelRequest,
    /// The model was asked for a tenant, user, session or message that does not exist.
    #[error("the model was asked for an unknown identity")]
    UnknownIdentity,
    /// The model was asked another question than the client asked.
    #[error("the model got another query")]
    Query,
    /// The model was shown turns of another dialogue.
    #[error("the model got a foreign history")]
    ForeignHistory,
    /// The model was shown the dialogue's own turns, but not all, not once or not in order.
    #[error("the model got a history with missing, doubled or reordered turns")]
    History,
    /// The model was asked more often than the client sent the message, or not at all.
    #[error("the model was not asked once for each time the message was sent")]
    Calls,
    /// The stored conversation is not the acknowledged one.
    #[error("the stored history is not what was acknowledged")]
    Stored,
}

/// Faults seen so far: how many of each kind and where the first was.
#[derive(Default)]
pub(super) struct Faults(Mutex<BTreeMap<Fault, Seen>>);

/// A kind of fault in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// How often.
    pub count: u64,
    /// Where first.
    pub first: String,
}

impl Faults {
    /// Notes a fault; `place` is asked only for the first of its kind.
    pub(super) fn note(&self, fault: Fault, place: impl FnOnce() -> String) {
        let mut seen = self.0.lock().expect("no thread panics while it counts");
        seen.entry(fault).or_insert_with(|| Seen { count: 0, first: place() }).count += 1;
    }

    /// All kinds seen.
    pub(super) fn seen(&self) -> BTreeMap<Fault, Seen> {
        self.0.lock().expect("no thread panics while it counts").clone()
    }
}
