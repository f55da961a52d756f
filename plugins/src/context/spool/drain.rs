//! Recovery: waiting turns go into the store as soon as it takes them, those of a session in the order in which they were answered.
//!
//! Each goes in as any turn does, by a begin and a commit under its message id. One that is in the store already, because only the answer
//! to its commit was lost or the gateway was killed before it could mark it, is found by that id.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::{
    gaps::Gaps,
    record::Entry,
    waiting::Waiting,
    writer::{Fate, Job},
};
use crate::{
    api::{Claim, Clock, Incident, SessionKey, TurnError, UserKey},
    context::{BeginRequest, Store, StoreBegin, cache::SessionCache, settle},
};

/// Users whose turns are stored at a time.
const PARALLEL: usize = 16;
/// How long one stored turn waits for somebody else's turn of its session.
const WAIT: Duration = Duration::from_millis(300);
/// After which a claim lapses that was taken to store a waiting turn.
const CLAIM: Duration = Duration::from_secs(10);
/// The pause after a round in which the store took nothing, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];
/// How often recovery says what it did.
const REPORTS: Duration = Duration::from_secs(1);

/// Stores what waits.
pub(super) struct Drain {
    pub(super) store: Arc<dyn Store>,
    pub(super) cache: Arc<SessionCache>,
    pub(super) waiting: Arc<Waiting>,
    pub(super) jobs: mpsc::Sender<Job>,
    pub(super) clock: Clock,
    /// How long after its last turn a conversation is kept. What waited for longer is dropped: by then a store has forgotten that the
    /// conversation was erased, if it was.
    pub(super) keep: Duration,
    pub(super) gaps: Gaps,
}

/// What recovery has done since it last said so.
#[derive(Default)]
struct Report {
    away: bool,
    done: usize,
    last: Option<Instant>,
}

impl Drain {
    /// Stores what waits, again and again, for as long as the spool is open.
    pub(super) async fn run(self: Arc<Self>) {
        let [shortest, longest] = PAUSES;
        let (mut pause, mut report) = (shortest, Report::default());
        loop {
            self.waiting.some().await;
            let before = self.waiting.len();
            let stored_some = self.clone().round().await;
            let after = self.waiting.len();
            report.note(stored_some, before.saturating_sub(after), after);
            if after > 0 {
                pause = if stored_some { shortest } else { (pause * 2).min(longest) };
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Tries every user once, some at a time and in no order, unless the store takes nothing from anybody. Whether it took something.
    async fn round(self: Arc<Self>) -> bool {
        let mut users = self.waiting.who();
        fastrand::shuffle(&mut users);
        let (mut under_way, mut stored, mut failed) = (JoinSet::new(), false, 0);
        loop {
            while under_way.len() < PARALLEL
                && (stored || failed < PARALLEL)
                && let Some(user) = users.pop()
            {
                let drain = self.clone();
                under_way.spawn(async move {
                    let Some(storing) = drain.waiting.storing(&user) else { return Ok(()) };
                    let mut alone = storing.lock().await;
                    drain.user(&user, None, WAIT, &mut alone).await
                });
            }
            match under_way.join_next().await {
                Some(Ok(Ok(()))) => stored = true,
                Some(_) => failed += 1,
                None => return stored,
            }
        }
    }

    /// Stores what waits of a user, or `only` of one session: for who alone does so, and leaves behind whether the store was `away`.
    pub(super) async fn user(
        &self,
        user: &UserKey,
        only: Option<&SessionKey>,
        wait: Duration,
        away: &mut Option<(Instant, TurnError)>,
    ) -> Result<(), TurnError> {
        let outcome = self.store_in_order(user, only, wait).await;
        *away = outcome.clone().err().filter(|error| matches!(error, TurnError::Unavailable(_))).map(|error| (Instant::now(), error));
        outcome
    }

    /// A session whose next turn cannot be stored now does not keep the others.
    async fn store_in_order(&self, user: &UserKey, only: Option<&SessionKey>, wait: Duration) -> Result<(), TurnError> {
        let (mut held_up, mut outcome) = (Vec::new(), Ok(()));
        let wanted = |entry: &Entry, held_up: &[SessionKey]| only.is_none_or(|key| entry.key == *key) && !held_up.contains(&entry.key);
        while let Some(entry) = self.waiting.next(user, |entry| wanted(entry, &held_up)) {
            match self.store(&entry, wait).await {
                Ok(fate) => self.done(entry, fate).await,
                Err(error @ TurnError::Unavailable(_)) => return Err(error),
                Err(TurnError::MessageIdReused | TurnError::Corrupt(_)) => self.done(entry, Fate::Refused).await,
                Err(error @ (TurnError::InProgress | TurnError::ClaimLost)) => {
                    held_up.push(entry.key.clone());
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    async fn store(&self, entry: &Entry, wait: Duration) -> Result<Fate, TurnError> {
        if let Some(claim) = &entry.claim {
            self.store.release(claim); // ours, if its commit did not get through
        }
        let (mark, cached) = (self.cache.mark(), self.cache.get(&entry.key));
        let commit = &entry.commit;
        let until = self.clock.now().after(CLAIM);
        let request = BeginRequest {
            key: &entry.key,
            message_id: &commit.message_id,
            q: &commit.q,
            until,
            wait,
            known: cached.as_ref(),
            limits: &[],
        };
        let (claim, state) = match settle(self.store.begin(request)).await? {
            StoreBegin::Answered(_) => return Ok(Fate::Stored),
            StoreBegin::Limited(_) => return Err(TurnError::InProgress),
            StoreBegin::Claimed { claim, state } => (claim, state.or(cached).unwrap_or_default()),
        };
        let mut held = Held { store: &*self.store, claim: &claim, spent: false };
        if state.epoch != entry.epoch || commit.at.until(self.clock.now()) >= self.keep {
            return Ok(Fate::Discarded);
        }
        let mut commit = commit.clone();
        if entry.place != state.seq + 1 {
            commit.journal.clone_from(&state.flow.journal);
        }
        let stored = self.store.commit(&claim, &state, commit).await?;
        held.spent = true;
        self.cache.insert(&entry.key, &stored.state, mark);
        self.gaps.note(&entry.key, entry.seq, state.seq, &self.clock);
        Ok(Fate::Stored)
    }

    /// Marks an entry and awaits that: at most one turn of a session is in the store without its mark.
    async fn done(&self, entry: Arc<Entry>, fate: Fate) {
        let (reply, marked) = oneshot::channel();
        if self.jobs.send(Job::Done(entry, fate, reply)).await.is_ok() {
            let _ = marked.await; // the spool is being closed: the next one to open it finds the turn in the store
        }
    }
}

/// A claim, given back unless it was spent.
struct Held<'a> {
    store: &'a dyn Store,
    claim: &'a Claim,
    spent: bool,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if !self.spent {
            self.store.release(self.claim);
        }
    }
}

impl Report {
    /// Says when the store goes away and when all is stored: a line a second at most.
    fn note(&mut self, stored_some: bool, done: usize, left: usize) {
        self.done += done;
        if self.last.is_some_and(|last| last.elapsed() < REPORTS) {
            return;
        }
        if left == 0 && self.done > 0 {
            Incident::StoreBack { waited: self.done }.log();
            *self = Self { last: Some(Instant::now()), ..Self::default() };
        } else if !stored_some && !self.away {
            Incident::StoreAway { waiting: left }.log();
            *self = Self { away: true, last: Some(Instant::now()), done: self.done };
        }
    }
}
