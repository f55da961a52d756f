//! One server that dies, stands still, or refuses: no call takes longer than it may, and all is well soon after.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{ADD, Fault, TIMEOUT, add, down, fails_at_once, open, standalone, up, works};
use crate::redis::{
    dial::IN_FLIGHT,
    server::{Proxy, Server, free_port, wait_until},
};

#[tokio::test]
async fn a_killed_server_fails_calls_at_once_until_it_is_back() {
    let server = Server::with(&["appendonly yes"]);
    let redis = open(standalone(server.port())).await;
    assert_eq!(add(&redis, "a", 1).await, Ok(1));
    server.kill();
    down(&redis).await;
    fails_at_once(&redis).await;
    server.restart();
    up(&redis).await;
    assert_eq!(add(&redis, "a", 1).await, Ok(2));
}

#[tokio::test]
async fn a_server_that_stands_still_costs_a_few_calls_their_time_and_no_more() {
    let server = Server::start();
    let redis = open(standalone(server.port())).await;
    add(&redis, "a", 1).await.unwrap();
    server.pause();
    let begun = Instant::now();
    let mut unknown = 0;
    while let Err(Fault::Unknown(_)) = add(&redis, "a", 1).await {
        unknown += 1;
    }
    assert!((1..=3).contains(&unknown), "{unknown}");
    assert!(begun.elapsed() < 4 * TIMEOUT, "{:?}", begun.elapsed());
    for _ in 0..10 {
        fails_at_once(&redis).await;
    }
    server.resume();
    up(&redis).await;
    assert!(add(&redis, "a", 1).await.unwrap() >= 2);
}

#[tokio::test]
async fn nobody_need_ask_for_a_server_that_stands_still_to_be_noticed() {
    let server = Server::start();
    let redis = open(standalone(server.port())).await;
    server.pause();
    assert!(down(&redis).await.contains("no "));
    server.resume();
    up(&redis).await;
}

#[tokio::test]
async fn a_slow_server_is_waited_for_as_long_as_it_keeps_to_the_timeout() {
    let server = Server::start();
    let proxy = Proxy::to(server.port());
    let redis = open(standalone(proxy.port())).await;
    proxy.delay(TIMEOUT / 5);
    for _ in 0..4 {
        add(&redis, "a", 1).await.unwrap();
    }
    assert!(redis.is_up());
    proxy.delay(TIMEOUT * 2);
    down(&redis).await;
    fails_at_once(&redis).await;
    proxy.delay(Duration::ZERO);
    up(&redis).await;
    add(&redis, "a", 1).await.unwrap();
}

/// What is refused before it was done is known as such, with the reason, and over when the reason is.
async fn refuses(begin: &[&[&str]], code: &str, end: &[&[&str]]) {
    let server = Server::start();
    let redis = open(standalone(server.port())).await;
    add(&redis, "a", 1).await.unwrap();
    begin.iter().for_each(|words| server.cli(words).unwrap());
    let Err(Fault::Down(reason)) = add(&redis, "a", 1).await else { panic!("it was done") };
    assert!(reason.contains(code), "{reason}");
    assert!(down(&redis).await.to_uppercase().contains(code));
    end.iter().for_each(|words| server.cli(words).unwrap());
    up(&redis).await;
    assert!(redis.probe().await.is_ok());
}

#[tokio::test]
async fn a_primary_that_became_a_replica_takes_nothing_until_it_is_primary_again() {
    let nobody = free_port().to_string();
    refuses(&[&["REPLICAOF", "127.0.0.1", &nobody]], "READONLY", &[&["REPLICAOF", "NO", "ONE"]]).await;
}

#[tokio::test]
async fn a_server_without_memory_takes_nothing() {
    refuses(&[&["CONFIG", "SET", "maxmemory", "1"]], "OOM", &[&["CONFIG", "SET", "maxmemory", "0"]]).await;
}

#[tokio::test]
async fn a_server_without_its_replicas_takes_nothing_if_it_needs_them() {
    let set = |count| ["CONFIG", "SET", "min-replicas-to-write", count];
    refuses(&[&set("1")], "NOREPLICAS", &[&set("0")]).await;
}

#[tokio::test]
async fn a_server_that_loads_its_data_takes_nothing_yet() {
    let lines = ["appendonly yes", "loading-process-events-interval-bytes 1024", "key-load-delay 2000"];
    let server = Server::with(&lines);
    server.cli::<()>(&["DEBUG", "POPULATE", "500", "key", "100"]).unwrap();
    server.cli::<()>(&["BGREWRITEAOF"]).unwrap();
    wait_until("the data is in the file", || server.info("persistence").contains("aof_rewrite_in_progress:0\r\naof_rewrite_scheduled:0"));
    let redis = open(standalone(server.port())).await;
    server.kill();
    server.restart_and_load();
    let reason = super::health(&redis, "told that it loads", super::PATIENCE, |health| format!("{health:?}").contains("LOADING")).await;
    assert!(!reason.is_up());
    fails_at_once(&redis).await;
    up(&redis).await;
    add(&redis, "a", 1).await.unwrap();
}

#[tokio::test]
async fn what_was_sent_when_the_connection_ended_is_unknown() {
    let server = Server::start();
    let proxy = Proxy::to(server.port());
    let redis = open(standalone(proxy.port())).await;
    add(&redis, "a", 1).await.unwrap(); // the server has the script
    proxy.cut_reply_to("its-key");
    let cut = add(&redis, "its-key", 1).await;
    assert!(matches!(cut, Err(Fault::Unknown(_))), "{cut:?}");
    assert_eq!(server.cli::<i64>(&["GET", "its-key"]), Ok(1), "this one was done");
    assert_eq!(works(&redis, "its-key").await, 2);
    proxy.cut();
    assert!(works(&redis, "its-key").await > 2);
}

#[tokio::test]
async fn a_script_that_cannot_work_says_why_and_harms_nobody() {
    let server = Server::start();
    let redis = open(standalone(server.port())).await;
    server.cli::<()>(&["RPUSH", "list", "1"]).unwrap();
    let Err(Fault::Refused { code, .. }) = add(&redis, "list", 1).await else { panic!("it worked") };
    assert_eq!(code, "WRONGTYPE");
    assert!(redis.is_up());
}

#[tokio::test]
async fn more_calls_than_may_be_in_flight_fail_at_once() {
    let server = Server::start();
    let redis = open(standalone(server.port())).await;
    add(&redis, "a", 1).await.unwrap();
    server.pause();
    let mut calls = JoinSet::new();
    for _ in 0..IN_FLIGHT + 10 {
        let redis = redis.clone();
        calls.spawn(async move { redis.run(&ADD, &[b"a"], &[b"1"]).await });
    }
    let mut down = 0;
    while let Some(result) = calls.join_next().await {
        match result.unwrap().unwrap_err() {
            Fault::Down(reason) => {
                assert!(reason.contains("in flight"), "{reason}");
                down += 1;
            }
            Fault::Unknown(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(down, 10);
    server.resume();
    up(&redis).await;
}
