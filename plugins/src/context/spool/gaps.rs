//! Conversations whose store had lost turns when turns that waited for it took their numbers: nobody would see a gap in those.

use std::{
    collections::HashSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use prometheus::IntCounterVec;

use crate::{
    api::{Clock, Family, Incident, Meters, SessionKey},
    context::throttle::Throttle,
};

pub(super) const GAPS: Family = Family {
    name: "fengda_spool_gaps_total",
    help: "Conversations whose store was back without turns that it had acknowledged, found out when turns that waited for it were stored.",
    labels: &["tenant"],
};
/// Most conversations whose users are still to be told; those of others are counted and logged all the same.
const MAX_UNTOLD: usize = 10_000;

/// Finds them, and knows whose users are to be told with their next answer.
pub(super) struct Gaps {
    untold: Mutex<HashSet<SessionKey>>,
    /// How many, to be looked at without the lock.
    count: AtomicUsize,
    found: IntCounterVec,
    reports: Throttle,
}

impl Gaps {
    pub(super) fn new(meters: &Meters) -> Self {
        Self { untold: Mutex::default(), count: AtomicUsize::new(0), found: meters.counter(GAPS), reports: Throttle::default() }
    }

    /// Takes note that a turn was answered after the one numbered `answered_after` and stored after the one numbered `stored_after`. The
    /// turns of one loss count once. Operators hear of it once a second at most.
    pub(super) fn note(&self, key: &SessionKey, answered_after: u64, stored_after: u64, clock: &Clock) {
        if stored_after >= answered_after {
            return;
        }
        let mut untold = self.untold();
        if untold.contains(key) {
            return;
        }
        if untold.len() < MAX_UNTOLD {
            untold.insert(key.clone());
        }
        self.count.store(untold.len(), Ordering::Release);
        drop(untold);
        let tenant = key.tenant().name();
        self.found.with_label_values(&[tenant]).inc();
        if let Some(left_out) = self.reports.pass(clock) {
            Incident::TurnsLost { tenant, acknowledged: answered_after, stored: stored_after, left_out }.log();
        }
    }

    /// Whether a conversation's user is to be told now.
    pub(super) fn take(&self, key: &SessionKey) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut untold = self.untold();
        let there = untold.remove(key);
        self.count.store(untold.len(), Ordering::Release);
        there
    }

    fn untold(&self) -> MutexGuard<'_, HashSet<SessionKey>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
