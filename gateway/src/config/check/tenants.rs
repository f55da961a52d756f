//! Tenants: each with a flow, keys and a log that are its own.

use std::{collections::BTreeMap, path::Path as FilePath, sync::Arc};

use fengda_plugins::{
    api::{Registry, Tenant, Text},
    context::import::{Pattern, PatternError},
};
use serde_yaml::Value;

use super::{IN_FLIGHT, MIB, MILLISECOND, SECOND, logs, plugins, within};
use crate::config::{TenantConfig, Wait, diagnostic::Report, keys::KeyFile, path::Path, raw};

/// What a tenant says while its model cannot answer, unless it has words of its own.
const BUSY: &str = "系统繁忙，请稍后再试";
/// Begins the keys that the shipped file shows to everybody.
const DEMO: &str = "demo-";

/// What tenants are checked against.
pub(super) struct Context<'a> {
    pub(super) data: &'a FilePath,
    pub(super) registry: &'a Registry,
    pub(super) key_files: &'a [KeyFile],
    /// Whether clients can only come from this machine.
    pub(super) loopback: bool,
    /// Whether the store is one that may have replicas.
    pub(super) shared: bool,
    /// Whether it is said where an older deployment's conversations are.
    pub(super) older: bool,
}

/// What no two tenants may share: by what it is, whose it is.
type Owners<T> = BTreeMap<T, Tenant>;

/// Tenants are `needed` unless all routes are public.
pub(super) fn check(
    raw: &BTreeMap<String, Option<raw::Tenant>>,
    needed: bool,
    context: &Context<'_>,
    report: &mut Report,
) -> Vec<TenantConfig> {
    let root = Path::parse("tenants");
    if raw.is_empty() && needed {
        let hint = "`acme-shop: { flow: tenant-flows/acme-shop/main.lua, keys: [{ alg: HS256, secret: \"${ACME_KEY}\" }] }`";
        report.add(&root, "at least one tenant is needed under `tenants`", hint.to_owned());
    }
    let mut secrets = Owners::default();
    let left_empty = raw::Tenant::default();
    let mut checked = Vec::with_capacity(raw.len());
    for (name, tenant) in raw {
        let (path, tenant) = (root.at(name.as_str()), tenant.as_ref().unwrap_or(&left_empty));
        match Tenant::from_config(name) {
            Err(e) => report.add(&path, format!("the name of a tenant {e}"), "such as `acme-shop`".to_owned()),
            Ok(id) => {
                keys(&id, &tenant.keys, &path.at("keys"), context, &mut secrets, report);
                plugins(&tenant.plugins, context.registry, &path.at("plugins"), report);
                checked.push(one(id, tenant, &path, context, report));
            }
        }
    }
    imports(&checked, &root, report);
    logs::check(&checked, context.data, context.key_files, report);
    checked
}

fn one(tenant: Tenant, raw: &raw::Tenant, path: &Path, context: &Context<'_>, report: &mut Report) -> TenantConfig {
    let name = tenant.name();
    let limits = path.at("flow_limits");
    within(report, limits.at("cpu"), raw.flow_limits.cpu, MILLISECOND..=10 * SECOND, "1ms to 10s");
    within(report, limits.at("share"), raw.flow_limits.share.0, 1..=100, "1% to 100%");
    within(report, limits.at("memory"), raw.flow_limits.memory, MIB..=1024 * MIB, "1MiB to 1GiB");
    within(report, limits.at("output"), raw.flow_limits.output, 64..=4 * MIB, "64B to 4MiB");
    if let Some(in_flight) = raw.in_flight {
        within(report, path.at("in_flight"), in_flight, IN_FLIGHT, "1 to 1000000");
    }
    if let Some(wait) = raw.wait {
        replicas(wait, &path.at("wait"), context, report);
    }
    let import = raw.import.as_ref().and_then(|text| import(text, &path.at("import"), context, report));
    let flow = raw.flow.as_ref().map(|flow| report.source.resolve(flow));
    flow.iter().for_each(|flow| report.depends_on(flow.clone()));
    match &flow {
        None => report.add(path, format!("tenant `{name}` has no `flow`"), format!("flow: tenant-flows/{name}/main.lua")),
        Some(flow) if !flow.is_file() => {
            let at = path.at("flow");
            let shown = report.shown(&at, flow.display());
            if flow.is_dir() {
                report.add(&at, format!("{shown} is a directory"), "name the script in it, such as `main.lua`".to_owned());
            } else {
                report.add(&at, format!("there is no file {shown}"), "paths are relative to the configuration file".to_owned());
            }
        }
        Some(_) => {}
    }
    let mut canned = raw.canned.clone();
    canned.entry("busy".to_owned()).or_insert_with(|| Text::from(BUSY));
    TenantConfig {
        flow: flow.unwrap_or_default(),
        flow_limits: raw.flow_limits.clone(),
        in_flight: raw.in_flight,
        wait: raw.wait,
        import,
        canned: Arc::new(canned),
        log: raw.log.as_ref().map_or_else(|| context.data.join(format!("logs/{name}.log")), |log| report.source.resolve(log)),
        demo: all_demo(&raw.keys),
        tenant,
    }
}

fn replicas(wait: Wait, path: &Path, context: &Context<'_>, report: &mut Report) {
    within(report, path.at("replicas"), wait.replicas, 1..=16, "1 to 16");
    // A commit may wait for others' replicas too: see `store.redis.timeout`.
    within(report, path.at("timeout"), wait.timeout, MILLISECOND..=500 * MILLISECOND, "1ms to 500ms");
    if !context.shared {
        report.add(path, "`wait` is for replicas of `store.redis`", "remove it: the store is `embedded` and has none".to_owned());
    }
}

fn import(text: &str, path: &Path, context: &Context<'_>, report: &mut Report) -> Option<Pattern> {
    if !context.older {
        let hint = "`store: { import: { url: redis://… } }`".to_owned();
        report.add(path, "nothing says where the older deployment's conversations are", hint);
    }
    match text.parse() {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            let wrong = PatternError::to_string(&error);
            report.add(path, format!("the pattern {wrong}"), "such as `chat:{user_id}` or `chat:{user_id}:{session_id}`".to_owned());
            None
        }
    }
}

/// No list may be two tenants'.
fn imports(tenants: &[TenantConfig], root: &Path, report: &mut Report) {
    let all: Vec<_> = tenants.iter().filter_map(|tenant| Some((&tenant.tenant, tenant.import.as_ref()?))).collect();
    for (i, (tenant, pattern)) in all.iter().enumerate() {
        if let Some((other, _)) = all[..i].iter().find(|(_, other)| other.meets(pattern)) {
            let hint = "each tenant has its own lists: let the patterns begin or end differently".to_owned();
            let message = format!("a list could be one of `{}` and of `{}`", other.name(), tenant.name());
            report.add(&root.at(tenant.name()).at("import"), message, hint);
        }
    }
}

fn all_demo(keys: &Value) -> bool {
    let secret = |key: &Value| key.get("secret").and_then(Value::as_str).is_some_and(|s| s.starts_with(DEMO));
    keys.as_sequence().is_some_and(|keys| !keys.is_empty() && keys.iter().all(secret))
}

/// What can be said of keys without knowing what they are for; the rest is said by the plugin that reads them.
fn keys<'a>(tenant: &Tenant, keys: &'a Value, path: &Path, context: &Context<'_>, secrets: &mut Owners<&'a str>, report: &mut Report) {
    let name = tenant.name();
    let listed = match keys {
        Value::Sequence(listed) if !listed.is_empty() => listed,
        Value::Null | Value::Sequence(_) => {
            let hint = "`keys: [{ alg: HS256, secret: \"${…}\" }]`, or a `public_key` of RS256, ES256 or EdDSA";
            return report.add(path, format!("tenant `{name}` has no `keys`"), hint.to_owned());
        }
        _ => return report.add(path, "`keys` is a list", "`keys: [{ alg: HS256, secret: \"${…}\" }]`".to_owned()),
    };
    for (i, key) in listed.iter().enumerate() {
        let Some(secret) = key.get("secret").and_then(Value::as_str) else { continue };
        let at = path.at(i).at("secret");
        if secret.starts_with(DEMO) && !context.loopback {
            let hint = "everybody knows the demo keys: set a key of your own, or let `listen` be 127.0.0.1";
            report.add(&at, format!("tenant `{name}` has a demo key, and `listen` is open to other machines"), hint.to_owned());
        }
        own(secrets, secret, tenant, "secret", &at, report);
    }
}

/// Reports a thing that another tenant has already.
pub(super) fn own<T: Ord>(owners: &mut Owners<T>, thing: T, tenant: &Tenant, what: &str, path: &Path, report: &mut Report) {
    match owners.get(&thing) {
        Some(owner) if owner != tenant => {
            report.add(
                path,
                format!("tenants `{}` and `{}` have the same {what}", owner.name(), tenant.name()),
                "each tenant has its own".to_owned(),
            );
        }
        _ => {
            owners.insert(thing, tenant.clone());
        }
    }
}
