//! `fengda check`: everything that would go wrong at a start or a reload, without starting anything.

use std::path::Path;

use fengda_plugins::api::Registry;

use crate::{
    config::{Config, Env},
    registry, scripts,
};

/// Reads a configuration and tries its plugins' parts and its tenants' scripts.
/// `plugins` adds plugins of one's own, as in [`Options::plugins`](crate::server::Options::plugins).
///
/// # Errors
/// All problems, each as `file:line:column: what is wrong`.
pub fn check(path: &Path, environment: Env<'_>, plugins: fn(&mut Registry)) -> Result<Config, Vec<String>> {
    let registry = registry::builtin(&registry::Slots::default(), plugins);
    let (config, problems) = Config::examine(path, environment, &registry);
    let there = config.iter().flat_map(|config| &config.tenants).filter(|tenant| tenant.flow.is_file());
    let scripts = there.filter_map(|tenant| scripts::check(tenant).err());
    let problems: Vec<_> = problems.iter().map(ToString::to_string).chain(scripts).collect();
    config.filter(|_| problems.is_empty()).ok_or(problems)
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use fengda_plugins::api::{BuildCtx, Plugin, PluginSpec, Problem, Scope};

    use super::*;

    /// A plugin of one's own that is never content.
    fn picky(registry: &mut Registry) {
        let problem = || Problem { scope: Scope::Plugin, path: "mood".into(), message: "is bad".into() };
        let build = move |_: &BuildCtx<'_>| Err::<Arc<dyn Plugin>, _>(vec![problem()]);
        registry
            .register(PluginSpec { name: "picky", after: &[], authenticates: false, schema: |_| true.into(), build: Box::new(build) })
            .unwrap();
    }

    #[test]
    fn plugins_of_one_s_own_are_known_and_check_their_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        fs::write(dir.path().join("main.lua"), "return function(turn) return 'a' end").unwrap();
        let text = "plugins: {picky: {mood: 1}}
routes: [{path: /v1/chat, chain: [auth, context, picky], flow: model}]
tenants: {a: {flow: main.lua, keys: [{alg: HS256, secret: a-key-for-tests-only-of-the-tenant-a}]}}
";
        fs::write(&path, text).unwrap();
        assert_eq!(check(&path, &|_| None, picky).unwrap_err(), [format!("{}:1:25: `picky`: is bad", path.display())]);
        let unknown = check(&path, &|_| None, |_| {}).unwrap_err();
        assert!(unknown.len() == 2 && unknown.iter().all(|p| p.contains("unknown plugin `picky`")), "{unknown:?}");
    }

    #[test]
    fn no_value_from_the_environment_is_shown_whatever_is_wrong_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        let text = "listen: \"${V}\"
limits: { body: \"${V}\", headers: \"${V}\" }
log: { level: \"${V}\" }
store: { embedded: { durability: \"${V}\" } }
upstreams: { model: { protocol: answer, endpoints: [\"${V}\"], path: \"${V}\" }, other: { protocol: \"${V}\" } }
plugins:
  auth: { leeway: \"${V}\", cache: \"${V}\" }
  rate_limit: { limits: [{ name: \"${V}\", by: user, rate: 1/s }, { name: b, by: \"${V}\", rate: \"${V}\", burst: \"${V}\" }] }
  circuit_breaker: { backoff: \"${V}\", window: \"${V}\", slow_rate: \"${V}\", recovery: \"${V}\", retries: \"${V}\" }
routes:
  - { path: /v1/chat, chain: [auth, context, rate_limit, circuit_breaker], flow: model,
      cors: { origins: [\"${V}\"], methods: [\"${V}\"], headers: [\"${V}\"] } }
  - { path: /b, chain: [auth, \"${V}\"], flow: \"${V}\" }
tenants: { a: { flow: \"${V}\", keys: [{ alg: \"${V}\", secret: \"${V}\", public_key: \"${V}\" }, { alg: ES256, public_key: \"${V}\" }] } }
";
        fs::write(&path, text).unwrap();
        let found = check(&path, &|_| Some("https://Hunter2/Pass word".into()), |_| {}).unwrap_err();
        assert!(found.len() > 20 && found.iter().all(|p| !p.to_lowercase().contains("hunter2")), "{found:#?}");
    }

    #[test]
    fn all_problems_of_all_plugins_are_named_each_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        fs::write(dir.path().join("main.lua"), "return function(turn) return 'a' end").unwrap();
        let text = "plugins:
  auth: { leeway: 5, cash: 1 }
  rate_limit: { limits: [{ name: a, by: you, rate: 1/s }, { name: b, by: ip, rate: fast, burts: 1 }, { name: b, by: ip, rate: 1/s }] }
  circuit_breaker: { failures: many, window: 10, retry_budget: 2 }
tenants:
  a:
    flow: main.lua
    keys: [{ alg: HS257, kid: 1, secret: short }, { alg: HS512, secret: short }]
    plugins: { circuit_breaker: { probes: none, retries: -1 } }
";
        fs::write(&path, text).unwrap();
        let found = check(&path, &|_| None, |_| {}).unwrap_err();
        let places: Vec<_> =
            found.iter().map(|p| p[path.display().to_string().len() + 1..].splitn(3, ':').take(2).collect::<Vec<_>>().join(":")).collect();
        let expected = ["2:19", "2:22", "3:41", "3:84", "3:90", "4:32", "4:64", "8:19", "8:31", "8:73", "9:43", "9:58"];
        assert_eq!(places, expected, "{found:#?}");
    }
}
