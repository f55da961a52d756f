//! Nobody's words where they do not belong: every tenant puts words of its own into everything it can send, and then they are looked for
//! in everything that comes out, and in everything that the store holds.
//!
//! One thing a client chooses is printed by design: an `x-request-id` of plain characters.

mod at_rest;
mod on_redis;
mod sweep;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use fengda_plugins::{
    api::{BuildCtx, Decision, Plugin, PluginSpec, Registry, RequestCtx, Step},
    redis::server::Server,
};
use http::request::Parts;

use self::{on_redis::Overheard, sweep::Sweep};

/// A plugin with a fault: it panics with what a header says.
struct Faulty;

impl Plugin for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn request<'a>(&'a self, head: &'a Parts, _: &'a mut RequestCtx) -> Step<'a, Decision> {
        if let Some(words) = head.headers.get("x-trip") {
            panic!("this is wrong: {words:?}");
        }
        Step::Ready(Decision::Continue)
    }
}

fn with_faulty(registry: &mut Registry) {
    let build = |_: &BuildCtx<'_>| Ok(Arc::new(Faulty) as Arc<dyn Plugin>);
    let spec = PluginSpec { name: "faulty", after: &["auth"], authenticates: false, schema: |_| true.into(), build: Box::new(build) };
    registry.register(spec).unwrap();
}

/// The gateway of the sweep: a process of its own, since its standard error is one of the places to look at, and no installed binary has
/// the plugin.
#[test]
#[ignore = "started by the sweep"]
fn a_gateway_with_a_faulty_plugin() {
    let Some(config) = std::env::var_os("SWEEP_CONFIG") else { return };
    fengda::telemetry::logger::log_panics();
    let options = fengda::server::Options { plugins: with_faulty, ..fengda::server::Options::new(config) };
    let running = fengda::server::start(options).unwrap_or_else(|e| panic!("{e}"));
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap(); // until the sweep is over
    assert_eq!(running.stop(), 0);
}

#[tokio::test]
async fn no_tenant_s_words_are_anywhere_but_with_that_tenant() {
    let sweep = Sweep::begin(1, |site| site).await;
    sweep.everybody_talks().await;
    let sites = sweep.end().await;
    at_rest::look_at_records(&sites[0].path("data/context"));
}

/// The same with two gateways on one Redis, which goes away and comes back.
#[tokio::test]
async fn no_tenant_s_words_are_anywhere_but_with_that_tenant_on_redis_either() {
    let redis = Server::with(&["appendonly yes", "slowlog-log-slower-than 0", "slowlog-max-len 1000000"]);
    let store = format!("redis: {{ url: \"redis://127.0.0.1:{}\", timeout: 3s }}", redis.port()); // however busy the machine is
    let sweep = Sweep::begin(2, |site| site.store(&store)).await;
    let overheard = Overheard::begin(&redis);
    sweep.everybody_talks().await;
    sweep.one_wakes_another(&redis).await;
    on_redis::look_at_slow_log(&redis);
    sweep.everybody_goes_on_without(&redis).await;
    overheard.look();
    on_redis::look_at_slow_log(&redis);
    on_redis::look_at_keys(&redis);
    sweep.end().await;
}

/// That a key comes from a tenant is the compiler's business (`plugins/src/api/misuse.rs`), that a tenant comes from the configuration is
/// not: the gateway is another crate, so whatever it may call a plugin may, too.
#[test]
fn only_the_configuration_makes_tenants() {
    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let test = entry.file_stem().is_some_and(|name| ["tests", "testing", "conformance", "misuse"].iter().any(|test| name == *test));
            match entry.is_dir() {
                _ if test => {}
                true => sources(&entry, found),
                false => found.push(entry),
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for folder in ["plugins/src", "gateway/src"] {
        sources(&root.join(folder), &mut files);
    }
    let makes = |file: &&PathBuf| {
        let source = fs::read_to_string(file).unwrap();
        source.split("#[cfg(test)]").next().unwrap().contains("from_config(")
    };
    let mut made: Vec<_> = files.iter().filter(makes).map(|file| file.strip_prefix(&root).unwrap().display().to_string()).collect();
    made.sort();
    assert_eq!(made, ["gateway/src/config/check/tenants.rs", "plugins/src/api/tenant.rs"]);
}
