//! `fengda check`: everything that would go wrong at a start or a reload, without starting anything.

use std::path::Path;

use fengda_plugins::{
    api::{BuildCtx, Clock},
    context::Slot,
};

use crate::{
    config::{Config, Diagnostic},
    registry, scripts,
};

/// All problems of a configuration, its plugins' parts and its tenants' scripts, each as `file:line:column: what is wrong`.
pub fn problems(path: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let registry = registry::builtin(&Slot::default(), |_| {});
    let config = match Config::load(path, environment, &registry) {
        Ok(config) => config,
        Err(problems) => return problems.iter().map(ToString::to_string).collect(),
    };
    let clock = Clock::system();
    let mut found: Vec<Diagnostic> = Vec::new();
    for (route, entry_at, entry) in
        config.routes.iter().enumerate().flat_map(|(r, route)| route.chain.iter().enumerate().map(move |(e, c)| (r, e, c)))
    {
        let spec = registry.get(&entry.plugin).expect("unknown plugins are refused by the configuration");
        let build = BuildCtx { config: &entry.config, tenants: &entry.tenants, clock: &clock, previous: None };
        if let Err(problems) = (spec.build)(&build) {
            found.extend(problems.iter().map(|p| config.locate(route, entry_at, p)));
        }
    }
    found.sort();
    found.dedup();
    let scripts = config.tenants.iter().filter_map(|tenant| scripts::check(tenant).err());
    found.iter().map(ToString::to_string).chain(scripts).collect()
}
