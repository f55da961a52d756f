//! The trait that every plugin implements.

use std::{any::Any, time::Duration};

use http::{HeaderMap, StatusCode, request::Parts};

use super::{BoxFuture, CallPhase, Limited, Readings, Reject, RequestCtx, TurnPhase};

/// What a plugin wants done with a request.
#[derive(Debug)]
#[must_use]
pub enum Decision {
    /// Go on with the next plugin, then the target.
    Continue,
    /// Answer with this; neither later plugins nor the target run.
    Reject(Reject),
}

/// A result that is there at once, or a future of it: a plugin that need not wait costs no allocation.
#[must_use]
pub enum Step<'a, T> {
    /// Decided.
    Ready(T),
    /// Decided later.
    Pending(BoxFuture<'a, T>),
}

/// What happened to a request, for the `log` phase.
#[derive(Debug, Clone, Copy)]
pub struct Summary {
    /// The status sent, or that would have been sent to a client that had gone.
    pub status: StatusCode,
    /// From the first byte of the request read to the last byte of the answer written.
    pub duration: Duration,
}

/// A member of a chain. One instance serves all requests of the routes that name it with the same configuration.
///
/// Every phase has a default that does nothing, so a plugin states only what it does.
pub trait Plugin: Any + Send + Sync {
    /// The name under which it stands in `chain:` and in metrics.
    fn name(&self) -> &'static str;

    /// Looks at the request's head and lets it pass or rejects it. The body has not been read.
    fn request<'a>(&'a self, _head: &'a Parts, _ctx: &'a mut RequestCtx) -> Step<'a, Decision> {
        Step::Ready(Decision::Continue)
    }

    /// The phase around a flow's run, if this plugin keeps conversations. At most one plugin of a chain does.
    fn turn_phase(&self) -> Option<&dyn TurnPhase> {
        None
    }

    /// The answer to a message whose turn the `turn` phase refused by one of [`RequestCtx::turn_limits`], if they are this plugin's.
    fn limited(&self, _ctx: &RequestCtx, _limited: Limited) -> Option<Reject> {
        None
    }

    /// The phase around each attempt to call an upstream, if this plugin guards those.
    fn call_phase(&self) -> Option<&dyn CallPhase> {
        None
    }

    /// Adds or changes headers of the response, whoever made it.
    fn response(&self, _ctx: &RequestCtx, _status: StatusCode, _headers: &mut HeaderMap) {}

    /// Takes note of a finished request.
    fn log(&self, _ctx: &RequestCtx, _summary: &Summary) {}

    /// The gateway stops and no request comes any more: what it holds for others is given back. Waited for, but not for long.
    fn leave(&self) -> Step<'_, ()> {
        Step::Ready(())
    }

    /// Sets the gauges that are looked up when metrics are read.
    fn gauges(&self, _readings: &Readings<'_>) {}

    /// Its state for the admin API's `/status`. Must not hold tenant text.
    fn status(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}
