//! The `turn` phase of the contract: the store for what is so, the cache for what need not be sent, the spool for when the store is away.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::{
    BeginRequest, Context, StoreBegin, aside,
    cache::Mark,
    import::{Contact, FirstContact},
    settle, spool,
};
use crate::api::{
    Begin, BeginTurn, Begun, BoxFuture, COMMIT_TIME, Claim, Commit, Committed, SessionKey, SessionState, TurnError, TurnPhase, UserKey,
    WaitFor,
};

/// How often a commit is tried before its store counts as away.
const COMMIT_TRIES: u32 = 2;
/// The pause before it is tried again.
const COMMIT_PAUSE: Duration = Duration::from_millis(50);
/// How long all tries may take: what is left of a commit's time is the spool's. How long one may take is the store's affair.
const COMMIT_PATIENCE: Duration = COMMIT_TIME.saturating_sub(spool::PATIENCE);
/// How long one who reads a conversation, or asks again for a turn of it that waits, waits for another turn that keeps it from being stored.
const SHORT_PATIENCE: Duration = Duration::from_millis(500);

impl Context {
    /// The session as the store has it. It is sent only if the cached copy is not current.
    async fn load(&self, key: &SessionKey) -> Result<Arc<SessionState>, TurnError> {
        let (mark, cached) = (self.cache.mark(), self.cache.get(key));
        let newer = settle(self.store.load(key, cached.as_ref())).await?;
        if let Some(newer) = &newer {
            self.cache.count_load();
            self.cache.insert(key, newer, mark);
        }
        Ok(newer.or(cached).unwrap_or_default())
    }

    /// Begins a turn at the store.
    async fn begin_stored(&self, turn: &BeginTurn<'_>, cached: Option<&Arc<SessionState>>, mark: Mark) -> Result<Begin, TurnError> {
        let &BeginTurn { key, message_id, q, until, wait, seen, limits } = turn;
        let request = BeginRequest { key, message_id, q, until, wait, known: cached, limits };
        let (claim, state) = match settle(self.store.begin(request)).await? {
            StoreBegin::Answered(turn) => return Ok(Begin::Answered(turn)),
            StoreBegin::Limited(limited) => return Ok(Begin::Limited(limited)),
            StoreBegin::Claimed { claim, state } => (claim, state),
        };
        self.cache.count_lookup(cached.is_some(), state.is_none());
        let state = match (state, cached) {
            (Some(state), _) => {
                self.cache.count_load();
                self.cache.insert(key, &state, mark);
                state
            }
            (None, Some(cached)) => cached.clone(),
            (None, None) => Arc::default(),
        };
        let Contact { claim, state, awaits_past } = self.at_first_contact(claim, state, mark).await?;
        let lost = self.spool.as_ref().is_some_and(|spool| spool.take_gap(key));
        let gap = lost || seen.is_some_and(|seen| seen > state.seq);
        Ok(Begin::Run(Begun { key: key.clone(), claim: Some(claim), state, gap, awaits_past }))
    }

    /// Brings over what was said before, if a claimed session stands without.
    async fn at_first_contact(&self, claim: Claim, state: Arc<SessionState>, mark: Mark) -> Result<Contact, TurnError> {
        let Some((import, list)) = self.list_for(&claim.key, &state) else { return Ok(Contact { claim, state, awaits_past: false }) };
        let before = state.version;
        let contact = import.under(&*self.store, claim, state, &list).await?;
        if contact.state.version != before {
            self.cache.insert(&contact.claim.key, &contact.state, mark);
        }
        Ok(contact)
    }

    /// The session as it is to be shown, what was said before it with it.
    async fn shown(&self, key: &SessionKey) -> Result<Arc<SessionState>, TurnError> {
        let (mark, state) = (self.cache.mark(), self.load(key).await?);
        let Some((import, list)) = self.list_for(key, &state) else { return Ok(state) };
        let imported = import.aside(&*self.store, key, &state, &list).await?;
        imported.iter().for_each(|imported| self.cache.insert(key, imported, mark));
        Ok(imported.unwrap_or(state))
    }

    /// Where to look for what was said before, if the session stands without.
    fn list_for(&self, key: &SessionKey, state: &SessionState) -> Option<(&FirstContact, Vec<u8>)> {
        let import = self.first_contact.as_ref()?;
        Some((import, import.list_for(key, state)?))
    }

    /// Whether what was said before may be missing in a session of which there is only a copy. Nothing is in it, and as far as it is
    /// known nothing was erased: if that is so no more, its turn is not the first, or is not stored.
    fn may_lack_past(&self, key: &SessionKey, copy: &SessionState) -> bool {
        copy.seq == 0 && copy.epoch == 0 && self.list_for(key, copy).is_some()
    }

    /// Commits a turn to the store. That a commit failed or was not answered in time does not say that it was not done, so it is tried
    /// again: the store knows a turn that it has.
    async fn commit_stored(&self, claim: &Claim, base: &Arc<SessionState>, commit: &Commit) -> Result<Committed, TurnError> {
        let mark = self.cache.mark();
        let end = Instant::now() + COMMIT_PATIENCE;
        let late = |_| Err(TurnError::Unavailable("no answer to a commit in time".into()));
        let mut tries = 1;
        loop {
            let stored = timeout_at(end, self.store.commit(claim, base, commit.clone())).await;
            match stored.unwrap_or_else(late) {
                Err(TurnError::Unavailable(_)) if tries < COMMIT_TRIES => tokio::time::sleep(COMMIT_PAUSE).await,
                stored => {
                    let stored = stored?;
                    self.cache.insert(&claim.key, &stored.state, mark);
                    return Ok(Committed::Stored(stored.turn));
                }
            }
            tries += 1;
        }
    }

    /// Stores what waits of a session, if anything does.
    async fn store_waiting(&self, key: &SessionKey, wait: Duration) -> Result<(), TurnError> {
        match &self.spool {
            Some(spool) if spool.waiting().has(key) => spool.settle(key, wait).await,
            _ => Ok(()),
        }
    }

    /// Drops what waits of what was erased.
    async fn forget_waiting(&self, erased: &Result<(), TurnError>, owner: &[u8]) {
        if let (Ok(()), Some(spool)) = (erased, &self.spool) {
            spool.forget(owner).await;
        }
    }
}

impl TurnPhase for Context {
    fn begin<'a>(&'a self, turn: BeginTurn<'a>) -> BoxFuture<'a, Result<Begin, TurnError>> {
        Box::pin(async move {
            let told = || self.spool.as_ref().and_then(|spool| aside::told(spool, &turn, self.cache.get(turn.key).as_ref()));
            // Who asks again is told the same, whoever has the session.
            let wait = if told().is_some() { turn.wait.min(SHORT_PATIENCE) } else { turn.wait };
            let reached = self.store_waiting(turn.key, wait).await;
            let mark = self.cache.mark();
            let cached = match self.cache.get(turn.key) {
                // What a reader loads just now need not be sent twice. If that fails, so does what follows.
                None => self.loads.join(turn.key, || self.load(turn.key)).await.and_then(Result::ok),
                cached => cached,
            };
            let begun = match reached {
                Ok(()) => self.begin_stored(&turn, cached.as_ref(), mark).await,
                Err(error) => Err(error),
            };
            match (begun, &self.spool) {
                (Err(away @ TurnError::Unavailable(_)), Some(spool)) => {
                    let awaits_past = cached.as_ref().is_some_and(|state| self.may_lack_past(turn.key, state));
                    aside::begin(spool, &turn, cached, (awaits_past, self.turns), away)
                }
                (Err(busy @ TurnError::InProgress), Some(_)) => told().unwrap_or(Err(busy)),
                (begun, _) => begun,
            }
        })
    }

    fn commit<'a>(&'a self, begun: &'a Begun, commit: Commit) -> BoxFuture<'a, Result<Committed, TurnError>> {
        Box::pin(async move {
            let committed = match &begun.claim {
                Some(claim) => self.commit_stored(claim, &begun.state, &commit).await,
                None => Err(TurnError::Unavailable("begun without the store".into())),
            };
            match (committed, &self.spool) {
                (Err(TurnError::Unavailable(_)), Some(spool)) => spool.keep(begun, commit).await.map(|()| Committed::Aside),
                (committed, _) => committed,
            }
        })
    }

    fn release(&self, claim: &Claim) {
        self.store.release(claim);
    }

    fn history<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<Arc<SessionState>, TurnError>> {
        Box::pin(async move {
            match self.store_waiting(key, SHORT_PATIENCE).await {
                Err(away @ TurnError::Unavailable(_)) => Err(away),
                _ => self.loads.share(key, || self.shown(key)).await,
            }
        })
    }

    fn erase_session<'a>(&'a self, key: &'a SessionKey, wait: Option<WaitFor>) -> BoxFuture<'a, Result<(), TurnError>> {
        Box::pin(async move {
            let erased = self.store.erase_session(key, wait).await;
            self.cache.remove(key);
            self.forget_waiting(&erased, key.as_bytes()).await;
            erased
        })
    }

    fn erase_user<'a>(&'a self, key: &'a UserKey, wait: Option<WaitFor>) -> BoxFuture<'a, Result<(), TurnError>> {
        Box::pin(async move {
            let erased = self.store.erase_user(key, wait).await;
            self.cache.remove_user(key);
            self.forget_waiting(&erased, key.as_bytes()).await;
            erased
        })
    }
}
