//! Every family of metrics of the gateway's own: names after the Prometheus conventions, labels only from the configuration or closed
//! lists. `docs/metrics.md` says how to read them, and a test holds it against this.

use fengda_plugins::api::{Family, Meters};
use prometheus::{Encoder, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, TextEncoder};
use tokio::runtime::Handle;

use super::{Sink, StoreFaults, logger, process};

/// Upper bounds in seconds, fine around the promise of 300 ms.
const LATENCY: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0];
/// Upper bounds in seconds for what the gateway does by itself.
const SHORT: [f64; 12] = [1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 5e-2, 0.5];
/// Upper bounds in seconds for one plugin.
const TINY: [f64; 10] = [2.5e-7, 5e-7, 1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 1e-4, 1e-3, 1e-2];
/// Upper bounds in bytes around the memory that a turn of a script may use.
const MEMORY: [f64; 7] = [16.0 * KIB, 64.0 * KIB, 256.0 * KIB, 1024.0 * KIB, 4096.0 * KIB, 16384.0 * KIB, 65536.0 * KIB];
const KIB: f64 = 1024.0;

const VMS: Family = Family { name: "fengda_flow_vms", help: "Lua VMs that are alive.", labels: &[] };

// What a gateway looks up when metrics are read.
pub(crate) const IN_FLIGHT: Family =
    Family { name: "fengda_in_flight", help: "Requests in flight, with turns whose client left.", labels: &[] };
pub(crate) const TENANT_IN_FLIGHT: Family =
    Family { name: "fengda_tenant_in_flight", help: "Requests in flight by tenant, with turns whose client left.", labels: &["tenant"] };
pub(crate) const SESSION_MESSAGES: Family =
    Family { name: "fengda_session_messages", help: "Messages of sessions, running and waiting for their turn.", labels: &[] };
pub(crate) const TASKS: Family =
    Family { name: "fengda_tasks", help: "Tasks of the serving threads: connections, turns, calls and a few of each thread.", labels: &[] };
pub(crate) const UPSTREAM_ENDPOINTS: Family = Family {
    name: "fengda_upstream_endpoints",
    help: "Endpoints of an upstream: `in` use, or `ejected` because they kept failing.",
    labels: &["upstream", "state"],
};

/// The gateway's metrics. One for each running gateway; it lives through reloads.
pub struct Metrics {
    meters: Meters,
    /// Requests answered, by route, tenant (`-` before it is known) and status.
    pub requests: IntCounterVec,
    /// Seconds from the head read to the last byte written, by route and tenant.
    pub request_seconds: HistogramVec,
    /// Requests not admitted, by tenant (`-` before it is known) and reason.
    pub shed: IntCounterVec,
    /// Seconds of a request that were the gateway's own, by route and tenant: see [`Timing`](super::Timing).
    pub overhead_seconds: HistogramVec,
    /// Bytes of requests' bodies, by route and tenant.
    pub received_bytes: IntCounterVec,
    /// Bytes of answers' bodies, by route and tenant.
    pub sent_bytes: IntCounterVec,
    /// Open connections of clients, by protocol.
    pub connections: IntGaugeVec,
    /// Connections of clients so far, by protocol.
    pub accepted: IntCounterVec,
    /// Connections closed at once because `limits.connections`, or what open files allow, was reached.
    pub connections_refused: IntCounter,
    /// Connections that did not come to speak TLS.
    pub tls_failures: IntCounter,
    tls_expiry: IntGaugeVec,
    /// Answers being streamed.
    pub streams: IntGauge,
    /// Requests a plugin rejected, by plugin and error code.
    pub rejected: IntCounterVec,
    /// Seconds in a plugin, by plugin and phase; a sample of them: see [`Laps`](super::Laps).
    pub plugin_seconds: HistogramVec,
    /// Turns by tenant and outcome.
    pub turns: IntCounterVec,
    /// Seconds a flow ran, waits for models excluded, by tenant.
    pub flow_seconds: HistogramVec,
    /// Bytes by which a turn of a flow made its VM grow, by tenant.
    pub flow_memory: HistogramVec,
    /// Flows that failed, by tenant and kind.
    pub flow_failures: IntCounterVec,
    /// 1 for a tenant whose script is refused, by tenant.
    pub flow_refused: IntGaugeVec,
    /// Attempts to call an upstream, by tenant, upstream and outcome.
    pub upstream_calls: IntCounterVec,
    /// Seconds until an upstream's answer or its first token, by tenant and upstream.
    pub upstream_seconds: HistogramVec,
    /// Seconds of the store's part in a request, by step.
    pub store_seconds: StoreSeconds,
    /// What the store does not do, or has lost.
    pub store_faults: StoreFaults,
    /// Reloads.
    pub reloads: Reloads,
}

/// Seconds of each step that asks the store.
pub struct StoreSeconds {
    /// A turn begins.
    pub begin: Histogram,
    /// A turn is written.
    pub commit: Histogram,
    /// A history is read.
    pub read: Histogram,
    /// A session or user is erased.
    pub erase: Histogram,
}

/// What is told of the configuration in force and of attempts to replace it.
pub struct Reloads {
    /// By result, `applied` or `refused`.
    pub results: IntCounterVec,
    /// Generation of the configuration in force.
    pub generation: IntGauge,
    /// Whether the last attempt was applied.
    pub last_successful: IntGauge,
    /// When the configuration in force was put in force, in seconds since the Unix epoch.
    pub applied_at: IntGauge,
    /// 1 for the hash of the configuration in force.
    pub info: IntGaugeVec,
}

/// Makes families that have their labels as the only difference.
struct Maker<'a>(&'a Meters);

impl Maker<'_> {
    fn counter(&self, name: &'static str, help: &'static str, labels: &'static [&'static str]) -> IntCounterVec {
        self.0.counter(Family { name, help, labels })
    }

    fn count(&self, name: &'static str, help: &'static str) -> IntCounter {
        self.counter(name, help, &[]).with_label_values::<&str>(&[])
    }

    fn gauges(&self, name: &'static str, help: &'static str, labels: &'static [&'static str]) -> IntGaugeVec {
        self.0.gauge(Family { name, help, labels })
    }

    fn gauge(&self, name: &'static str, help: &'static str) -> IntGauge {
        self.gauges(name, help, &[]).with_label_values::<&str>(&[])
    }

    fn histogram(&self, name: &'static str, help: &'static str, labels: &'static [&'static str], buckets: &[f64]) -> HistogramVec {
        self.0.histogram(Family { name, help, labels }, buckets)
    }

    /// A counter of the whole process, which others count.
    fn followed(&self, name: &'static str, help: &'static str, read: fn() -> u64) {
        let counter = self.count(name, help);
        self.0.before_gather(move |_| counter.inc_by(read().saturating_sub(counter.get())));
    }

    fn store_seconds(&self) -> StoreSeconds {
        let steps = self.histogram("fengda_store_duration_seconds", "The store's part in a request.", &["step"], &SHORT);
        let of = |step| steps.with_label_values(&[step]);
        StoreSeconds { begin: of("begin"), commit: of("commit"), read: of("read"), erase: of("erase") }
    }

    fn reloads(&self) -> Reloads {
        let successful = "1 if the newest attempt to load the configuration was applied, 0 if it was refused.";
        let at = "When the configuration in force was put in force, in seconds since the Unix epoch.";
        Reloads {
            results: self.counter("fengda_reloads_total", "Reloads of the configuration.", &["result"]),
            generation: self.gauge("fengda_config_generation", "Generation of the configuration in force."),
            last_successful: self.gauge("fengda_config_last_reload_successful", successful),
            applied_at: self.gauge("fengda_config_last_reload_success_timestamp_seconds", at),
            info: self.gauges("fengda_config_info", "Always 1; the label tells configurations apart.", &["hash"]),
        }
    }

    /// What belongs to the process and not to one of its gateways.
    fn process(&self) {
        let version = self.gauges("fengda_build_info", "Always 1; the label says which version runs.", &["version"]);
        version.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let dropped = "Log lines that found their log's queue full or could not be written.";
        self.followed("fengda_log_lines_dropped_total", dropped, Sink::dropped);
        self.followed("fengda_panics_total", "Faults of ours that cost the request or turn they happened in.", logger::panics);
        self.0.gauge(VMS);
        self.0.before_gather(|readings| readings.set(VMS, &[], crate::flow::vms()));
        process::register(self.0);
    }
}

impl Metrics {
    /// A fresh set, all at zero.
    pub fn new() -> Self {
        let meters = Meters::default();
        let make = Maker(&meters);
        make.process();
        [IN_FLIGHT, TENANT_IN_FLIGHT, SESSION_MESSAGES, TASKS, UPSTREAM_ENDPOINTS]
            .into_iter()
            .for_each(|family| drop(meters.gauge(family)));
        let (by_route, by_upstream) = (&["route", "tenant"], &["tenant", "upstream"]);
        let overhead = "From the head read to the first byte of the answer, without the waits for the client's body, the session's earlier \
                        messages and upstreams.";
        let sampled = "One plugin's part in a phase; one phase in 17 is timed.";
        let grown = "By how much a turn made its VM grow, garbage included.";
        let refused = "1 while the tenant's script is refused and its last good one, or the canned text, serves.";
        Self {
            requests: make.counter("fengda_requests_total", "Requests answered.", &["route", "tenant", "status"]),
            request_seconds: make.histogram(
                "fengda_request_duration_seconds",
                "From the head read to the last byte written.",
                by_route,
                &LATENCY,
            ),
            shed: make.counter("fengda_shed_total", "Requests refused because too many are in flight.", &["tenant", "reason"]),
            overhead_seconds: make.histogram("fengda_gateway_overhead_seconds", overhead, by_route, &SHORT),
            received_bytes: make.counter("fengda_received_bytes_total", "Bytes of requests' bodies.", by_route),
            sent_bytes: make.counter("fengda_sent_bytes_total", "Bytes of answers' bodies.", by_route),
            connections: make.gauges(
                "fengda_connections",
                "Open connections of clients; silent ones have sent nothing yet.",
                &["protocol"],
            ),
            accepted: make.counter("fengda_connections_accepted_total", "Connections of clients.", &["protocol"]),
            connections_refused: make.count("fengda_connections_refused_total", "Connections over the limit, closed at once."),
            tls_failures: make.count("fengda_tls_handshakes_failed_total", "Connections that did not come to speak TLS."),
            tls_expiry: make.gauges(
                "fengda_tls_certificate_expiry_timestamp_seconds",
                "When the first certificate of the chain ends, in seconds since the Unix epoch.",
                &[],
            ),
            streams: make.gauge("fengda_streams", "Answers that are being streamed."),
            rejected: make.counter("fengda_plugin_rejections_total", "Requests a plugin rejected.", &["plugin", "code"]),
            plugin_seconds: make.histogram("fengda_plugin_duration_seconds", sampled, &["plugin", "phase"], &TINY),
            turns: make.counter("fengda_turns_total", "Turns by outcome.", &["tenant", "outcome"]),
            flow_seconds: make.histogram("fengda_flow_duration_seconds", "Time a flow ran, without its waits.", &["tenant"], &SHORT),
            flow_memory: make.histogram("fengda_flow_memory_bytes", grown, &["tenant"], &MEMORY),
            flow_failures: make.counter("fengda_flow_failures_total", "Flows that failed or were stopped.", &["tenant", "kind"]),
            flow_refused: make.gauges("fengda_flow_refused", refused, &["tenant"]),
            upstream_calls: make.counter(
                "fengda_upstream_calls_total",
                "Attempts to call an upstream.",
                &["tenant", "upstream", "outcome"],
            ),
            upstream_seconds: make.histogram(
                "fengda_upstream_duration_seconds",
                "Until an upstream's answer, or its first token.",
                by_upstream,
                &LATENCY,
            ),
            store_seconds: make.store_seconds(),
            store_faults: StoreFaults::new(
                make.counter("fengda_store_failures_total", "Steps that the store failed or did not end in time.", &["step"]),
                make.counter("fengda_context_gaps_total", "Turns whose client had seen more than the store holds.", &["tenant"]),
            ),
            reloads: make.reloads(),
            meters,
        }
    }

    /// Counts a connection among those that have not sent anything until it is dropped.
    pub fn silent_connection(&self) -> Open {
        Open::new(self.connections.with_label_values(&["silent"]))
    }

    /// Counts a connection whose protocol is known, and counts it among the open ones until it is dropped.
    pub fn connection(&self, protocol: &'static str) -> Open {
        self.accepted.with_label_values(&[protocol]).inc();
        Open::new(self.connections.with_label_values(&[protocol]))
    }

    /// Counts an answer among those being streamed until it is dropped.
    pub fn stream(&self) -> Open {
        Open::new(self.streams.clone())
    }

    /// The exposition format that Prometheus scrapes.
    pub fn render(&self) -> Vec<u8> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.meters.gather(), &mut out).expect("writing to a Vec cannot fail and our families are valid");
        out
    }

    /// Says when the certificate in force ends, in seconds since 1970; nothing is shown if there is none.
    pub fn set_tls_expiry(&self, expiry: Option<i64>) {
        self.tls_expiry.reset();
        if let Some(expiry) = expiry {
            self.tls_expiry.with_label_values::<&str>(&[]).set(expiry);
        }
    }

    /// Has the tasks of these runtimes counted.
    pub fn count_tasks(&self, runtimes: Vec<Handle>) {
        self.meters.before_gather(move |readings| {
            let tasks: usize = runtimes.iter().map(|runtime| runtime.metrics().num_alive_tasks()).sum();
            readings.set(TASKS, &[], i64::try_from(tasks).unwrap_or(i64::MAX));
        });
    }

    /// Where plugins make metrics of their own.
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// The content type of [`Metrics::render`].
    pub const CONTENT_TYPE: &'static str = prometheus::TEXT_FORMAT;
}

/// One of those that a gauge counts, for as long as it lives.
pub struct Open(IntGauge);

impl Open {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use fengda_plugins::api::Kind;

    use super::*;

    #[test]
    fn names_keep_the_conventions() {
        for (Family { name, help, .. }, kind) in Metrics::new().meters().families() {
            assert!(name.starts_with("fengda_") || name.starts_with("process_"), "{name}");
            assert_eq!(kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(kind != Kind::Histogram || name.ends_with("_seconds") || name.ends_with("_bytes"), "{name}");
            assert!(help.ends_with('.') && help.starts_with(|c: char| c.is_uppercase() || c == '1'), "{name}: {help}");
        }
    }

    #[test]
    fn what_is_rendered_is_what_was_counted() {
        let metrics = Metrics::new();
        metrics.requests.with_label_values(&["/v1/chat", "acme-shop", "200"]).inc();
        let text = String::from_utf8(metrics.render()).unwrap();
        let line = "fengda_requests_total{route=\"/v1/chat\",status=\"200\",tenant=\"acme-shop\"} 1\n";
        assert!(text.contains(line), "{line} in\n{text}");
    }
}
