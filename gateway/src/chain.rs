//! The plugins of a route, in the order of the file, and how each phase runs over them.

use std::{sync::Arc, time::Duration};

use fengda_plugins::api::{
    Call, CallOutcome, CallPhase, Code, Decision, Limited, Permit, Plugin, Refusal, Reject, RequestCtx, Step, Summary, TurnPhase, Verdict,
};
use http::{HeaderMap, StatusCode, request::Parts};

use crate::telemetry::{Laps, Metrics, series::PluginMetrics};

/// An ordered chain of plugins.
pub struct Chain {
    links: Box<[Arc<Link>]>,
    /// Those that guard calls to upstreams, in the same order.
    guards: Box<[Arc<Link>]>,
    /// The one that keeps conversations.
    keeper: Option<Arc<Link>>,
}

/// A plugin in its place.
struct Link {
    plugin: Arc<dyn Plugin>,
    times: PluginMetrics,
}

impl Chain {
    /// A chain of these plugins, first to last.
    pub fn new(plugins: Vec<Arc<dyn Plugin>>, metrics: &Metrics) -> Self {
        let link = |plugin: Arc<dyn Plugin>| Arc::new(Link { times: PluginMetrics::of(metrics, plugin.name()), plugin });
        let links: Box<[_]> = plugins.into_iter().map(link).collect();
        Self {
            guards: links.iter().filter(|l| l.plugin.call_phase().is_some()).cloned().collect(),
            keeper: links.iter().find(|l| l.plugin.turn_phase().is_some()).cloned(),
            links,
        }
    }

    /// The `request` phase: each plugin in order, until one rejects.
    ///
    /// # Errors
    /// The rejection.
    pub async fn request(&self, head: &Parts, ctx: &mut RequestCtx, metrics: &Metrics) -> Result<(), Reject> {
        let mut laps = Laps::sample();
        for Link { plugin, times } in self.links() {
            let decision = match plugin.request(head, ctx) {
                Step::Ready(decision) => decision,
                Step::Pending(later) => later.await,
            };
            laps.lap(&times.request);
            if let Decision::Reject(reject) = decision {
                metrics.rejected.with_label_values(&[plugin.name(), reject.code.as_str()]).inc();
                return Err(reject);
            }
        }
        Ok(())
    }

    /// The rejection of a message whose turn was refused by a limit that a plugin put into [`RequestCtx::turn_limits`].
    pub fn limited(&self, ctx: &RequestCtx, limited: Limited, metrics: &Metrics) -> Reject {
        for Link { plugin, .. } in self.links() {
            if let Some(reject) = plugin.limited(ctx, limited) {
                metrics.rejected.with_label_values(&[plugin.name(), reject.code.as_str()]).inc();
                return reject;
            }
        }
        Reject::new(Code::RateLimited, "too many messages; send this one again later")
    }

    /// The `turn` phase, if a plugin of the chain keeps conversations.
    pub fn turn_phase(&self) -> Option<&dyn TurnPhase> {
        self.keeper.as_ref().and_then(|l| l.plugin.turn_phase())
    }

    /// The `upstream_call` phase before an attempt: leave from every guard, or from none.
    ///
    /// # Errors
    /// The first refusal; leave given by earlier guards was handed back.
    pub fn permit(&self, call: &Call<'_>) -> Result<Vec<Permit>, Refusal> {
        let mut permits = Vec::with_capacity(self.guards.len());
        let mut laps = Laps::sample();
        for (guard, times) in self.guards() {
            let permitted = guard.permit(call);
            laps.lap(&times.upstream_call);
            match permitted {
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
        let mut laps = Laps::sample();
        for ((guard, times), permit) in self.guards().zip(permits) {
            let verdict = guard.outcome(call, *permit, outcome);
            laps.lap(&times.upstream_call);
            match verdict {
                Verdict::Retry(wanted) => pause = pause.map(|p| p.max(wanted)),
                Verdict::Accept => pause = None,
            }
        }
        pause.map_or(Verdict::Accept, Verdict::Retry)
    }

    /// The `response` phase: headers that plugins add.
    pub fn response(&self, ctx: &RequestCtx, status: StatusCode, headers: &mut HeaderMap) {
        let mut laps = Laps::sample();
        for Link { plugin, times } in self.links() {
            plugin.response(ctx, status, headers);
            laps.lap(&times.response);
        }
    }

    /// The `log` phase.
    pub fn log(&self, ctx: &RequestCtx, summary: &Summary) {
        let mut laps = Laps::sample();
        for Link { plugin, times } in self.links() {
            plugin.log(ctx, summary);
            laps.lap(&times.log);
        }
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().map(|link| &**link)
    }

    fn guards(&self) -> impl Iterator<Item = (&dyn CallPhase, &PluginMetrics)> {
        self.guards.iter().filter_map(|link| Some((link.plugin.call_phase()?, &link.times)))
    }
}
