//! A gateway of a test's own: its configuration, scripts and data in a folder that goes when the test ends.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use fengda::server::{self, Options, Running};
use fengda_plugins::{
    api::{Clock, Registry, Timestamp},
    redis::server::Server,
};
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{self, Reply};

/// Tells requests to the model and answers it.
pub const PASS: &str = "return function(turn) return nlp.answer(turn) end";

const SHIPPED_ROUTES: &str = "
  - { path: /v1/chat, chain: [auth, rate_limit, context, circuit_breaker], flow: model }
  - { path: /v1/history, chain: [auth, rate_limit, context], history: true }";

/// What a test's gateway is made of. Two tenants, `alpha` and `beta`, and the routes of the shipped configuration.
pub struct Site {
    dir: TempDir,
    model: String,
    upstreams: String,
    routes: String,
    breaker: String,
    limits: String,
    tenants: String,
    alpha: String,
    beta: String,
    extra: String,
    store: Vec<String>,
    watch: bool,
    pub clock: Clock,
    plugins: fn(&mut Registry),
}

impl Site {
    pub fn new() -> Self {
        let site = Self {
            dir: tempfile::tempdir().unwrap(),
            model: "{ protocol: demo }".into(),
            upstreams: String::new(),
            routes: String::new(),
            breaker: "{ retries: 0 }".into(),
            limits: "[{ name: tenant, by: tenant, rate: 100000/s, burst: 100000 }]".into(),
            tenants: String::new(),
            alpha: String::new(),
            beta: String::new(),
            extra: String::new(),
            store: Vec::new(),
            watch: false,
            clock: Clock::manual(Timestamp(1_800_000_000_000)),
            plugins: |_| {},
        };
        site.script("alpha", PASS);
        site.script("beta", PASS);
        site
    }

    /// The tenant's script; call again to change it under a running gateway.
    pub fn script(&self, tenant: &str, source: &str) {
        let folder = self.dir.path().join("flows").join(tenant);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("main.lua"), source).unwrap();
    }

    pub fn model(mut self, model: &super::model::Model) -> Self {
        self.model = format!("{{ protocol: answer, endpoints: [\"http://{}\"] }}", model.addr);
        self
    }

    pub fn upstream(mut self, yaml: &str) -> Self {
        self.model = yaml.into();
        self
    }

    /// An upstream beside `model`: its name and configuration.
    pub fn also(mut self, name: &str, yaml: &str) -> Self {
        self.upstreams += &format!("\n  {name}: {yaml}");
        self
    }

    /// A route after those of the shipped configuration.
    pub fn route(mut self, yaml: &str) -> Self {
        self.routes += &format!("\n  - {yaml}");
        self
    }

    pub fn breaker(mut self, yaml: &str) -> Self {
        self.breaker = yaml.into();
        self
    }

    pub fn limits(mut self, yaml: &str) -> Self {
        self.limits = yaml.into();
        self
    }

    /// Further tenants, indented by two.
    pub fn tenants(mut self, yaml: &str) -> Self {
        self.tenants = yaml.into();
        self
    }

    /// Further keys of the tenant `alpha`.
    pub fn tenant_alpha(mut self, yaml: &str) -> Self {
        self.alpha = yaml.into();
        self
    }

    /// Further keys of the tenant `beta`.
    pub fn tenant_beta(mut self, yaml: &str) -> Self {
        self.beta = yaml.into();
        self
    }

    /// Further top-level keys.
    pub fn extra(mut self, yaml: &str) -> Self {
        self.extra = yaml.into();
        self
    }

    /// Keeps conversations in this Redis, whose keys it shares with other gateways.
    pub fn redis(self, server: &Server) -> Self {
        self.store(&format!("redis: {{ url: \"redis://127.0.0.1:{}\" }}", server.port()))
    }

    /// A key below `store` and its value.
    pub fn store(mut self, yaml: &str) -> Self {
        self.store.push(yaml.into());
        self
    }

    /// Changed files are put in force without a reload being asked for.
    pub fn watched(mut self) -> Self {
        self.watch = true;
        self
    }

    pub fn plugins(mut self, plugins: fn(&mut Registry)) -> Self {
        self.plugins = plugins;
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn config(&self) -> String {
        let Self { model, upstreams, breaker, limits, alpha, beta, tenants, extra, watch, .. } = self;
        let store = if self.store.is_empty() { String::new() } else { format!("store: {{ {} }}", self.store.join(", ")) };
        let routes = if self.routes.is_empty() { String::new() } else { format!("\nroutes:{SHIPPED_ROUTES}{}", self.routes) };
        format!(
            "listen: 127.0.0.1:0
admin: 127.0.0.1:0
threads: 2
upstreams:
  model: {model}{upstreams}{routes}
plugins:
  circuit_breaker: {breaker}
  rate_limit: {{ limits: {limits} }}
tenants:
  alpha:
    flow: flows/alpha/main.lua
    keys: [{{ alg: HS256, secret: {} }}]
    canned: {{ busy: alpha is busy }}
    {alpha}
  beta:
    flow: flows/beta/main.lua
    keys: [{{ alg: HS256, secret: {} }}]
    canned: {{ busy: beta is busy }}
    {beta}
{tenants}
{store}
log: {{ access: false }}
watch: {watch}
{extra}
",
            secret("alpha"),
            secret("beta")
        )
    }

    /// Writes the configuration and returns where it is.
    pub fn write(&self, config: &str) -> PathBuf {
        let path = self.path("config.yaml");
        std::fs::write(&path, config).unwrap();
        path
    }

    pub fn options(&self) -> Options {
        let mut options = Options::new(self.path("config.yaml"));
        options.clock = self.clock.clone();
        options.plugins = self.plugins;
        options.environment = Arc::new(|_| None);
        options
    }

    pub fn start(self) -> Gateway {
        self.write(&self.config());
        let running = server::start(self.options()).unwrap_or_else(|e| panic!("{e}"));
        Gateway { running: Some(running), site: self }
    }
}

/// The tenant's key in tests.
pub fn secret(tenant: &str) -> String {
    format!("a-key-for-tests-only-of-the-tenant-{tenant}")
}

/// A running gateway; stopped when dropped.
pub struct Gateway {
    running: Option<Running>,
    pub site: Site,
}

impl Gateway {
    pub fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub fn public(&self) -> std::net::SocketAddr {
        self.running().public
    }

    /// Stops it, as SIGTERM does, and gives the folder back.
    pub fn stop(mut self) -> Site {
        self.end();
        let site = Site::new();
        std::mem::replace(&mut self.site, site)
    }

    fn end(&mut self) -> usize {
        let Some(running) = self.running.take() else { return 0 };
        std::thread::spawn(|| running.stop()).join().unwrap()
    }

    /// A token of a user of a tenant, valid for an hour.
    pub fn token(&self, tenant: &str, user: &str) -> String {
        self.token_with(tenant, json!({ "tenant_id": tenant, "user_id": user }))
    }

    /// A token signed by the tenant's key with these claims; `exp` is added if it is missing.
    pub fn token_with(&self, tenant: &str, mut claims: Value) -> String {
        let exp = self.site.clock.now().after(Duration::from_secs(3600)).0 / 1000;
        claims.as_object_mut().unwrap().entry("exp").or_insert(json!(exp));
        let key = jsonwebtoken::EncodingKey::from_secret(secret(tenant).as_bytes());
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
    }

    /// A chat request of a user.
    pub fn chat(&self, tenant: &str, user: &str, body: &Value) -> Request<Full<Bytes>> {
        post("/v1/chat", Some(&self.token(tenant, user)), body.to_string())
    }

    /// Sends a chat request and returns what came back.
    pub async fn say(&self, tenant: &str, user: &str, body: Value) -> Reply {
        client::http1(self.public(), self.chat(tenant, user, &body)).await
    }

    /// Sends a chat request that must be answered with 200, and returns the body.
    pub async fn ask(&self, tenant: &str, user: &str, query: &str) -> Value {
        let reply = self.say(tenant, user, json!({ "query": query })).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// `GET` or `DELETE /v1/history` with a query string.
    pub async fn history(&self, method: &str, tenant: &str, user: &str, query: &str) -> Reply {
        let token = self.token(tenant, user);
        let request = Request::builder().method(method).uri(format!("/v1/history{query}")).header("host", "test");
        let request = request.header("authorization", format!("Bearer {token}")).body(Full::default()).unwrap();
        client::http1(self.public(), request).await
    }

    /// A request to the admin listener.
    pub async fn admin(&self, method: &str, path: &str) -> Reply {
        let request = Request::builder().method(method).uri(path).header("host", "test").body(Full::default()).unwrap();
        client::http1(self.running().admin.unwrap(), request).await
    }

    /// The value of a metric line that begins with this, 0 if there is none.
    pub async fn metric(&self, line: &str) -> f64 {
        let text = self.admin("GET", "/metrics").await;
        let found = text.text().lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or(0.0)
    }

    /// What the tenant's own log holds.
    pub fn tenant_log(&self, tenant: &str) -> String {
        fengda::telemetry::Sink::flush();
        std::fs::read_to_string(self.site.path(&format!("data/logs/{tenant}.log"))).unwrap_or_default()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.end();
    }
}

/// A POST with a JSON content type.
pub fn post(path: &str, token: Option<&str>, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let mut request = Request::post(path).header("host", "test").header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(Full::new(body.into())).unwrap()
}
