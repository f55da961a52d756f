//! Where lists are in practice: servers older than ours, replicas, behind sentinels, TLS and rights of their own.

use super::{Move, redis, run, session};
use crate::{
    context::import::{Bulk, Lists, Tally},
    redis::{
        Login, Mode, Redis, RedisConfig, RedisTls,
        server::{Guard, Sentinels, Server, pki, wait_until},
    },
};

fn config(port: u16) -> RedisConfig {
    let timeout = std::time::Duration::from_secs(2);
    let servers = vec![("127.0.0.1".into(), port)];
    RedisConfig { servers, mode: Mode::Standalone, database: 0, login: None, tls: None, timeout }
}

fn lists(config: RedisConfig) -> Lists {
    let redis = Redis::open_source(config).unwrap();
    wait_until("there is a connection", || redis.is_up());
    Lists::new(redis)
}

fn push(server: &Server, key: &str) {
    server.cli::<()>(&["LPUSH", key, "{\"q\":\"q\",\"a\":\"a\"}"]).unwrap();
}

/// One list comes over from there, and no more.
async fn comes_over(moving: &Move, lists: Lists) {
    let bulk = Bulk { lists, ..moving.bulk("chat:{user_id}") };
    assert_eq!(run(&bulk).await, Tally { keys: 1, imported: 1, turns: 1, ..Tally::default() });
    assert_eq!(moving.state(&session("u")).await.turns[0].q.expose(), "q");
}

/// A server without the commands that came after 5.0.
fn five() -> Server {
    let documented: Vec<redis::Value> = Server::start().cli(&["COMMAND", "DOCS"]).unwrap();
    let newer = documented.chunks(2).filter_map(|pair| {
        let name: String = redis::from_redis_value(pair[0].clone()).ok()?;
        let about: std::collections::HashMap<String, redis::Value> = redis::from_redis_value(pair[1].clone()).ok()?;
        let since: String = redis::from_redis_value(about.get("since")?.clone()).ok()?;
        (since.as_str() >= "6" && !name.contains('|')).then(|| format!("rename-command {name} \"\""))
    });
    let lines: Vec<String> = newer.collect();
    assert!(lines.len() > 20 && lines.iter().any(|line| line.contains("hello")), "{lines:?}");
    Server::with(&lines.iter().map(String::as_str).collect::<Vec<_>>())
}

#[tokio::test]
async fn a_server_that_knows_nothing_newer_than_5_is_a_source() {
    let (moving, old) = (Move::new(), five());
    push(&old, "chat:u");
    comes_over(&moving, lists(config(old.port()))).await;
}

#[tokio::test]
async fn a_replica_is_a_source_and_its_primary_has_nothing_to_do() {
    let moving = Move::new();
    moving.say("chat:u", "q", "a");
    let replica = moving.server.replica();
    comes_over(&moving, lists(config(replica.port()))).await;
    assert_eq!(moving.reads(), 0);
}

#[tokio::test]
async fn sentinels_say_where_the_lists_are() {
    let (moving, sentinels) = (Move::new(), Sentinels::start());
    push(sentinels.primary(), "chat:u");
    let mode = Mode::Sentinel { master: Sentinels::MASTER.into(), login: None };
    comes_over(&moving, Lists::new(redis(&sentinels.ports(), mode))).await;
}

#[tokio::test]
async fn a_password_a_number_of_a_database_and_an_authority_of_one_s_own_are_enough() {
    let guard = Guard { tls: true, user: None };
    let (moving, server) = (Move::new(), Server::guarded(&guard, &["tls-auth-clients no"]));
    push(&server, "chat:elsewhere");
    server.cli::<()>(&["MOVE", "chat:elsewhere", "2"]).unwrap();
    push(&server, "chat:u");
    server.cli::<()>(&["MOVE", "chat:u", "3"]).unwrap();
    server.cli::<()>(&["CONFIG", "SET", "requirepass", "hunter2"]).unwrap();
    let ca = std::fs::read_to_string(pki("ca.pem")).unwrap();
    let tls = Some(RedisTls { ca: Some(ca.into()), client: None });
    let login = Some(Login { username: None, password: "hunter2".to_owned().into() });
    comes_over(&moving, lists(RedisConfig { tls, login, database: 3, ..config(server.port()) })).await;
}

#[tokio::test]
async fn the_rights_in_the_document_are_enough() {
    let (moving, document) = (Move::new(), include_str!("../../../../../docs/import.md"));
    moving.say("chat:u", "q", "a");
    let line = document.lines().find(|line| line.starts_with("ACL SETUSER ")).expect("the document has the line");
    moving.server.cli::<()>(&line.replace('\'', "").split(' ').collect::<Vec<_>>()).unwrap();
    let login = Some(Login { username: Some("fengda-import".into()), password: "password".to_owned().into() });
    comes_over(&moving, lists(RedisConfig { login, ..config(moving.server.port()) })).await;
}
