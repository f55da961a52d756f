//! The store on real servers.

use std::{sync::Arc, time::Duration};

use super::RedisStore;
use crate::{
    api::{Clock, Meters},
    context::conformance::{LIMITS, Subject, clock},
    redis::{Mode, Redis, RedisConfig, server::Server},
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

async fn standalone() -> Subject {
    let (server, clock) = (Server::start(), clock());
    Subject::new(Arc::new(store(&server, &clock).await), clock, server)
}

mod alone {
    store_conformance!(super::standalone().await);
}
