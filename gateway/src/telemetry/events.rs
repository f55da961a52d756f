//! Everything the gateway itself logs, as one closed list. A field can only be what is safe to print: names from the
//! configuration, codes, numbers, ids that were checked to be plain.

use std::time::Duration;

use fengda_plugins::api::Incident;
use log::Level;
use serde::{Serialize, Serializer};

/// A log event. `event` in the JSON is its name, in snake case.
///
/// ```
/// # use fengda::telemetry::Event;
/// let event = Event::FlowRefused { tenant: "acme", problem: "main.lua:1: what the compiler says", serving: "the last good script" };
/// ```
/// What customers say fits into none of its fields:
/// ```compile_fail,E0308
/// # use fengda::telemetry::Event;
/// let event = Event::FlowRefused { tenant: "acme", problem: &fengda_plugins::api::Text::from("hello"), serving: "the last good script" };
/// ```
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// The gateway serves.
    Listening {
        /// Address of the public listener.
        public: String,
        /// Address of the admin listener, if there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        admin: Option<String>,
        /// Version of the binary.
        version: &'static str,
    },
    /// The process may not open files enough for `limits.connections`; fewer clients are served.
    FewFiles {
        /// What is configured.
        connections: usize,
        /// What is served.
        served: usize,
    },
    /// A client's connection over the limit was closed. At most one line a second; the next one counts those left out.
    ConnectionRefused {
        /// The limit.
        most: usize,
        /// Connections refused since the last line that got none.
        left_out: u64,
    },
    /// One request was answered.
    Request {
        /// The request's id.
        request_id: &'a str,
        /// The caller's trace, if it sent one.
        #[serde(skip_serializing_if = "Option::is_none")]
        trace_id: Option<&'a str>,
        /// The configured route it matched, or `-`.
        route: &'a str,
        /// The tenant, once known.
        #[serde(skip_serializing_if = "Option::is_none")]
        tenant: Option<&'a str>,
        /// HTTP method.
        method: &'a str,
        /// HTTP status.
        status: u16,
        /// Milliseconds from the head read to the last byte written.
        #[serde(serialize_with = "milliseconds")]
        ms: Duration,
        /// Code of the error answer, if it was one.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'a str>,
    },
    /// A flow failed: its tenant's log has the script's own words.
    FlowFailed {
        /// Whose flow.
        tenant: &'a str,
        /// The request's id.
        request_id: &'a str,
        /// What kind of failure.
        kind: &'a str,
        /// Line of the script, if known.
        #[serde(skip_serializing_if = "Option::is_none")]
        line: Option<u32>,
    },
    /// An attempt to call an upstream failed. At most one line a second for each upstream; the next one counts those left out.
    UpstreamFailed {
        /// For whom it was called; `-` on a public route.
        tenant: &'a str,
        /// The upstream's configured name.
        upstream: &'a str,
        /// The request's id.
        request_id: &'a str,
        /// What went wrong: connection, status, time or form. Nothing of what the upstream said.
        error: String,
        /// Failures since the last line that got none.
        left_out: u64,
    },
    /// An operator switched a circuit.
    CircuitSwitched {
        /// Whose calls; `-` for those of public routes.
        tenant: &'a str,
        /// The upstream's configured name.
        upstream: &'a str,
        /// `open`, `closed` or `auto`.
        to: &'a str,
    },
    /// The context store failed a turn. At most one line a second for each step; the next one counts those left out.
    ContextFailed {
        /// Whose turn.
        tenant: &'a str,
        /// The request's id.
        request_id: &'a str,
        /// Which step: `begin`, `commit`, `read` or `erase`.
        step: &'a str,
        /// The store's own words; it knows no tenant text.
        error: String,
        /// Failures since the last line that got none.
        left_out: u64,
    },
    /// Redis takes no writes. At most one line a second.
    RedisDown {
        /// The first server's fault: its address and words; it knows no tenant text.
        reason: &'a str,
        /// Other primaries of the cluster do.
        partly: bool,
    },
    /// Redis takes writes again.
    RedisUp {
        /// Milliseconds since it did not.
        #[serde(serialize_with = "milliseconds")]
        ms: Duration,
    },
    /// A client has seen turns that the store does not have. At most one line a second; the next one counts those left out.
    Gap {
        /// Whose turn.
        tenant: &'a str,
        /// The request's id.
        request_id: &'a str,
        /// Newest turn the client saw.
        seen: u64,
        /// Newest turn in the store.
        stored: u64,
        /// Gaps since the last line that got none.
        left_out: u64,
    },
    /// A new configuration is in force.
    Reloaded {
        /// Counts up with every reload.
        generation: u64,
        /// Hash of the file.
        config_hash: &'a str,
        /// Tenants whose script is broken and that go on with their last good one.
        broken_flows: Vec<&'a str>,
    },
    /// A new configuration was refused; the old one stays.
    ReloadRefused {
        /// What is wrong, each with file, line and column.
        problems: &'a [String],
    },
    /// A tenant's script does not compile.
    FlowRefused {
        /// Whose.
        tenant: &'a str,
        /// File, line and what is wrong, as the compiler says it.
        problem: &'a str,
        /// What its users get meanwhile.
        serving: &'a str,
    },
    /// A tenant's good script cannot be kept: a later restart with a broken one has nothing to fall back on.
    FlowNotKept {
        /// Whose.
        tenant: &'a str,
        /// The file it would be kept in.
        file: String,
        /// What the operating system says.
        error: String,
    },
    /// A full log could not be renamed, so what was in it is gone.
    LogEmptied {
        /// The file.
        log: String,
        /// Why it could not.
        error: String,
    },
    /// The store could not write everything at the end: turns of the last second may be lost if the machine goes down now.
    NotFlushed {
        /// The store's own words; it knows no tenant text.
        error: String,
    },
    /// A fault of ours: the request or turn it happened in is lost, others go on.
    Panicked {
        /// File, line and column of our code.
        at: &'a str,
        /// The thread's name.
        thread: &'a str,
    },
    /// Asked to stop: no new connections, turns in flight finish.
    Draining {
        /// Requests and turns in flight.
        in_flight: usize,
    },
    /// Stopped.
    Stopped {
        /// Requests and turns that did not finish within the grace.
        abandoned: usize,
    },
    /// Something happened in a plugin.
    #[serde(untagged)]
    Plugin(Incident<'a>),
}

/// With as many digits as mean something: microseconds.
fn milliseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((time.as_secs_f64() * 1e6).round() / 1e3)
}

impl Event<'_> {
    /// How much it matters.
    pub fn level(&self) -> Level {
        match self {
            Self::Panicked { .. }
            | Self::ContextFailed { .. }
            | Self::RedisDown { .. }
            | Self::ReloadRefused { .. }
            | Self::FlowRefused { .. }
            | Self::LogEmptied { .. }
            | Self::NotFlushed { .. } => Level::Error,
            Self::ConnectionRefused { .. }
            | Self::CircuitSwitched { .. }
            | Self::FlowFailed { .. }
            | Self::UpstreamFailed { .. }
            | Self::FlowNotKept { .. }
            | Self::Gap { .. } => Level::Warn,
            Self::Reloaded { broken_flows, .. } if !broken_flows.is_empty() => Level::Warn,
            Self::Plugin(incident) => incident.level(),
            _ => Level::Info,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_digits_that_mean_something() {
        let (request_id, route, method) = ("r", "/", "GET");
        let request = |ms| Event::Request { request_id, trace_id: None, route, tenant: None, method, status: 200, ms, code: None };
        for (nanos, shown) in [(1_234_567, 1.235), (300, 0.0), (2_000_000_000, 2000.0)] {
            let line = serde_json::to_string(&request(Duration::from_nanos(nanos))).unwrap();
            assert!(line.contains(&format!("\"ms\":{shown:?},")) || line.contains(&format!("\"ms\":{shown:?}}}")), "{line}");
        }
    }
}
