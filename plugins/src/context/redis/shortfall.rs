//! Turns and erasures that too few replicas have: stored and done, and told of.

use prometheus::IntCounterVec;

use crate::{
    api::{Clock, Family, Incident, Meters, Tenant, WaitFor},
    context::throttle::Throttle,
};

const SHORT: Family = Family {
    name: "fengda_redis_wait_short_total",
    help: "Turns that were stored, and erasures that were done, but not on as many replicas in time as their tenant wants.",
    labels: &["tenant"],
};

/// Counts them.
pub(super) struct Shortfall {
    short: IntCounterVec,
    reports: Throttle,
}

impl Shortfall {
    pub(super) fn new(meters: &Meters) -> Self {
        Self { short: meters.counter(SHORT), reports: Throttle::default() }
    }

    /// Takes note of what so many replicas have. Operators hear of it once a second at most.
    pub(super) fn note(&self, tenant: &Tenant, wanted: WaitFor, have: u32, clock: &Clock) {
        self.short.with_label_values(&[tenant.name()]).inc();
        if let Some(left_out) = self.reports.pass(clock) {
            Incident::ReplicasShort { tenant: tenant.name(), wanted: wanted.replicas, have, left_out }.log();
        }
    }
}
