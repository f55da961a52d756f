//! Recent conversations in memory, so that a hot turn moves no history.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::{notification::RemovalCause, policy::EvictionPolicy, sync::Cache};

use super::{meters::CacheMeters, shares::Shares};
use crate::{
    api::{Meters, SessionKey, SessionState, SlotValue, Slots, Tenant, Turn, UserKey},
    units::Percent,
};

/// How much is held in memory; `store.cache` of the configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheConfig {
    /// Most bytes of conversations, about.
    pub size: u64,
    /// The most of `size` that one tenant's conversations may fill.
    pub share: Percent,
    /// How long an unused conversation stays.
    pub idle: Duration,
}

/// Recent conversations. A copy here may be old: only the store can say whether its version is current.
pub struct SessionCache {
    sessions: Cache<SessionKey, Cached>,
    shares: Arc<Shares>,
    /// How often copies were dropped on purpose.
    drops: AtomicU64,
    meters: CacheMeters,
}

#[derive(Clone)]
struct Cached {
    state: Arc<SessionState>,
    bytes: u32,
    /// Given by [`Shares::enter`].
    number: u64,
}

/// A point in the cache's life, taken before a copy is asked of the store.
#[derive(Debug, Clone, Copy)]
pub struct Mark(u64);

impl SessionCache {
    /// An empty one. In all, the least recently used goes first; within a tenant's share, the one whose last turn or load is the longest ago.
    pub fn new(config: CacheConfig, meters: &Meters) -> Self {
        let (meters, shares) = (CacheMeters::new(meters), Arc::new(Shares::new(config.size, config.share)));
        let (evicted, counted) = (meters.clone(), shares.clone());
        let sessions = Cache::builder()
            .max_capacity(config.size)
            .time_to_idle(config.idle)
            .weigher(|_, cached: &Cached| cached.bytes)
            .eviction_policy(EvictionPolicy::lru())
            .support_invalidation_closures()
            .eviction_listener(move |key: Arc<SessionKey>, cached: Cached, cause| {
                counted.leave(&key, cached.number);
                match cause {
                    RemovalCause::Size => evicted.evicted_full.inc(),
                    RemovalCause::Expired => evicted.evicted_idle.inc(),
                    RemovalCause::Explicit | RemovalCause::Replaced => {}
                }
            })
            .build();
        Self { sessions, shares, drops: AtomicU64::new(0), meters }
    }

    /// Counts how a lookup turned out: whether there was a copy, and whether it was the store's current one.
    pub(super) fn count_lookup(&self, found: bool, current: bool) {
        match (found, current) {
            (true, true) => self.meters.hits.inc(),
            (true, false) => self.meters.stale.inc(),
            (false, _) => self.meters.misses.inc(),
        }
    }

    /// Counts a conversation that the store gave whole.
    pub(super) fn count_load(&self) {
        self.meters.loads.inc();
    }

    /// Does the housekeeping that is due, so that [`held_by`](Self::held_by) does not count what has expired: not for a thread that serves.
    pub(super) fn tidy(&self) {
        self.sessions.run_pending_tasks();
    }

    /// About how many bytes of a tenant's conversations there are, and of how many.
    pub(super) fn held_by(&self, tenant: &Tenant) -> (u64, usize) {
        self.shares.of(tenant)
    }

    /// The copy of a session, if there is one.
    pub fn get(&self, key: &SessionKey) -> Option<Arc<SessionState>> {
        self.sessions.get(key).map(|cached| cached.state)
    }

    /// For [`insert`](Self::insert), before the store is asked.
    pub fn mark(&self) -> Mark {
        Mark(self.drops.load(Ordering::SeqCst))
    }

    /// Puts a copy in place of any older one. Not one that is too large for its tenant's share, and not if some copies were dropped since
    /// `mark`: it may show what was erased since.
    pub fn insert(&self, key: &SessionKey, state: &Arc<SessionState>, mark: Mark) {
        let Some(bytes) = self.shares.admit(weight(key, state)) else {
            self.meters.too_large.inc();
            return self.sessions.invalidate(key);
        };
        let (number, leaving) = self.shares.enter(key, bytes);
        for oldest in &leaving {
            self.meters.evicted_share.inc();
            self.sessions.invalidate(oldest);
        }
        self.sessions.insert(key.clone(), Cached { state: state.clone(), bytes, number });
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
}

/// About how many bytes a conversation takes, counting the allocations behind it.
fn weight(key: &SessionKey, state: &SessionState) -> usize {
    const ALLOCATION: usize = 24; // reference counts and the allocator's rounding
    const ENTRY: usize = 850; // what moka and the share keep of each, and the key's own allocations: measured
    let text = |len: usize| len + ALLOCATION;
    let turn = |t: &Arc<Turn>| {
        size_of::<Arc<Turn>>() + size_of::<Turn>() + ALLOCATION + text(t.message_id.len()) + text(t.q.len()) + text(t.a.len())
    };
    let slots =
        |s: &Slots| -> usize { s.0.iter().map(|(name, value)| text(name.len()) + size_of::<SlotValue>() + text(value.size())).sum() };
    let journal = state.flow.journal.as_ref().map_or(0, |journal| text(journal.text().len()));
    let turns: usize = state.turns.iter().map(turn).sum();
    ENTRY + key.as_bytes().len() + size_of::<SessionState>() + turns + slots(&state.flow.slots) + slots(&state.user_slots) + journal
}
