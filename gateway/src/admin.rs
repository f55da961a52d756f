//! The admin listener: metrics, health, status, reload, circuits. It is for operators and never shares a port with clients.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use fengda_plugins::{
    api::TurnError,
    context::{Context, Readiness},
    redis::{Health, Redis},
};
use http::{Method, StatusCode, Uri, header};
use pingora_core::{
    apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream},
    protocols::http::ServerSession,
    server::ShutdownWatch,
};
use serde::Serialize;
use serde_json::json;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use crate::{
    circuits,
    gateway::{Gateway, Reloaded},
    respond,
    telemetry::Metrics,
};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// How long a connection may be silent, and a request's head or the taking of an answer may last.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the store may take to say that it is well.
const STORE_PATIENCE: Duration = Duration::from_secs(2);
/// With more connections than this, the one that has been silent for longest is closed for each new one.
const CONNECTIONS: usize = 64;

/// Serves the admin listener.
pub struct Admin {
    gateway: Arc<Gateway>,
    /// The conversations, if a route keeps any.
    context: Option<Arc<Context>>,
    /// The way to Redis, if the store is there.
    redis: Option<Arc<Redis>>,
    /// True once the gateway drains.
    draining: watch::Receiver<bool>,
    connections: AtomicUsize,
    /// Tells the connection that has waited longest for a request to give way.
    crowded: Notify,
}

struct Answer {
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
}

impl Answer {
    fn text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self { status, content_type: TEXT, body: body.into() }
    }

    fn json(status: StatusCode, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("plain maps with string keys");
        Self { status, content_type: JSON, body: body.into() }
    }
}

impl Admin {
    /// For one gateway and its conversations; `draining` turns true when it is about to stop.
    pub fn new(gateway: Arc<Gateway>, context: Option<Arc<Context>>, redis: Option<Arc<Redis>>, draining: watch::Receiver<bool>) -> Self {
        Self { gateway, context, redis, draining, connections: AtomicUsize::new(0), crowded: Notify::new() }
    }

    async fn answer(&self, method: &Method, uri: &Uri, from_page: bool) -> Answer {
        let draining = *self.draining.borrow();
        match (uri.path(), method) {
            ("/livez", &Method::GET) => Answer::text(StatusCode::OK, "ok\n"),
            ("/readyz", &Method::GET) => self.ready(draining).await,
            ("/metrics", &Method::GET) => self.metrics(),
            ("/status", &Method::GET) => self.status(draining),
            (_, &Method::POST) if from_page => Answer::text(StatusCode::FORBIDDEN, "orders are not taken from web pages\n"),
            ("/reload", &Method::POST) => self.reload().await,
            ("/circuits", &Method::POST) => self.switch_circuit(uri.query().unwrap_or_default()),
            ("/livez" | "/readyz" | "/metrics" | "/status", _) => Answer::text(StatusCode::METHOD_NOT_ALLOWED, "send a GET\n"),
            ("/reload" | "/circuits", _) => Answer::text(StatusCode::METHOD_NOT_ALLOWED, "send a POST\n"),
            _ => Answer::text(StatusCode::NOT_FOUND, "there are /metrics, /livez, /readyz, /status, POST /reload and POST /circuits\n"),
        }
    }

    /// Whether clients should be sent here; a line for each reason why not, or for what they will miss.
    async fn ready(&self, draining: bool) -> Answer {
        let late = || Readiness::Not(TurnError::Unavailable("no answer in time".into()));
        let store = match &self.context {
            Some(context) => timeout(STORE_PATIENCE, context.readiness()).await.unwrap_or_else(|_| late()),
            None => Readiness::Ready,
        };
        let (ready, reason) = match store {
            Readiness::Ready => (true, String::new()),
            Readiness::Aside(error) => (true, format!("turns wait on this gateway's disk: {error}\n")),
            Readiness::Not(error) => (false, format!("{error}\n")),
        };
        match (ready && !draining, reason) {
            (true, reason) if reason.is_empty() => Answer::text(StatusCode::OK, "ok\n"),
            (true, reason) => Answer { status: StatusCode::OK, content_type: TEXT, body: reason.into() },
            (false, reason) => {
                let body = if draining { format!("draining\n{reason}") } else { reason };
                Answer { status: StatusCode::SERVICE_UNAVAILABLE, content_type: TEXT, body: body.into() }
            }
        }
    }

    fn metrics(&self) -> Answer {
        Answer { status: StatusCode::OK, content_type: Metrics::CONTENT_TYPE, body: self.gateway.metrics.render().into() }
    }

    fn status(&self, draining: bool) -> Answer {
        let snapshot = self.gateway.snapshot.load();
        let current = Reloaded::of(&snapshot);
        let upstreams = snapshot.upstreams().filter_map(|u| Some((u.name().to_string(), u.peers()?.status())));
        let body = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "generation": current.generation,
            "config_hash": current.config_hash,
            "draining": draining,
            "in_flight": self.gateway.admission.taken(),
            "sessions_in_turn": self.gateway.lanes.len(),
            "routes": snapshot.config.routes.iter().map(|r| &*r.path).collect::<Vec<_>>(),
            "flows": current.flows,
            "upstreams": upstreams.collect::<serde_json::Map<_, _>>(),
            "plugins": snapshot.plugin_status(),
            "spool": self.context.as_ref().and_then(|context| context.spool()),
            "redis": self.redis.as_ref().map(|redis| redis_status(&redis.health().borrow())),
        });
        Answer::json(StatusCode::OK, &body)
    }

    fn switch_circuit(&self, query: &str) -> Answer {
        match circuits::switch(&self.gateway.snapshot.load(), query) {
            Ok(done) => Answer::json(StatusCode::OK, &done),
            Err(refused) => Answer::text(refused.status(), format!("{refused}\n")),
        }
    }

    async fn reload(&self) -> Answer {
        let gateway = self.gateway.clone();
        match tokio::task::spawn_blocking(move || gateway.reload()).await {
            Ok(Ok(report)) => Answer::json(StatusCode::OK, &report),
            Ok(Err(problems)) => {
                let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
                Answer::json(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "problems": problems }))
            }
            Err(_) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "the reload panicked; the configuration in force stays\n"),
        }
    }
}

/// How Redis does; for how many seconds not all of it is up, and why.
fn redis_status(health: &Health) -> serde_json::Value {
    match health {
        Health::Up => json!({ "up": true }),
        Health::Partly { reason, since } | Health::Down { reason, since } => {
            json!({ "up": health.is_up(), "reason": **reason, "seconds": since.elapsed().as_secs() })
        }
    }
}

/// A connection, counted while it is open.
struct Open<'a>(&'a Admin);

impl<'a> Open<'a> {
    fn count(admin: &'a Admin) -> Self {
        if admin.connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
            admin.crowded.notify_one();
        }
        Self(admin)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl HttpServerApp for Admin {
    async fn process_new_http(self: &Arc<Self>, mut session: ServerSession, shutdown: &ShutdownWatch) -> Option<ReusedHttpStream> {
        let _open = Open::count(self);
        let mut shutdown = shutdown.clone();
        tokio::select! {
            biased;
            read = timeout(PATIENCE, session.read_request()) => if !read.ok()?.ok()? { return None },
            () = self.crowded.notified() => return None,
            _ = shutdown.wait_for(|s| *s) => return None,
        }
        let head = session.req_header();
        // Any page that an operator's browser shows can send a POST here, but not without its origin.
        let (method, uri, from_page) = (head.method.clone(), head.uri.clone(), head.headers.contains_key(header::ORIGIN));
        let Answer { status, content_type, body } = self.answer(&method, &uri, from_page).await;
        timeout(PATIENCE, respond::plain(&mut session, status, content_type, body)).await.ok()?.ok()?;
        let settings = HttpPersistentSettings::for_session(&session);
        let reusable = timeout(PATIENCE, session.finish()).await.ok()?.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(reusable, settings))
    }
}
