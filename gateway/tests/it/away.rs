//! The store goes away under a conversation: what clients get meanwhile, and what is stored when it is back.

use std::time::{Duration, Instant};

use fengda_plugins::redis::server::Server;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

use super::{
    client::{self, PATIENCE, until},
    harness::{Gateway, Site},
    model::Model,
    process::{Process, message, token},
};

/// A Redis that has its data when it is killed and started again, also on a busy disk.
fn lasting() -> Server {
    Server::with(&["appendonly yes", "appendfsync always"])
}

/// What a client is told of a turn.
fn told(answer: &Value) -> (Option<&str>, Option<u64>, Option<bool>, Option<bool>) {
    (answer["answer"].as_str(), answer["seq"].as_u64(), answer["fallback"].as_bool(), answer["stored"].as_bool())
}

/// Asks a new conversation until a turn is stored: Redis may not be found yet.
async fn until_stored(gateway: &Gateway, user: &str) -> u64 {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = gateway.ask("alpha", user, "hello").await;
        if answer["stored"] == true {
            return answer["seq"].as_u64().unwrap();
        }
        assert!(Instant::now() < end, "Redis is not found: {answer}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The questions in a history, once it has so many.
async fn questions(public: std::net::SocketAddr, tenant: &str, most: usize) -> Vec<String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let request = Request::get("/v1/history").header("host", "test").header("authorization", format!("Bearer {}", token(tenant)));
        let reply = client::http1(public, request.body(Full::default()).unwrap()).await;
        let turns = if reply.status == 200 { reply.json()["turns"].as_array().cloned().unwrap() } else { Vec::new() };
        if turns.len() >= most {
            return turns.iter().map(|t| t["q"].as_str().unwrap().to_owned()).collect();
        }
        assert!(Instant::now() < end, "{} turns of {most}: {}", turns.len(), reply.text());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_warm_conversation_goes_on_and_a_cold_one_gets_the_canned_text() {
    let (redis, model) = (lasting(), Model::start().await);
    let gateway = Site::new().model(&model).redis(&redis).start();
    let first = until_stored(&gateway, "warm").await;
    redis.kill();
    let asked = model.asked().len();
    for round in 1..=3_u64 {
        let body = json!({ "query": format!("away {round}"), "message_id": format!("m{round}"), "last_seq": first });
        let reply = gateway.say("alpha", "warm", body.clone()).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let answer = reply.json();
        let (text, seq, fallback, stored) = told(&answer);
        assert_eq!(text, Some(&*format!("{}:away {round}", first + round - 1)), "the model gets what waits as history too");
        assert_eq!((seq, fallback, stored), (Some(first), Some(false), Some(false)));
        // A copy is not another turn.
        assert_eq!(gateway.say("alpha", "warm", body).await.json(), answer);
    }
    let cold = gateway.say("alpha", "cold", json!({ "query": "q", "last_seq": 7 })).await;
    assert_eq!((cold.status.as_u16(), told(&cold.json())), (200, (Some("alpha is busy"), Some(7), Some(true), Some(false))));
    let unseen = gateway.say("alpha", "warm", json!({ "query": "q", "last_seq": first + 1 })).await.json();
    assert_eq!(told(&unseen), (Some("alpha is busy"), Some(first + 1), Some(true), Some(false)), "the client saw more than is in memory");
    let streamed = gateway.say("alpha", "cold", json!({ "query": "q", "stream": true })).await;
    let (delta, done) = streamed.text().split_once("event: done").unwrap();
    assert!(delta.contains("alpha is busy") && done.contains("\"seq\":0") && done.contains("\"stored\":false"), "{}", streamed.text());
    assert_eq!(gateway.admin("GET", "/status").await.json()["spool"]["turns"], 3);
    assert_eq!(gateway.metric("fengda_spool_turns{tenant=\"alpha\"}").await, 3.0);
    assert_eq!(model.asked().len(), asked + 3, "neither copies nor cold conversations run");

    redis.restart();
    let back = Instant::now();
    let history = loop {
        let reply = gateway.history("GET", "alpha", "warm", "").await;
        // One who reads does not wait for ever for what waits.
        if reply.status == 200 && gateway.metric("fengda_spool_turns{tenant=\"alpha\"}").await == 0.0 {
            break gateway.history("GET", "alpha", "warm", "").await.json();
        }
        assert!(back.elapsed() < Duration::from_secs(5), "it takes too long: {}", reply.text());
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let ids: Vec<_> = history["turns"].as_array().unwrap().iter().map(|t| t["message_id"].as_str().unwrap()).collect();
    assert_eq!(ids[ids.len() - 3..], ["m1", "m2", "m3"]);
    assert_eq!(gateway.ask("alpha", "warm", "next").await["seq"], first + 4);
    let again = gateway.say("alpha", "warm", json!({ "query": "away 2", "message_id": "m2" })).await.json();
    assert_eq!((&again["seq"], &again["stored"]), (&json!(first + 2), &json!(true)));
    assert_eq!(gateway.admin("GET", "/status").await.json()["spool"]["turns"], 0);
    assert_eq!(gateway.metric("fengda_spool_outcomes_total{outcome=\"stored\",tenant=\"alpha\"}").await, 3.0);
}

#[tokio::test]
async fn a_store_that_lost_turns_it_had_acknowledged_shows_a_gap() {
    let redis = Server::start();
    let gateway = Site::new().redis(&redis).start();
    until_stored(&gateway, "u").await;
    let seq = until_stored(&gateway, "u").await;
    redis.cli::<()>(&["FLUSHALL"]).unwrap();
    assert_eq!(until_stored(&gateway, "u").await, 1);
    let answer = gateway.say("alpha", "u", json!({ "query": "q", "last_seq": seq + 5 })).await.json();
    assert_eq!((&answer["gap"], &answer["stored"], &answer["seq"]), (&json!(true), &json!(true), &json!(2)));
    assert_eq!(gateway.metric("fengda_context_gaps_total{tenant=\"alpha\"}").await, 1.0);
}

#[tokio::test]
async fn turns_that_waited_do_not_hide_that_the_store_lost_others() {
    let redis = Server::start(); // it has nothing when it is started again
    let gateway = Site::new().redis(&redis).start();
    let seq = until_stored(&gateway, "u").await;
    redis.kill();
    // As many as were stored, so that the numbers are the same after.
    for n in 0..seq {
        assert_eq!(gateway.ask("alpha", "u", &format!("away {n}")).await["stored"], false);
    }
    redis.restart();
    until("they are stored", async || gateway.history("GET", "alpha", "u", "").await.status == 200).await;
    let answer = gateway.say("alpha", "u", json!({ "query": "q", "last_seq": seq })).await.json();
    assert_eq!((&answer["seq"], &answer["stored"], &answer["gap"]), (&json!(seq + 1), &json!(true), &json!(true)));
    assert_eq!(gateway.ask("alpha", "u", "q").await["gap"], Value::Null, "it is said once");
    assert_eq!(gateway.metric("fengda_spool_gaps_total{tenant=\"alpha\"}").await, 1.0);
}

#[tokio::test]
async fn a_gateway_killed_with_a_full_spool_loses_nothing_that_it_kept_and_doubles_nothing() {
    let redis = lasting();
    let site = Site::new().store(&format!("redis: {{ url: \"redis://127.0.0.1:{}\", spool: 1MiB }}", redis.port()));
    let config = site.write(&site.config());
    let mut process = Process::start(&config).await;
    let ask = async |public, id: &str, words: &str| {
        let body = json!({ "query": format!("{id} {words}"), "message_id": id });
        client::http1(public, message("alpha", &body)).await.json()
    };
    let end = Instant::now() + PATIENCE;
    let mut first = 0;
    while first == 0 {
        first = ask(process.public, "m0", "").await["seq"].as_u64().unwrap();
        assert!(Instant::now() < end, "Redis is not found");
    }
    redis.kill();
    // Each is a question of 15 KiB and a short answer.
    let words = "x".repeat(15 << 10);
    let mut sent = 0;
    while metric(&process, "fengda_spool_outcomes_total{outcome=\"no_room\",tenant=\"alpha\"}").await == 0.0 {
        sent += 1;
        let answer = ask(process.public, &format!("m{sent}"), &words).await;
        assert_eq!((&answer["stored"], &answer["fallback"]), (&json!(false), &json!(false)), "{sent}");
    }
    let kept = sent - 1;
    // Three quarters are for one tenant.
    assert!((45..55).contains(&kept), "{kept} fit into 1 MiB");
    assert!(process.event("store_away").await["waiting"].as_u64().is_some_and(|waiting| waiting >= 1));
    let full = process.event("context_failed").await;
    assert!(full["step"] == "commit" && full["error"].as_str().unwrap().contains("no room"), "{full}");
    process.signal("-KILL");
    assert_eq!(process.exit_code().await, None);

    redis.restart();
    let mut process = Process::start(&config).await;
    // Killed again while it stores them.
    questions(process.public, "alpha", 3).await;
    process.signal("-KILL");
    process.exit_code().await;
    let process = Process::start(&config).await;
    let stored = questions(process.public, "alpha", kept + 1).await;
    let ids: Vec<_> = stored.iter().map(|q| q.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(ids, (0..=kept).map(|i| format!("m{i}")).collect::<Vec<_>>());
    assert_eq!(ask(process.public, "next", "").await["seq"], kept + 2);
}

#[tokio::test]
async fn a_disk_that_is_full_refuses_turns_and_keeps_those_that_it_has() {
    let redis = lasting();
    let site = Site::new().redis(&redis);
    let config = site.write(&site.config());
    // No file may get larger than 32 KiB.
    let mut process = Process::start_as(&["bash", "-c", "trap '' XFSZ; ulimit -f 32; exec \"$@\"", "bash"], &config).await;
    let ask = async |public, id: &str, words: &str| {
        let body = json!({ "query": format!("{id} {words}"), "message_id": id });
        client::http1(public, message("alpha", &body)).await.json()
    };
    until("Redis is found", async || ask(process.public, "m0", "").await["stored"] == true).await;
    redis.kill();
    let words = "x".repeat(12 << 10);
    for id in ["m1", "m2", "too much"] {
        assert_eq!(ask(process.public, id, &words).await["stored"], false);
    }
    let said = process.event("spool_failed").await;
    assert!(said["error"].as_str().unwrap().contains("too large"), "{said}");
    assert_eq!(ask(process.public, "m3", "").await["stored"], false, "a short one still fits");
    process.signal("-KILL");
    process.exit_code().await;

    redis.restart();
    let process = Process::start(&config).await;
    let stored = questions(process.public, "alpha", 4).await;
    let ids: Vec<_> = stored.iter().map(|q| q.split(' ').next().unwrap()).collect();
    assert_eq!(ids, ["m0", "m1", "m2", "m3"]);
}

async fn metric(process: &Process, line: &str) -> f64 {
    let request = Request::get("/metrics").header("host", "t").body(Full::default()).unwrap();
    let reply = client::http1(process.admin.unwrap(), request).await;
    reply.text().lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0.0)
}
