//! Loads under way, so that many readers of one session cause one read of the store.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OnceCell;

use crate::api::{SessionKey, SessionState, TurnError};

type Loaded = Result<Arc<SessionState>, TurnError>;

/// The loads under way.
#[derive(Default)]
pub(super) struct Loads(Mutex<UnderWay>);

#[derive(Default)]
struct UnderWay {
    /// Loads that ever began.
    begun: u64,
    sessions: HashMap<SessionKey, Arc<Load>>,
}

struct Load {
    number: u64,
    outcome: OnceCell<Loaded>,
}

impl Loads {
    /// The session as `load` finds it, now or later. Of any number of callers at a time one runs its `load`; if it gives up, another one does.
    ///
    /// One that was under way before may show what was before: who comes to it waits for it, and then for one more, with all the others.
    ///
    /// # Errors
    /// What `load` failed with; everybody who waited gets the same, and nobody who comes later.
    pub(super) async fn share<F: Future<Output = Loaded>>(&self, key: &SessionKey, load: impl Fn() -> F) -> Loaded {
        let before = self.under_way().begun;
        loop {
            let part = self.join_or_begin(key);
            let outcome = part.load.outcome.get_or_init(&load).await.clone();
            if part.load.number >= before || outcome.is_err() {
                return outcome;
            }
        }
    }

    /// The outcome of the load under way, if there is one. If nobody else waits for it any more, `load` is run.
    pub(super) async fn join<F: Future<Output = Loaded>>(&self, key: &SessionKey, load: impl FnOnce() -> F) -> Option<Loaded> {
        let load_under_way = self.under_way().sessions.get(key)?.clone();
        let part = Part { loads: self, key, load: load_under_way };
        Some(part.load.outcome.get_or_init(load).await.clone())
    }

    /// Whether nobody loads anything.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.under_way().sessions.is_empty()
    }

    fn join_or_begin<'a>(&'a self, key: &'a SessionKey) -> Part<'a> {
        let mut guard = self.under_way();
        let UnderWay { begun, sessions } = &mut *guard;
        let begin = || {
            *begun += 1;
            Arc::new(Load { number: *begun - 1, outcome: OnceCell::new() })
        };
        Part { loads: self, key, load: sessions.entry(key.clone()).or_insert_with(begin).clone() }
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One caller's part in a load.
struct Part<'a> {
    loads: &'a Loads,
    key: &'a SessionKey,
    load: Arc<Load>,
}

impl Drop for Part<'_> {
    /// The first to leave with an outcome ends the load; the last to leave without one forgets it.
    fn drop(&mut self) {
        let mut under_way = self.loads.under_way();
        let current = under_way.sessions.get(self.key).is_some_and(|load| Arc::ptr_eq(load, &self.load));
        let alone = Arc::strong_count(&self.load) <= 2; // the map's and ours; a new one needs the lock we hold
        if current && (self.load.outcome.initialized() || alone) {
            under_way.sessions.remove(self.key);
        }
    }
}
