//! Routes: what each answers, and that its chain has what the answer needs, in an order that works.

use std::{collections::BTreeMap, sync::Arc};

use fengda_plugins::api::{Registry, TenantBuild};
use http::uri::PathAndQuery;
use serde_yaml::{Mapping, Value};

use super::{alternatives, cors, forward, mapping};
use crate::{
    config::{CONTEXT, ChainEntry, Route, Target, TenantConfig, Upstream, diagnostic::Report, path::Path, raw, types::TRY},
    edge::path::{RequestPath, other_readings},
};

/// What routes may name.
pub(super) struct Known<'a> {
    pub(super) registry: &'a Registry,
    pub(super) upstreams: &'a BTreeMap<Arc<str>, Upstream>,
    /// `plugins:`.
    pub(super) defaults: &'a BTreeMap<String, Value>,
    pub(super) tenants: &'a [TenantConfig],
    pub(super) raw_tenants: &'a BTreeMap<String, Option<raw::Tenant>>,
}

/// The route of the page to chat in, which is in the way of no other.
pub(super) fn try_page(routes: &[Route], report: &mut Report) -> Route {
    let page = Route { path: "/".into(), chain: Vec::new(), target: Target::TryPage, cors: None };
    if let Some(taken) = routes.iter().find(|r| r.matches("/") || r.matches(TRY) || page.matches(&r.path)) {
        let message = format!("`try_page` needs `/` and what is below `{TRY}`, and there is a route for `{}`", taken.path);
        report.add(&Path::parse("try_page"), message, "remove one of them".to_owned());
    }
    page
}

pub(super) fn check(raw: Vec<Option<raw::Route>>, known: &Known<'_>, report: &mut Report) -> Vec<Route> {
    let root = Path::parse("routes");
    if raw.is_empty() {
        report.add(&root, "there is no route", "remove `routes` to get `/v1/chat` and `/v1/history`".to_owned());
    }
    let mut checked: Vec<Route> = Vec::with_capacity(raw.len());
    for (i, route) in raw.into_iter().enumerate() {
        let path = root.at(i);
        let Some(raw) = route else {
            report.add(&path, "an empty route", "remove it".to_owned());
            continue;
        };
        let target = target(&raw, &path, known, report);
        chain(&raw, &path, known.registry, report);
        let Some(at) = route_path(&raw, &path, report) else { continue };
        reachable(&at, &checked, &path.at("path"), report);
        let places = (0..).map(|entry| path.at("chain").at(entry));
        let entries = raw.chain.iter().zip(places).filter_map(|(entry, place)| Some(build(entry.as_ref()?, place, known))).collect();
        if let Some(target) = target {
            let cors = raw.cors.as_ref().and_then(|raw| cors::check(raw, &target, &path.at("cors"), report));
            checked.push(Route { path: at, chain: entries, target, cors });
        }
    }
    checked
}

fn route_path(raw: &raw::Route, path: &Path, report: &mut Report) -> Option<Arc<str>> {
    let Some(text) = &raw.path else {
        report.add(path, "a route needs a `path`", "such as `/v1/chat`; `/app/` takes everything below it".to_owned());
        return None;
    };
    let parsed = text.parse::<PathAndQuery>();
    if !text.starts_with('/') || text.contains('#') || parsed.is_err() || parsed.is_ok_and(|p| p.query().is_some()) {
        let at = path.at("path");
        report.add(&at, format!("{} is no path of a URL", report.shown(&at, text)), "such as `/v1/chat`; no query, no spaces".to_owned());
        return None;
    }
    match RequestPath::parse(text.as_bytes()) {
        Ok(_) if !other_readings(text).is_empty() => {
            let hint = "such segments are for requests below a route; name the route up to the first of them".to_owned();
            report.add(&path.at("path"), "a route's path has no escaped slash and no `;`", hint);
            None
        }
        Ok(normal) if normal.as_str() == text => Some(text.as_str().into()),
        Ok(normal) => {
            let hint = format!("write {}", report.shown(&path.at("path"), normal.as_str()));
            report.add(&path.at("path"), "no request has this path: requests' paths are made plain before they are compared", hint);
            None
        }
        Err(wrong) => {
            report.add(&path.at("path"), format!("no request has this path: {wrong}"), None);
            None
        }
    }
}

fn reachable(text: &str, earlier: &[Route], path: &Path, report: &mut Report) {
    match earlier.iter().find(|route| route.matches(text)) {
        Some(same) if &*same.path == text => report.add(path, format!("a second route for `{text}`"), "remove one of them".to_owned()),
        Some(wider) => {
            let message = format!("no request gets here: `{}` before it takes everything that `{text}` would", wider.path);
            report.add(path, message, "put this route first".to_owned());
        }
        None => {}
    }
}

const TARGETS: &str = "`flow: <upstream>`, `history: true` or `upstream: <upstream>`";

fn target(raw: &raw::Route, path: &Path, known: &Known<'_>, report: &mut Report) -> Option<Target> {
    let given = [("flow", raw.flow.is_some()), ("history", raw.history), ("upstream", raw.upstream.is_some())];
    let given: Vec<&str> = given.iter().filter(|(_, given)| *given).map(|(key, _)| *key).collect();
    match given[..] {
        ["flow"] => {
            let (name, upstream) = upstream(raw.flow.as_deref(), &path.at("flow"), known, report)?;
            if matches!(upstream, Upstream::Http(_)) {
                report.add(&path.at("flow"), format!("`{name}` is no model"), "name a `demo` or `answer` upstream".to_owned());
            }
            forward::not_here(raw, path, report);
            Some(Target::Flow { upstream: name })
        }
        ["history"] => {
            forward::not_here(raw, path, report);
            Some(Target::History)
        }
        ["upstream"] => {
            let (name, upstream) = upstream(raw.upstream.as_deref(), &path.at("upstream"), known, report)?;
            if !matches!(upstream, Upstream::Http(_)) {
                let hint = "name one with `protocol: http`, or let a `flow:` ask it".to_owned();
                report.add(&path.at("upstream"), format!("requests cannot be passed on to `{name}`"), hint);
            }
            Some(Target::Forward(Box::new(forward::check(raw, name, path, report))))
        }
        [] => {
            report.add(path, "a route needs a target", TARGETS.to_owned());
            None
        }
        _ => {
            let given: Vec<String> = given.iter().map(|key| format!("`{key}`")).collect();
            report.add(path, format!("a route has one target, this one has {}", given.join(" and ")), "make two routes of it".to_owned());
            None
        }
    }
}

/// The upstream that a route names.
fn upstream<'a>(name: Option<&str>, path: &Path, known: &Known<'a>, report: &mut Report) -> Option<(Arc<str>, &'a Upstream)> {
    let name = name?;
    if let Some((name, upstream)) = known.upstreams.get_key_value(name) {
        return Some((Arc::clone(name), upstream));
    }
    // An upstream that is there but could not be read has been reported at its own place.
    if !report.source.marks.has(&Path::parse("upstreams").at(name)) {
        report.unknown(path, "upstream", name, &known.upstreams.keys().map(|k| &**k).collect::<Vec<_>>());
    }
    None
}

fn chain(raw: &raw::Route, path: &Path, registry: &Registry, report: &mut Report) {
    let at = path.at("chain");
    let mut before: Vec<&str> = Vec::new();
    for (i, entry) in raw.chain.iter().enumerate() {
        let at = at.at(i);
        let Some(raw::Entry { plugin, config }) = entry else {
            report.add(&at, "an empty item", "remove it".to_owned());
            continue;
        };
        match registry.get(plugin) {
            None => report.unknown(&at, "plugin", plugin, &registry.names().collect::<Vec<_>>()),
            Some(_) if before.contains(&plugin.as_str()) => {
                report.add(&at, format!("`{plugin}` is twice in this chain"), "remove one of them".to_owned());
            }
            Some(spec) => {
                mapping(config, &at.at(plugin.as_str()), report);
                for needed in spec.after.iter().filter(|needed| !before.contains(needed)) {
                    let later = raw.chain.iter().flatten().any(|e| e.plugin == *needed);
                    let hint = if later { format!("move `{needed}` up") } else { format!("add `{needed}` before it") };
                    whole(raw, registry, &at, format!("`{plugin}` needs `{needed}` before it in the chain"), hint, report);
                }
            }
        }
        before.push(plugin);
    }
    needs(raw, path, registry, report);
}

/// What the target needs of the chain.
fn needs(raw: &raw::Route, path: &Path, registry: &Registry, report: &mut Report) {
    let at = path.at("chain");
    let has = |name: &str| raw.chain.iter().flatten().any(|entry| entry.plugin == name);
    let conversation = raw.flow.is_some() || raw.history;
    if raw.public && conversation {
        let hint = "remove `public`: conversations belong to somebody, so the chain has to authenticate".to_owned();
        report.add(&path.at("public"), "a route with a flow or history cannot be public", hint);
    }
    let authenticating: Vec<&str> = registry.names().filter(|name| registry.get(name).is_some_and(|spec| spec.authenticates)).collect();
    if !raw.public && !authenticating.iter().any(|name| has(name)) {
        let way_out = if conversation { "" } else { ", or say `public: true`" };
        let hint = format!("begin it with {}{way_out}", alternatives(&authenticating));
        whole(raw, registry, &at, "nothing in this chain authenticates the client".to_owned(), hint, report);
    }
    if conversation && !has(CONTEXT) {
        let message = format!("a route with a flow or history needs `{CONTEXT}` in its chain, which keeps the conversations");
        whole(raw, registry, &at, message, format!("add `{CONTEXT}`"), report);
    }
}

/// Reports what is missing from a chain, unless it may be what could not be read or is not known.
fn whole(raw: &raw::Route, registry: &Registry, at: &Path, message: String, hint: String, report: &mut Report) {
    if raw.chain.iter().all(|entry| entry.as_ref().is_some_and(|e| registry.get(&e.plugin).is_some())) {
        report.add(at, message, hint);
    }
}

/// Lays defaults, the route's and each tenant's overrides over each other.
fn build(entry: &raw::Entry, place: Path, known: &Known<'_>) -> ChainEntry {
    let none = Value::Null;
    let config = overlay(known.defaults.get(&entry.plugin).unwrap_or(&none), &entry.config);
    let tenants = known.tenants.iter().map(|one| {
        let raw = known.raw_tenants.get(one.tenant.name()).and_then(Option::as_ref);
        TenantBuild {
            tenant: one.tenant.clone(),
            config: overlay(&config, raw.and_then(|raw| raw.plugins.get(&entry.plugin)).unwrap_or(&none)),
            keys: raw.map_or(Value::Null, |raw| raw.keys.clone()),
        }
    });
    ChainEntry { plugin: entry.plugin.clone(), tenants: tenants.collect(), config, place }
}

/// One mapping with another's keys laid over it: a key that is overridden is replaced whole.
fn overlay(base: &Value, over: &Value) -> Value {
    let keys = |value: &Value| value.as_mapping().cloned().unwrap_or_default();
    let mut all: Mapping = keys(base);
    all.extend(keys(over));
    Value::Mapping(all)
}
