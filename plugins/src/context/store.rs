//! What a store of conversations promises, so that one suite ([`conformance`](super::conformance)) can hold every store to it.

use std::{sync::Arc, time::Duration};

use crate::api::{
    BoxFuture, Claim, Commit, Limited, SessionKey, SessionState, Step, Text, Timestamp, Turn, TurnError, UserKey, UserLimit, WaitFor,
};

/// What a store is told when a turn begins.
#[derive(Debug, Clone, Copy)]
pub struct BeginRequest<'a> {
    /// Whose conversation.
    pub key: &'a SessionKey,
    /// The message's id.
    pub message_id: &'a Text,
    /// The question, to tell a retry from a reused id.
    pub q: &'a Text,
    /// When the claim lapses by itself. A store measures the time until then by a clock that cannot be set.
    pub until: Timestamp,
    /// How long to wait for a claim of somebody else.
    pub wait: Duration,
    /// The newest state the caller holds. If its version is the current one, no history is moved; if an older one, a store may move
    /// no more than what is new since.
    pub known: Option<&'a Arc<SessionState>>,
    /// See [`BeginTurn::limits`](crate::api::BeginTurn::limits). A message that was answered before is not counted.
    pub limits: &'a [UserLimit],
}

/// How a turn begins at a store.
#[derive(Debug)]
pub enum StoreBegin {
    /// The session is the caller's.
    Claimed {
        /// To be spent by [`Store::commit`] or given back by [`Store::release`].
        claim: Claim,
        /// The session as it stands; `None` if [`BeginRequest::known`] shows just that.
        state: Option<Arc<SessionState>>,
    },
    /// This message was answered before; here is that turn.
    Answered(Arc<Turn>),
    /// A limit refuses it; nothing was claimed.
    Limited(Limited),
}

/// A turn that a store has taken.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The turn with its number.
    pub turn: Arc<Turn>,
    /// The session as it stands after it, maybe with later turns if the commit was a repetition.
    pub state: Arc<SessionState>,
}

/// Keeps conversations: one conversation at a time is claimed, read, appended to.
///
/// All keys of one user live together (in Redis: in one hash slot), so [`begin`](Self::begin) and [`commit`](Self::commit) are one
/// atomic step each. When the caller's copy is current neither moves the history: `begin` answers "unchanged", and `commit` sends one
/// turn and gets back versions, from which the new state follows.
///
/// A store keeps the newest [`Limits::turns`] turns of a session until [`Limits::keep`] has passed since its last commit. A session that
/// long idle is as if it had never been: its `seq` begins at 1 again.
pub trait Store: Send + Sync {
    /// Looks the message up among the kept turns, claims the session and returns its state.
    ///
    /// A live claim of somebody else is waited for, first come first served, for `wait` but not beyond `until`. Nobody waits for a message that is answered.
    /// Dropping the future gives the claim back.
    ///
    /// # Errors
    /// [`TurnError::MessageIdReused`], [`TurnError::InProgress`] when waiting ended in vain, [`TurnError::Corrupt`], [`TurnError::Unavailable`].
    fn begin<'a>(&'a self, request: BeginRequest<'a>) -> Step<'a, Result<StoreBegin, TurnError>>;

    /// Appends a turn, applies the slot changes, trims, renews the expiry and gives up the claim: all or nothing.
    ///
    /// `base` is the state that `claim` came with. Repeating a commit whose outcome is unknown is safe: a message id that is among the kept
    /// turns yields that turn. After [`TurnError::Unavailable`] the claim stands and the outcome is unknown.
    ///
    /// # Errors
    /// [`TurnError::ClaimLost`] when the claim lapsed, a newer one was given or the session was erased; [`TurnError::MessageIdReused`],
    /// [`TurnError::Corrupt`], [`TurnError::Unavailable`].
    fn commit<'a>(&'a self, claim: &'a Claim, base: &'a Arc<SessionState>, commit: Commit) -> BoxFuture<'a, Result<Stored, TurnError>>;

    /// Gives up a claim without a turn and lets the next in line have the session. Does not wait; an old claim is ignored.
    fn release(&self, claim: &Claim);

    /// The session as it stands; `None` if `known` shows just that.
    ///
    /// # Errors
    /// [`TurnError::Corrupt`], [`TurnError::Unavailable`].
    fn load<'a>(
        &'a self,
        key: &'a SessionKey,
        known: Option<&'a Arc<SessionState>>,
    ) -> Step<'a, Result<Option<Arc<SessionState>>, TurnError>>;

    /// Whether a session has no record, not even of having been erased: neither it nor its user was in the last [`Limits::keep`]. Only
    /// then can it be given what was said elsewhere.
    ///
    /// # Errors
    /// [`TurnError::Corrupt`], [`TurnError::Unavailable`].
    fn is_new<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<bool, TurnError>>;

    /// Puts what was said elsewhere before the turns of a claimed session, which [is new](Self::is_new) or [awaits] it: all of them are
    /// numbered from 1, and the newest [`Limits::turns`] are kept. All or nothing. `base` is the state that the claim came with. The claim
    /// stands, and the session awaits nothing any more. Returns it as it is then; `None` if it is not as `base` says, or if it is new and
    /// `older` is empty.
    ///
    /// [awaits]: SessionState::awaits_past
    ///
    /// # Errors
    /// [`TurnError::ClaimLost`], [`TurnError::Corrupt`], [`TurnError::Unavailable`]: the outcome is unknown then.
    fn import<'a>(
        &'a self,
        claim: &'a Claim,
        base: &'a Arc<SessionState>,
        older: Vec<Turn>,
    ) -> BoxFuture<'a, Result<Option<Arc<SessionState>>, TurnError>>;

    /// Erases one session's turns and slots. Its `seq` goes on, its expiry stays; claims given before are lost. What is damaged is
    /// erased too, `seq` and all. `wait`: for what before it counts as done.
    ///
    /// # Errors
    /// [`TurnError::Unavailable`].
    fn erase_session<'a>(&'a self, key: &'a SessionKey, wait: Option<WaitFor>) -> BoxFuture<'a, Result<(), TurnError>>;

    /// Erases all of a user's sessions, as [`erase_session`](Self::erase_session) does, and the user's slots.
    ///
    /// All of it is gone at one moment for whoever reads, and stays gone even if the process is killed before this returns. It
    /// returns when nothing of it is left in the store. Others' commits do not wait for that. `wait`: for what before it counts as done.
    ///
    /// # Errors
    /// [`TurnError::Unavailable`]; all or nothing may be erased then, and erasing again completes it.
    fn erase_user<'a>(&'a self, key: &'a UserKey, wait: Option<WaitFor>) -> BoxFuture<'a, Result<(), TurnError>>;

    /// How many writes wait for their turn; 0 for a store that has no queue.
    fn queued(&self) -> usize;

    /// Resolves when everything acknowledged before is as durable as the store can make it.
    ///
    /// # Errors
    /// [`TurnError::Unavailable`].
    fn flush(&self) -> BoxFuture<'_, Result<(), TurnError>>;

    /// Whether turns can be written now, found out by trying.
    ///
    /// # Errors
    /// [`TurnError::Unavailable`] with the reason.
    fn health(&self) -> BoxFuture<'_, Result<(), TurnError>>;
}

/// How much of a conversation is kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most turns of a session; at least 1.
    pub turns: usize,
    /// How long after its last commit a session lives, and a user's slots after the user's last commit.
    pub keep: Duration,
}

/// The turns of a session, oldest first and numbered from 1, after what was said elsewhere was put before those it has.
pub(super) fn with_past(base: &SessionState, older: Vec<Turn>, limits: Limits) -> Vec<Arc<Turn>> {
    let known = base.turns.iter().map(|turn| Turn { awaits_past: false, ..Turn::clone(turn) });
    let mut turns: Vec<_> = older.into_iter().chain(known).collect();
    for (seq, turn) in (1..).zip(&mut turns) {
        turn.seq = seq;
    }
    turns.drain(..turns.len().saturating_sub(limits.turns));
    turns.into_iter().map(Arc::new).collect()
}
