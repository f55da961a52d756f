//! The way to Redis, to real servers.

use std::{sync::Arc, time::Duration};

use redis::Value;

use super::{Mode, Redis, RedisConfig, Script, server::Server};
use crate::api::Meters;

static ECHO: Script = Script::new("echo", "return {KEYS[1], ARGV[1]}");

fn config(server: &Server) -> RedisConfig {
    RedisConfig {
        servers: vec![("127.0.0.1".into(), server.port())],
        mode: Mode::Standalone,
        database: 0,
        username: None,
        password: None,
        tls: None,
        timeout: Duration::from_millis(500),
    }
}

async fn up(redis: &Arc<Redis>) {
    while !redis.is_up() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_script_runs_whether_the_server_has_it_or_not() {
    let server = Server::start();
    let redis = Redis::open(config(&server), &Meters::default()).unwrap();
    up(&redis).await;
    for _ in 0..2 {
        let echoed = redis.run(&ECHO, &[b"{a}"], &[b"\xff"]).await.unwrap();
        assert_eq!(echoed, Value::Array(vec![Value::BulkString(b"{a}".to_vec()), Value::BulkString(b"\xff".to_vec())]));
    }
}
