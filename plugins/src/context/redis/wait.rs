//! Tenants whose turns are to be on replicas before they count as stored.

use std::{
    collections::HashMap,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus::IntCounterVec;

use crate::api::{Clock, Family, Meters, Tenant};

const SHORT: Family = Family {
    name: "fengda_redis_wait_short_total",
    help: "Turns that were stored, but not on as many replicas in time as their tenant wants.",
    labels: &["tenant"],
};

/// How many replicas a tenant's turns are to be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitFor {
    /// So many.
    pub replicas: u32,
    /// How long that may take.
    pub timeout: Duration,
}

/// What the tenants want, and how often they did not get it.
pub(super) struct Waits {
    wanted: RwLock<HashMap<Tenant, WaitFor>>,
    short: IntCounterVec,
    /// The second of [`Clock::monotonic`] in which it was last said in the log, and one more.
    said: AtomicU64,
}

impl Waits {
    pub(super) fn new(meters: &Meters) -> Self {
        Self { wanted: RwLock::default(), short: meters.counter(SHORT), said: AtomicU64::new(0) }
    }

    pub(super) fn set(&self, wanted: HashMap<Tenant, WaitFor>) {
        *self.wanted.write().unwrap_or_else(PoisonError::into_inner) = wanted;
    }

    pub(super) fn of(&self, tenant: &Tenant) -> Option<WaitFor> {
        self.wanted.read().unwrap_or_else(PoisonError::into_inner).get(tenant).copied()
    }

    /// Takes note of a turn that so many replicas have. Says it in the log once a second at most.
    pub(super) fn note(&self, tenant: &Tenant, wanted: WaitFor, have: u32, clock: &Clock) {
        if have >= wanted.replicas {
            return;
        }
        self.short.with_label_values(&[tenant.name()]).inc();
        let second = clock.monotonic().as_secs() + 1;
        if self.said.swap(second, Ordering::Relaxed) != second {
            log::warn!("a turn of {} was stored on {have} of {} replicas in {:?}", tenant.name(), wanted.replicas, wanted.timeout);
        }
    }
}
