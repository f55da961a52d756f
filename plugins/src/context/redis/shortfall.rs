//! Turns that too few replicas have: stored, and told of.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::IntCounterVec;

use crate::api::{Clock, Family, Incident, Meters, Tenant, WaitFor};

const SHORT: Family = Family {
    name: "fengda_redis_wait_short_total",
    help: "Turns that were stored, but not on as many replicas in time as their tenant wants.",
    labels: &["tenant"],
};

/// Counts them.
pub(super) struct Shortfall {
    short: IntCounterVec,
    /// The second of [`Clock::monotonic`] in which it was last reported, and one more.
    told: AtomicU64,
    /// How many were not reported since.
    left_out: AtomicU64,
}

impl Shortfall {
    pub(super) fn new(meters: &Meters) -> Self {
        Self { short: meters.counter(SHORT), told: AtomicU64::new(0), left_out: AtomicU64::new(0) }
    }

    /// Takes note of a turn that so many replicas have. Operators hear of it once a second at most.
    pub(super) fn note(&self, tenant: &Tenant, wanted: WaitFor, have: u32, clock: &Clock) {
        if have >= wanted.replicas {
            return;
        }
        self.short.with_label_values(&[tenant.name()]).inc();
        let second = clock.monotonic().as_secs() + 1;
        if self.told.swap(second, Ordering::Relaxed) == second {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        Incident::ReplicasShort { tenant: tenant.name(), wanted: wanted.replicas, have, left_out }.log();
    }
}
