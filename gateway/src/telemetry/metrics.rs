//! Every metric, in one place: names after the Prometheus conventions, labels only from the configuration or closed lists.

use std::sync::atomic::{AtomicI64, Ordering};

use fengda_plugins::api::{Family, Meters};
use prometheus::{Encoder, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, TextEncoder};

use super::Sink;

/// Upper bounds in seconds, fine around the promise of 300 ms.
const LATENCY: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0];
/// Upper bounds in seconds for what the gateway does by itself.
const SHORT: [f64; 12] = [1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 5e-2, 0.5];

/// The gateway's metrics. One for each running gateway; it lives through reloads.
pub struct Metrics {
    meters: Meters,
    /// Requests answered, by route, tenant (`-` before it is known) and status.
    pub requests: IntCounterVec,
    /// Seconds from the head read to the last byte written, by route and tenant.
    pub request_seconds: HistogramVec,
    /// Requests and turns in flight; set at each scrape.
    pub in_flight: IntGauge,
    /// Open connections of clients; set at each scrape.
    pub connections: IntGauge,
    /// Requests a plugin rejected, by plugin and error code.
    pub rejected: IntCounterVec,
    /// Turns by tenant and outcome.
    pub turns: IntCounterVec,
    /// Seconds a flow ran, waits for models excluded, by tenant.
    pub flow_seconds: HistogramVec,
    /// Flows that failed, by tenant and kind.
    pub flow_failures: IntCounterVec,
    /// Attempts to call an upstream, by tenant, upstream and outcome.
    pub upstream_calls: IntCounterVec,
    /// Seconds until an upstream's answer or its first token, by tenant and upstream.
    pub upstream_seconds: HistogramVec,
    /// Seconds of the store's part in a turn, by step.
    pub store_seconds: HistogramVec,
    /// Turns whose client had seen more than the store holds, by tenant.
    pub gaps: IntCounterVec,
    /// Reloads by result.
    pub reloads: IntCounterVec,
    /// Generation of the configuration in force.
    pub generation: IntGauge,
    log_dropped: IntCounter,
    log_dropped_seen: AtomicI64,
}

impl Metrics {
    /// A fresh set, all at zero.
    pub fn new() -> Self {
        let meters = Meters::default();
        let counter = |name, help, labels| meters.counter(Family { name, help, labels });
        let gauge = |name, help| meters.gauge(Family { name, help, labels: &[] }).with_label_values::<&str>(&[]);
        let seconds = |name, help, buckets, labels| meters.histogram(Family { name, help, labels }, buckets);
        let build = Family { name: "fengda_build_info", help: "Always 1; the label says which version runs.", labels: &["version"] };
        meters.gauge(build).with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            requests: counter("fengda_requests_total", "Requests answered.", &["route", "tenant", "status"]),
            request_seconds: seconds(
                "fengda_request_duration_seconds",
                "From the head read to the last byte written.",
                &LATENCY,
                &["route", "tenant"],
            ),
            in_flight: gauge("fengda_in_flight", "Requests and turns in flight."),
            connections: gauge("fengda_connections", "Open connections of clients."),
            rejected: counter("fengda_plugin_rejections_total", "Requests a plugin rejected.", &["plugin", "code"]),
            turns: counter("fengda_turns_total", "Turns by outcome.", &["tenant", "outcome"]),
            flow_seconds: seconds("fengda_flow_duration_seconds", "Time a flow ran, without its waits.", &SHORT, &["tenant"]),
            flow_failures: counter("fengda_flow_failures_total", "Flows that failed or were stopped.", &["tenant", "kind"]),
            upstream_calls: counter("fengda_upstream_calls_total", "Attempts to call an upstream.", &["tenant", "upstream", "outcome"]),
            upstream_seconds: seconds(
                "fengda_upstream_duration_seconds",
                "Until an upstream's answer, or its first token.",
                &LATENCY,
                &["tenant", "upstream"],
            ),
            store_seconds: seconds("fengda_store_duration_seconds", "The store's part in a turn.", &SHORT, &["step"]),
            gaps: counter("fengda_context_gaps_total", "Turns whose client had seen more than the store holds.", &["tenant"]),
            reloads: counter("fengda_reloads_total", "Reloads of the configuration.", &["result"]),
            generation: gauge("fengda_config_generation", "Generation of the configuration in force."),
            log_dropped: counter(
                "fengda_log_lines_dropped_total",
                "Log lines that found their log's queue full or could not be written.",
                &[],
            )
            .with_label_values::<&str>(&[]),
            log_dropped_seen: AtomicI64::new(0),
            meters,
        }
    }

    /// The exposition format that Prometheus scrapes.
    pub fn render(&self) -> Vec<u8> {
        let dropped = i64::try_from(Sink::dropped()).unwrap_or(i64::MAX);
        let before = self.log_dropped_seen.swap(dropped, Ordering::Relaxed);
        self.log_dropped.inc_by(u64::try_from(dropped - before).unwrap_or(0));
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.meters.gather(), &mut out).expect("writing to a Vec cannot fail and our families are valid");
        out
    }

    /// Where plugins make metrics of their own.
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// The content type of [`Metrics::render`].
    pub const CONTENT_TYPE: &'static str = prometheus::TEXT_FORMAT;
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The metrics that every turn of a tenant touches, looked up once when the tenant is set up.
pub struct TenantMetrics {
    /// Turns answered from the flow.
    pub answered: IntCounter,
    /// Turns answered with the canned fallback because a model failed.
    pub fallback: IntCounter,
    /// Turns whose flow failed.
    pub flow_failed: IntCounter,
    /// Turns that another copy of the same message had answered.
    pub repeated: IntCounter,
    /// Turns refused or lost: queue full, deadline, store.
    pub refused: IntCounter,
    /// Turns whose client went away.
    pub cancelled: IntCounter,
    /// See [`Metrics::flow_seconds`].
    pub flow_seconds: Histogram,
}

impl TenantMetrics {
    /// Those of one tenant.
    pub fn of(metrics: &Metrics, tenant: &str) -> Self {
        let turns = |outcome| metrics.turns.with_label_values(&[tenant, outcome]);
        Self {
            answered: turns("answered"),
            fallback: turns("fallback"),
            flow_failed: turns("flow_failed"),
            repeated: turns("repeated"),
            refused: turns("refused"),
            cancelled: turns("cancelled"),
            flow_seconds: metrics.flow_seconds.with_label_values(&[tenant]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendered_names_keep_the_conventions() {
        let m = Metrics::new();
        m.requests.with_label_values(&["/v1/chat", "acme-shop", "200"]).inc();
        TenantMetrics::of(&m, "acme-shop").answered.inc();
        let text = String::from_utf8(m.render()).unwrap();
        assert!(text.contains("fengda_requests_total{route=\"/v1/chat\",status=\"200\",tenant=\"acme-shop\"} 1"));
        assert!(text.contains("fengda_turns_total{outcome=\"answered\",tenant=\"acme-shop\"} 1"));
        for line in text.lines().filter(|l| l.starts_with("# TYPE")) {
            let (name, kind) = line[7..].split_once(' ').unwrap();
            assert!(name.starts_with("fengda_"), "{line}");
            let info = name.ends_with("_info");
            assert_eq!(kind == "counter" && !info, name.ends_with("_total"), "{line}");
            assert_eq!(kind == "histogram", name.ends_with("_seconds"), "{line}");
        }
    }
}
