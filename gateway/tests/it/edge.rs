//! What every request meets first: how many connections there may be, and heads and paths that are read in one way only.

use std::sync::Arc;

use fengda_plugins::api::{BuildCtx, Code, Decision, Plugin, PluginSpec, Registry, Reject, RequestCtx, Step};
use http::request::Parts;
use serde_json::json;
use tokio::net::TcpStream;

use super::{
    client::{self, Http1},
    frames::{self, Connection},
    harness::{Gateway, Site, post},
    process::Process,
    turns::wait_until,
};

/// Sends a head as it is and asserts that it is refused, with nothing that follows it served.
async fn refused(gateway: &Gateway, head: &[u8], status: u16, code: &str) {
    let shown = String::from_utf8_lossy(&head[..head.len().min(120)]).into_owned();
    // Had the connection stayed open, this would be answered and the answer would not end.
    let answer = client::raw(gateway.public(), &[head, b"\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: t\r\n\r\n"].concat()).await;
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown:?}: {answer}");
    assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{shown:?}: {answer}");
    assert_eq!(answer.matches("HTTP/1.1 4").count(), 1, "{shown:?}: {answer}");
    let lower = answer.to_ascii_lowercase();
    assert!(lower.contains("connection: close") && lower.contains("x-request-id: "), "{shown:?}: {answer}");
}

#[tokio::test]
async fn heads_that_servers_read_in_different_ways_are_refused() {
    let gateway = Site::new().start();
    let fields: &[&[u8]] = &[
        // Where the body ends.
        b"content-length: 5\r\ntransfer-encoding: chunked",
        b"transfer-encoding: chunked\r\nCONTENT-LENGTH: 5",
        b"content-length: 5\r\ncontent-length: 5",
        b"content-length: 5\r\ncontent-length: 6",
        b"content-length: 5, 5",
        b"content-length: +5",
        b"content-length: -1",
        b"content-length: 0x5",
        b"content-length: 5 5",
        b"content-length: 99999999999999999999",
        b"content-length:",
        b"transfer-encoding: gzip, chunked",
        b"transfer-encoding: chunked, chunked",
        b"transfer-encoding: chunked, identity",
        b"transfer-encoding: identity",
        b"transfer-encoding: xchunked",
        b"transfer-encoding: \x0bchunked",
        b"transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        b"transfer-encoding:\r\ncontent-length: 5",
        // Whom it is for.
        b"host: u",
        // Where a field ends.
        b"x: a\r\n b",
        b"x: a\r\n\tb",
        b"x: a\nb: c",
        b"x: a\rb: c",
        b"x: a\0b",
        b"x : a",
        b"content-length : 5",
        b" x: a",
        b": a",
        b"no colon",
        b"x(y): a",
    ];
    for field in fields {
        refused(&gateway, &[b"POST /v1/chat HTTP/1.1\r\nhost: t\r\n", *field].concat(), 400, "bad_request").await;
    }
    let heads: &[&[u8]] = &[
        b"POST /v1/chat HTTP/1.0\r\nhost: t\r\ntransfer-encoding: chunked",
        b"GET / HTTP/1.1\r\nx: no host",
        b"GET / HTTP/1.1\r\nhost: a/b",
        b"GET / HTTP/1.1\r\nhost: me@t",
        b"GET / HTTP/1.1\r\nhost: a b",
        b"GET / HTTP/1.1\r\nhost: a\"b",
        b"GET / HTTP/1.1\r\nhost: a,b",
        b"GET / HTTP/1.1\r\nhost: a:b",
        b"GET / HTTP/1.1\r\nhost: a:99999",
        b"GET / HTTP/1.1\r\nhost: a:+80",
        b"GET / HTTP/1.1\r\nhost: [::1",
        b"GET / HTTP/1.1\r\nhost: [::1]80",
        b"GET / HTTP/1.1\r\nhost: [t]",
        b"GET / HTTP/1.1\r\nhost: :80",
        b"GET / HTTP/1.1\r\nhost:",
        b"GET / HTTP/1.1\nhost: t",
        b"\nGET / HTTP/1.1\r\nhost: t",
        b"G\x01T / HTTP/1.1\r\nhost: t",
        b"GET /\x01 HTTP/1.1\r\nhost: t",
        b"GET /a\tb HTTP/1.1\r\nhost: t",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: t",
        b"GET v1/chat HTTP/1.1\r\nhost: t",
        b"GET * HTTP/1.1\r\nhost: t",
        b"OPTIONS * HTTP/1.1\r\nhost: t",
        b"CONNECT t:80 HTTP/1.1\r\nhost: t:80",
        b"GET http://other/v1/chat HTTP/1.1\r\nhost: t",
        b"GET http:/v1/chat HTTP/1.1\r\nhost: t",
        b"GET ftp://t/v1/chat HTTP/1.1\r\nhost: t",
        b"GET / HTTP/1.2\r\nhost: t",
        b"GET / HTTP/2.0\r\nhost: t",
        b"GET /",
    ];
    for head in heads {
        refused(&gateway, head, 400, "bad_request").await;
    }
    assert_eq!(gateway.ask("alpha", "u", "fine").await["seq"], 1);
}

#[tokio::test]
async fn heads_over_the_limits_and_expectations_that_cannot_be_met_end_the_connection() {
    let gateway = Site::new().start();
    let many = |count: usize| -> String { (0..count).map(|i| format!("x-{i}: v\r\n")).collect() };
    for count in [64, 255, 256, 300, 5_000] {
        let head = format!("GET / HTTP/1.1\r\nhost: t\r\n{}x: y", many(count));
        refused(&gateway, head.as_bytes(), 431, "headers_too_large").await;
    }
    // As much as is read, so that nothing is left to reset the connection for.
    let endless = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat((1 << 20) - 19));
    let answer = client::raw(gateway.public(), endless.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains("headers_too_large"), "{answer}");
    for expect in ["200-ok", "100-continue, 200-ok", "100-continue\r\nexpect: x"] {
        let head = format!("POST /v1/chat HTTP/1.1\r\nhost: t\r\ncontent-length: 0\r\nexpect: {expect}");
        refused(&gateway, head.as_bytes(), 417, "expectation_failed").await;
    }
}

#[tokio::test]
async fn an_older_client_is_not_asked_to_continue() {
    let gateway = Site::new().start();
    let token = gateway.token("alpha", "u");
    let head =
        format!("POST /v1/chat HTTP/1.0\r\ncontent-type: application/json\r\nauthorization: Bearer {token}\r\nexpect: 100-continue\r\n");
    let answer = client::raw(gateway.public(), format!("{head}content-length: 13\r\n\r\n{{\"query\":\"q\"}}").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn an_older_client_finds_the_end_of_a_stream_in_that_of_its_connection() {
    let gateway = Site::new().start();
    let (token, body) = (gateway.token("alpha", "u"), "{\"query\":\"q\",\"stream\":true}");
    let head = format!(
        "POST /v1/chat HTTP/1.0\r\nconnection: keep-alive\r\ncontent-type: application/json\r\nauthorization: Bearer {token}\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let answer = client::raw(gateway.public(), (head + body).as_bytes()).await;
    let (head, events) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.to_ascii_lowercase().contains("\r\nconnection: close"), "{head}");
    assert!(events.contains("event: done\n"), "{events}");
}

#[tokio::test]
async fn a_whole_uri_is_taken_for_its_path() {
    let gateway = Site::new().start();
    let token = gateway.token("alpha", "u");
    for target in ["http://t/v1/history?session_id=s", "HTTP://t//v1/./history?session_id=s"] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: t\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n");
        let answer = client::raw(gateway.public(), request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"session_id\":\"s\""), "{target}: {answer}");
    }
}

/// Turns everything away with the path that it was shown.
struct Mirror;

impl Plugin for Mirror {
    fn name(&self) -> &'static str {
        "mirror"
    }

    fn request<'a>(&'a self, head: &'a Parts, ctx: &'a mut RequestCtx) -> Step<'a, Decision> {
        let target = head.uri.path_and_query().unwrap().as_str();
        Step::Ready(Decision::Reject(Reject::new(Code::Forbidden, format!("{} {target}", ctx.route))))
    }
}

fn with_mirror(registry: &mut Registry) {
    let build = |_: &BuildCtx<'_>| Ok(Arc::new(Mirror) as Arc<dyn Plugin>);
    registry
        .register(PluginSpec { name: "mirror", after: &[], authenticates: false, schema: |_| true.into(), build: Box::new(build) })
        .unwrap();
}

const TWO_ROUTES: &str = "routes:
  - { path: /app/, chain: [mirror, auth, context], history: true }
  - { path: /admin, chain: [mirror, auth, context], history: true }
  - { path: /admin/, chain: [mirror, auth, context], history: true }
  - { path: /, chain: [mirror, auth, context], history: true }";

#[tokio::test]
async fn no_spelling_of_a_path_gets_past_its_route() {
    let gateway = Site::new().plugins(with_mirror).extra(TWO_ROUTES).start();
    let spellings: &[(&str, Option<&str>)] = &[
        ("/app/x?q=%zz%2F..//", Some("/app/ /app/x?q=%zz%2F..//")),
        ("/app/%61?%61", Some("/app/ /app/a?%61")),
        ("/app/../admin", Some("/admin /admin")),
        ("/app/%2e%2e/admin", Some("/admin /admin")),
        ("/app/.%2E/admin?x", Some("/admin /admin?x")),
        ("/app/x/../../admin/", Some("/admin/ /admin/")),
        ("/app//../admin", Some("/admin /admin")),
        ("//admin", Some("/admin /admin")),
        ("/./admin/.", Some("/admin/ /admin/")),
        ("/%61dmin", Some("/admin /admin")),
        ("/adm%69n/%78", Some("/admin/ /admin/x")),
        ("/app/%252e%252e/admin", Some("/app/ /app/%252e%252e/admin")),
        ("/app/%c0%ae%c0%ae/admin", Some("/app/ /app/%C0%AE%C0%AE/admin")),
        ("/app/a b", Some("/app/ /app/a%20b")),
        ("/app/a%2fb%5cc", Some("/app/ /app/a%2Fb%5Cc")),
        ("/admin/%2f", Some("/admin/ /admin/%2F")),
        ("/a/../x", Some("/ /x")),
        ("/admin%2fx", None),
        ("/admin%5Cx", None),
        ("/app/x;a=1/y%2fz", Some("/app/ /app/x;a=1/y%2Fz")),
        ("/admin;x", None),
        ("/admin;x/y", None),
        ("/;x/admin", None),
        ("/admin;x%2fy", None),
        ("/%2fadmin", None),
        ("/x%2f..;%2fadmin", None),
        ("/app/%5c..;x", None),
        ("/app/..%2fadmin", None),
        ("/app%2f..%2fadmin", None),
        ("/app/..%5cadmin", None),
        ("/app/..\\admin", None),
        ("/app/..;/admin", None),
        ("/app/%2e%2e;x/admin", None),
        ("/app/../../admin", None),
        ("/app/%00/../admin", None),
        ("/app/%zz", None),
        ("/app/%", None),
        ("/app/%0d%0ahost:%20x", None),
    ];
    for (spelling, expected) in spellings {
        let request = format!("GET {spelling} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n");
        let answer = client::raw(gateway.public(), request.as_bytes()).await;
        let (status, says) = expected.map_or((400, "bad_request"), |shown| (403, shown));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(&format!("\"{says}\"")), "{spelling}: {answer}");
    }
    // The same over HTTP/2.
    let mut connection = Connection::open(gateway.public()).await;
    connection.send(&frames::get(1, "/app/..%2fadmin", &[(":authority", "t")])).await;
    assert_eq!(frames::status(&connection.answer(1).await), Some(400));
    let request = http::Request::get("/app/../%61dmin").body(http_body_util::Full::default()).unwrap();
    assert_eq!(client::http2(gateway.public(), request).await.error(403, "forbidden"), "/admin /admin");
}

#[tokio::test]
async fn http2_requests_with_fields_of_connections_or_two_hosts_are_refused_alone() {
    let gateway = Site::new().start();
    let host = (":authority", "t");
    for (fields, expected) in [
        (vec![host, ("connection", "close")], None),
        (vec![host, ("transfer-encoding", "chunked")], None),
        (vec![host, ("upgrade", "websocket")], None),
        (vec![host, ("keep-alive", "5")], None),
        (vec![host, ("te", "gzip")], None),
        (vec![host, (":path", "/two")], None),
        (vec![host, ("content-length", "1"), ("content-length", "2")], None),
        (vec![host, ("host", "u")], Some(400)),
        (vec![host, ("host", "t"), ("host", "t")], Some(400)),
        (vec![(":authority", "me@t")], Some(400)),
        (vec![], Some(400)),
        (vec![host, ("host", "t"), ("te", "trailers")], Some(404)),
        (vec![("host", "t")], Some(404)),
    ] {
        let mut connection = Connection::open(gateway.public()).await;
        connection.send(&frames::get(1, "/nowhere", &fields)).await;
        let answer = connection.answer(1).await;
        assert_eq!(frames::status(&answer), expected, "{fields:?}: {answer:?}");
        connection.send(&frames::get(3, "/nowhere", &[host])).await;
        assert_eq!(frames::status(&connection.answer(3).await), Some(404), "{fields:?}: its neighbour is served");
    }
    // What breaks the compression's own rules takes the connection with it.
    for field in [("X-Upper", "a"), ("x", "a\r\nb: c"), ("x", "a\0")] {
        let mut connection = Connection::open(gateway.public()).await;
        connection.send(&frames::get(1, "/nowhere", &[host, field])).await;
        assert!(connection.next_of(frames::GOAWAY).await.is_some(), "{field:?}");
        while connection.next().await.is_some() {}
    }
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_counted_and_operators_still_get_theirs() {
    let gateway = Site::new().extra("limits: { connections: 2 }").start();
    let mut kept = Http1::connect(gateway.public()).await;
    kept.send(post("/nowhere", None, "")).await.error(404, "not_found");
    let idle = TcpStream::connect(gateway.public()).await.unwrap();
    wait_until(|| gateway.running().gateway.connections.len() == 2).await;
    for _ in 0..3 {
        assert_eq!(client::rest(TcpStream::connect(gateway.public()).await.unwrap()).await, "");
    }
    assert_eq!(gateway.metric("fengda_connections_refused_total").await, 3.0);
    kept.send(post("/nowhere", None, "")).await.error(404, "not_found");
    drop(idle);
    wait_until(|| gateway.running().gateway.connections.len() == 1).await;
    client::http1(gateway.public(), post("/nowhere", None, "")).await.error(404, "not_found");
}

#[tokio::test]
async fn operators_are_served_when_clients_have_all_the_files_that_they_may_have() {
    let site = Site::new();
    let config = site.write(&site.config());
    // 240 files: 128 are kept, and of the rest every client may need two.
    let mut process = Process::start_as(&["sh", "-c", "ulimit -n 240; exec \"$@\"", "sh"], &config).await;
    assert_eq!((&process.began[0]["event"], &process.began[0]["served"]), (&json!("few_files"), &json!(56)));
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(TcpStream::connect(process.public).await.unwrap());
    }
    let refused = process.event("connection_refused").await;
    assert_eq!(refused["most"], 56);
    let request = http::Request::get("/livez").header("host", "t").body(http_body_util::Full::default()).unwrap();
    assert_eq!(client::http1(process.admin.unwrap(), request).await.status, 200);
    drop(clients);
    let reply = loop {
        if let Ok(reply) = Http1::connect(process.public).await.try_begin(post("/nowhere", None, "")).await {
            break reply;
        }
    };
    assert_eq!(reply.status(), 404);
}

#[tokio::test]
async fn streams_over_the_limit_are_refused_and_an_idle_http2_connection_is_closed() {
    let gateway = Site::new().extra("limits: { streams: 2, h2_idle: 200ms }").start();
    let bearer = format!("Bearer {}", gateway.token("alpha", "u"));
    let mut connection = Connection::open(gateway.public()).await;
    let settings = connection.next_of(frames::SETTINGS).await.unwrap();
    assert!(settings.payload.chunks(6).any(|s| s == [0, 3, 0, 0, 0, 2]), "{settings:?}");
    for stream in [1, 3, 5] {
        // The body does not come, so the stream stays open.
        let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/v1/chat"), (":authority", "t"), ("authorization", &bearer)];
        let block = frames::block(&[&fields[..], &[("content-type", "application/json")]].concat());
        connection.send(&frames::frame(frames::HEADERS, frames::END_HEADERS, stream, &block)).await;
    }
    let refused = connection.answer(5).await;
    assert_eq!((refused.kind, &refused.payload[..]), (frames::RST_STREAM, &7u32.to_be_bytes()[..]));
    let mut idle = Connection::open(gateway.public()).await;
    while idle.next().await.is_some() {}
}
