//! The way to Redis, to real servers, well and ill.

mod backends;
mod cluster;
mod faults;
mod guarded;
mod wake;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use redis::Value;

use super::{Fault, Health, Mode, Redis, RedisConfig, Script};
use crate::api::Meters;

static ECHO: Script = Script::new("echo", "return {KEYS[1], ARGV[1]}");
/// Adds to each key; what the last one comes to.
static ADD: Script = Script::new("add", "local sum for _, key in ipairs(KEYS) do sum = redis.call('INCRBY', key, ARGV[1]) end return sum");

/// How soon all must be well again, and how long anything may take.
const SOON: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(20);
const TIMEOUT: Duration = Duration::from_secs(1);

fn config(mode: Mode, ports: impl IntoIterator<Item = u16>) -> RedisConfig {
    RedisConfig {
        servers: ports.into_iter().map(|port| ("127.0.0.1".into(), port)).collect(),
        mode,
        database: 0,
        login: None,
        tls: None,
        timeout: TIMEOUT,
    }
}

fn standalone(port: u16) -> RedisConfig {
    config(Mode::Standalone, [port])
}

fn begin(config: RedisConfig) -> Arc<Redis> {
    Redis::open(config, &Meters::default()).unwrap()
}

async fn open(config: RedisConfig) -> Arc<Redis> {
    let redis = begin(config);
    up(&redis).await;
    redis
}

async fn health(redis: &Redis, what: &str, within: Duration, is: impl FnMut(&Health) -> bool) -> Health {
    let mut health = redis.health();
    let reached = tokio::time::timeout(within, health.wait_for(is)).await;
    reached.unwrap_or_else(|_| panic!("not {what} in time but {:?}", redis.health().borrow())).unwrap().clone()
}

async fn up(redis: &Redis) {
    health(redis, "up", SOON, |health| *health == Health::Up).await;
}

/// Waits until it is down and says why.
async fn down(redis: &Redis) -> String {
    match health(redis, "down", PATIENCE, |health| !health.is_up()).await {
        Health::Down { reason, .. } => reason.to_string(),
        other => panic!("{other:?}"),
    }
}

async fn add(redis: &Redis, key: &str, number: i64) -> Result<i64, Fault> {
    let value = redis.run(&ADD, &[key.as_bytes()], &[number.to_string().as_bytes()]).await?;
    Ok(redis::from_redis_value(value).unwrap())
}

/// Adds 1 until that works, which it must soon. What it comes to.
async fn works(redis: &Redis, key: &str) -> i64 {
    let end = Instant::now() + SOON;
    loop {
        match add(redis, key, 1).await {
            Ok(sum) => return sum,
            Err(fault) => assert!(Instant::now() < end, "{fault}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// That a call fails without waiting for anybody.
async fn fails_at_once(redis: &Redis) {
    let begun = Instant::now();
    let fault = add(redis, "any", 1).await.unwrap_err();
    assert!(matches!(fault, Fault::Down(_)), "{fault:?}");
    assert!(begun.elapsed() < TIMEOUT / 2, "{:?}", begun.elapsed());
}

fn bytes(text: &str) -> Value {
    Value::BulkString(text.into())
}
