//! Bodies and headers as no client should send them: a clear error, and the next request is fine.

use http::{HeaderValue, Request};
use http_body_util::Full;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    client::{self, Http1},
    harness::{Gateway, Site, post},
    turns::wait_until,
};

async fn send(gateway: &Gateway, body: impl Into<bytes::Bytes>) -> client::Reply {
    client::http1(gateway.public(), post("/v1/chat", Some(&gateway.token("alpha", "u")), body)).await
}

#[tokio::test]
async fn bodies_that_are_no_message_are_refused_with_the_field_and_the_place() {
    let gateway = Site::new().start();
    let long = "x".repeat(129);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "the body is empty"),
        (b"hello".to_vec(), "not a JSON object in UTF-8: expected value at line 1 column 1"),
        (b" [\"hello\"]".to_vec(), "the body is an array"),
        (b"{\"query\":\"a\"} trailing".to_vec(), "something after its JSON object"),
        (b"{\"query\":\"a\"".to_vec(), "EOF while parsing"),
        (b"{\"query\":\"\xff\xfe\"}".to_vec(), "`query` does not fit: invalid unicode code point"),
        (b"{\"query\":5}".to_vec(), "`query` does not fit: invalid type: integer `5`, expected a string at line 1 column 10"),
        (b"{\"query\":\"a\",\"last_seq\":\"7\"}".to_vec(), "`last_seq` does not fit"),
        (b"{\"query\":\"a\",\"last_seq\":-1}".to_vec(), "`last_seq` does not fit"),
        (b"{\"query\":\"a\",\"stream\":\"yes\"}".to_vec(), "`stream` does not fit"),
        (b"{\"query\":\"  \"}".to_vec(), "`query` is missing or empty"),
        (b"{}".to_vec(), "`query` is missing or empty"),
        (b"{\"query\":null}".to_vec(), "`query` does not fit"),
        (b"{\"query\":\"a\",\"query\":\"b\"}".to_vec(), "duplicate field"),
        (json!({ "query": "a", "session_id": "" }).to_string().into(), "`session_id` must not be empty"),
        (json!({ "query": "a", "session_id": long }).to_string().into(), "`session_id` is 129 bytes long, at most 128 are allowed"),
        (json!({ "query": "a", "message_id": long }).to_string().into(), "`message_id` is 129 bytes long"),
        (json!({ "query": "a", "lang": "" }).to_string().into(), "`lang` must not be empty"),
        ("[".repeat(100_000).into_bytes(), "the body is an array"),
        (("{\"x\":".to_owned() + &"[".repeat(100_000)).into_bytes(), "EOF while parsing a list"),
    ];
    let mut connection = Http1::connect(gateway.public()).await;
    for (body, expected) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let message = connection.send(post("/v1/chat", Some(&gateway.token("alpha", "u")), body)).await.error(400, "bad_request");
        assert!(message.contains(expected), "{shown}: {message}");
    }
    assert_eq!(connection.send(gateway.chat("alpha", "u", &json!({ "query": "fine" }))).await.json()["seq"], 1);
}

#[tokio::test]
async fn any_text_is_fine_as_an_id_and_a_query() {
    let gateway = Site::new().start();
    let odd = "a:b{c}/..\u{0}\n\u{202e}名";
    let reply = gateway.say("alpha", odd, json!({ "query": odd, "session_id": odd, "message_id": odd })).await.json();
    assert_eq!((&reply["seq"], &reply["session_id"], &reply["message_id"]), (&json!(1), &json!(odd), &json!(odd)));
    let again = gateway.say("alpha", odd, json!({ "query": odd, "session_id": odd, "message_id": odd })).await.json();
    assert_eq!(reply, again);
}

#[tokio::test]
async fn the_content_type_must_be_json() {
    let gateway = Site::new().start();
    for (kind, ok) in [
        (Some("application/x-www-form-urlencoded"), false),
        (Some("text/plain"), false),
        (Some("application/jsonp"), false),
        (None, false),
        (Some("application/json"), true),
        (Some("Application/JSON; charset=utf-8"), true),
    ] {
        let mut request = gateway.chat("alpha", "u", &json!({ "query": "q" }));
        match kind {
            Some(kind) => drop(request.headers_mut().insert("content-type", kind.parse().unwrap())),
            None => drop(request.headers_mut().remove("content-type")),
        }
        let reply = client::http1(gateway.public(), request).await;
        if ok {
            assert_eq!(reply.status, 200);
        } else {
            assert!(reply.error(415, "unsupported_media_type").contains("content-type: application/json"));
        }
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_by_its_length_and_in_chunks() {
    let gateway = Site::new().extra("limits: { body: 1KiB }").start();
    let text = json!({ "query": "x".repeat(2000) }).to_string();
    let message = send(&gateway, text.clone()).await.error(413, "body_too_large");
    assert!(message.contains("over 1024 bytes"), "{message}");
    let head = format!(
        "POST /v1/chat HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\nauthorization: Bearer {}\r\n",
        gateway.token("alpha", "u")
    );
    // Declared: refused before any of it is sent.
    let answer = client::raw(gateway.public(), format!("{head}content-length: 99999999\r\nconnection: close\r\n\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("body_too_large"), "{answer}");
    let chunk = format!("{:x}\r\n{text}\r\n", text.len());
    let answer =
        client::raw(gateway.public(), format!("{head}transfer-encoding: chunked\r\nconnection: close\r\n\r\n{chunk}0\r\n\r\n").as_bytes())
            .await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("body_too_large"), "{answer}");
    assert_eq!(gateway.ask("alpha", "u", "fine").await["seq"], 1);
}

#[tokio::test]
async fn a_huge_body_within_the_limit_is_answered() {
    let gateway = Site::new().start();
    let reply = send(&gateway, json!({ "query": "q", "attachments": ["长".repeat(300_000)] }).to_string()).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["seq"]), (200, &json!(1)));
    let message = send(&gateway, json!({ "query": "长".repeat(6_000) }).to_string()).await.error(413, "body_too_large");
    assert!(message.contains("`query` is 18000 bytes long, at most 16384"), "{message}");
}

#[tokio::test]
async fn what_follows_a_broken_body_is_never_taken_for_a_request() {
    let gateway = Site::new().start();
    let token = gateway.token("alpha", "u");
    let smuggled = format!("GET /v1/history HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {token}\r\n\r\n");
    for (authorization, status) in [(format!("authorization: Bearer {token}\r\n"), 400), (String::new(), 401)] {
        let head = format!(
            "POST /v1/chat HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n{authorization}transfer-encoding: chunked\r\n\r\n"
        );
        let mut stream = tokio::net::TcpStream::connect(gateway.public()).await.unwrap();
        stream.write_all(format!("{head}ZZ\r\n").as_bytes()).await.unwrap();
        // Read the answer's first bytes, so that what follows is a request of its own on the wire.
        let mut first = [0; 12];
        tokio::time::timeout(client::PATIENCE, stream.read_exact(&mut first)).await.expect("an answer").unwrap();
        assert_eq!(std::str::from_utf8(&first).unwrap(), format!("HTTP/1.1 {status}"));
        let _ = stream.write_all(smuggled.as_bytes()).await;
        let mut rest = Vec::new();
        // Closed well or reset: either way nothing more was served.
        let _ = tokio::time::timeout(client::PATIENCE, stream.read_to_end(&mut rest)).await.expect("a closed connection");
        assert!(!String::from_utf8_lossy(&rest).contains("HTTP/1.1"), "{}", String::from_utf8_lossy(&rest));
    }
    assert_eq!(gateway.metric("fengda_requests_total{route=\"/v1/history\",status=\"200\",tenant=\"alpha\"}").await, 0.0);
}

#[tokio::test]
async fn heads_and_bodies_that_never_end_are_cut_off() {
    let gateway = Site::new().extra("limits: { header_deadline: 100ms, body_deadline: 100ms, keepalive: 1s }").start();
    for begun in ["POST /v1/ch", "PRI", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nhost:"] {
        assert_eq!(client::raw(gateway.public(), begun.as_bytes()).await, "", "{begun}");
    }
    let token = gateway.token("alpha", "u");
    let head = format!("POST /v1/chat HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\nauthorization: Bearer {token}\r\n");
    let answer = client::raw(gateway.public(), format!("{head}content-length: 50\r\n\r\n{{\"query\"").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"code\":\"request_timeout\""), "{answer}");
    let stalled = client::http2_stalled(gateway.public(), gateway.chat("alpha", "u", &json!({}))).await;
    assert_eq!(stalled, 408);
    wait_until(|| gateway.running().gateway.work.is_empty()).await;
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let gateway = Site::new().start();
    let body = "{\"query\":\"q\"}";
    let head = format!(
        "POST /v1/chat HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-type: application/json\r\nexpect: 100-continue\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        gateway.token("alpha", "u"),
        body.len()
    );
    let answer = client::raw(gateway.public(), head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 100 Continue\r\n"), "{answer}");
    assert!(answer.contains("\r\nHTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn header_fields_over_the_limits_are_refused() {
    let gateway = Site::new().start();
    let mut request = gateway.chat("alpha", "u", &json!({ "query": "q" }));
    request.headers_mut().insert("x-long", HeaderValue::from_bytes(&[b'a'; 9 * 1024]).unwrap());
    let message = client::http1(gateway.public(), request).await.error(431, "headers_too_large");
    assert!(message.contains("over 8192 bytes"), "{message}");
    let mut request = gateway.chat("alpha", "u", &json!({ "query": "q" }));
    for i in 0..64 {
        request.headers_mut().insert(http::HeaderName::from_bytes(format!("x-{i}").as_bytes()).unwrap(), HeaderValue::from_static("v"));
    }
    let message = client::http1(gateway.public(), request).await.error(431, "headers_too_large");
    assert!(message.contains("at most 64"), "{message}");
    assert_eq!(gateway.ask("alpha", "u", "fine").await["seq"], 1);
}

#[tokio::test]
async fn what_is_no_http_gets_the_error_format_too() {
    let gateway = Site::new().start();
    let answer = client::raw(gateway.public(), b"NONSENSE\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("\"code\":\"bad_request\""), "{answer}");
    // Shorter than the preface of HTTP/2, and still a whole request.
    let answer = client::raw(gateway.public(), b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("\"code\":\"not_found\""), "{answer}");
    assert_eq!(gateway.ask("alpha", "u", "fine").await["seq"], 1);
}

#[tokio::test]
async fn a_rejected_request_with_a_body_keeps_its_connection() {
    let gateway = Site::new().start();
    let mut connection = Http1::connect(gateway.public()).await;
    connection.send(post("/v1/chat", None, "x".repeat(10_000))).await.error(401, "unauthorized");
    connection.send(post("/nowhere", None, "x".repeat(10_000))).await.error(404, "not_found");
    assert_eq!(connection.send(gateway.chat("alpha", "u", &json!({ "query": "q" }))).await.json()["seq"], 1);
}

#[tokio::test]
async fn the_user_id_of_an_older_client_must_be_the_token_s() {
    let gateway = Site::new().start();
    gateway.say("alpha", "u1", json!({ "query": "q", "user_id": "u2" })).await.error(403, "forbidden");
    assert_eq!(gateway.say("alpha", "u1", json!({ "query": "q", "user_id": "u1" })).await.json()["seq"], 1);
    let request = Request::post("/v1/chat").header("host", "t").body(Full::default()).unwrap();
    client::http1(gateway.public(), request).await.error(401, "unauthorized");
}
