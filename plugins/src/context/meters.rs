//! What is counted of conversations: how well the cache serves, how full it is, how much the store has to catch up with.

use std::sync::{Arc, Weak};

use prometheus::IntCounter;

use super::{Context, cache::SessionCache};
use crate::api::{Family, Meters, Readings, Tenant};

const LOOKUPS: Family = Family {
    name: "fengda_context_cache_lookups_total",
    help: "Conversations that turns asked of the cache: current (hit), older than the store's (stale), not there (miss).",
    labels: &["outcome"],
};
const EVICTIONS: Family = Family {
    name: "fengda_context_cache_evictions_total",
    help: "Conversations that left the cache because it was full (size), their tenant's share of it was (share) or they were not used (idle), or that were too large to get in (large).",
    labels: &["cause"],
};
const LOADS: Family =
    Family { name: "fengda_context_loads_total", help: "Conversations that the store gave whole, to turns and to readers.", labels: &[] };
const BYTES: Family =
    Family { name: "fengda_context_cache_bytes", help: "Size of a tenant's cached conversations, about.", labels: &["tenant"] };
const SESSIONS: Family = Family { name: "fengda_context_cache_sessions", help: "A tenant's cached conversations.", labels: &["tenant"] };
const QUEUED: Family = Family { name: "fengda_store_queue_depth", help: "Writes that wait for the store's writer.", labels: &[] };

/// What the cache counts.
#[derive(Clone)]
pub(super) struct CacheMeters {
    pub(super) hits: IntCounter,
    pub(super) stale: IntCounter,
    pub(super) misses: IntCounter,
    pub(super) evicted_full: IntCounter,
    pub(super) evicted_share: IntCounter,
    pub(super) evicted_idle: IntCounter,
    pub(super) too_large: IntCounter,
    pub(super) loads: IntCounter,
}

impl CacheMeters {
    pub(super) fn new(meters: &Meters) -> Self {
        let lookups = |outcome| meters.counter(LOOKUPS).with_label_values(&[outcome]);
        let evictions = |cause| meters.counter(EVICTIONS).with_label_values(&[cause]);
        Self {
            hits: lookups("hit"),
            stale: lookups("stale"),
            misses: lookups("miss"),
            evicted_full: evictions("size"),
            evicted_share: evictions("share"),
            evicted_idle: evictions("idle"),
            too_large: evictions("large"),
            loads: meters.counter(LOADS).with_label_values::<&str>(&[]),
        }
    }
}

/// Has the store's queue looked up at each scrape, as long as the conversations are open.
pub(super) fn watch(context: &Arc<Context>, meters: &Meters) {
    [BYTES, SESSIONS, QUEUED].into_iter().for_each(|family| drop(meters.gauge(family)));
    let context: Weak<Context> = Arc::downgrade(context);
    meters.before_gather(move |readings| {
        let Some(context) = context.upgrade() else { return };
        readings.set(QUEUED, &[], i64::try_from(context.store.queued()).unwrap_or(i64::MAX));
    });
}

/// Tells what the conversations of these tenants take of the cache.
pub(super) fn tell_held(cache: &SessionCache, tenants: &[Tenant], readings: &Readings<'_>) {
    cache.tidy();
    for tenant in tenants {
        let (bytes, sessions) = cache.held_by(tenant);
        readings.set(BYTES, &[tenant.name()], i64::try_from(bytes).unwrap_or(i64::MAX));
        readings.set(SESSIONS, &[tenant.name()], i64::try_from(sessions).unwrap_or(i64::MAX));
    }
}
