//! Models that fail: the user gets the tenant's own words, in time, and the conversation goes on.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{
    client::{Events, Http1},
    harness::Site,
    model::{Behaviour, Model, delta},
};

#[tokio::test]
async fn a_failing_model_is_a_fallback_turn_that_its_history_leaves_out() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).start();
    let bad = [Behaviour::Status(500), Behaviour::Status(404), Behaviour::Raw("not json"), Behaviour::Raw("{\"answer\":\"x\"}")];
    let count = bad.len();
    model.plan(bad);
    for seq in 1..=count {
        let reply = gateway.ask("alpha", "u", "q").await;
        let expected = (json!("alpha is busy"), json!(seq), json!(true), json!(true));
        assert_eq!((reply["answer"].clone(), reply["seq"].clone(), reply["fallback"].clone(), reply["stored"].clone()), expected);
    }
    // Shown to the user, not to the model.
    assert_eq!(gateway.ask("alpha", "u", "again").await["answer"], "0:again");
    let history = gateway.history("GET", "alpha", "u", "").await.json();
    let fallbacks: Vec<_> = history["turns"].as_array().unwrap().iter().map(|t| t["fallback"].clone()).collect();
    assert_eq!(fallbacks, [true, true, true, true, false].map(Value::from));
    assert_eq!(gateway.metric("fengda_turns_total{outcome=\"fallback\",tenant=\"alpha\"}").await, 4.0);
}

#[tokio::test]
async fn a_refused_connection_is_retried_and_then_a_fallback() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let upstream = format!("{{ protocol: answer, endpoints: [\"http://{gone}\"] }}");
    let gateway = Site::new().upstream(&upstream).breaker("{ retries: 2 }").start();
    assert_eq!(gateway.ask("beta", "u", "q").await["answer"], "beta is busy");
    let failed = "fengda_upstream_calls_total{outcome=\"failed\",tenant=\"beta\",upstream=\"model\"}";
    assert_eq!(gateway.metric(failed).await, 3.0);
}

#[tokio::test]
async fn a_retry_that_succeeds_is_an_ordinary_answer() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).breaker("{ retries: 2 }").start();
    model.plan([Behaviour::Status(503), Behaviour::Status(502)]);
    let reply = gateway.ask("alpha", "u", "q").await;
    assert_eq!((&reply["answer"], &reply["fallback"]), (&json!("0:q"), &json!(false)));
    assert_eq!(model.asked().len(), 3);
}

#[tokio::test]
async fn a_kept_connection_that_the_model_closes_under_a_request_is_no_failure() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).breaker("{ failures: 1, retries: 0 }").start();
    // Both requests on one connection of ours, so on one thread and one pool.
    let mut connection = Http1::connect(gateway.public()).await;
    for behaviour in [Behaviour::Echo, Behaviour::HangUp] {
        model.plan([behaviour]);
        let reply = connection.send(gateway.chat("alpha", "u", &json!({ "query": "q" }))).await.json();
        assert_eq!(reply["fallback"], false, "{reply}");
    }
    assert_eq!(model.asked().len(), 3);
}

#[tokio::test]
async fn a_model_that_hangs_costs_its_timeout_and_the_session_goes_on() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).breaker("{ timeout: 100ms }").start();
    model.plan([Behaviour::Hold(Arc::default())]);
    assert_eq!(gateway.ask("alpha", "u", "q").await["fallback"], true);
    assert_eq!(gateway.ask("alpha", "u", "q2").await["answer"], "0:q2");
}

#[tokio::test]
async fn the_turn_s_deadline_holds_whatever_the_flow_does() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).extra("turn: { deadline: 200ms }").start();
    gateway.site.script("alpha", "return function(turn) return nlp.answer(turn):text() end");
    assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
    let (pieces, from) = tokio::sync::mpsc::channel(8);
    model.plan([Behaviour::Stream(from)]);
    pieces.send(delta("begun, never ended")).await.unwrap();
    let reply = gateway.ask("alpha", "u", "q").await;
    assert_eq!((&reply["answer"], &reply["fallback"], &reply["seq"]), (&json!("alpha is busy"), &json!(true), &json!(1)));
}

#[tokio::test]
async fn five_failures_open_the_circuit_for_that_tenant_only() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).breaker("{ failures: 5, recovery: 30s, probes: 1, retries: 0 }").start();
    model.plan((0..5).map(|_| Behaviour::Status(500)));
    for _ in 0..5 {
        assert_eq!(gateway.ask("alpha", "u", "q").await["fallback"], true);
    }
    // Open: the fallback at once, and the model is left alone.
    assert_eq!(gateway.ask("alpha", "u", "q").await["fallback"], true);
    assert_eq!(model.asked().len(), 5);
    let status = gateway.admin("GET", "/status").await.json();
    assert_eq!(status["plugins"]["circuit_breaker"]["alpha/model"]["state"], "open", "{status}");
    assert_eq!(gateway.ask("beta", "u", "q").await["answer"], "0:q");
    gateway.site.clock.advance(Duration::from_secs(31));
    assert_eq!(gateway.ask("alpha", "u", "back").await["answer"], "0:back");
    assert_eq!(gateway.ask("alpha", "u", "more").await["fallback"], false);
}

#[tokio::test]
async fn a_stream_that_breaks_ends_in_an_error_and_leaves_no_turn() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).start();
    let (pieces, from) = tokio::sync::mpsc::channel(8);
    model.plan([Behaviour::Stream(from)]);
    let mut connection = Http1::connect(gateway.public()).await;
    pieces.send(delta("half")).await.unwrap();
    let request = gateway.chat("alpha", "u", &json!({ "query": "q", "stream": true, "message_id": "m" }));
    let mut events = Events::of(connection.begin(request).await);
    assert_eq!(events.next().await.unwrap().1["text"], "half");
    drop(pieces);
    let rest = events.rest().await;
    assert_eq!((rest.len(), &rest[0].0[..], &rest[0].1["error"]["code"]), (1, "error", &json!("upstream_failed")));
    // The same message again runs anew.
    let reply = gateway.say("alpha", "u", json!({ "query": "q", "message_id": "m" })).await.json();
    assert_eq!((&reply["seq"], &reply["answer"]), (&json!(1), &json!("0:q")));
}

#[tokio::test]
async fn a_stream_that_breaks_before_anything_was_sent_on_is_a_fallback() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).start();
    let (pieces, from) = tokio::sync::mpsc::channel(8);
    model.plan([Behaviour::Stream(from)]);
    pieces.send("event: error\ndata: {}\n\n".into()).await.unwrap();
    let reply = gateway.say("alpha", "u", json!({ "query": "q", "stream": true })).await;
    assert!(reply.text().contains("\"fallback\":true") && reply.text().contains("alpha is busy"), "{}", reply.text());
}

#[tokio::test]
async fn a_streaming_model_serves_clients_that_want_one_answer() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).start();
    let (pieces, from) = tokio::sync::mpsc::channel(8);
    model.plan([Behaviour::Stream(from)]);
    for piece in [delta("a"), delta("b"), "event: done\ndata: {}\n\n".into(), "end".into()] {
        pieces.send(piece).await.unwrap();
    }
    assert_eq!(gateway.ask("alpha", "u", "q").await["answer"], "ab");
    // Broken on the way to such a client nothing was sent yet, so the fallback is still possible.
    let (pieces, from) = tokio::sync::mpsc::channel(8);
    model.plan([Behaviour::Stream(from)]);
    pieces.send(delta("a")).await.unwrap();
    drop(pieces);
    assert_eq!(gateway.ask("alpha", "u", "q").await["answer"], "alpha is busy");
}

#[tokio::test]
async fn a_streamed_answer_may_be_empty() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).start();
    let (pieces, from) = tokio::sync::mpsc::channel(8);
    model.plan([Behaviour::Stream(from)]);
    pieces.send("event: done\ndata: {}\n\n".into()).await.unwrap();
    let reply = gateway.say("alpha", "u", json!({ "query": "q", "stream": true })).await;
    assert!(reply.text().contains("\"answer\":\"\",\"seq\":1"), "{}", reply.text());
}

#[tokio::test]
async fn a_call_that_its_own_turn_left_no_time_does_not_count_against_the_model() {
    let model = Model::start().await;
    let gateway =
        Site::new().model(&model).breaker("{ failures: 1, timeout: 1500ms, retries: 0 }").extra("turn: { deadline: 500ms }").start();
    model.plan([Behaviour::Hold(Arc::default())]);
    assert_eq!(gateway.ask("alpha", "u", "q").await["fallback"], true);
    assert_eq!(gateway.ask("alpha", "u", "q").await["answer"], "0:q");
    let cancelled = "fengda_upstream_calls_total{outcome=\"cancelled\",tenant=\"alpha\",upstream=\"model\"}";
    assert_eq!(gateway.metric(cancelled).await, 1.0);
}

#[tokio::test]
async fn a_client_that_stops_reading_a_stream_is_let_go() {
    let model = Model::start().await;
    let upstream = format!("{{ protocol: answer, endpoints: [\"http://{}\"], max_answer: 64MiB }}", model.addr);
    let gateway = Site::new().upstream(&upstream).extra("limits: { read_timeout: 200ms }").start();
    let (pieces, from) = tokio::sync::mpsc::channel(1);
    model.plan([Behaviour::Stream(from)]);
    let feed = tokio::spawn(async move { while pieces.send(delta(&"x".repeat(100_000))).await.is_ok() {} });
    let stalled = super::turns::send_raw(&gateway, "u", &json!({ "query": "q", "stream": true })).await;
    model.wait_for(1).await;
    // Its turn had no id, so it is given up with it; nothing of the request stays.
    feed.await.unwrap();
    super::turns::wait_until(|| gateway.running().gateway.work.is_empty()).await;
    drop(stalled);
    assert_eq!(gateway.ask("alpha", "u", "next").await["seq"], 1);
}

#[tokio::test]
async fn an_answer_over_its_limit_is_a_failure() {
    let model = Model::start().await;
    let upstream = format!("{{ protocol: answer, endpoints: [\"http://{}\"], max_answer: 1KiB }}", model.addr);
    let gateway = Site::new().upstream(&upstream).start();
    assert_eq!(gateway.ask("alpha", "u", &"x".repeat(2000)).await["fallback"], true);
    assert_eq!(gateway.ask("alpha", "u", "short").await["answer"], "0:short");
}

#[tokio::test]
async fn several_endpoints_share_the_load() {
    let (a, b) = (Model::start().await, Model::start().await);
    // One by its address, one by name.
    let upstream = format!("{{ protocol: answer, endpoints: [\"http://{}\", \"http://localhost:{}\"] }}", a.addr, b.addr.port());
    let gateway = Site::new().upstream(&upstream).start();
    for _ in 0..10 {
        gateway.ask("alpha", "u", "q").await;
    }
    assert_eq!((a.asked().len(), b.asked().len()), (5, 5));
}
