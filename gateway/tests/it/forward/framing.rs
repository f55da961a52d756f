//! Where a message ends: said once, in one way, and never said of a message that was cut off.

use super::*;

async fn before(app: std::net::SocketAddr) -> Gateway {
    let upstream = format!("{{ protocol: http, endpoints: [\"http://{app}\"] }}");
    Site::new().also("app", &upstream).route(PUBLIC).start()
}

#[tokio::test]
async fn a_response_goes_back_with_one_length_and_only_if_it_has_a_body() {
    for (answer, status, body) in [
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200, "hello"),
        ("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", 204, ""),
    ] {
        let gateway = before(says(answer).await).await;
        let reply = client::http1(gateway.public(), request("GET", "/", &[], "")).await;
        assert_eq!((reply.status.as_u16(), reply.text(), reply.headers.get("content-length")), (status, body, None), "{answer}");
    }
}

#[tokio::test]
async fn a_coding_that_the_client_would_not_be_told_of_is_no_answer() {
    let gateway = before(says("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nzz\r\n0\r\n\r\n").await).await;
    client::http1(gateway.public(), request("GET", "/", &[], "")).await.error(502, "upstream_failed");
}

#[tokio::test]
async fn a_response_that_its_client_ended_does_not_look_complete() {
    let (origin, gateway) = open().await;
    let events = origin.events();
    let mut client = TcpStream::connect(gateway.public()).await.unwrap();
    client.write_all(b"GET /events HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    events.send("data: 1\n\n").await.unwrap();
    let mut answer = String::new();
    read_until(&mut client, &mut answer, "data: 1").await;
    // It sends nothing any more, but it can still read.
    client.shutdown().await.unwrap();
    let _ = tokio::time::timeout(PATIENCE, client.read_to_string(&mut answer)).await.expect("a close");
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer:?}");
}

#[tokio::test]
async fn after_a_body_with_broken_framing_nothing_on_its_connection_is_a_request() {
    let (origin, gateway) = open().await;
    let mut client = TcpStream::connect(gateway.public()).await.unwrap();
    client.write_all(b"POST /mirror HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n").await.unwrap();
    let mut answer = String::new();
    read_until(&mut client, &mut answer, "one").await;
    client.write_all(b"zz\r\nGET /smuggled HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    let _ = tokio::time::timeout(PATIENCE, client.read_to_string(&mut answer)).await.expect("a close");
    assert!(!answer.ends_with("0\r\n\r\n") && answer.matches("HTTP/1.1").count() == 1, "{answer:?}");
    assert_eq!(origin.shared.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_http_1_0_client_is_not_asked_for_its_body() {
    let (_origin, gateway) = open().await;
    let sent = b"POST /sink HTTP/1.0\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\nhello";
    let answer = client::raw(gateway.public(), sent).await;
    assert!(answer.split("\r\n").next().is_some_and(|line| line.ends_with("200 OK")) && answer.ends_with("5"), "{answer}");
}

#[tokio::test]
async fn a_client_that_stops_amid_its_body_is_no_failure_of_the_upstream() {
    let origin = Origin::start().await;
    let upstream = format!("{{ protocol: http, endpoints: [\"http://{}\"], timeouts: {{ idle: 200ms }} }}", origin.addr);
    let route = "{ path: /, public: true, chain: [circuit_breaker: { failures: 1, retries: 0 }], upstream: app }";
    let gateway = Site::new().also("app", &upstream).route(route).start();
    let mut client = TcpStream::connect(gateway.public()).await.unwrap();
    client.write_all(b"POST /mirror HTTP/1.1\r\nhost: t\r\ncontent-length: 9\r\n\r\nbegun").await.unwrap();
    let mut answer = String::new();
    read_until(&mut client, &mut answer, "begun").await;
    let _ = tokio::time::timeout(PATIENCE, client.read_to_string(&mut answer)).await.expect("a close");
    seen(&gateway, request("GET", "/", &[], "")).await;
}
