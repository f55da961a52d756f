//! The plugins of a route, in the order of the file, and how each phase runs over them.

use std::{sync::Arc, time::Duration};

use fengda_plugins::api::{Call, CallOutcome, Decision, Permit, Plugin, Refusal, Reject, RequestCtx, Step, Summary, TurnPhase, Verdict};
use http::{HeaderMap, StatusCode, request::Parts};

use crate::telemetry::Metrics;

/// An ordered chain of plugins.
pub struct Chain {
    plugins: Box<[Arc<dyn Plugin>]>,
    /// Those that guard calls to upstreams, in the same order.
    guards: Box<[Arc<dyn Plugin>]>,
    /// The one that keeps conversations.
    keeper: Option<Arc<dyn Plugin>>,
}

impl Chain {
    /// A chain of these plugins, first to last.
    pub fn new(plugins: Vec<Arc<dyn Plugin>>) -> Self {
        Self {
            guards: plugins.iter().filter(|p| p.call_phase().is_some()).cloned().collect(),
            keeper: plugins.iter().find(|p| p.turn_phase().is_some()).cloned(),
            plugins: plugins.into(),
        }
    }

    /// The `request` phase: each plugin in order, until one rejects.
    ///
    /// # Errors
    /// The rejection.
    pub async fn request(&self, head: &Parts, ctx: &mut RequestCtx, metrics: &Metrics) -> Result<(), Reject> {
        for plugin in &self.plugins {
            let decision = match plugin.request(head, ctx) {
                Step::Ready(decision) => decision,
                Step::Pending(later) => later.await,
            };
            if let Decision::Reject(reject) = decision {
                metrics.rejected.with_label_values(&[plugin.name(), reject.code.as_str()]).inc();
                return Err(reject);
            }
        }
        Ok(())
    }

    /// The `turn` phase, if a plugin of the chain keeps conversations.
    pub fn turn_phase(&self) -> Option<&dyn TurnPhase> {
        self.keeper.as_ref().and_then(|p| p.turn_phase())
    }

    /// The `upstream_call` phase before an attempt: leave from every guard, or from none.
    ///
    /// # Errors
    /// The first refusal; leave given by earlier guards was handed back.
    pub fn permit(&self, call: &Call<'_>) -> Result<Vec<Permit>, Refusal> {
        let mut permits = Vec::with_capacity(self.guards.len());
        for guard in self.guards.iter().filter_map(|p| p.call_phase()) {
            match guard.permit(call) {
                Ok(permit) => permits.push(permit),
                Err(refusal) => {
                    let _ = self.outcome(call, &permits, CallOutcome::Cancelled);
                    return Err(refusal);
                }
            }
        }
        Ok(permits)
    }

    /// The `upstream_call` phase after an attempt: all guards hear the outcome; one that accepts it ends the retries.
    pub fn outcome(&self, call: &Call<'_>, permits: &[Permit], outcome: CallOutcome) -> Verdict {
        let mut pause = (!permits.is_empty()).then_some(Duration::ZERO);
        for (guard, permit) in self.guards.iter().filter_map(|p| p.call_phase()).zip(permits) {
            match guard.outcome(call, *permit, outcome) {
                Verdict::Retry(wanted) => pause = pause.map(|p| p.max(wanted)),
                Verdict::Accept => pause = None,
            }
        }
        pause.map_or(Verdict::Accept, Verdict::Retry)
    }

    /// The `response` phase: headers that plugins add.
    pub fn response(&self, ctx: &RequestCtx, status: StatusCode, headers: &mut HeaderMap) {
        for plugin in &self.plugins {
            plugin.response(ctx, status, headers);
        }
    }

    /// The `log` phase.
    pub fn log(&self, ctx: &RequestCtx, summary: &Summary) {
        for plugin in &self.plugins {
            plugin.log(ctx, summary);
        }
    }

    /// The plugins, first to last.
    pub fn plugins(&self) -> &[Arc<dyn Plugin>] {
        &self.plugins
    }
}
