//! The store on real servers.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use super::RedisStore;
use crate::{
    api::{Clock, Meters},
    context::conformance::{LIMITS, Subject, clock},
    redis::{
        Mode, Redis, RedisConfig,
        server::{Cluster, Server},
    },
};

fn config(ports: &[u16], mode: Mode) -> RedisConfig {
    let servers = ports.iter().map(|port| ("127.0.0.1".into(), *port)).collect();
    RedisConfig { servers, mode, database: 0, username: None, password: None, tls: None, timeout: Duration::from_secs(5) }
}

async fn redis(ports: &[u16], mode: Mode) -> Arc<Redis> {
    let redis = Redis::open(config(ports, mode), &Meters::default()).unwrap();
    while !redis.is_up() {
        tokio::task::yield_now().await;
    }
    redis
}

async fn store(server: &Server, clock: &Clock) -> RedisStore {
    RedisStore::new(redis(&[server.port()], Mode::Standalone).await, LIMITS, clock.clone())
}

/// One server for all tests that do it no harm.
fn shared() -> &'static Server {
    static SHARED: LazyLock<Server> = LazyLock::new(Server::start);
    &SHARED
}

async fn standalone() -> Subject {
    let clock = clock();
    Subject::new(Arc::new(store(shared(), &clock).await), clock, ()).apart()
}

async fn clustered() -> Subject {
    let (redis, clock) = (redis(&Cluster::shared().ports(), Mode::Cluster).await, clock());
    Subject::new(Arc::new(RedisStore::new(redis, LIMITS, clock.clone())), clock, ()).apart()
}

mod alone {
    store_conformance!(super::standalone().await);
}
mod cluster {
    store_conformance!(super::clustered().await);
}
