//! What is counted of Redis.

use std::sync::{Arc, Weak};

use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge};

use crate::api::{self, Family};

const UP: Family =
    Family { name: "fengda_redis_up", help: "1 if all of Redis answers and takes writes, 0 if some or all of it does not.", labels: &[] };
const COMMANDS: Family = Family {
    name: "fengda_redis_commands_total",
    help: "Calls of scripts, by how they ended: `ok`; `down`: not done; `unknown`: no answer; `refused` by the server or the script.",
    labels: &["script", "result"],
};
const SECONDS: Family = Family {
    name: "fengda_redis_command_duration_seconds",
    help: "From a call of a script to its answer, or to the end of patience.",
    labels: &["script"],
};
const CONNECTIONS: Family = Family {
    name: "fengda_redis_connections_total",
    help: "Attempts to connect: `ok`, or `failed` if nobody answered or no writes were taken.",
    labels: &["result"],
};
const SUBSCRIBED: Family =
    Family { name: "fengda_redis_subscribed", help: "1 while this gateway hears that a session became free on another one.", labels: &[] };
const IN_FLIGHT: Family = Family { name: "fengda_redis_in_flight", help: "Calls that wait for Redis to answer.", labels: &[] };
/// Upper bounds in seconds, from a server beside us to the default timeout.
const BUCKETS: [f64; 12] = [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5];

/// The counters of one Redis.
pub(super) struct Meters {
    pub(super) up: IntGauge,
    pub(super) commands: IntCounterVec,
    pub(super) seconds: HistogramVec,
    pub(super) subscribed: IntGauge,
    pub(super) connected: IntCounter,
    pub(super) failed: IntCounter,
}

impl Meters {
    pub(super) fn new(meters: &api::Meters) -> Self {
        let connections = |result| meters.counter(CONNECTIONS).with_label_values(&[result]);
        Self {
            up: meters.gauge(UP).with_label_values::<&str>(&[]),
            commands: meters.counter(COMMANDS),
            seconds: meters.histogram(SECONDS, &BUCKETS),
            subscribed: meters.gauge(SUBSCRIBED).with_label_values::<&str>(&[]),
            connected: connections("ok"),
            failed: connections("failed"),
        }
    }
}

/// Has the calls in flight looked up at each scrape for as long as there are any to look up.
pub(super) fn watch<T: Send + Sync + 'static>(meters: &api::Meters, of: &Arc<T>, in_flight: impl Fn(&T) -> usize + Send + Sync + 'static) {
    let of: Weak<T> = Arc::downgrade(of);
    meters.gauge(IN_FLIGHT);
    meters.before_gather(move |readings| {
        let Some(of) = of.upgrade() else { return };
        readings.set(IN_FLIGHT, &[], i64::try_from(in_flight(&of)).unwrap_or(i64::MAX));
    });
}
