//! Routes with an `upstream`: what goes through, what does not, and how much of it is on its way at a time.

mod bodies;
mod endpoints;
mod framing;
mod upgrades;

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    client::{self, Http1, PATIENCE},
    harness::{Gateway, Site},
    origin::Origin,
    turns::wait_until,
};

const PUBLIC: &str = "{ path: /, public: true, upstream: app }";

async fn open() -> (Origin, Gateway) {
    with(PUBLIC).await
}

async fn with(route: &str) -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let gateway = Site::new().also("app", &origin.upstream()).route(route).start();
    (origin, gateway)
}

fn request(method: &str, path: &str, fields: &[(&str, &str)], body: &'static str) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path).header("host", "shop.example");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(Full::from(body)).unwrap()
}

async fn seen(gateway: &Gateway, request: Request<Full<Bytes>>) -> Value {
    let reply = client::http1(gateway.public(), request).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[tokio::test]
async fn a_request_arrives_as_it_was_sent_without_what_belongs_to_the_connection() {
    let (_origin, gateway) = open().await;
    let fields = [
        ("connection", "x-once, keep-alive"),
        ("x-once", "1"),
        ("keep-alive", "timeout=1"),
        ("te", "trailers, gzip"),
        ("proxy-authorization", "Basic x"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x_forwarded_for", "1.2.3.4"),
        ("content_length", "50"),
        ("transfer_encoding", "chunked"),
        ("forwarded", "for=1.2.3.4"),
        ("x-real-ip", "1.2.3.4"),
        ("x-fengda-tenant", "harbor-bank"),
        ("X_Fengda_User", "root"),
        ("authorization", "Bearer app"),
        ("cookie", "a=1"),
        ("x-request-id", "req-1"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ];
    let seen = seen(&gateway, request("PATCH", "/a%20b/?q=%2F&x", &fields, "hello")).await;
    let headers = &seen["headers"];
    assert_eq!((&seen["method"], &seen["target"], &seen["body"]), (&json!("PATCH"), &json!("/a%20b/?q=%2F&x"), &json!("hello")));
    for gone in [
        "x-once",
        "keep-alive",
        "proxy-authorization",
        "content_length",
        "transfer_encoding",
        "x_forwarded_for",
        "forwarded",
        "x-real-ip",
        "x-fengda-tenant",
        "x_fengda_user",
    ] {
        assert_eq!(headers[gone], Value::Null, "{gone}");
    }
    for (kept, value) in [
        ("host", "shop.example"),
        ("te", "trailers"),
        ("content-length", "5"),
        ("authorization", "Bearer app"),
        ("cookie", "a=1"),
        ("x-request-id", "req-1"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "shop.example"),
    ] {
        assert_eq!(headers[kept], value, "{kept}");
    }
    let trace = headers["traceparent"].as_str().unwrap();
    assert!(trace.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && !trace.contains("00f067aa0ba902b7"), "{trace}");
}

#[tokio::test]
async fn a_response_goes_back_as_it_is_without_what_belongs_to_the_connection() {
    let (_origin, gateway) = open().await;
    let reply = client::http1(gateway.public(), request("GET", "/", &[("x-request-id", "req-2")], "")).await;
    let cookies: Vec<_> = reply.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    for (name, value) in [("server", "app"), ("x-app", "1"), ("x-request-id", "req-2")] {
        assert_eq!(reply.headers[name], value);
    }
    assert!(!reply.headers.contains_key("x-hop") && !reply.headers.contains_key("keep-alive"));
    assert_eq!(reply.headers["content-length"], reply.body.len().to_string());
}

#[tokio::test]
async fn an_authenticated_route_says_who_it_is_and_runs_its_whole_chain() {
    let (_origin, gateway) =
        with("{ path: /, chain: [auth, rate_limit], upstream: app, request_headers: { remove: [authorization] } }").await;
    client::http1(gateway.public(), request("GET", "/", &[], "")).await.error(401, "unauthorized");
    let bearer = format!("Bearer {}", gateway.token("alpha", "用户 1"));
    let reply = client::http1(gateway.public(), request("GET", "/", &[("authorization", &bearer)], "")).await;
    let headers = &reply.json()["headers"];
    assert_eq!((&headers["x-fengda-tenant"], &headers["x-fengda-user"]), (&json!("alpha"), &json!("%E7%94%A8%E6%88%B7%201")));
    assert_eq!(headers["authorization"], Value::Null);
    assert!(reply.headers.contains_key("ratelimit"));
}

#[tokio::test]
async fn paths_and_fields_are_rewritten_as_the_route_says() {
    let (origin, gateway) = with(
        "{ path: /app/, public: true, upstream: app, host: upstream, trust_forwarded: true, rewrite: { strip: /app, add: /v2 }, \
         request_headers: { set: { x-role: shop }, remove: [x-secret] }, response_headers: { set: { x-frame-options: DENY }, remove: [server] } }",
    )
    .await;
    let fields = [
        ("x_role", "admin"),
        ("X-Secret", "1"),
        ("x-forwarded-for", "9.9.9.9"),
        ("x-forwarded-proto", "https"),
        // No proxy of one's own writes it like this, and some let it through.
        ("x_forwarded_for", "6.6.6.6"),
    ];
    let reply = client::http1(gateway.public(), request("GET", "/app/x?y", &fields, "")).await;
    let seen = reply.json();
    let headers = &seen["headers"];
    assert_eq!((&seen["target"], &headers["host"]), (&json!("/v2/x?y"), &json!(origin.addr.to_string())));
    assert_eq!((&headers["x-role"], &headers["x_role"], &headers["x-secret"]), (&json!("shop"), &Value::Null, &Value::Null));
    assert_eq!((&headers["x-forwarded-for"], &headers["x-forwarded-proto"]), (&json!("9.9.9.9, 127.0.0.1"), &json!("https")));
    assert_eq!(headers["x_forwarded_for"], Value::Null);
    assert!(reply.headers["x-frame-options"] == "DENY" && !reply.headers.contains_key("server"));
    client::http1(gateway.public(), request("GET", "/app/%2e%2e/admin", &[], "")).await.error(404, "not_found");
}

#[tokio::test]
async fn responses_without_a_body_have_none_and_the_connection_goes_on() {
    let (_origin, gateway) = open().await;
    let mut connection = Http1::connect(gateway.public()).await;
    let head = connection.send(request("HEAD", "/", &[], "")).await;
    assert!(head.body.is_empty() && head.headers["content-length"] != "0");
    for (path, status) in [("/empty", 204), ("/unchanged", 304), ("/", 200)] {
        let reply = connection.send(request("GET", path, &[], "")).await;
        assert_eq!((reply.status.as_u16(), reply.headers.contains_key("transfer-encoding")), (status, false), "{path}");
    }
    let empty = connection.send(request("POST", "/", &[("content-length", "0")], "")).await.json();
    assert_eq!(empty["headers"]["content-length"], "0");
}

#[tokio::test]
async fn connections_to_the_upstream_are_kept() {
    let (origin, gateway) = open().await;
    let mut connection = Http1::connect(gateway.public()).await;
    for _ in 0..10 {
        assert_eq!(connection.send(request("POST", "/", &[], "body")).await.status, 200);
    }
    assert_eq!(origin.shared.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn http2_clients_are_served_the_same() {
    let (_origin, gateway) = open().await;
    let mut sent = request("POST", "/x", &[], "hello");
    sent.headers_mut().remove("host");
    let reply = client::http2(gateway.public(), sent).await;
    let seen = reply.json();
    assert_eq!((&seen["body"], &seen["headers"]["host"]), (&json!("hello"), &json!("test")));
    let reply = client::http2(gateway.public(), request("POST", "/mirror", &[], "there and back")).await;
    assert_eq!(reply.text(), "there and back");
}

/// An application that answers every request with these bytes.
async fn says(answer: &'static str) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = Vec::new();
                while stream.read_buf(&mut request).await.is_ok_and(|n| n > 0) {
                    if request.ends_with(b"\r\n\r\n") {
                        request.clear();
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                }
            });
        }
    });
    address
}

async fn read_until(client: &mut TcpStream, answer: &mut String, wanted: &str) {
    while !answer.contains(wanted) {
        let mut buffer = [0; 4096];
        let n =
            tokio::time::timeout(PATIENCE, client.read(&mut buffer)).await.unwrap_or_else(|_| panic!("`{wanted}` in {answer}")).unwrap();
        assert_ne!(n, 0, "{answer}");
        answer.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
}

#[tokio::test]
async fn what_cannot_be_passed_on_as_it_is_is_refused() {
    let (origin, gateway) = open().await;
    for (target, status) in [("GET /a/../../b", "400"), ("GET /%zz", "400"), ("CONNECT t:1", "400")] {
        let sent = [target, " HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n"].concat();
        let answer = client::raw(gateway.public(), sent.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    assert_eq!(origin.shared.requests.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_older_client_finds_the_end_of_a_body_without_a_length_in_that_of_its_connection() {
    let (_origin, gateway) = open().await;
    let request = "POST /mirror HTTP/1.0\r\nhost: t\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\nhello";
    let answer = client::raw(gateway.public(), request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.to_ascii_lowercase().contains("\r\nconnection: close"), "{head}");
    assert_eq!(body, "hello");
}
