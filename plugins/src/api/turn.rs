//! The `turn` phase: one question and its answer as an atomic, ordered step of a conversation.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use super::{BoxFuture, SessionKey, Text, Timestamp, UserKey};

/// Most slots a session, or a user, may have.
pub const MAX_SLOTS: usize = 64;
/// Longest slot name in bytes.
pub const MAX_SLOT_NAME: usize = 64;
/// Largest slot value in bytes; tables count as their JSON.
pub const MAX_SLOT_BYTES: usize = 4096;

/// Largest [`Journal`] in bytes.
pub const MAX_JOURNAL: usize = 256 * 1024;

/// How long a commit may take, with all that is tried when the store fails.
pub const COMMIT_TIME: Duration = Duration::from_secs(5);

/// One question and answer, as committed.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// Its place in the session, from 1, without gaps.
    pub seq: u64,
    /// The client's id for the message, or ours.
    pub message_id: Text,
    /// The question.
    pub q: Text,
    /// The answer.
    pub a: Text,
    /// When it was answered. Turns are in the order of their numbers: one that waited for its store has an earlier time than one before it
    /// may have.
    pub at: Timestamp,
    /// The answer is a canned one because a model failed; the model's history leaves it out.
    pub fallback: bool,
    /// The flow asked for a person to take over.
    pub handoff: bool,
    /// What was said before it in an older deployment could not be read in time, and is to be looked for again. Only the first turn.
    pub awaits_past: bool,
}

/// The value of a slot.
#[derive(Debug, Clone, PartialEq)]
pub enum SlotValue {
    /// A truth value.
    Bool(bool),
    /// A number, as Lua has them.
    Number(f64),
    /// A string.
    Text(Text),
    /// A table, as the JSON it was written as.
    Json(Text),
}

impl SlotValue {
    /// Size in bytes, as counted against [`MAX_SLOT_BYTES`].
    pub fn size(&self) -> usize {
        match self {
            Self::Bool(_) | Self::Number(_) => 8,
            Self::Text(t) | Self::Json(t) => t.len(),
        }
    }
}

/// Named values that a flow keeps for a session or a user. Names and values are tenant text: `Debug` shows only how many.
#[derive(Clone, PartialEq, Default)]
pub struct Slots(pub BTreeMap<Box<str>, SlotValue>);

impl Slots {
    /// Applies one change. A change that would exceed [`MAX_SLOTS`], or adds to something that is no number, is dropped
    /// and `false` returned; flows check both before they buffer a change, so only a race of two sessions gets here.
    pub fn apply(&mut self, delta: &SlotDelta) -> bool {
        match &delta.change {
            Change::Remove => {
                self.0.remove(&delta.name);
                true
            }
            _ if self.0.len() >= MAX_SLOTS && !self.0.contains_key(&delta.name) => false,
            Change::Set(value) => {
                self.0.insert(delta.name.clone(), value.clone());
                true
            }
            Change::Add(by) => match self.0.entry(delta.name.clone()).or_insert(SlotValue::Number(0.0)) {
                SlotValue::Number(n) => {
                    *n += by;
                    true
                }
                _ => false,
            },
        }
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "‹{} slots›", self.0.len())
    }
}

/// One change of one slot. Changes are stored, not whole maps, so that two sessions of a user do not undo each other.
#[derive(Clone, PartialEq)]
pub struct SlotDelta {
    /// Which slot.
    pub name: Box<str>,
    /// What happens to it.
    pub change: Change,
}

impl fmt::Debug for SlotDelta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("‹slot change›")
    }
}

/// What happens to a slot.
#[derive(Clone, PartialEq)]
pub enum Change {
    /// It gets this value; the last writer wins.
    Set(SlotValue),
    /// This is added to it; absent counts as 0.
    Add(f64),
    /// It is gone.
    Remove,
}

/// What a flow that waits for its user's next message needs to get to where it was: made and read by whoever runs flows, kept unread by
/// stores. It lives as long as its session's turns, and an erasure takes it along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal(Text);

impl Journal {
    /// `None` if it is larger than [`MAX_JOURNAL`].
    pub fn new(journal: Text) -> Option<Self> {
        (journal.len() <= MAX_JOURNAL).then_some(Self(journal))
    }

    /// What is in it.
    pub fn text(&self) -> &Text {
        &self.0
    }
}

/// What a session's flow keeps from one message to the next.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FlowState {
    /// The session's slots.
    pub slots: Slots,
    /// Of a flow that waits for the next message; none if none does.
    pub journal: Option<Journal>,
}

impl FlowState {
    /// The same after a commit.
    #[must_use]
    pub fn after(&self, commit: &Commit) -> Self {
        let mut slots = self.slots.clone();
        for change in &commit.slots {
            slots.apply(change);
        }
        Self { slots, journal: commit.journal.clone() }
    }
}

/// Says which state of a session and its user's slots a copy shows. Equal versions, equal content; no order is implied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Version {
    /// Changes with every write to the session.
    pub session: u64,
    /// Changes with every write to the user's slots, and with every erasure.
    pub user: u64,
}

/// A conversation as it stands: immutable, shared between the cache and the turns that read it.
#[derive(Debug, Clone, Default)]
pub struct SessionState {
    /// Which state this is.
    pub version: Version,
    /// Changes with every erasure of the session or of its user: what was begun under another one is not kept. A
    /// store that cannot get out of reach leaves it 0.
    pub epoch: u64,
    /// The newest committed turn's number; 0 before the first. Survives trimming and erasure.
    pub seq: u64,
    /// The kept turns, oldest first.
    pub turns: Vec<Arc<Turn>>,
    /// What its flow keeps.
    pub flow: FlowState,
    /// The user's slots, shared by all of the user's sessions.
    pub user_slots: Slots,
}

impl SessionState {
    /// Whether what was said before the first turn is still to come.
    pub fn awaits_past(&self) -> bool {
        self.turns.first().is_some_and(|turn| turn.seq == 1 && turn.awaits_past)
    }

    /// The kept turn that a client's message made.
    pub fn turn_of(&self, message_id: &str) -> Option<&Arc<Turn>> {
        self.turns.iter().rev().find(|t| t.message_id.expose() == message_id)
    }
}

/// What is known when a turn begins.
#[derive(Debug)]
pub struct BeginTurn<'a> {
    /// Whose conversation.
    pub key: &'a SessionKey,
    /// The message's id.
    pub message_id: &'a Text,
    /// The question, to tell a retry from a reused id.
    pub q: &'a Text,
    /// When the claim on the session lapses if it is neither spent nor given up: later than the turn and its commit can take.
    pub until: Timestamp,
    /// How long to wait for another turn that holds the session; after that it is [`TurnError::InProgress`].
    pub wait: Duration,
    /// The newest turn the client says it saw.
    pub seen: Option<u64>,
    /// Limits on the user's turns that all gateways on one store keep together. A store of one process leaves them to that process.
    pub limits: &'a [UserLimit],
}

/// How many turns a user may begin: one in each `period`, and `burst` at once. Counted where the user's conversations are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserLimit {
    /// Tells it from the user's other limits.
    pub name: Arc<str>,
    /// In which one turn comes back.
    pub period: Duration,
    /// Turns at once, at least 1.
    pub burst: u32,
    /// It counts and refuses nothing.
    pub shadow: bool,
}

/// What a [`UserLimit`] said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    /// Which of [`BeginTurn::limits`].
    pub index: usize,
    /// Until one more turn may begin.
    pub wait: Duration,
}

/// The exclusive right to write the next turn of a session, until it lapses.
///
/// It is spent by [`TurnPhase::commit`] or given back by [`TurnPhase::release`].
#[derive(Debug)]
#[must_use = "an unused claim blocks its session until it lapses"]
pub struct Claim {
    /// The session claimed.
    pub key: SessionKey,
    /// Grows with every claim of a session: a commit with an older one is refused.
    pub fence: u64,
    /// When it lapses, as asked for. Who keeps it measures the time until then by a clock that cannot be set.
    pub until: Timestamp,
}

/// A turn that may run.
#[derive(Debug)]
pub struct Begun {
    /// Whose conversation.
    pub key: SessionKey,
    /// The right to commit it. None while the store cannot be reached: then the conversation is as this gateway last saw it, and the
    /// turn is kept aside until it can be stored.
    pub claim: Option<Claim>,
    /// The conversation so far.
    pub state: Arc<SessionState>,
    /// The client was told of turns that the store does not have: they were lost or erased.
    pub gap: bool,
    /// See [`Turn::awaits_past`].
    pub awaits_past: bool,
}

/// How a turn begins.
#[derive(Debug)]
pub enum Begin {
    /// Run it.
    Run(Begun),
    /// This message was answered before; here is that turn.
    Answered(Arc<Turn>),
    /// This message was answered before, and its turn waits until it can be stored. Its number is that of the newest turn stored when it
    /// was answered.
    Aside(Arc<Turn>),
    /// The user has begun too many.
    Limited(Limited),
}

/// What a turn leaves behind.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The message's id.
    pub message_id: Text,
    /// The question.
    pub q: Text,
    /// The answer.
    pub a: Text,
    /// See [`Turn::at`].
    pub at: Timestamp,
    /// See [`Turn::fallback`].
    pub fallback: bool,
    /// See [`Turn::handoff`].
    pub handoff: bool,
    /// As in [`Begun`].
    pub awaits_past: bool,
    /// Changes to the session's slots, in order.
    pub slots: Vec<SlotDelta>,
    /// Changes to the user's slots, in order.
    pub user_slots: Vec<SlotDelta>,
    /// What [`FlowState::journal`] is from now on. A turn that was put aside leaves the journal as it is if another turn was
    /// stored before it meanwhile.
    pub journal: Option<Journal>,
    /// What to wait for before it counts as kept.
    pub wait: Option<WaitFor>,
}

impl Commit {
    /// The turn that it makes, with its number.
    pub fn turn(&self, seq: u64) -> Turn {
        let Self { message_id, q, a, at, fallback, handoff, awaits_past, .. } = self.clone();
        Turn { seq, message_id, q, a, at, fallback, handoff, awaits_past }
    }
}

/// How many replicas of the store are to have a turn before it counts as kept, or an erasure before it counts as done. If too few have it
/// in time, it is kept or done all the same, counted and said in the log. A store without replicas waits for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitFor {
    /// So many.
    pub replicas: u32,
    /// How long that may take.
    pub timeout: Duration,
}

/// A turn that is kept.
#[derive(Debug, Clone)]
pub enum Committed {
    /// It is in the store; here it is with its number.
    Stored(Arc<Turn>),
    /// It is on this gateway's disk until the store can be reached, and gets its number then.
    Aside,
}

/// Why a turn could not begin or commit, or a history not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TurnError {
    /// This message id was used with another question.
    #[error("the message_id was used before with another query")]
    MessageIdReused,
    /// Another turn holds the session and did not end in time.
    #[error("another turn of this session is in progress")]
    InProgress,
    /// The claim lapsed, or the session was erased, before the commit.
    #[error("the claim on the session was lost before the commit")]
    ClaimLost,
    /// What is stored cannot be what we wrote. It is left as it is.
    #[error("the stored conversation is damaged: {0}")]
    Corrupt(String),
    /// The store does not answer or cannot write.
    #[error("the context store failed: {0}")]
    Unavailable(String),
}

/// Keeps conversations: wraps the run of a flow in a begin and a commit.
pub trait TurnPhase: Send + Sync {
    /// Looks the message up, claims the session and returns its state.
    fn begin<'a>(&'a self, turn: BeginTurn<'a>) -> BoxFuture<'a, Result<Begin, TurnError>>;

    /// Appends the turn, applies the changes, gives up the claim: all or nothing, durable when it returns, within [`COMMIT_TIME`]. A store
    /// that fails is tried again. A turn without a claim is put aside, and so is one whose store has gone away meanwhile.
    fn commit<'a>(&'a self, begun: &'a Begun, commit: Commit) -> BoxFuture<'a, Result<Committed, TurnError>>;

    /// Gives up a claim without a turn. Does not wait; a claim that cannot be given up lapses.
    fn release(&self, claim: &Claim);

    /// The conversation as it stands, for display.
    fn history<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<Arc<SessionState>, TurnError>>;

    /// Erases one session's turns and slots. Its `seq` goes on; turns begun before are not committed. `wait`: for what before it counts
    /// as done.
    fn erase_session<'a>(&'a self, key: &'a SessionKey, wait: Option<WaitFor>) -> BoxFuture<'a, Result<(), TurnError>>;

    /// Erases all of a user's sessions and the user's slots. `wait` as in [`erase_session`](Self::erase_session).
    fn erase_user<'a>(&'a self, key: &'a UserKey, wait: Option<WaitFor>) -> BoxFuture<'a, Result<(), TurnError>>;
}
