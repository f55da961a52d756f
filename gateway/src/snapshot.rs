//! Everything a request needs, built whole from a configuration and swapped whole: a request keeps the one it began with.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use fengda_plugins::{
    api::{BuildCtx, Clock, Code, Plugin, Readings, Registry, Reject, Step, Switch, Tenant, TenantBuild, Text, Timestamp, WaitFor},
    units::Percent,
};
use serde::Serialize;
use serde_yaml::Value;

use crate::{
    admission::Share,
    chain::Chain,
    config::{self, Config, Diagnostic, Diagnostics, TenantConfig},
    edge::cors::Cors,
    flow::{self, Level, LogLine, Script, ScriptError},
    scripts::{self, Loaded},
    telemetry::{
        Metrics, Sink, logger,
        series::{RouteMetrics, TenantMetrics},
    },
    upstream::Upstream,
};

/// A configuration, ready to run.
pub struct Snapshot {
    /// Counts up with every reload, from 1.
    pub generation: u64,
    /// What it was built from.
    pub config: Config,
    routes: Vec<Arc<Route>>,
    tenants: HashMap<Tenant, Arc<TenantRuntime>>,
    upstreams: BTreeMap<Arc<str>, Arc<Upstream>>,
    instances: Vec<Instance>,
    /// For each tenant, what is wrong with its script; nothing if it is in force.
    pub flows: BTreeMap<String, Option<String>>,
}

/// A route, ready to run.
pub struct Route {
    /// Its path: the label in metrics and logs.
    pub path: Arc<str>,
    /// What its requests go through.
    pub chain: Arc<Chain>,
    /// What answers them.
    pub target: Target,
    /// What is counted of them.
    pub metrics: RouteMetrics,
    /// Which pages of other origins may use it.
    pub cors: Option<Cors>,
    matches: config::Route,
}

/// What answers a route's requests.
pub enum Target {
    /// The tenant's flow.
    Flow {
        /// Whom `nlp.answer` asks.
        upstream: Arc<Upstream>,
    },
    /// The stored conversation.
    History,
    /// The page to chat in, and what it asks for.
    TryPage,
    /// An application behind the gateway.
    Forward {
        /// Whom requests are passed on to.
        upstream: Arc<Upstream>,
        /// How.
        rules: Box<config::Forward>,
    },
}

/// One plugin instance and what it was made from: a reload that changes neither keeps it.
struct Instance {
    name: String,
    config: Value,
    tenants: Vec<TenantBuild>,
    plugin: Arc<dyn Plugin>,
}

/// What a snapshot is built with, besides the configuration. Lives as long as the gateway.
pub struct Workshop {
    /// The plugins there are.
    pub registry: Registry,
    /// The time of day.
    pub clock: Clock,
    /// Where tenants' metrics are made.
    pub metrics: Arc<Metrics>,
}

impl Snapshot {
    /// Builds everything. What did not change since `previous` is taken over with its state.
    ///
    /// # Errors
    /// Everything that plugins found wrong with their part of the configuration, or a tenant's log that cannot be written.
    pub fn build(config: Config, workshop: &Workshop, previous: Option<&Self>) -> Result<Self, Diagnostics> {
        let upstreams: BTreeMap<_, _> =
            config.upstreams.iter().map(|(name, c)| (name.clone(), upstream(name, c, workshop, previous))).collect();
        let mut problems = Vec::new();
        let mut instances = Vec::new();
        let mut routes = Vec::with_capacity(config.routes.len());
        for (index, route) in config.routes.iter().enumerate() {
            let plugins = chain(index, &config, workshop, previous, &mut instances, &mut problems);
            let target = match &route.target {
                config::Target::Flow { upstream } => Target::Flow { upstream: upstreams[upstream].clone() },
                config::Target::History => Target::History,
                config::Target::TryPage => Target::TryPage,
                config::Target::Forward(rules) => Target::Forward { upstream: upstreams[&rules.upstream].clone(), rules: rules.clone() },
            };
            let chain = Arc::new(Chain::new(plugins, &workshop.metrics));
            let metrics = RouteMetrics::new(workshop.metrics.clone(), route.path.clone());
            let cors = route.cors.as_ref().map(Cors::new);
            routes.push(Arc::new(Route { path: route.path.clone(), chain, target, metrics, cors, matches: route.clone() }));
        }
        let mut tenants = HashMap::new();
        let mut flows = BTreeMap::new();
        let mut logs = HashMap::new();
        for tenant in &config.tenants {
            let before = previous.and_then(|p| p.tenants.get(&tenant.tenant));
            match TenantRuntime::build(tenant, &config.data, workshop, before.map(|b| &**b)) {
                Ok((runtime, problem)) => {
                    let name = tenant.tenant.name();
                    if let Some(other) = logs.insert(runtime.log.file_id(), name) {
                        let problem = format!("the log {} leads to the file that `{other}` logs to", tenant.log.display());
                        problems.push(config.locate_tenant(&tenant.tenant, problem));
                    }
                    flows.insert(name.to_owned(), problem);
                    tenants.insert(tenant.tenant.clone(), Arc::new(runtime));
                }
                Err(problem) => problems.push(config.locate_tenant(&tenant.tenant, problem)),
            }
        }
        if !problems.is_empty() {
            return Err(Diagnostics::new(problems, config.files));
        }
        let generation = previous.map_or(1, |p| p.generation + 1);
        Ok(Self { generation, config, routes, tenants, upstreams, instances, flows })
    }

    /// Whether it was built from the same as another, files included.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let script = |(tenant, runtime): (&Tenant, &Arc<TenantRuntime>)| {
            let other = other.tenants.get(tenant).and_then(|other| other.script.as_ref());
            runtime.script.as_ref().map(|script| script.hash()) == other.map(|script| script.hash())
        };
        self.config.hash == other.config.hash && self.flows == other.flows && self.tenants.iter().all(script)
    }

    /// The first route that takes this path.
    pub fn route(&self, path: &str) -> Option<&Arc<Route>> {
        self.routes.iter().find(|r| r.matches.matches(path))
    }

    /// A tenant's part.
    ///
    /// # Errors
    /// It was authenticated by an older configuration and is gone from this one.
    pub fn tenant(&self, tenant: &Tenant) -> Result<&Arc<TenantRuntime>, Reject> {
        self.tenants.get(tenant).ok_or_else(|| Reject::new(Code::Forbidden, "the tenant is no longer configured"))
    }

    /// All tenants' parts.
    pub fn tenants(&self) -> impl Iterator<Item = &Arc<TenantRuntime>> {
        self.tenants.values()
    }

    /// Sets the gauges that plugins look up when metrics are read.
    pub fn set_gauges(&self, readings: &Readings<'_>) {
        self.instances.iter().for_each(|instance| instance.plugin.gauges(readings));
    }

    /// Has its plugins give back what they hold for others: the gateway stops.
    pub async fn leave(&self) {
        for instance in &self.instances {
            if let Step::Pending(later) = instance.plugin.leave() {
                later.await;
            }
        }
    }

    /// Does what an operator says with the calls of a tenant (`None`: of public routes) to an upstream, in every chain. Both are
    /// configured. False if no plugin of any chain has a switch.
    pub fn switch(&self, tenant: Option<&Tenant>, upstream: &str, to: Switch) -> bool {
        let guards = self.instances.iter().filter_map(|instance| instance.plugin.call_phase());
        guards.map(|guard| guard.switch(tenant, upstream, to)).filter(|switched| *switched).count() > 0
    }

    /// All upstreams, by name.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values()
    }

    /// Has its guards forget what they learned of upstreams that `previous` had, and that are gone or others now.
    pub fn forget_upstreams_of(&self, previous: &Self) {
        let unchanged = |name, config| self.config.upstreams.get(name) == Some(config);
        for (name, _) in previous.config.upstreams.iter().filter(|(name, config)| !unchanged(*name, *config)) {
            self.instances.iter().filter_map(|instance| instance.plugin.call_phase()).for_each(|guard| guard.forget(name));
        }
    }

    /// The state of every plugin that has some to tell, for `/status`. A second instance of a plugin, made for a route with a
    /// configuration of its own, is called `name#2`.
    pub fn plugin_status(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut told = serde_json::Map::new();
        for (at, instance) in self.instances.iter().enumerate() {
            let status = instance.plugin.status();
            if !status.is_null() {
                let before = self.instances[..at].iter().filter(|i| i.name == instance.name).count();
                let name = if before == 0 { instance.name.clone() } else { format!("{}#{}", instance.name, before + 1) };
                told.insert(name, status);
            }
        }
        told
    }
}

fn upstream(name: &Arc<str>, config: &config::Upstream, workshop: &Workshop, previous: Option<&Snapshot>) -> Arc<Upstream> {
    let unchanged = previous.filter(|p| p.config.upstreams.get(name) == Some(config)).and_then(|p| p.upstreams.get(name));
    unchanged.cloned().unwrap_or_else(|| Arc::new(Upstream::new(name.clone(), config, &workshop.clock)))
}

/// The plugins of a route. Routes that name a plugin with the same configuration share one instance, and so its limits.
fn chain(
    route: usize,
    config: &Config,
    workshop: &Workshop,
    previous: Option<&Snapshot>,
    instances: &mut Vec<Instance>,
    problems: &mut Vec<Diagnostic>,
) -> Vec<Arc<dyn Plugin>> {
    let mut plugins = Vec::new();
    for entry in &config.routes[route].chain {
        let same = |i: &&Instance| i.name == entry.plugin && i.config == entry.config && same_tenants(&i.tenants, &entry.tenants);
        if let Some(shared) = instances.iter().find(same) {
            plugins.push(shared.plugin.clone());
            continue;
        }
        let kept = previous.and_then(|p| p.instances.iter().find(same)).map(|i| i.plugin.clone());
        // The same place of the old configuration: one with the same configuration for other tenants, or the how-manieth of this plugin.
        let place = instances.iter().filter(|i| i.name == entry.plugin).count();
        let olds = || previous.iter().flat_map(|p| &p.instances).filter(|i| i.name == entry.plugin);
        let older = olds().find(|i| i.config == entry.config).or_else(|| olds().nth(place));
        let build = || {
            let spec = workshop.registry.get(&entry.plugin).expect("unknown plugins are refused by the configuration");
            let previous = older.map(|i| i.plugin.clone());
            (spec.build)(&BuildCtx {
                config: &entry.config,
                tenants: &entry.tenants,
                clock: &workshop.clock,
                meters: workshop.metrics.meters(),
                previous,
            })
        };
        match kept.map_or_else(build, Ok) {
            Ok(plugin) => {
                plugins.push(plugin.clone());
                let (name, config, tenants) = (entry.plugin.clone(), entry.config.clone(), entry.tenants.clone());
                instances.push(Instance { name, config, tenants, plugin });
            }
            Err(found) => problems.extend(config.locate_all(entry, &found)),
        }
    }
    plugins
}

fn same_tenants(a: &[TenantBuild], b: &[TenantBuild]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.tenant == b.tenant && a.config == b.config && a.keys == b.keys)
}

/// One tenant's script, texts, log and counters.
pub struct TenantRuntime {
    /// Who.
    pub tenant: Tenant,
    /// The flow in force; `None` if it never compiled.
    pub script: Option<Arc<Script>>,
    /// What a turn of it may use.
    pub limits: flow::Limits,
    /// Ready-made texts by name.
    pub canned: Arc<BTreeMap<String, Text>>,
    /// The text for when a model or the flow fails.
    pub busy: Text,
    /// Which replicas its turns wait for.
    pub wait: Option<WaitFor>,
    /// Its requests in flight.
    pub share: Arc<Share>,
    /// How many of them there may be.
    pub in_flight: usize,
    /// Counters that every turn touches.
    pub metrics: TenantMetrics,
    log: Sink,
}

impl TenantRuntime {
    fn build(config: &TenantConfig, data: &Path, workshop: &Workshop, before: Option<&Self>) -> Result<(Self, Option<String>), String> {
        let Loaded { script, problem } = scripts::load(config, data, before.and_then(|b| b.script.as_ref()));
        let log = Sink::file(&config.log).map_err(|e| format!("the log {} cannot be written: {e}", config.log.display()))?;
        let flow::Limits { effects, log_lines, .. } = flow::Limits::default();
        let config::FlowLimits { cpu, share: Percent(share), memory, output } = config.flow_limits;
        let runtime = Self {
            tenant: config.tenant.clone(),
            script,
            limits: flow::Limits { cpu, share, memory, output, effects, log_lines },
            canned: config.canned.clone(),
            busy: config.canned.get("busy").cloned().unwrap_or_default(),
            wait: config.wait.map(|config::Wait { replicas, timeout }| WaitFor { replicas, timeout }),
            share: before.map(|b| b.share.clone()).unwrap_or_default(),
            in_flight: config.in_flight.unwrap_or(usize::MAX),
            metrics: TenantMetrics::of(&workshop.metrics, config.tenant.name()),
            log,
        };
        Ok((runtime, problem))
    }

    /// Writes what a script logged to its tenant's own log.
    pub fn log_lines(&self, request_id: &str, at: Timestamp, lines: &[LogLine]) {
        for said in lines {
            let level = match said.level {
                Level::Info => log::Level::Info,
                Level::Warn => log::Level::Warn,
                Level::Error => log::Level::Error,
            };
            let body = TenantLine { request_id, line: said.line, message: said.text.expose(), kind: None, traceback: None };
            self.log.write(logger::line(at, level, &body));
        }
    }

    /// Writes a script's failure, with its own words, to its tenant's own log.
    pub fn log_failure(&self, request_id: &str, at: Timestamp, error: &ScriptError) {
        let traceback = Some(error.traceback.expose()).filter(|t| !t.is_empty());
        let body = TenantLine { request_id, line: error.line, message: error.message.expose(), kind: Some(error.kind.as_str()), traceback };
        self.log.write(logger::line(at, log::Level::Error, &body));
    }
}

/// A line of a tenant's log.
#[derive(Serialize)]
struct TenantLine<'a> {
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceback: Option<&'a str>,
}
