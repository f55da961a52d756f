//! Recent conversations in memory, so that a hot turn moves no history.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::{notification::RemovalCause, policy::EvictionPolicy, sync::Cache};
use tokio::sync::OnceCell;

use super::meters::CacheMeters;
use crate::api::{Meters, SessionKey, SessionState, SlotValue, Slots, Turn, TurnError, UserKey};

type Loaded = Result<Arc<SessionState>, TurnError>;

/// Recent conversations. A copy here may be old: only the store can say whether its version is current.
pub struct SessionCache {
    sessions: Cache<SessionKey, Arc<SessionState>>,
    /// Loads under way, so that many readers of one cold session cause one read.
    loading: Mutex<HashMap<SessionKey, Arc<OnceCell<Loaded>>>>,
    /// How often copies were dropped on purpose.
    drops: AtomicU64,
    meters: CacheMeters,
}

/// A point in the cache's life, taken before a copy is asked of the store.
#[derive(Debug, Clone, Copy)]
pub struct Mark(u64);

impl SessionCache {
    /// At most about `size` bytes, each conversation until it was not used for `idle`. The least recently used goes first.
    pub fn new(size: u64, idle: Duration, meters: &Meters) -> Self {
        let meters = CacheMeters::new(meters);
        let evicted = meters.clone();
        let sessions = Cache::builder()
            .max_capacity(size)
            .time_to_idle(idle)
            .weigher(|key: &SessionKey, state: &Arc<SessionState>| u32::try_from(weight(key, state)).unwrap_or(u32::MAX))
            .eviction_policy(EvictionPolicy::lru())
            .support_invalidation_closures()
            .eviction_listener(move |_, _, cause| match cause {
                RemovalCause::Size => evicted.evicted_full.inc(),
                RemovalCause::Expired => evicted.evicted_idle.inc(),
                RemovalCause::Explicit | RemovalCause::Replaced => {}
            })
            .build();
        Self { sessions, loading: Mutex::default(), drops: AtomicU64::new(0), meters }
    }

    /// Counts how a lookup turned out: whether there was a copy, and whether it was the store's current one.
    pub(super) fn count_lookup(&self, found: bool, current: bool) {
        match (found, current) {
            (true, true) => self.meters.hits.inc(),
            (true, false) => self.meters.stale.inc(),
            (false, _) => self.meters.misses.inc(),
        }
    }

    /// About how many bytes, and how many conversations there are. Does the housekeeping that is due: not for a thread that serves.
    pub(super) fn size(&self) -> (u64, u64) {
        self.sessions.run_pending_tasks();
        (self.sessions.weighted_size(), self.sessions.entry_count())
    }

    /// The copy of a session, if there is one.
    pub fn get(&self, key: &SessionKey) -> Option<Arc<SessionState>> {
        self.sessions.get(key)
    }

    /// For [`insert`](Self::insert), before the store is asked.
    pub fn mark(&self) -> Mark {
        Mark(self.drops.load(Ordering::SeqCst))
    }

    /// Puts a copy in place of any older one, unless some copies were dropped since `mark`: it may show what was erased since.
    pub fn insert(&self, key: &SessionKey, state: &Arc<SessionState>, mark: Mark) {
        self.sessions.insert(key.clone(), state.clone());
        // Looked at last: whoever counts a drop after this finds the copy and drops it.
        if self.drops.load(Ordering::SeqCst) != mark.0 {
            self.sessions.invalidate(key);
        }
    }

    /// Drops a session's copy.
    pub fn remove(&self, key: &SessionKey) {
        self.drops.fetch_add(1, Ordering::SeqCst);
        self.sessions.invalidate(key);
    }

    /// Drops the copies of all of a user's sessions.
    pub fn remove_user(&self, user: &UserKey) {
        self.drops.fetch_add(1, Ordering::SeqCst);
        let user = user.clone();
        let dropped = self.sessions.invalidate_entries_if(move |key, _| *key.user() == user);
        debug_assert!(dropped.is_ok(), "invalidation closures are switched on");
    }

    /// The copy of a session, or what `load` yields. Of any number of concurrent callers for one key, one runs its `load`.
    /// `load` yields nothing for a session that does not exist.
    ///
    /// # Errors
    /// What `load` failed with; every caller that waited for it gets the same.
    pub async fn get_or_load<F>(&self, key: &SessionKey, load: impl FnOnce() -> F) -> Loaded
    where
        F: Future<Output = Result<Option<Arc<SessionState>>, TurnError>>,
    {
        if let Some(state) = self.get(key) {
            return Ok(state);
        }
        let load = async || {
            let mark = self.mark();
            let state = load().await?.unwrap_or_default();
            self.insert(key, &state, mark);
            Ok(state)
        };
        let flight = Flight { cache: self, key, cell: self.loading().entry(key.clone()).or_default().clone() };
        flight.cell.get_or_init(load).await.clone()
    }

    fn loading(&self) -> std::sync::MutexGuard<'_, HashMap<SessionKey, Arc<OnceCell<Loaded>>>> {
        self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One caller's part in a load under way.
struct Flight<'a> {
    cache: &'a SessionCache,
    key: &'a SessionKey,
    cell: Arc<OnceCell<Loaded>>,
}

impl Drop for Flight<'_> {
    /// The first to leave with a result ends the load; the last to leave without one forgets it.
    fn drop(&mut self) {
        let mut loading = self.cache.loading();
        let current = loading.get(self.key).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell));
        let alone = Arc::strong_count(&self.cell) <= 2; // the map's and ours; a new one needs the lock we hold
        if current && (self.cell.initialized() || alone) {
            loading.remove(self.key);
        }
    }
}

/// About how many bytes a conversation takes, counting the allocations behind it.
fn weight(key: &SessionKey, state: &SessionState) -> usize {
    const ALLOCATION: usize = 24; // reference counts and the allocator's rounding
    let text = |len: usize| len + ALLOCATION;
    let turn = |t: &Arc<Turn>| {
        size_of::<Arc<Turn>>() + size_of::<Turn>() + ALLOCATION + text(t.message_id.len()) + text(t.q.len()) + text(t.a.len())
    };
    let slots =
        |s: &Slots| -> usize { s.0.iter().map(|(name, value)| text(name.len()) + size_of::<SlotValue>() + text(value.size())).sum() };
    let turns: usize = state.turns.iter().map(turn).sum();
    key.as_bytes().len() + size_of::<SessionState>() + turns + slots(&state.slots) + slots(&state.user_slots)
}
