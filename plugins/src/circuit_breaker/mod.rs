//! circuit_breaker: stops calling an upstream that fails, for one tenant at a time, and retries what may be retried.
//!
//! ```yaml
//! circuit_breaker: { failures: 5, recovery: 30s, max_recovery: 5m, probes: 3, timeout: 1500ms,
//!                    failure_rate: 50%, slow_rate: 80%, slow: 1s, window: 100, minimum: 20,
//!                    retries: 2, backoff: 25ms..250ms, retry_budget: 20% }
//! ```
//!
//! Each (tenant, upstream) has a circuit of its own: what one tenant's calls meet does not close another's door. A call is
//! retried if making it twice does no harm, the upstream failed rather than ran out of time, the circuit is still closed
//! and the retry budget allows it: when everything fails, an upstream gets `1 + retry_budget` times the calls, and three more.
//!
//! An operator can hold a circuit open or closed; that outlives every reload.

mod circuit;
mod config;
#[cfg(test)]
mod tests;
mod window;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use prometheus::IntCounterVec;
use serde_json::json;

use self::{
    circuit::{Circuit, Phase, State},
    config::read,
};
use crate::api::{
    BuildCtx, Call, CallOutcome, CallPhase, Clock, Family, Incident, Permit, Plugin, PluginSpec, Problem, Readings, Refusal, Scope, Switch,
    Tenant, Verdict,
};

pub use self::config::{Backoff, BreakerConfig, Span};

const NAME: &str = "circuit_breaker";
const STATE: Family = Family {
    name: "fengda_circuit_state",
    help: "State of a circuit: 0 closed, 1 half-open, 2 open. If routes have breakers of their own, the worst of them.",
    labels: &["tenant", "upstream"],
};
const TRANSITIONS: Family = Family {
    name: "fengda_circuit_transitions_total",
    help: "Changes of a circuit's state, by the state it came into.",
    labels: &["tenant", "upstream", "to"],
};

/// The plugin.
pub struct CircuitBreaker {
    /// For calls of public routes.
    public: Arc<Circuits>,
    tenants: HashMap<Tenant, Arc<Circuits>>,
    transitions: IntCounterVec,
    clock: Clock,
}

/// One tenant's circuits, made when an upstream is first called, dropped when it is gone.
struct Circuits {
    config: BreakerConfig,
    /// Written only when an upstream is called for the first time.
    by_upstream: RwLock<HashMap<Box<str>, Mutex<Circuit>>>,
}

/// How the gateway makes one.
pub fn spec() -> PluginSpec {
    let build = |ctx: &BuildCtx<'_>| Ok(Arc::new(CircuitBreaker::build(ctx)?) as Arc<dyn Plugin>);
    PluginSpec { name: NAME, after: &[], authenticates: false, schema: |g| g.subschema_for::<BreakerConfig>(), build: Box::new(build) }
}

impl CircuitBreaker {
    fn build(ctx: &BuildCtx<'_>) -> Result<Self, Vec<Problem>> {
        ctx.meters.gauge(STATE);
        let transitions = ctx.meters.counter(TRANSITIONS);
        let (previous, clock) = (ctx.previous::<Self>(), ctx.clock.clone());
        let circuits = |config, before: Option<&Arc<Circuits>>| match before {
            Some(unchanged) if unchanged.config == config => Arc::clone(unchanged),
            before => Arc::new(Circuits::new(config, before)),
        };
        let mut problems = Vec::new();
        let mut read = |scope, value| read(&scope, value).map_err(|found| problems.extend(found)).ok();
        let public = read(Scope::Plugin, ctx.config).map(|config| circuits(config, previous.as_ref().map(|p| &p.public)));
        let mut tenants = HashMap::new();
        for build in ctx.tenants {
            if let Some(config) = read(Scope::Tenant(build.tenant.clone()), &build.config) {
                let before = previous.as_ref().and_then(|p| p.tenants.get(&build.tenant));
                tenants.insert(build.tenant.clone(), circuits(config, before));
            }
        }
        match public {
            Some(public) if problems.is_empty() => Ok(Self { public, tenants, transitions, clock }),
            _ => Err(problems),
        }
    }

    fn circuits(&self, tenant: Option<&Tenant>) -> &Circuits {
        tenant.map_or(&self.public, |tenant| self.tenants.get(tenant).expect("calls are made for configured tenants"))
    }

    /// Everybody's circuits, each with what its tenant is called.
    fn all(&self) -> impl Iterator<Item = (&str, &Circuits)> {
        let tenants = self.tenants.iter().map(|(tenant, circuits)| (tenant.name(), &**circuits));
        tenants.chain([(name(None), &*self.public)])
    }

    /// Does something with a circuit; counts and logs if that changes its state.
    fn with<T>(&self, tenant: Option<&Tenant>, upstream: &str, act: impl FnOnce(&mut Circuit, &BreakerConfig) -> T) -> T {
        let circuits = self.circuits(tenant);
        let (before, result, after) = circuits.with(upstream, |circuit| (circuit.phase(), act(circuit, &circuits.config), circuit.phase()));
        if before != after {
            self.changed(name(tenant), upstream, before, after);
        }
        result
    }

    #[cold]
    fn changed(&self, tenant: &str, upstream: &str, from: Phase, to: Phase) {
        let [from, to] = [from, to].map(Phase::as_str);
        self.transitions.with_label_values(&[tenant, upstream, to]).inc();
        Incident::CircuitChanged { tenant, upstream, from, to }.log();
    }
}

impl Circuits {
    /// Those of a new configuration: all closed, but for what an operator holds.
    fn new(config: BreakerConfig, before: Option<&Arc<Self>>) -> Self {
        let mut held = HashMap::new();
        if let Some(before) = before {
            before.each(|upstream, circuit| {
                if let State::Held { open } = circuit.state() {
                    held.insert(upstream.into(), Mutex::new(Circuit::held(&config, open)));
                }
            });
        }
        Self { config, by_upstream: RwLock::new(held) }
    }

    fn with<T>(&self, upstream: &str, act: impl FnOnce(&mut Circuit) -> T) -> T {
        if let Some(known) = self.by_upstream.read().unwrap_or_else(PoisonError::into_inner).get(upstream) {
            return act(&mut lock(known));
        }
        let mut all = self.by_upstream.write().unwrap_or_else(PoisonError::into_inner);
        act(&mut lock(all.entry(upstream.into()).or_insert_with(|| Mutex::new(Circuit::new(&self.config)))))
    }

    /// Drops a circuit, unless an operator holds it.
    fn forget(&self, upstream: &str) {
        let mut all = self.by_upstream.write().unwrap_or_else(PoisonError::into_inner);
        if all.get(upstream).is_some_and(|circuit| !matches!(lock(circuit).state(), State::Held { .. })) {
            all.remove(upstream);
        }
    }

    fn each(&self, mut look: impl FnMut(&str, &Circuit)) {
        for (upstream, circuit) in &*self.by_upstream.read().unwrap_or_else(PoisonError::into_inner) {
            look(upstream, &lock(circuit));
        }
    }
}

/// A circuit is changed by code that does not panic, so a poisoned lock holds a sound one.
fn lock(circuit: &Mutex<Circuit>) -> MutexGuard<'_, Circuit> {
    circuit.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a circuit's tenant is called in metrics, logs and the status.
fn name(tenant: Option<&Tenant>) -> &str {
    tenant.map_or("-", Tenant::name)
}

impl CallPhase for CircuitBreaker {
    fn permit(&self, call: &Call<'_>) -> Result<Permit, Refusal> {
        self.with(call.tenant, call.upstream, |circuit, config| {
            match circuit.permit(config, call.attempt == 0, || self.clock.monotonic()) {
                Ok(generation) => Ok(Permit { token: generation, timeout: Some(config.timeout) }),
                Err(retry_after) => Err(Refusal::Open { retry_after }),
            }
        })
    }

    fn outcome(&self, call: &Call<'_>, permit: Permit, outcome: CallOutcome) -> Verdict {
        self.with(call.tenant, call.upstream, |circuit, config| {
            circuit.outcome(config, permit.token, outcome, || self.clock.monotonic());
            let again = outcome == CallOutcome::Failed && call.repeatable && call.attempt < config.retries;
            if again && circuit.take_retry() { Verdict::Retry(config.backoff.pause(call.attempt)) } else { Verdict::Accept }
        })
    }

    fn switch(&self, tenant: Option<&Tenant>, upstream: &str, to: Switch) -> bool {
        self.with(tenant, upstream, |circuit, _| circuit.switch(to, self.clock.monotonic()));
        true
    }

    fn forget(&self, upstream: &str) {
        self.all().for_each(|(_, circuits)| circuits.forget(upstream));
    }
}

impl Plugin for CircuitBreaker {
    fn name(&self) -> &'static str {
        NAME
    }

    fn call_phase(&self) -> Option<&dyn CallPhase> {
        Some(self)
    }

    fn gauges(&self, readings: &Readings<'_>) {
        for (tenant, circuits) in self.all() {
            circuits.each(|upstream, circuit| readings.set(STATE, &[tenant, upstream], circuit.phase() as i64));
        }
    }

    fn status(&self) -> serde_json::Value {
        let now = self.clock.monotonic();
        let mut all = serde_json::Map::new();
        for (tenant, circuits) in self.all() {
            circuits.each(|upstream, circuit| {
                let mut state = match circuit.state() {
                    State::Closed { failures } => json!({ "failures": failures }),
                    State::Open { until } => json!({ "retry_in_ms": until.saturating_sub(now).as_millis() }),
                    State::HalfOpen { in_flight, passed, .. } => json!({ "in_flight": in_flight, "passed": passed }),
                    State::Held { .. } => json!({ "held": true }),
                };
                state["state"] = circuit.phase().as_str().into();
                all.insert([tenant, "/", upstream].concat(), state);
            });
        }
        all.into()
    }
}
