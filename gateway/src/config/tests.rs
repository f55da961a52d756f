//! The reading as an operator meets it: text in, a [`Config`] or exact messages out.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use fengda_plugins::api::{Plugin, PluginSpec, Problem, Registry, Scope};
use serde_yaml::Value;

use super::*;

struct Nothing;

impl Plugin for Nothing {
    fn name(&self) -> &'static str {
        "nothing"
    }
}

fn registry() -> Registry {
    let mut registry = Registry::default();
    let specs: [(&str, &[&str]); 4] = [("auth", &[]), ("rate_limit", &[]), ("context", &["auth"]), ("circuit_breaker", &[])];
    for (name, after) in specs {
        let build = Box::new(|_: &_| Ok(Arc::new(Nothing) as Arc<dyn Plugin>));
        registry.register(PluginSpec { name, after, authenticates: name == "auth", build }).unwrap();
    }
    registry
}

/// A directory with the flows that the tests' tenants name; gone when dropped.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = std::env::temp_dir().join(format!("fengda-config-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        for tenant in ["acme-shop", "harbor-bank"] {
            std::fs::create_dir_all(dir.join("tenant-flows").join(tenant)).unwrap();
            std::fs::write(dir.join("tenant-flows").join(tenant).join("main.lua"), "").unwrap();
        }
        Self(dir)
    }

    fn parse(&self, text: &str, env: &[(&str, &str)]) -> Result<Config, Diagnostics> {
        let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Config::parse(text, &self.0.join("config.yaml"), &env, &registry())
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const TENANT: &str =
    "tenants: {acme-shop: {flow: tenant-flows/acme-shop/main.lua, keys: [{alg: HS256, secret: \"0123456789abcdef0123456789abcdef\"}]}}\n";

/// The problems of some text, after a line with a good tenant; without the directory, hints after ` | `.
fn problems_with(text: &str, env: &[(&str, &str)]) -> Vec<String> {
    let dir = Dir::new();
    let Err(all) = dir.parse(text, env) else { return Vec::new() };
    let place = format!("{}/config.yaml:", dir.0.display());
    all.iter().map(|d| d.to_string().replace("\n    hint: ", " | ").replace(&place, "")).collect()
}

fn problems(text: &str) -> Vec<String> {
    problems_with(&format!("{TENANT}{text}"), &[])
}

#[track_caller]
fn expect(text: &str, expected: &[&str]) {
    let found = problems(text);
    assert!(
        found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.starts_with(e)),
        "{text}\nfound:    {found:#?}\nexpected: {expected:#?}"
    );
}

#[test]
fn probe() {
    for text in [
        "lisen: 127.0.0.1:1\n",
        "limits: {boddy: 1MiB, headers: many, body: 3}\nthreads: x\n",
        "store: {embedded: {durability: ram}}\n",
        "store: {embedded: {durability: {a: 1}}}\n",
        "limits: 3\n",
        "limits:\nshutdown:\nstore: {cache: }\n",
        "routes: []\n",
        "routes: [{}]\n",
        "routes:\n  - path: /v1/chat\n    chain: [rate_limt, context, auth, auth, {rate_limit: 3}, {auth: {}, context: {}}, 5, {}]\n    flow: modl\n",
        "routes:\n  - path: /v1/chat\n    chain: [rate_limt, context, auth, auth, {rate_limit: 3}]\n    flow: modl\n",
        "routes:\n  - {path: /v1/, chain: [auth, context], flow: model}\n  - {path: /v1/chat, chain: [auth, context], flow: model}\n  - {path: /v1/, chain: [auth, context], history: true}\n",
        "routes:\n  - {path: v1, chain: [], public: true, flow: model}\n  - {path: /a, chain: [rate_limit], history: true}\n  - {path: /b, upstream: shop}\n  - {path: /c, chain: [auth, context], flow: model, history: true}\n  - {path: '/d?x', chain: [auth, context], history: true}\n",
        "upstreams: {model: {protocol: openai}, b: {protocol: anser}, c: , d: {protocol: answer}, e: {protocol: answer, endpoints: ['https://a', 'ftp://x', 'nonsense', 'http://u:p@h', 'http://h/base', 'http://h:0', 3]}, f: {protocol: demo, endpoints: ['http://h']}, 'bad name': {protocol: demo}}\n",
        "admin: 127.0.0.1:8080\n",
        "listen: localhost:80\nlimits: {body: 0B, headers: 1000, keepalive: 0s}\nthreads: 0\nturn: {deadline: 0s}\n",
        "plugins: {ratelimit: {}, auth: 3}\n",
        "log: {level: loud, access: ja}\n",
        "threads: ${N}\n",
        "data: ${\n",
        "- a\n",
        "'a\n",
        "a: [1\n",
    ] {
        println!("-- {text}");
        for p in problems(text) {
            println!("   {p}");
        }
    }
    println!("{:#?}", problems_with("", &[]));
    println!("{:#?}", problems_with("- a", &[]));
    println!(
        "{:#?}",
        problems_with(
            "tenants: {Acme: {}, bank: , c: {flow: x.lua, keys: {}, plugins: {contxt: {}, auth: {a: 1}}}, d: {flow: ../etc, keys: [{secret: demo-1}]}, e: {keys: [{secret: demo-1}], log: l, flow_limits: {cpu: 1h}}, f: {keys: [{secret: ${X}}], log: ./l, canned: {busy: [1]}}}\nlisten: 0.0.0.0:80",
            &[]
        )
    );
    let dir = Dir::new();
    let c = dir.parse(include_str!("../../../config.yaml"), &[]);
    match c {
        Ok(c) => println!("{c:#?}"),
        Err(e) => println!("{e}"),
    }
}
