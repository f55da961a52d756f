//! The two tenants' customers.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use tokio::{
    sync::{Mutex, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    attack::{Attack, CHAT},
    scene::{AGGRESSOR, Tenant, VICTIM},
};
use crate::{http::Connection, token};

/// The victim's connections, one user each. A message waits for its connection if that is still busy, and the wait counts.
const CONNECTIONS: usize = 64;
/// How long the aggressor waits when it was turned away, as `Retry-After` bids; more or less, since its customers do not move in step.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How often which status was the answer; 0 stands for none.
pub(super) type Statuses = BTreeMap<u16, u64>;

fn message(path: &str, bearer: &str, body: &Bytes) -> Request<Full<Bytes>> {
    let request = Request::post(path).header(header::HOST, "overload").header(header::CONTENT_TYPE, "application/json");
    request.header(header::AUTHORIZATION, bearer).body(Full::new(body.clone())).expect("a token is a valid header")
}

fn bearer(tenant: &Tenant, user: usize) -> String {
    token::bearer(tenant.name, tenant.secret, &format!("u{user}"))
}

/// A user with a connection of its own, opened when it is needed.
struct User {
    gateway: SocketAddr,
    bearer: String,
    connection: Option<Connection>,
}

impl User {
    fn new(gateway: SocketAddr, tenant: &Tenant, user: usize) -> Self {
        Self { gateway, bearer: bearer(tenant, user), connection: None }
    }

    /// Sends a message and returns the answer's status, 0 if there was none.
    async fn say(&mut self, path: &str, body: &Bytes) -> u16 {
        let ready = match self.connection.take() {
            Some(mut connection) => connection.is_ready().await.then_some(connection),
            None => None,
        };
        let mut connection = match ready {
            Some(connection) => connection,
            None => match Connection::open(self.gateway).await {
                Ok(connection) => connection,
                Err(_) => return 0,
            },
        };
        match connection.call(message(path, &self.bearer, body)).await {
            Ok((status, _)) => {
                self.connection = Some(connection);
                status.as_u16()
            }
            Err(_) => 0,
        }
    }
}

/// The victim's customers on their connections.
pub(super) struct Victim(Vec<std::sync::Arc<Mutex<User>>>);

impl Victim {
    pub(super) fn new(gateway: SocketAddr) -> Self {
        Self((0..CONNECTIONS).map(|user| std::sync::Arc::new(Mutex::new(User::new(gateway, &VICTIM, user)))).collect())
    }

    /// Sends `rate` messages a second for so long. Returns each one's latency from when it was due, sorted, and how many were not
    /// answered with 200.
    pub(super) async fn measure(&self, rate: u32, time: Duration) -> (Vec<Duration>, u64) {
        let body = Bytes::from_static("{\"query\":\"你好\"}".as_bytes());
        let (count, start) = (rate * u32::try_from(time.as_secs()).unwrap_or(u32::MAX), Instant::now());
        let mut sent = JoinSet::new();
        for number in 0..count {
            let due = start + Duration::from_secs(1) * number / rate;
            sleep(due.saturating_duration_since(Instant::now())).await;
            let (user, body) = (self.0[number as usize % self.0.len()].clone(), body.clone());
            sent.spawn(async move {
                let status = user.lock().await.say(CHAT, &body).await;
                (due.elapsed(), status)
            });
        }
        let mut latencies = Vec::with_capacity(count as usize);
        let mut failed = 0;
        while let Some(one) = sent.join_next().await {
            let (latency, status) = one.expect("customers neither panic nor are cancelled");
            latencies.push(latency);
            failed += u64::from(status != StatusCode::OK.as_u16());
        }
        latencies.sort_unstable();
        (latencies, failed)
    }
}

/// An attack under way, on a thread of its own so that it does not delay the victim's customers.
pub(super) struct Aggressor {
    stop: watch::Sender<bool>,
    thread: JoinHandle<Statuses>,
}

impl Aggressor {
    pub(super) fn start(attack: Attack, rate: u32, gateway: SocketAddr) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::Builder::new().name("aggressor".into()).spawn(move || {
            runtime.block_on(async move {
                let body = Bytes::from(serde_json::json!({ "query": attack.query() }).to_string());
                let work = |number: u32| {
                    worker(number, attack, rate, User::new(gateway, &AGGRESSOR, number as usize), body.clone(), stopped.clone())
                };
                let mut workers: JoinSet<_> = (0..attack.workers()).map(work).collect();
                let mut all = Statuses::new();
                while let Some(one) = workers.join_next().await {
                    for (status, count) in one.expect("workers neither panic nor are cancelled") {
                        *all.entry(status).or_default() += count;
                    }
                }
                all
            })
        })?;
        Ok(Self { stop, thread })
    }

    /// Ends the attack and waits for the requests under way.
    pub(super) fn end(self) -> Statuses {
        self.stop.send_replace(true);
        self.thread.join().expect("its panic was printed")
    }
}

async fn worker(number: u32, attack: Attack, rate: u32, mut user: User, body: Bytes, mut stop: watch::Receiver<bool>) -> Statuses {
    let mut seen = Statuses::new();
    let pace = attack.pace(rate);
    let mut ticks = interval(pace.max(Duration::from_micros(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Not all at the same moment.
    sleep(pace.max(RETRY_AFTER) * number / attack.workers()).await;
    while !*stop.borrow() {
        ticks.tick().await;
        let status = user.say(attack.path(), &body).await;
        *seen.entry(status).or_default() += 1;
        if status == StatusCode::SERVICE_UNAVAILABLE.as_u16() {
            tokio::select! {
                () = sleep(RETRY_AFTER.mul_f64(0.5 + fastrand::f64())) => {}
                _ = stop.wait_for(|s| *s) => {}
            }
        }
    }
    seen
}
