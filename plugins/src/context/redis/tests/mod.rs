//! The store on real servers: the common suite, the model, and what only Redis has: its keys, its round trips, other gateways.

mod cost;
mod damage;
mod gateways;
mod limits;
mod model;
mod replicas;
mod stale;
mod waiting;

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use redis::{Connection, FromRedisValue};

use super::{RedisStore, keys};
use crate::{
    api::{Clock, Meters, UserKey},
    context::{
        Limits,
        conformance::{LIMITS, Subject, clock},
    },
    redis::{
        Health, Mode, Redis, RedisConfig,
        server::{Cluster, Server},
    },
    testing::metric,
};

fn config(ports: &[u16], mode: Mode) -> RedisConfig {
    let servers = ports.iter().map(|port| ("127.0.0.1".into(), *port)).collect();
    RedisConfig { servers, mode, database: 0, login: None, tls: None, timeout: Duration::from_secs(5) }
}

async fn redis(ports: &[u16], mode: Mode) -> Arc<Redis> {
    let meters = Meters::default();
    let redis = Redis::open(config(ports, mode), &meters).unwrap();
    let hears_others = async {
        while metric(&meters, "fengda_redis_subscribed", &[]) != Some(1.0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), hears_others).await.unwrap();
    redis.health().wait_for(Health::is_up).await.unwrap();
    redis
}

/// A gateway's store.
async fn store(server: &Server, limits: Limits, clock: &Clock) -> RedisStore {
    RedisStore::new(redis(&[server.port()], Mode::Standalone).await, limits, clock.clone(), &Meters::default())
}

/// A store of this server's own time.
async fn subject(server: &Server) -> Subject {
    Subject::new(Arc::new(store(server, LIMITS, &Clock::system()).await), Clock::system(), ()).apart()
}

/// Sends a command, on a connection that this thread keeps.
fn send<T: FromRedisValue>(server: &Server, command: &str, parts: &[&[u8]]) -> T {
    thread_local!(static OPEN: RefCell<HashMap<u16, Connection>> = RefCell::default());
    let open = |port| redis::Client::open(("127.0.0.1", port)).unwrap().get_connection().unwrap();
    OPEN.with_borrow_mut(|all| {
        redis::cmd(command).arg(parts).query(all.entry(server.port()).or_insert_with_key(|port| open(*port))).unwrap()
    })
}

/// All keys of a user that there are.
fn present(server: &Server, user: &UserKey) -> Vec<Vec<u8>> {
    let name = keys::user(user).get(0).to_vec();
    let all: Vec<Vec<u8>> = send(server, "KEYS", &[b"*"]);
    all.into_iter().filter(|key| key.starts_with(&name[..name.len() - 1])).collect()
}

/// No key of a user is there for ever.
fn all_expire(server: &Server, user: &UserKey) {
    for key in present(server, user) {
        let left: i64 = send(server, "PTTL", &[&key]);
        assert!(left > 0, "{} lives {left} ms", String::from_utf8_lossy(&key));
    }
}

/// One server for all tests that do it no harm.
fn shared() -> &'static Server {
    static SHARED: LazyLock<Server> = LazyLock::new(Server::start);
    &SHARED
}

async fn standalone() -> Subject {
    let clock = clock();
    Subject::new(Arc::new(store(shared(), LIMITS, &clock).await), clock, ()).apart()
}

async fn clustered() -> Subject {
    let (redis, clock) = (redis(&Cluster::shared().ports(), Mode::Cluster).await, clock());
    Subject::new(Arc::new(RedisStore::new(redis, LIMITS, clock.clone(), &Meters::default())), clock, ()).apart()
}

mod alone {
    store_conformance!(super::standalone().await);
}
mod cluster {
    store_conformance!(super::clustered().await);
}
