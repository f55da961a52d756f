//! The chat contract: what goes in, what comes out, over HTTP/1.1 and HTTP/2, as JSON and as events.

use http::Request;
use http_body_util::Full;
use serde_json::json;

use super::{
    client::{self, Events, Http1},
    harness::Site,
    model::{Behaviour, Model, delta},
};

#[tokio::test]
async fn a_message_is_answered_with_the_whole_contract() {
    let gateway = Site::new().start();
    let reply = gateway.say("alpha", "u1", json!({ "query": "你好", "session_id": "web:1", "message_id": "m-1", "unknown": [1] })).await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.json(),
        json!({ "answer": "（演示模型）您说：“你好”。", "seq": 1, "session_id": "web:1", "message_id": "m-1", "fallback": false, "stored": true })
    );
    assert_eq!(reply.headers["content-type"], "application/json");
    assert_eq!(reply.headers["x-request-id"].len(), 32);
    let second = gateway.say("alpha", "u1", json!({ "query": "在吗", "session_id": "web:1" })).await.json();
    assert_eq!(second["seq"], 2);
    assert_eq!(second["answer"], "（演示模型）您说：“在吗”。这是我们的第 2 轮对话，上一轮您说的是“你好”。");
    assert_eq!(second["message_id"].as_str().unwrap().len(), 32);
    let default = gateway.ask("alpha", "u1", "另一个会话").await;
    assert_eq!((&default["seq"], &default["session_id"]), (&json!(1), &json!("default")));
}

#[tokio::test]
async fn connections_are_kept_and_http2_works_on_the_same_port() {
    let gateway = Site::new().start();
    let mut kept = Http1::connect(gateway.public()).await;
    for seq in 1..=3 {
        assert_eq!(kept.send(gateway.chat("alpha", "u", &json!({ "query": "q" }))).await.json()["seq"], seq);
    }
    let request = gateway.chat("alpha", "u", &json!({ "query": "q" }));
    let reply = client::http2(gateway.public(), request).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["seq"]), (200, &json!(4)));
}

#[tokio::test]
async fn a_client_s_request_id_and_trace_go_through_to_the_model() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).start();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let send = async |id: &str, trace: &str| {
        let mut request = gateway.chat("alpha", "u", &json!({ "query": "q" }));
        request.headers_mut().insert("x-request-id", id.parse().unwrap());
        request.headers_mut().insert("traceparent", trace.parse().unwrap());
        let told = client::http1(gateway.public(), request).await.headers["x-request-id"].clone();
        let head = model.heads().pop().unwrap();
        assert_eq!(head["x-request-id"], told);
        (told, head.get("traceparent").map(|v| v.to_str().unwrap().to_owned()))
    };
    let (id, sent) = send("req-7", trace).await;
    assert_eq!(id, "req-7");
    let sent = sent.expect("the trace goes on");
    // The same trace and flags, a span of our own.
    assert_eq!((&sent[..36], &sent[52..]), (&trace[..36], &trace[52..]));
    assert_ne!(sent, trace);
    // What is not plain is replaced, what is malformed counts as absent.
    let (id, sent) = send("a b", "garbage").await;
    assert_eq!((id.len(), sent), (32, None));
}

#[tokio::test]
async fn a_stream_brings_the_pieces_as_they_come_and_then_the_whole() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).start();
    let (pieces, from) = tokio::sync::mpsc::channel(8);
    model.plan([Behaviour::Stream(from)]);
    let mut connection = Http1::connect(gateway.public()).await;
    pieces.send(delta("一")).await.unwrap();
    let request = gateway.chat("alpha", "u", &json!({ "query": "q", "stream": true, "message_id": "m" }));
    let mut events = Events::of(connection.begin(request).await);
    assert_eq!(events.next().await.unwrap(), ("delta".into(), json!({ "text": "一" })));
    pieces.send(delta("二")).await.unwrap();
    assert_eq!(events.next().await.unwrap(), ("delta".into(), json!({ "text": "二" })));
    pieces.send("event: done\ndata: {}\n\n".into()).await.unwrap();
    pieces.send("end".into()).await.unwrap();
    let done = json!({ "answer": "一二", "seq": 1, "session_id": "default", "message_id": "m", "fallback": false, "stored": true });
    assert_eq!(events.rest().await, [("done".into(), done)]);
    // The connection is good for another request, and the turn is in the history.
    let again = connection.send(gateway.chat("alpha", "u", &json!({ "query": "q2" }))).await.json();
    assert_eq!((&again["seq"], &again["answer"]), (&json!(2), &json!("1:q2")));
}

#[tokio::test]
async fn an_answer_that_was_not_streamed_comes_as_one_piece() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).start();
    let mut request = gateway.chat("alpha", "u", &json!({ "query": "q" }));
    request.headers_mut().insert("accept", "text/html, text/event-stream;q=0.9".parse().unwrap());
    let mut connection = Http1::connect(gateway.public()).await;
    let events = Events::of(connection.begin(request).await).rest().await;
    assert_eq!(events[0], ("delta".into(), json!({ "text": "0:q" })));
    assert_eq!((events.len(), &events[1].0[..], &events[1].1["answer"]), (2, "done", &json!("0:q")));
    // The body's word beats the header's.
    let mut request = gateway.chat("alpha", "u", &json!({ "query": "q", "stream": false }));
    request.headers_mut().insert("accept", "text/event-stream".parse().unwrap());
    assert_eq!(connection.send(request).await.json()["seq"], 2);
}

#[tokio::test]
async fn events_flow_over_http2() {
    let gateway = Site::new().start();
    let request = gateway.chat("alpha", "u", &json!({ "query": "你好", "stream": true }));
    let reply = client::http2(gateway.public(), request).await;
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    let deltas = reply.text().matches("event: delta").count();
    assert!(deltas > 1, "{}", reply.text());
    assert!(reply.text().trim_end().lines().last().unwrap().contains("（演示模型）您说：“你好”。"));
}

#[tokio::test]
async fn the_model_gets_the_question_its_conversation_and_nothing_else() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).start();
    for user in ["u1", "u2"] {
        gateway.ask("alpha", user, &format!("first of {user}")).await;
    }
    gateway.ask("beta", "u1", "first at beta").await;
    let body = json!({ "query": "second", "message_id": "m", "lang": "zh", "channel": "web", "attachments": [{ "url": "x" }] });
    gateway.say("alpha", "u1", body).await;
    assert_eq!(
        model.asked().pop().unwrap(),
        json!({
            "query": "second", "history": [{ "q": "first of u1", "a": "0:first of u1" }], "tenant": "alpha", "user_id": "u1",
            "session_id": "default", "message_id": "m", "stream": false, "lang": "zh", "channel": "web", "attachments": [{ "url": "x" }],
        })
    );
}

#[tokio::test]
async fn unknown_paths_and_methods_say_what_there_is() {
    let gateway = Site::new().start();
    let get = |path: &str| Request::get(path.to_owned()).header("host", "test").body(Full::default()).unwrap();
    client::http1(gateway.public(), get("/v2/chat")).await.error(404, "not_found");
    let mut request = get("/v1/chat");
    let bearer = format!("Bearer {}", gateway.token("alpha", "u"));
    request.headers_mut().insert("authorization", bearer.parse().unwrap());
    let reply = client::http1(gateway.public(), request).await;
    reply.error(405, "method_not_allowed");
    assert_eq!(reply.headers["allow"], "POST");
}
