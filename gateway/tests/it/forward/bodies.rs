//! Bodies on their way: piece by piece, both ways at once, no faster than the slower side, and given up with the client.

use super::*;

#[tokio::test]
async fn chunked_bodies_go_both_ways() {
    let (_origin, gateway) = open().await;
    let sent = b"POST /mirror HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    let answer = client::raw(gateway.public(), sent).await.to_lowercase();
    assert!(answer.contains("transfer-encoding: chunked"), "{answer}");
    let body: String = answer.split("\r\n\r\n").nth(1).unwrap().split("\r\n").skip(1).step_by(2).collect();
    assert_eq!(body, "hello world");
}

#[tokio::test]
async fn an_http_1_0_client_gets_the_body_until_the_end() {
    let (_origin, gateway) = open().await;
    let answer = client::raw(gateway.public(), b"POST /mirror HTTP/1.0\r\ncontent-length: 5\r\n\r\nhello").await;
    assert!(answer.starts_with("HTTP/1.") && answer.ends_with("\r\n\r\nhello") && !answer.to_lowercase().contains("chunked"), "{answer}");
}

/// How far the fast side may get ahead of the slow one: what the sockets of two connections buffer at most, and a few pieces of ours.
fn ahead() -> u64 {
    let most = |name: &str| -> u64 {
        let sizes = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
        sizes.split_whitespace().last().unwrap().parse().unwrap()
    };
    2 * (most("tcp_wmem") + most("tcp_rmem")) + (2 << 20)
}

#[tokio::test]
async fn an_endless_download_waits_for_a_client_that_does_not_read() {
    let (origin, gateway) = open().await;
    let mut client = TcpStream::connect(gateway.public()).await.unwrap();
    client.write_all(b"GET /endless HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    let made = || origin.shared.made.load(Ordering::SeqCst);
    let stalled = stalls(&made).await;
    assert!(stalled < ahead(), "{stalled} bytes made for a client that reads none");
    // It goes on when the client does.
    let mut read = 0_u64;
    let mut buffer = vec![0; 1 << 20];
    while read < 200 << 20 {
        read += client.read(&mut buffer).await.unwrap() as u64;
    }
    assert!(made() - read < ahead(), "{} bytes made, {read} read", made());
    // And ends with it.
    drop(client);
    wait_until(|| gateway.running().gateway.work.is_empty()).await;
    assert_eq!(gateway.metric("fengda_requests_total{route=\"/\",status=\"499\",tenant=\"-\"}").await, 1.0);
}

#[tokio::test]
async fn an_upload_waits_for_an_upstream_that_does_not_read() {
    const SIZE: u64 = 200 << 20;
    let (origin, gateway) = open().await;
    let client = TcpStream::connect(gateway.public()).await.unwrap();
    let (mut from, mut to) = client.into_split();
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = sent.clone();
    let upload = tokio::spawn(async move {
        to.write_all(format!("POST /slow-sink HTTP/1.1\r\nhost: t\r\ncontent-length: {SIZE}\r\n\r\n").as_bytes()).await.unwrap();
        let chunk = vec![b'x'; 64 << 10];
        while counter.load(Ordering::SeqCst) < SIZE {
            to.write_all(&chunk).await.unwrap();
            counter.fetch_add(chunk.len() as u64, Ordering::SeqCst);
        }
        to
    });
    let stalled = stalls(&|| sent.load(Ordering::SeqCst)).await;
    assert!(stalled < ahead(), "{stalled} bytes sent to an upstream that reads none");
    origin.shared.go.notify_one();
    let _to = upload.await.unwrap();
    let mut answer = String::new();
    while !answer.ends_with(&SIZE.to_string()) {
        let mut buffer = [0; 4096];
        let n = tokio::time::timeout(PATIENCE, from.read(&mut buffer)).await.expect("an answer in time").unwrap();
        assert_ne!(n, 0, "{answer}");
        answer += std::str::from_utf8(&buffer[..n]).unwrap();
    }
    assert_eq!(origin.shared.read.load(Ordering::SeqCst), SIZE);
}

/// Waits until a counter has begun to move and has then stood still for some time, and returns it.
async fn stalls(count: &impl Fn() -> u64) -> u64 {
    let (mut last, mut since) = (count(), tokio::time::Instant::now());
    while last == 0 || since.elapsed() < Duration::from_millis(300) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = count();
        if now != last {
            (last, since) = (now, tokio::time::Instant::now());
        }
    }
    last
}

#[tokio::test]
async fn the_response_comes_while_the_request_is_still_on_its_way() {
    let (_origin, gateway) = open().await;
    let mut client = TcpStream::connect(gateway.public()).await.unwrap();
    client.write_all(b"POST /mirror HTTP/1.1\r\nhost: t\r\ncontent-length: 15\r\n\r\none").await.unwrap();
    let mut answer = String::new();
    for (next, sent) in [("one", "-two"), ("two", "-three!!"), ("three!!", "")] {
        read_until(&mut client, &mut answer, next).await;
        client.write_all(sent.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn an_early_answer_ends_the_upload_and_is_read_by_the_client() {
    let (_origin, gateway) = open().await;
    let mut client = TcpStream::connect(gateway.public()).await.unwrap();
    client.write_all(b"POST /early HTTP/1.1\r\nhost: t\r\ncontent-length: 1000000\r\n\r\nbegun").await.unwrap();
    let mut answer = String::new();
    read_until(&mut client, &mut answer, "too much").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_body_over_the_route_s_limit_is_refused_with_and_without_a_declared_length() {
    let (origin, gateway) = with("{ path: /, public: true, upstream: app, body: 1KiB }").await;
    let large: &str = "x".repeat(1025).leak();
    client::http1(gateway.public(), request("POST", "/", &[], large)).await.error(413, "body_too_large");
    assert_eq!(origin.shared.connections.load(Ordering::SeqCst), 0);
    let chunked =
        format!("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n401\r\n{large}\r\n0\r\n\r\n");
    let answer = client::raw(gateway.public(), chunked.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_large"), "{answer}");
    assert_eq!(origin.shared.read.load(Ordering::SeqCst), 0);
    assert_eq!(seen(&gateway, request("POST", "/", &[], &large[1..])).await["body"], large[1..]);
}

#[tokio::test]
async fn a_body_is_asked_for_once_the_upstream_s_connection_stands() {
    let (_origin, gateway) = open().await;
    let mut client = TcpStream::connect(gateway.public()).await.unwrap();
    client.write_all(b"POST /sink HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    read_until(&mut client, &mut answer, "HTTP/1.1 100 Continue\r\n\r\n").await;
    client.write_all(b"hello").await.unwrap();
    read_until(&mut client, &mut answer, "\r\n\r\n5").await;
    // Without an upstream there is nothing to ask for.
    let nowhere = crate::bad_upstreams::nowhere().await;
    let gateway = Site::new().also("app", &format!("{{ protocol: http, endpoints: [\"http://{nowhere}\"] }}")).route(PUBLIC).start();
    let mut client = TcpStream::connect(gateway.public()).await.unwrap();
    client.write_all(b"POST /sink HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    read_until(&mut client, &mut answer, "upstream_unreachable").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_with_it() {
    let (origin, gateway) = open().await;
    for method in ["GET", "POST"] {
        let mut client = TcpStream::connect(gateway.public()).await.unwrap();
        let length = if method == "POST" { "content-length: 2\r\n" } else { "" };
        client.write_all(format!("{method} /hold HTTP/1.1\r\nhost: t\r\n{length}\r\n").as_bytes()).await.unwrap();
        if method == "POST" {
            client.write_all(b"ab").await.unwrap();
        }
        origin.wait(&origin.shared.held).await;
        drop(client);
        origin.wait(&origin.shared.gone).await;
    }
    wait_until(|| gateway.running().gateway.work.is_empty()).await;
}

#[tokio::test]
async fn a_client_that_breaks_its_upload_off_does_not_look_complete_to_the_upstream() {
    let (origin, gateway) = open().await;
    let mut client = TcpStream::connect(gateway.public()).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await.unwrap();
    wait_until(|| origin.shared.requests.load(Ordering::SeqCst) == 1).await;
    drop(client);
    wait_until(|| gateway.running().gateway.work.is_empty()).await;
    assert_eq!(origin.shared.read.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_client_that_stops_sending_its_body_is_told_so() {
    let origin = Origin::start().await;
    let site = Site::new().also("app", &origin.upstream()).route(PUBLIC);
    let gateway = site.extra("limits: { read_timeout: 100ms }").start();
    let answer = client::raw(gateway.public(), b"POST /sink HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\n\r\nhel").await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"), "{answer}");
}

#[tokio::test]
async fn a_body_that_keeps_coming_but_not_to_an_end_is_given_up_with_its_upstream_s_request() {
    let (origin, gateway) = with("{ path: /, public: true, upstream: app, body_deadline: 300ms }").await;
    let drip = |path: &str| {
        let head = format!("POST {path} HTTP/1.1\r\nhost: t\r\ncontent-length: 100000\r\n\r\n");
        let address = gateway.public();
        async move {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(head.as_bytes()).await.unwrap();
            let (mut from, mut to) = client.into_split();
            let drip = async {
                while to.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let mut said = Vec::new();
            let read = async { tokio::time::timeout(PATIENCE, from.read_to_end(&mut said)).await.expect("an end") };
            let _ = tokio::join!(drip, read);
            String::from_utf8_lossy(&said).into_owned()
        }
    };
    let answer = drip("/sink").await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("\"code\":\"request_timeout\""), "{answer}");
    wait_until(|| origin.shared.cut_off.load(Ordering::SeqCst) == 1).await;
    // A response that has begun is cut off.
    let answer = drip("/mirror").await;
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("request_timeout"), "{answer}");
    wait_until(|| gateway.running().gateway.work.is_empty()).await;
    assert_eq!(seen(&gateway, request("POST", "/", &[], "in time")).await["body"], "in time");
}

#[tokio::test]
async fn a_tenant_s_long_uploads_are_held_to_its_share_of_the_thread_and_others_are_not() {
    const SIZE: usize = 64 << 20;
    let (origin, public) = (Origin::start().await, Origin::start().await);
    let site = Site::new().also("app", &origin.upstream()).also("public", &public.upstream());
    let routes = "{ path: /v2/, chain: [auth], upstream: app }\n  - { path: /, public: true, upstream: public }";
    let gateway = site.tenant_beta("flow_limits: { share: 1% }").route(routes).start();
    let bearer = gateway.token("beta", "u");
    let head = format!("POST /v2/sink HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {bearer}\r\ncontent-length: {SIZE}\r\n\r\n");
    let mut held = TcpStream::connect(gateway.public()).await.unwrap();
    let held = tokio::spawn(async move {
        held.write_all(head.as_bytes()).await.unwrap();
        let _ = held.write_all(&vec![b'x'; SIZE]).await;
        std::future::pending::<()>().await;
    });
    wait_until(|| origin.shared.requests.load(Ordering::SeqCst) == 1).await;
    let free: &str = "x".repeat(SIZE).leak();
    let reply = client::http1(gateway.public(), request("POST", "/sink", &[], free)).await;
    let read = origin.shared.read.load(Ordering::SeqCst);
    assert_eq!(reply.text(), SIZE.to_string());
    assert!(read < SIZE as u64 / 2, "{read} bytes of {SIZE}");
    held.abort();
    wait_until(|| gateway.running().gateway.work.is_empty()).await;
}

#[tokio::test]
async fn events_come_one_by_one() {
    let (origin, gateway) = open().await;
    let events = origin.events();
    let mut connection = Http1::connect(gateway.public()).await;
    let mut body = connection.begin(request("GET", "/events", &[], "")).await.into_body();
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        events.send(event).await.unwrap();
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("an event in time").unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
    drop(events);
    assert!(body.frame().await.is_none());
}
