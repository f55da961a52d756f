//! What is counted of conversations: how well the cache serves, how full it is, how much the store has to catch up with.

use std::sync::{Arc, Weak};

use prometheus::IntCounter;

use super::Context;
use crate::api::{Family, Meters};

const LOOKUPS: Family = Family {
    name: "fengda_context_cache_lookups_total",
    help: "Conversations that turns asked of the cache: current (hit), older than the store's (stale), not there (miss).",
    labels: &["outcome"],
};
const EVICTIONS: Family = Family {
    name: "fengda_context_cache_evictions_total",
    help: "Conversations that left the cache because it was full (size) or they were not used (idle).",
    labels: &["cause"],
};
const BYTES: Family = Family { name: "fengda_context_cache_bytes", help: "Size of the cached conversations, about.", labels: &[] };
const SESSIONS: Family = Family { name: "fengda_context_cache_sessions", help: "Cached conversations.", labels: &[] };
const QUEUED: Family = Family { name: "fengda_store_queue_depth", help: "Writes that wait for the store's writer.", labels: &[] };

/// What the cache counts.
#[derive(Clone)]
pub(super) struct CacheMeters {
    pub(super) hits: IntCounter,
    pub(super) stale: IntCounter,
    pub(super) misses: IntCounter,
    pub(super) evicted_full: IntCounter,
    pub(super) evicted_idle: IntCounter,
}

impl CacheMeters {
    pub(super) fn new(meters: &Meters) -> Self {
        let lookups = |outcome| meters.counter(LOOKUPS).with_label_values(&[outcome]);
        let evictions = |cause| meters.counter(EVICTIONS).with_label_values(&[cause]);
        let (hits, stale, misses) = (lookups("hit"), lookups("stale"), lookups("miss"));
        Self { hits, stale, misses, evicted_full: evictions("size"), evicted_idle: evictions("idle") }
    }
}

/// Has the sizes looked up at each scrape, as long as the conversations are open.
pub(super) fn watch(context: &Arc<Context>, meters: &Meters) {
    [BYTES, SESSIONS, QUEUED].into_iter().for_each(|family| drop(meters.gauge(family)));
    let context: Weak<Context> = Arc::downgrade(context);
    meters.before_gather(move |readings| {
        let Some(context) = context.upgrade() else { return };
        let (size, count) = context.cache.size();
        readings.set(BYTES, &[], i64::try_from(size).unwrap_or(i64::MAX));
        readings.set(SESSIONS, &[], i64::try_from(count).unwrap_or(i64::MAX));
        readings.set(QUEUED, &[], i64::try_from(context.store.queued()).unwrap_or(i64::MAX));
    });
}
