//! What the file means: every name looked up, every value held against what makes sense, every path resolved.
//!
//! A check that fails reports and goes on with something harmless; the result counts only if nothing was reported.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::Duration,
};

use fengda_plugins::api::Registry;
use serde_yaml::Value;

use super::{
    Config,
    diagnostic::Report,
    keys::KeyFile,
    path::Path,
    raw::{self, Raw},
    types::Limits,
};

mod cors;
mod doubts;
mod forward;
mod logs;
mod routes;
mod store;
mod tenants;
mod tls;
mod upstreams;

const MIB: usize = 1 << 20;
const IN_FLIGHT: RangeInclusive<usize> = 1..=1_000_000;
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// Checks what was read.
pub(super) fn check(raw: Raw, key_files: &[KeyFile], registry: &Registry, report: &mut Report) -> Config {
    if let Some(admin) = raw.admin {
        addresses(raw.listen, admin, report);
    }
    let tls = raw.tls.as_ref().and_then(|tls| tls::check(tls, report));
    let data = data(&raw.data, report);
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = raw.threads.unwrap_or_else(cores);
    within(report, "threads", threads, 1..=512, "1 to 512");
    limits(&raw.limits, report);
    within(report, "shutdown.grace", raw.shutdown.grace, Duration::ZERO..=HOUR, "0s to 1h");
    within(report, "shutdown.pause", raw.shutdown.pause, Duration::ZERO..=10 * MINUTE, "0s to 10m");
    within(report, "turn.deadline", raw.turn.deadline, 10 * MILLISECOND..=10 * MINUTE, "10ms to 10m");

    plugins(&raw.plugins, registry, &Path::parse("plugins"), report);
    let upstreams = upstreams::check(raw.upstreams.unwrap_or_else(raw::default_upstreams), report);
    // What cannot be read is there all the same.
    let unread = |path: &str| report.unread().iter().any(|unread| unread.touches(&Path::parse(path)));
    let shared = raw.store.redis.is_some() || unread("store.redis");
    let older = shared || raw.store.import.is_some() || unread("store.import");
    let store = store::check(raw.store, report);
    let context = tenants::Context { data: &data, registry, key_files, loopback: raw.listen.ip().is_loopback(), shared, older };
    let raw_routes = raw.routes.unwrap_or_else(raw::default_routes);
    let needed = raw_routes.iter().flatten().any(|route| !route.public);
    let tenants = tenants::check(&raw.tenants, needed, &context, report);
    let mut routes = routes::check(
        raw_routes,
        &routes::Known { registry, upstreams: &upstreams, defaults: &raw.plugins, tenants: &tenants, raw_tenants: &raw.tenants },
        report,
    );
    if raw.try_page {
        routes.push(routes::try_page(&routes, report));
    }
    let config = Config {
        listen: raw.listen,
        tls,
        admin: raw.admin,
        data,
        threads,
        watch: raw.watch,
        limits: raw.limits,
        shutdown_grace: raw.shutdown.grace,
        shutdown_pause: raw.shutdown.pause,
        turn_deadline: raw.turn.deadline,
        store,
        upstreams,
        routes,
        tenants,
        log: raw.log,
        hash: String::new(),
        files: Vec::new(),
        warnings: Vec::new(),
        source: Arc::clone(&report.source),
    };
    doubts::raise(&config, raw.plugins.keys(), report);
    config
}

/// The data directory: it, or the nearest that is there of those that it will be made in, has to be a directory.
fn data(raw: &FilePath, report: &mut Report) -> PathBuf {
    let data = report.source.resolve(raw);
    let file = data.ancestors().find(|path| path.exists()).filter(|path| !path.is_dir());
    if let Some(file) = file {
        let at = Path::parse("data");
        let shown = report.shown(&at, file.display());
        report.add(&at, format!("{shown} is a file"), "name a directory; it need not be there yet".to_owned());
    }
    data
}

/// Port 0 is any free port, so two of them never clash.
fn addresses(listen: SocketAddr, admin: SocketAddr, report: &mut Report) {
    let everywhere = listen.ip().is_unspecified() || admin.ip().is_unspecified();
    if listen.port() != 0 && listen.port() == admin.port() && (everywhere || listen.ip() == admin.ip()) {
        report.add(
            &Path::parse("admin"),
            format!("`admin` ({admin}) takes the port of `listen` ({listen})"),
            "give it a port of its own: clients must not reach metrics and reload".to_owned(),
        );
    }
}

fn limits(limits: &Limits, report: &mut Report) {
    within(report, "limits.body", limits.body, 1024..=64 * MIB, "1KiB to 64MiB");
    within(report, "limits.query", limits.query, 64..=MIB, "64B to 1MiB");
    within(report, "limits.headers", limits.headers, 1..=256, "1 to 256");
    within(report, "limits.header_field", limits.header_field, 64..=MIB, "64B to 1MiB");
    within(report, "limits.connections", limits.connections, 1..=1_000_000, "1 to 1000000");
    within(report, "limits.streams", limits.streams, 1..=10_000, "1 to 10000");
    within(report, "limits.h2_idle", limits.h2_idle, 100 * MILLISECOND..=HOUR, "100ms to 1h");
    within(report, "limits.keepalive", limits.keepalive, SECOND..=HOUR, "1s to 1h");
    within(report, "limits.header_deadline", limits.header_deadline, 100 * MILLISECOND..=10 * MINUTE, "100ms to 10m");
    within(report, "limits.body_deadline", limits.body_deadline, 100 * MILLISECOND..=10 * MINUTE, "100ms to 10m");
    within(report, "limits.read_timeout", limits.read_timeout, 100 * MILLISECOND..=10 * MINUTE, "100ms to 10m");
    within(report, "limits.session_queue", limits.session_queue, 0..=1024, "0 to 1024");
    within(report, "limits.in_flight", limits.in_flight, IN_FLIGHT, "1 to 1000000");
}

/// The names of plugins under `path`, and that each has a mapping.
fn plugins(plugins: &BTreeMap<String, Value>, registry: &Registry, path: &Path, report: &mut Report) {
    for (name, config) in plugins {
        let path = path.at(name.as_str());
        if registry.get(name).is_none() {
            report.unknown(&path, "plugin", name, &registry.names().collect::<Vec<_>>());
        } else {
            mapping(config, &path, report);
        }
    }
}

fn mapping(config: &Value, path: &Path, report: &mut Report) {
    if !config.is_mapping() && !config.is_null() {
        report.add(path, "a plugin's configuration is a mapping (`key: value`)", None);
    }
}

/// Reports a value outside of its range.
fn within<T: PartialOrd + Copy>(report: &mut Report, path: impl Into<Path>, value: T, range: RangeInclusive<T>, said: &str) {
    if !range.contains(&value) {
        let path = path.into();
        report.add(&path, format!("`{path}` must be {said}"), None);
    }
}

/// Whether a name is fit for metric labels and messages: 1 to 63 of `a-z A-Z 0-9 - _ .`.
fn plain_name(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// `` `a`, `b` or `c` ``.
fn alternatives<T: fmt::Display>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => "none".to_owned(),
    }
}
