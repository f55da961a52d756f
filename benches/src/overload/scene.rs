//! Everything around the clients: what is behind the gateway, the gateway's configuration, and two tenants.

use std::{io, net::SocketAddr, thread::JoinHandle, time::Duration};

use http::StatusCode;
use tokio::sync::oneshot;

use super::attack::{Attack, CHAT, LOOP, SLOW, UPLOAD};
use crate::http::{Server, json};

/// How long the model takes for a question that is meant to be slow.
const SLOW_ANSWER: Duration = Duration::from_secs(1);
/// Turns of history kept: few, so that a turn costs the same at the end of a run as at its beginning.
const TURNS: usize = 10;

/// A tenant and the key that signs its users' tokens.
pub(super) struct Tenant {
    pub(super) name: &'static str,
    pub(super) secret: &'static str,
}

pub(super) const VICTIM: Tenant = Tenant { name: "victim", secret: "a-key-of-one-run-on-loopback-for-the-victim" };
pub(super) const AGGRESSOR: Tenant = Tenant { name: "aggressor", secret: "a-key-of-one-run-on-loopback-for-the-aggressor" };

/// The flow of both.
pub(super) fn flow() -> String {
    format!("return function(turn)\n  if turn.text == '{LOOP}' then while true do end end\n  return nlp.answer(turn)\nend\n")
}

/// The configuration for one attack.
pub(super) fn config(attack: Attack, rate: u32, model: &Backend, application: &Backend) -> String {
    let (model, application) = (model.address, application.address);
    let (limits, limit) = (attack.limits(), attack.rate_limit(rate));
    let tenant = |tenant: &Tenant, rate| {
        let plugins = format!("{{ rate_limit: {{ limits: [ {{ name: tenant, by: tenant, rate: {rate}/s, burst: {rate} }} ] }} }}");
        format!("  {}: {{ flow: flow.lua, keys: [ {{ alg: HS256, secret: {} }} ], plugins: {plugins} }}\n", tenant.name, tenant.secret)
    };
    format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\ndata: data\nlog: {{ level: info, access: false }}\n{limits}\
         store: {{ history: {{ turns: {TURNS} }} }}\n\
         upstreams:\n  model: {{ protocol: answer, endpoints: [\"http://{model}\"] }}\n\
         \x20 application: {{ protocol: http, endpoints: [\"http://{application}\"] }}\n\
         routes:\n  - {{ path: {CHAT}, chain: [auth, rate_limit, context, circuit_breaker], flow: model }}\n\
         \x20 - {{ path: {UPLOAD}, chain: [auth, rate_limit, circuit_breaker], upstream: application }}\ntenants:\n{}{}",
        tenant(&VICTIM, 100_000),
        tenant(&AGGRESSOR, limit)
    )
}

/// Something behind the gateway, on a thread of its own, until it is dropped.
pub(super) struct Backend {
    pub(super) address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    /// A model that answers everything after `usual`, and slow questions after a second.
    ///
    /// # Errors
    /// No port is free, or no thread to be had. The same goes for the other.
    pub(super) fn model(usual: Duration) -> io::Result<Self> {
        let slow = format!("\"query\":\"{SLOW}\"").into_bytes();
        Self::start("model", move |body: &[u8]| if body.windows(slow.len()).any(|w| w == slow) { SLOW_ANSWER } else { usual })
    }

    /// An application that answers at once, whatever it is sent.
    pub(super) fn application() -> io::Result<Self> {
        Self::start("application", |_: &[u8]| Duration::ZERO)
    }

    fn start(name: &str, delay: impl Fn(&[u8]) -> Duration + Send + Sync + 'static) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let server = runtime.block_on(Server::start_slow(delay, |_, _| json(StatusCode::OK, "{\"text\":\"好的\"}")))?;
        let (address, (end, ended)) = (server.address, oneshot::channel());
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            let _server = server;
            let _ = runtime.block_on(ended);
        })?;
        Ok(Self { address, end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.end.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic in it was printed
        }
    }
}
