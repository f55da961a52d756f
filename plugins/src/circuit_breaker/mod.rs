//! circuit_breaker: stops calling an upstream that fails, for one tenant at a time, and retries what may be retried.
//!
//! ```yaml
//! circuit_breaker: { failures: 5, recovery: 30s, probes: 3, timeout: 1500ms, retries: 2, backoff: 25ms..250ms, retry_budget: 0.2 }
//! ```
//!
//! Each (tenant, upstream) has a circuit of its own: what one tenant's calls meet does not close another's door. A call is
//! retried if making it twice does no harm, the upstream failed rather than ran out of time, the circuit is still closed
//! and the retry budget allows it: when everything fails, an upstream gets `1 + retry_budget` times the calls, and three more.

mod circuit;
mod config;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use serde_json::json;

use self::{
    circuit::{Change, Circuit, State},
    config::read,
};
use crate::api::{BuildCtx, Call, CallOutcome, CallPhase, Clock, Permit, Plugin, PluginSpec, Problem, Refusal, Scope, Tenant, Verdict};

pub use self::config::{Backoff, BackoffError, BreakerConfig};

const NAME: &str = "circuit_breaker";

/// The plugin.
pub struct CircuitBreaker {
    /// For calls of public routes.
    public: Arc<Circuits>,
    tenants: HashMap<Tenant, Arc<Circuits>>,
    clock: Clock,
}

/// One tenant's circuits, made when an upstream is first called. There are as many as upstreams have been configured.
struct Circuits {
    config: BreakerConfig,
    /// Written only when an upstream is called for the first time.
    by_upstream: RwLock<HashMap<Box<str>, Arc<Mutex<Circuit>>>>,
}

/// How the gateway makes one.
pub fn spec() -> PluginSpec {
    let build = |ctx: &BuildCtx<'_>| Ok(Arc::new(CircuitBreaker::build(ctx)?) as Arc<dyn Plugin>);
    PluginSpec { name: NAME, after: &[], authenticates: false, schema: |g| g.subschema_for::<BreakerConfig>(), build: Box::new(build) }
}

impl CircuitBreaker {
    fn build(ctx: &BuildCtx<'_>) -> Result<Self, Vec<Problem>> {
        let previous = ctx.previous::<Self>();
        let circuits = |config, before: Option<&Arc<Circuits>>| match before.filter(|c| c.config == config) {
            Some(unchanged) => Arc::clone(unchanged),
            None => Arc::new(Circuits { config, by_upstream: RwLock::default() }),
        };
        let public = circuits(read(&Scope::Plugin, ctx.config)?, previous.as_ref().map(|p| &p.public));
        let (mut tenants, mut problems) = (HashMap::new(), Vec::new());
        for build in ctx.tenants {
            match read(&Scope::Tenant(build.tenant.clone()), &build.config) {
                Ok(config) => {
                    let before = previous.as_ref().and_then(|p| p.tenants.get(&build.tenant));
                    tenants.insert(build.tenant.clone(), circuits(config, before));
                }
                Err(p) => problems.extend(p),
            }
        }
        if problems.is_empty() { Ok(Self { public, tenants, clock: ctx.clock.clone() }) } else { Err(problems) }
    }

    fn circuits(&self, call: &Call<'_>) -> &Circuits {
        call.tenant.map_or(&self.public, |tenant| self.tenants.get(tenant).expect("a call is made for a configured tenant"))
    }
}

impl Circuits {
    fn circuit(&self, upstream: &str) -> Arc<Mutex<Circuit>> {
        if let Some(known) = self.by_upstream.read().unwrap_or_else(PoisonError::into_inner).get(upstream) {
            return Arc::clone(known);
        }
        let mut all = self.by_upstream.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(upstream.into()).or_default())
    }
}

/// A circuit is changed by code that does not panic, so a poisoned lock holds a sound one.
fn lock(circuit: &Mutex<Circuit>) -> MutexGuard<'_, Circuit> {
    circuit.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a circuit's tenant is called in logs and the status.
fn name(tenant: Option<&Tenant>) -> &str {
    tenant.map_or("-", Tenant::name)
}

impl CallPhase for CircuitBreaker {
    fn permit(&self, call: &Call<'_>) -> Result<Permit, Refusal> {
        let circuits = self.circuits(call);
        let circuit = circuits.circuit(call.upstream);
        let (before, permitted) = {
            let mut circuit = lock(&circuit);
            (circuit.generation(), circuit.permit(&circuits.config, call.attempt == 0, || self.clock.monotonic()))
        };
        if permitted.is_ok_and(|generation| generation != before) {
            let (tenant, upstream) = (name(call.tenant), call.upstream);
            log::info!(target: "fengda::breaker", "circuit half-open tenant={tenant} upstream={upstream}");
        }
        match permitted {
            Ok(generation) => Ok(Permit { token: generation, timeout: Some(circuits.config.timeout) }),
            Err(retry_after) => Err(Refusal::Open { retry_after }),
        }
    }

    fn outcome(&self, call: &Call<'_>, permit: Permit, outcome: CallOutcome) -> Verdict {
        let circuits = self.circuits(call);
        let config = &circuits.config;
        let again = outcome == CallOutcome::Failed && call.repeatable && call.attempt < config.retries;
        let circuit = circuits.circuit(call.upstream);
        let (change, retry) = {
            let mut circuit = lock(&circuit);
            let change = circuit.outcome(config, permit.token, outcome, || self.clock.monotonic());
            (change, again && circuit.take_retry())
        };
        let (tenant, upstream) = (name(call.tenant), call.upstream);
        match change {
            Some(Change::Opened) => log::warn!(
                target: "fengda::breaker",
                "circuit opened tenant={tenant} upstream={upstream} outcome={outcome:?} recovery_ms={}",
                config.recovery.as_millis()
            ),
            Some(Change::Closed) => log::warn!(target: "fengda::breaker", "circuit closed tenant={tenant} upstream={upstream}"),
            None => {}
        }
        if retry { Verdict::Retry(config.backoff.pause(call.attempt)) } else { Verdict::Accept }
    }
}

impl Plugin for CircuitBreaker {
    fn name(&self) -> &'static str {
        NAME
    }

    fn call_phase(&self) -> Option<&dyn CallPhase> {
        Some(self)
    }

    fn status(&self) -> serde_json::Value {
        let now = self.clock.monotonic();
        let mut all = serde_json::Map::new();
        let tenants = self.tenants.iter().map(|(tenant, circuits)| (Some(tenant), circuits));
        for (tenant, circuits) in tenants.chain([(None, &self.public)]) {
            for (upstream, circuit) in &*circuits.by_upstream.read().unwrap_or_else(PoisonError::into_inner) {
                let state = match lock(circuit).state() {
                    State::Closed { failures } => json!({ "state": "closed", "failures": failures }),
                    State::Open { until } => json!({ "state": "open", "retry_in_ms": until.saturating_sub(now).as_millis() }),
                    State::HalfOpen { in_flight, passed, .. } => {
                        json!({ "state": "half_open", "in_flight": in_flight, "passed": passed })
                    }
                };
                all.insert([name(tenant), "/", upstream].concat(), state);
            }
        }
        all.into()
    }
}
