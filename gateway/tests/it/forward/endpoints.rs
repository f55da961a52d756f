//! Which endpoint gets a request, when it gets it again, and over what.

use super::*;

#[tokio::test]
async fn only_what_may_be_repeated_is() {
    let (origin, gateway) = with("{ path: /, public: true, chain: [circuit_breaker: { retries: 2 }], upstream: app }").await;
    for (method, plan, status, requests) in [("GET", vec![503, 502], 200, 3), ("POST", vec![503], 503, 1), ("PUT", vec![502, 502], 502, 1)]
    {
        *origin.shared.plan.lock().unwrap() = plan;
        let before = origin.shared.requests.load(Ordering::SeqCst);
        let body = if method == "PUT" { "body" } else { "" };
        let reply = client::http1(gateway.public(), request(method, "/planned", &[], body)).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (status, "planned"), "{method}");
        assert_eq!(origin.shared.requests.load(Ordering::SeqCst) - before, requests, "{method}");
        origin.shared.plan.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn an_open_circuit_answers_at_once() {
    let (origin, gateway) =
        with("{ path: /, public: true, chain: [circuit_breaker: { failures: 1, retries: 0, recovery: 30s }], upstream: app }").await;
    *origin.shared.plan.lock().unwrap() = vec![500];
    assert_eq!(client::http1(gateway.public(), request("GET", "/planned", &[], "")).await.status, 500);
    let refused = client::http1(gateway.public(), request("GET", "/planned", &[], "")).await;
    refused.error(503, "upstream_unavailable");
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(origin.shared.requests.load(Ordering::SeqCst), 1);
}

async fn two(more: &str) -> (Origin, Origin, Gateway) {
    let (a, b) = (Origin::start().await, Origin::start().await);
    let upstream = format!("{{ protocol: http, endpoints: [\"http://{}\", \"http://{}\"], {more} }}", a.addr, b.addr);
    (a, b, Site::new().also("app", &upstream).route(PUBLIC).start())
}

#[tokio::test]
async fn endpoints_take_turns_or_stick_to_what_is_configured() {
    let counts = |a: &Origin, b: &Origin| [a, b].map(|o| o.shared.requests.swap(0, Ordering::SeqCst));
    let (a, b, gateway) = two("").await;
    for _ in 0..6 {
        seen(&gateway, request("GET", "/", &[], "")).await;
    }
    assert_eq!(counts(&a, &b), [3, 3]);
    for (balance, name, value) in [
        ("{ header: x-shard }", "x-shard", "s"),
        ("{ cookie: sid }", "cookie", "x=1; sid=s"),
        ("session", "x-session-id", "s"),
        ("user", "x-unused", "s"),
    ] {
        let (a, b, gateway) = two(&format!("balance: {balance}")).await;
        for key in 0..16 {
            let value = format!("{value}{key}");
            for _ in 0..2 {
                seen(&gateway, request("GET", "/", &[(name, &value)], "")).await;
            }
            let [a, b] = [&a, &b].map(|o| o.shared.requests.load(Ordering::SeqCst));
            assert!(a % 2 == 0 && b % 2 == 0, "{balance}: {a} {b}");
        }
        let [a, b] = counts(&a, &b);
        // All of these come from one address, which is what a user without a name goes by.
        assert_eq!(a > 0 && b > 0, balance != "user", "{balance}: {a} {b}");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_down_is_passed_over_and_then_left_out() {
    let (up, down) = (Origin::start().await, crate::bad_upstreams::nowhere().await);
    let upstream =
        format!("{{ protocol: http, endpoints: [\"http://{down}\", \"http://{}\"], eject: {{ failures: 2, for: 10s }} }}", up.addr);
    let gateway = Site::new().also("app", &upstream).route(PUBLIC).start();
    for _ in 0..8 {
        // Even what must not be repeated goes on: nothing of it had left.
        seen(&gateway, request("POST", "/", &[], "body")).await;
    }
    let status = gateway.admin("GET", "/status").await.json();
    assert_eq!(status["upstreams"]["app"][0], json!({ "endpoint": down.to_string(), "state": "ejected", "failures": 2 }));
    assert_eq!(status["upstreams"]["app"][1]["state"], "in");
    for (state, count) in [("in", 1.0), ("ejected", 1.0)] {
        assert_eq!(gateway.metric(&format!("fengda_upstream_endpoints{{state=\"{state}\",upstream=\"app\"}}")).await, count);
    }
}

#[tokio::test]
async fn upstreams_are_reached_over_tls_if_their_certificate_is_good() {
    let origin = Origin::start_tls().await;
    let port = origin.addr.port();
    let ca = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/pki/ca.pem");
    let upstream = |protocol: &str, host: &str, ca: &str| format!("{{ protocol: {protocol}, endpoints: [\"https://{host}:{port}\"]{ca} }}");
    let known = format!(", ca: \"{ca}\"");
    let site = Site::new().upstream(&upstream("answer", "localhost", &known));
    let site = site.also("known", &upstream("http", "localhost", &known)).route("{ path: /known/, public: true, upstream: known }");
    let site = site.also("unknown", &upstream("http", "localhost", "")).route("{ path: /unknown, public: true, upstream: unknown }");
    let site = site.also("other", &upstream("http", "127.0.0.2", &known)).route("{ path: /other, public: true, upstream: other }");
    let gateway = site.start();
    let mut connection = Http1::connect(gateway.public()).await;
    for _ in 0..3 {
        let reply = connection.send(request("POST", "/known/x", &[], "body")).await;
        assert_eq!(reply.json()["body"], "body");
    }
    assert_eq!(origin.shared.connections.load(Ordering::SeqCst), 1, "kept");
    assert_eq!(gateway.ask("alpha", "u", "q").await["answer"], "in private");
    for path in ["/unknown", "/other"] {
        connection.send(request("GET", path, &[], "")).await.error(502, "upstream_unreachable");
    }
}

#[tokio::test]
async fn a_retry_goes_to_another_endpoint() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    let upstream =
        format!("{{ protocol: http, endpoints: [\"http://{}\", \"http://{}\"], balance: {{ header: x-shard }} }}", a.addr, b.addr);
    let route = "{ path: /, public: true, chain: [circuit_breaker: { retries: 1 }], upstream: app }";
    let gateway = Site::new().also("app", &upstream).route(route).start();
    for origin in [&a, &b] {
        *origin.shared.plan.lock().unwrap() = vec![503];
    }
    // Whichever the field leads to fails, and then the other one, which is all that may be tried.
    let reply = client::http1(gateway.public(), request("GET", "/planned", &[("x-shard", "s")], "")).await;
    let requests = [a, b].map(|origin| origin.shared.requests.load(Ordering::SeqCst));
    assert_eq!((reply.status.as_u16(), requests), (503, [1, 1]));
}

#[tokio::test]
async fn a_call_s_time_is_for_all_of_its_attempts() {
    let bad = crate::bad_upstreams::Bad::start(crate::bad_upstreams::Fault::BlackHole).await;
    let route = "{ path: /, public: true, chain: [circuit_breaker: { retries: 5, timeout: 200ms }], upstream: app }";
    let upstream = format!("{{ protocol: http, endpoints: [\"http://{}\"] }}", bad.addr);
    let gateway = Site::new().also("app", &upstream).route(route).start();
    client::http1(gateway.public(), request("GET", "/", &[], "")).await.error(504, "deadline_exceeded");
    assert_eq!(bad.requests.load(Ordering::SeqCst), 1);
    // A body that moves has the time anew with each piece.
    let mut client = TcpStream::connect(gateway.public()).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 8\r\n\r\n").await.unwrap();
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.write_all(b"x").await.unwrap();
    }
    let mut answer = String::new();
    read_until(&mut client, &mut answer, "deadline_exceeded").await;
    assert_eq!(bad.requests.load(Ordering::SeqCst), 2);
}
