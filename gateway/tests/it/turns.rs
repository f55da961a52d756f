//! One conversation, many messages: order, copies, clients that go away.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    task::JoinSet,
};

use super::{
    client::{self, Http1},
    harness::{Gateway, Site},
    model::{Behaviour, Model},
};

#[tokio::test]
async fn a_hundred_copies_of_a_message_are_one_turn_one_call_and_equal_answers() {
    let model = Model::start().await;
    let gateway = Arc::new(Site::new().model(&model).start());
    let release = Arc::new(Notify::new());
    model.plan([Behaviour::Hold(release.clone())]);
    let mut copies = JoinSet::new();
    for _ in 0..100 {
        let gateway = gateway.clone();
        copies.spawn(async move { gateway.say("alpha", "u", json!({ "query": "q", "message_id": "m" })).await.json() });
    }
    model.wait_for(1).await;
    release.notify_one();
    let answers: Vec<Value> = copies.join_all().await;
    let expected = json!({ "answer": "0:q", "seq": 1, "session_id": "default", "message_id": "m", "fallback": false, "stored": true });
    assert!(answers.iter().all(|a| *a == expected), "{answers:?}");
    assert_eq!(model.asked().len(), 1);
    // Later copies get the stored answer, also in another form.
    assert_eq!(
        gateway.say("alpha", "u", json!({ "query": "q", "message_id": "m", "stream": true })).await.text().matches("0:q").count(),
        2
    );
    assert_eq!(model.asked().len(), 1);
    let reused = gateway.say("alpha", "u", json!({ "query": "other", "message_id": "m" })).await;
    reused.error(409, "message_id_reused");
    // Elsewhere the id is free.
    assert_eq!(gateway.say("alpha", "u2", json!({ "query": "other", "message_id": "m" })).await.json()["seq"], 1);
    assert_eq!(gateway.say("beta", "u", json!({ "query": "other", "message_id": "m" })).await.json()["seq"], 1);
}

#[tokio::test]
async fn messages_of_a_session_wait_for_each_other_and_others_do_not() {
    let model = Model::start().await;
    let gateway = Arc::new(Site::new().model(&model).start());
    let release = Arc::new(Notify::new());
    model.plan([Behaviour::Hold(release.clone())]);
    let ask = |query: &'static str| {
        let gateway = gateway.clone();
        tokio::spawn(async move { gateway.ask("alpha", "u", query).await })
    };
    let first = ask("first");
    model.wait_for(1).await;
    let second = ask("second");
    wait_until(|| gateway.running().gateway.lanes.len() == 2).await;
    assert_eq!(gateway.ask("alpha", "other", "q").await["seq"], 1);
    assert_eq!(gateway.say("alpha", "u", json!({ "query": "q", "session_id": "s2" })).await.json()["seq"], 1);
    assert_eq!(model.asked().len(), 3);
    release.notify_one();
    assert_eq!(first.await.unwrap()["answer"], "0:first");
    assert_eq!((&second.await.unwrap()["answer"], gateway.running().gateway.lanes.len()), (&json!("1:second"), 0));
}

#[tokio::test]
async fn a_full_queue_and_a_wait_that_is_over_are_conflicts() {
    let model = Model::start().await;
    let gateway = Arc::new(Site::new().model(&model).extra("limits: { session_queue: 1 }\nturn: { deadline: 700ms }").start());
    let release = Arc::new(Notify::new());
    model.plan([Behaviour::Hold(release.clone())]);
    let ask = |id: &'static str| {
        let gateway = gateway.clone();
        tokio::spawn(async move { gateway.say("alpha", "u", json!({ "query": id, "message_id": id, "stream": true })).await })
    };
    let first = ask("1");
    model.wait_for(1).await;
    let second = ask("2");
    wait_until(|| gateway.running().gateway.lanes.len() == 2).await;
    ask("3").await.unwrap().error(409, "turn_in_progress");
    // The first answers with the fallback when its deadline is over; the second, which came later, has a little time left.
    let first = first.await.unwrap();
    assert!(first.text().contains("alpha is busy"), "{}", first.text());
    assert!(second.await.unwrap().text().contains("2"), "the queue moved on");
}

#[tokio::test]
async fn a_client_that_goes_away_without_an_id_cancels_its_turn() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).start();
    model.plan([Behaviour::Hold(Arc::default())]);
    leave(&gateway, &json!({ "query": "gone" }), &model).await;
    model.wait_for_cancel().await;
    wait_until(|| gateway.running().gateway.work.is_empty()).await;
    // The session is free at once, and nothing was stored.
    assert_eq!(gateway.ask("alpha", "u", "next").await["seq"], 1);
    assert_eq!(gateway.metric("fengda_turns_total{outcome=\"cancelled\",tenant=\"alpha\"}").await, 1.0);
}

#[tokio::test]
async fn a_client_that_goes_away_with_an_id_finds_the_answer_when_it_returns() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).start();
    for (user, stream) in [("u1", false), ("u2", true)] {
        let release = Arc::new(Notify::new());
        model.plan([Behaviour::Hold(release.clone())]);
        let calls = model.asked().len();
        let body = json!({ "query": "q", "message_id": "m", "stream": stream });
        leave_as(&gateway, user, &body, &model, calls + 1).await;
        release.notify_one();
        wait_until(|| gateway.running().gateway.work.is_empty()).await;
        let reply = gateway.say("alpha", user, json!({ "query": "q", "message_id": "m" })).await.json();
        assert_eq!((&reply["seq"], &reply["answer"]), (&json!(1), &json!("0:q")));
        assert_eq!(model.asked().len(), calls + 1);
    }
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_order() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).start();
    let release = Arc::new(Notify::new());
    model.plan([Behaviour::Hold(release.clone())]);
    // The first two in one go, the third while the first is being answered.
    let mut stream = TcpStream::connect(gateway.public()).await.unwrap();
    let requests = ["first", "second", "third"].map(|q| raw_request(&gateway, "u", &json!({ "query": q })));
    stream.write_all(requests[..2].concat().as_bytes()).await.unwrap();
    model.wait_for(1).await;
    stream.write_all(requests[2].replace("host: t", "host: t\r\nconnection: close").as_bytes()).await.unwrap();
    release.notify_one();
    let mut answers = String::new();
    tokio::time::timeout(client::PATIENCE, stream.read_to_string(&mut answers)).await.expect("all answers").unwrap();
    let at = |words: &str| answers.find(words).unwrap_or_else(|| panic!("{words} in {answers}"));
    assert!(at("0:first") < at("1:second") && at("1:second") < at("2:third"), "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
}

#[tokio::test]
async fn a_client_that_saw_more_than_is_stored_is_noticed() {
    let gateway = Site::new().start();
    let gap = gateway.say("alpha", "u", json!({ "query": "q", "last_seq": 5 })).await.json();
    assert_eq!((&gap["gap"], &gap["seq"], &gap["stored"]), (&json!(true), &json!(1), &json!(true)));
    let none = gateway.say("alpha", "u", json!({ "query": "q", "last_seq": 1 })).await.json();
    assert_eq!((none.get("gap"), &none["seq"]), (None, &json!(2)));
    let streamed = gateway.say("alpha", "u", json!({ "query": "q", "last_seq": 3, "stream": true })).await;
    let done = streamed.text().split("event: done").nth(1).unwrap();
    assert!(done.contains("\"gap\":true"), "{done}");
    assert_eq!(gateway.metric("fengda_context_gaps_total{tenant=\"alpha\"}").await, 2.0);
}

#[tokio::test]
async fn many_sessions_at_once_keep_apart() {
    let model = Model::start().await;
    let gateway = Arc::new(Site::new().model(&model).start());
    let mut users = JoinSet::new();
    for user in 0..40 {
        let gateway = gateway.clone();
        users.spawn(async move {
            let tenant = if user % 2 == 0 { "alpha" } else { "beta" };
            let mut connection = Http1::connect(gateway.public()).await;
            for turn in 0..10 {
                let body = json!({ "query": format!("{tenant} {user} {turn}") });
                let reply = connection.send(gateway.chat(tenant, &format!("u{}", user / 2), &body)).await.json();
                assert_eq!((&reply["seq"], &reply["answer"]), (&json!(turn + 1), &json!(format!("{turn}:{tenant} {user} {turn}"))));
            }
        });
    }
    users.join_all().await;
    for asked in model.asked() {
        let mine = asked["query"].as_str().unwrap().rsplit_once(' ').unwrap().0;
        assert!(asked["history"].as_array().unwrap().iter().all(|t| t["q"].as_str().unwrap().starts_with(mine)), "{asked}");
    }
}

/// Sends a message whose answer the model holds back, and hangs up.
async fn leave(gateway: &Gateway, body: &Value, model: &Model) {
    leave_as(gateway, "u", body, model, 1).await;
}

async fn leave_as(gateway: &Gateway, user: &str, body: &Value, model: &Model, calls: usize) {
    let stream = send_raw(gateway, user, body).await;
    model.wait_for(calls).await;
    hang_up(stream);
}

/// Ends a connection with a reset: one that is merely closed right after its request is a client's that waits.
pub fn hang_up(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
    drop(stream);
}

fn raw_request(gateway: &Gateway, user: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST /v1/chat HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        gateway.token("alpha", user),
        body.len()
    )
}

pub async fn send_raw(gateway: &Gateway, user: &str, body: &Value) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.public()).await.unwrap();
    stream.write_all(raw_request(gateway, user, body).as_bytes()).await.unwrap();
    stream
}

/// Yields to the gateway's threads until something holds that they bring about.
pub async fn wait_until(condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(client::PATIENCE, async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("the condition to hold in time");
}
