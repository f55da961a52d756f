//! What one server is asked, and what is told of it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use redis::Value;
use tokio::task::JoinSet;

use super::{ADD, ECHO, add, begin, bytes, down, fails_at_once, open, standalone, up};
use crate::{
    api::Meters,
    redis::{
        Redis, RedisConfig,
        server::{Server, wait_until},
    },
    testing::metric,
};

#[tokio::test]
async fn a_script_runs_whether_the_server_has_it_or_not() {
    let server = Server::start();
    let redis = open(standalone(server.port())).await;
    for _ in 0..2 {
        let echoed = redis.run(&ECHO, &[b"{a}"], &[b"\xff"]).await.unwrap();
        assert_eq!(echoed, Value::Array(vec![bytes("{a}"), Value::BulkString(b"\xff".to_vec())]));
        server.cli::<()>(&["SCRIPT", "FLUSH"]).unwrap();
    }
}

#[tokio::test]
async fn a_database_has_keys_of_its_own() {
    let server = Server::start();
    let redis = open(RedisConfig { database: 3, ..standalone(server.port()) }).await;
    add(&redis, "a", 1).await.unwrap();
    assert_eq!(server.info("keyspace").trim(), "# Keyspace\r\ndb3:keys=1,expires=0,avg_ttl=0");
}

/// Why the first attempt to connect failed.
async fn down_after_trying(redis: &Redis) -> String {
    let mut health = redis.health();
    loop {
        let reason = down(redis).await;
        if reason != "not connected yet" {
            return reason;
        }
        health.changed().await.unwrap();
    }
}

#[tokio::test]
async fn a_gateway_starts_without_redis_and_gets_on_when_there_is_one() {
    let server = Server::start();
    server.kill();
    let redis = begin(standalone(server.port()));
    let reason = down_after_trying(&redis).await;
    assert!(reason.contains(&format!("127.0.0.1:{}", server.port())) && reason.contains("refused"), "{reason}");
    fails_at_once(&redis).await;
    assert!(redis.probe().await.is_err());
    server.restart();
    up(&redis).await;
    assert_eq!((add(&redis, "a", 1).await, redis.probe().await), (Ok(1), Ok(())));
}

#[tokio::test]
async fn wait_says_how_many_replicas_have_a_write() {
    const TIME: Duration = Duration::from_millis(200);
    let add = |redis: Arc<Redis>| async move { redis.run_and_wait(&ADD, &[b"a"], &[b"1"], 1, TIME).await };
    let server = Server::start();
    let replica = server.replica();
    let redis = open(standalone(server.port())).await;
    assert_eq!(add(redis.clone()).await, Ok((Value::Int(1), 1)));
    replica.pause();
    let begun = Instant::now();
    assert_eq!(add(redis.clone()).await, Ok((Value::Int(2), 0)));
    assert!(begun.elapsed() >= TIME);
    server.cli::<()>(&["SCRIPT", "FLUSH"]).unwrap();
    // Neither are others held up, nor are those that wait held up by each other.
    let begun = Instant::now();
    let waiting: JoinSet<_> = (0..20).map(|_| add(redis.clone())).collect();
    assert!(super::add(&redis, "a", 1).await.is_ok());
    assert!(begun.elapsed() < TIME, "{:?}", begun.elapsed());
    assert!(waiting.join_all().await.iter().all(|result| matches!(result, Ok((_, 0)))));
    assert!(begun.elapsed() < 10 * TIME, "{:?}", begun.elapsed());
    replica.resume();
}

#[tokio::test]
async fn a_dropped_redis_leaves_no_connection() {
    let server = Server::start();
    let clients = || server.cli::<String>(&["CLIENT", "LIST"]).unwrap().lines().count();
    let redis = open(standalone(server.port())).await;
    wait_until("it is connected twice", || clients() == 3);
    drop(redis);
    wait_until("only the asking connection is left", || clients() == 1);
}

#[tokio::test]
async fn calls_and_connections_are_counted() {
    let (server, meters) = (Server::start(), Meters::default());
    let redis = Redis::open(standalone(server.port()), &meters).unwrap();
    up(&redis).await;
    add(&redis, "a", 1).await.unwrap();
    server.cli::<()>(&["SET", "a", "x"]).unwrap();
    add(&redis, "a", 1).await.unwrap_err();
    server.kill();
    down(&redis).await;
    fails_at_once(&redis).await;
    let commands = |result| metric(&meters, "fengda_redis_commands_total", &[result, "add"]);
    assert_eq!(["ok", "refused", "down", "unknown"].map(commands), [Some(1.0), Some(1.0), Some(1.0), None]);
    assert_eq!(metric(&meters, "fengda_redis_up", &[]), Some(0.0));
    assert_eq!(metric(&meters, "fengda_redis_in_flight", &[]), Some(0.0));
    assert_eq!(metric(&meters, "fengda_redis_connections_total", &["ok"]), Some(1.0));
    wait_until("failed attempts are counted", || metric(&meters, "fengda_redis_connections_total", &["failed"]) > Some(0.0));
}
