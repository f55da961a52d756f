//! Metrics of a tenant, route or plugin, looked up once and not by their labels at every request (60 ns each).

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use http::StatusCode;
use prometheus::{Histogram, IntCounter};

use super::Metrics;

/// The metrics that every turn of a tenant touches.
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
    /// See [`Metrics::flow_memory`].
    pub flow_memory: Histogram,
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
            flow_memory: metrics.flow_memory.with_label_values(&[tenant]),
        }
    }
}

/// The metrics of one plugin of a chain.
pub struct PluginMetrics {
    /// In the `request` phase.
    pub request: Histogram,
    /// Before and after calls of upstreams.
    pub upstream_call: Histogram,
    /// In the `response` phase.
    pub response: Histogram,
    /// In the `log` phase.
    pub log: Histogram,
}

impl PluginMetrics {
    /// Those of the plugin with this name.
    pub fn of(metrics: &Metrics, plugin: &str) -> Self {
        let phase = |phase| metrics.plugin_seconds.with_label_values(&[plugin, phase]);
        Self { request: phase("request"), upstream_call: phase("upstream_call"), response: phase("response"), log: phase("log") }
    }
}

/// The metrics of a route's requests, by tenant: made when the tenant's first request is counted.
pub struct RouteMetrics {
    route: Arc<str>,
    metrics: Arc<Metrics>,
    /// Written once for each tenant.
    by_tenant: RwLock<HashMap<Box<str>, Arc<RequestMetrics>>>,
}

/// The metrics that every request of a tenant on a route touches.
pub struct RequestMetrics {
    ok: IntCounter,
    seconds: Histogram,
    overhead: Histogram,
    received: IntCounter,
    sent: IntCounter,
}

/// What a request came to.
pub struct Observed {
    /// The status sent.
    pub status: StatusCode,
    /// From the head read to the last byte written.
    pub duration: Duration,
    /// See [`Metrics::overhead_seconds`]; none if there was no answer.
    pub own: Option<Duration>,
    /// Bytes of its body.
    pub received: usize,
    /// Bytes of the answer's body.
    pub sent: usize,
}

impl RouteMetrics {
    /// Those of the route with this label.
    pub fn new(metrics: Arc<Metrics>, route: Arc<str>) -> Self {
        Self { route, metrics, by_tenant: RwLock::default() }
    }

    /// The route's label.
    pub fn label(&self) -> &Arc<str> {
        &self.route
    }

    /// Counts a request of a tenant, `-` if it is not known.
    pub fn count(&self, tenant: &str, request: &Observed) {
        let known = self.by_tenant.read().unwrap_or_else(PoisonError::into_inner).get(tenant).cloned();
        let series = known.unwrap_or_else(|| self.make(tenant));
        match request.status {
            StatusCode::OK => series.ok.inc(),
            other => self.metrics.requests.with_label_values(&[&*self.route, tenant, other.as_str()]).inc(),
        }
        series.seconds.observe(request.duration.as_secs_f64());
        if let Some(own) = request.own {
            series.overhead.observe(own.as_secs_f64());
        }
        series.received.inc_by(request.received as u64);
        series.sent.inc_by(request.sent as u64);
    }

    fn make(&self, tenant: &str) -> Arc<RequestMetrics> {
        let labels = &[&*self.route, tenant];
        let series = Arc::new(RequestMetrics {
            ok: self.metrics.requests.with_label_values(&[&*self.route, tenant, "200"]),
            seconds: self.metrics.request_seconds.with_label_values(labels),
            overhead: self.metrics.overhead_seconds.with_label_values(labels),
            received: self.metrics.received_bytes.with_label_values(labels),
            sent: self.metrics.sent_bytes.with_label_values(labels),
        });
        self.by_tenant.write().unwrap_or_else(PoisonError::into_inner).insert(tenant.into(), series.clone());
        series
    }
}
