//! Every kind of bad upstream, for requests that are passed on and for flows that ask: what the client gets, within which time,
//! and that nothing of it stays.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    client::{self, Http1, Reply},
    harness::{Gateway, Site},
    turns::wait_until,
};

/// An address where nobody listens.
pub async fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// What an upstream does after it has read a request's head.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Nothing.
    BlackHole,
    /// Resets the connection.
    Reset,
    /// Closes it.
    HangUp,
    /// Begins a body and resets the connection.
    ResetAmidBody,
    /// Begins a body and sends no more.
    Stall,
    /// Ends before its Content-Length.
    Short,
    /// Goes on after its Content-Length.
    Long,
    /// A chunk whose length is no number.
    BadChunk,
    /// Sends its head a byte at a time, without an end.
    DripHead,
    /// Header fields without an end.
    EndlessHead,
    /// A body without an end.
    EndlessBody,
    /// Something that is not HTTP.
    Garbage,
    /// Two lengths.
    TwoLengths,
    /// 500, each time.
    Failure,
    /// `102 Processing` without an end.
    Informational,
    /// Switches protocols unasked.
    Switches,
}

use Fault::*;

pub const ALL: [Fault; 16] = [
    BlackHole,
    Reset,
    HangUp,
    ResetAmidBody,
    Stall,
    Short,
    Long,
    BadChunk,
    DripHead,
    EndlessHead,
    EndlessBody,
    Garbage,
    TwoLengths,
    Failure,
    Informational,
    Switches,
];

/// What a client of a proxied route gets.
#[derive(Debug, PartialEq)]
enum Told {
    /// Our own error: status and code.
    Error(u16, &'static str),
    /// What the upstream said.
    Passed(u16, &'static str),
    /// A response that breaks off.
    CutOff,
}

fn expected(fault: Fault) -> Told {
    match fault {
        BlackHole | DripHead | Informational => Told::Error(504, "deadline_exceeded"),
        Reset | HangUp | Garbage | EndlessHead | TwoLengths | Switches => Told::Error(502, "upstream_failed"),
        ResetAmidBody | Stall | Short | BadChunk | EndlessBody => Told::CutOff,
        Long => Told::Passed(200, "{}"),
        Failure => Told::Passed(500, "no"),
    }
}

/// A server with one fault, until it is healed.
pub struct Bad {
    pub addr: SocketAddr,
    healthy: Arc<AtomicBool>,
    /// Connections that the gateway has not closed.
    open: Arc<AtomicUsize>,
    pub requests: Arc<AtomicUsize>,
}

impl Bad {
    pub async fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bad = Self { addr: listener.local_addr().unwrap(), healthy: Arc::default(), open: Arc::default(), requests: Arc::default() };
        let (healthy, open, requests) = (bad.healthy.clone(), bad.open.clone(), bad.requests.clone());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (healthy, open, requests) = (healthy.clone(), open.clone(), requests.clone());
                open.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    while read_request(&mut stream).await {
                        requests.fetch_add(1, Ordering::SeqCst);
                        if healthy.load(Ordering::SeqCst) {
                            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{\"text\":\"ok\"}").await;
                        } else if commit(fault, &mut stream).await.is_err() {
                            break;
                        }
                    }
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        bad
    }

    /// Waits until so many requests have come.
    pub async fn wait_for(&self, count: usize) {
        wait_until(|| self.requests.load(Ordering::SeqCst) >= count).await;
    }

    fn heal(&self) {
        self.healthy.store(true, Ordering::SeqCst);
    }
}

/// Reads a request; false if the connection was closed instead.
async fn read_request(stream: &mut TcpStream) -> bool {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let Ok(n @ 1..) = stream.read(&mut buffer).await else { return false };
        all.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&all);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                return true;
            }
        }
    }
}

async fn commit(fault: Fault, stream: &mut TcpStream) -> std::io::Result<()> {
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let broken = || std::io::Error::other("done");
    let whole: &[u8] = match fault {
        BlackHole => b"",
        Stall | ResetAmidBody => &[CHUNKED, b"5\r\n{\"tex\r\n"].concat(),
        Short => b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"text\"",
        Long => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}and more",
        BadChunk => &[CHUNKED, b"5\r\n{\"tex\r\nzz\r\n"].concat(),
        Garbage => b"\x16\x03\x01\x00nonsense\r\n\r\n",
        TwoLengths => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 13\r\n\r\n{\"text\":\"ok\"}",
        Failure => b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno",
        Switches => b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        DripHead | EndlessHead => b"HTTP/1.1 200 OK\r\n",
        EndlessBody => CHUNKED,
        Informational | Reset | HangUp => b"",
    };
    stream.write_all(whole).await?;
    match fault {
        Reset | ResetAmidBody => {
            stream.set_zero_linger()?;
            Err(broken())
        }
        HangUp | Short => Err(broken()),
        DripHead => loop {
            stream.write_all(b"x").await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        },
        EndlessHead => loop {
            stream.write_all(b"x-more: and more\r\n").await?;
        },
        EndlessBody => {
            let chunk = [b"10000\r\n", &[b'x'; 1 << 16][..], b"\r\n"].concat();
            loop {
                stream.write_all(&chunk).await?;
            }
        }
        Informational => loop {
            stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await?;
            tokio::task::yield_now().await;
        },
        _ => Ok(()),
    }
}

/// A gateway with the bad upstream behind a proxied route and behind the flows.
fn before(bad: &Bad) -> Gateway {
    let upstream = format!("{{ protocol: http, endpoints: [\"http://{}\"], timeouts: {{ first_byte: 300ms, idle: 300ms }} }}", bad.addr);
    let model = format!("{{ protocol: answer, endpoints: [\"http://{}\"] }}", bad.addr);
    let site = Site::new().upstream(&model).also("app", &upstream).route("{ path: /, public: true, upstream: app }");
    site.breaker("{ failures: 1000, retries: 0, timeout: 300ms }").start()
}

async fn get(gateway: &Gateway) -> Result<Reply, hyper::Error> {
    let request = Request::get("/x").header("host", "t").body(Full::default()).unwrap();
    let (head, body) = Http1::connect(gateway.public()).await.begin(request).await.into_parts();
    // What never ends is read for as long as it takes to see that.
    let body = http_body_util::Limited::new(body, 64 << 20).collect();
    match tokio::time::timeout(client::PATIENCE, body).await.expect("an end in time") {
        Ok(body) => Ok(Reply { status: head.status, headers: head.headers, body: body.to_bytes() }),
        Err(error) => Err(*error.downcast::<hyper::Error>().unwrap_or_else(|e| panic!("{e}"))),
    }
}

/// Nothing of the failed requests is left, and the next one is served.
async fn recovers(bad: &Bad, gateway: &Gateway, fault: Fault) {
    wait_until(|| gateway.running().gateway.work.is_empty()).await;
    // Connections may be kept, one by each thread, where the fault did not touch the framing.
    let kept = if matches!(fault, Failure | Long) { 2 } else { 0 };
    wait_until(|| bad.open.load(Ordering::SeqCst) <= kept).await;
    bad.heal();
    assert_eq!(get(gateway).await.unwrap().text(), "{\"text\":\"ok\"}", "{fault:?}");
    assert_eq!(gateway.ask("alpha", "next", "q").await["answer"], "ok", "{fault:?}");
}

#[tokio::test]
async fn a_proxied_route_says_what_is_wrong_and_goes_on() {
    for fault in ALL {
        let bad = Bad::start(fault).await;
        let gateway = before(&bad);
        let begun = Instant::now();
        if matches!(fault, EndlessBody) {
            // The client decides how much is enough.
            let mut client = TcpStream::connect(gateway.public()).await.unwrap();
            client.write_all(b"GET /x HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
            client.read_exact(&mut vec![0; 16 << 20]).await.unwrap();
        } else {
            let told = match get(&gateway).await {
                Ok(reply) if reply.headers.get("content-type").is_some_and(|v| v == "application/json") => {
                    let code = reply.json()["error"]["code"].as_str().unwrap().to_owned();
                    Told::Error(reply.status.as_u16(), code.leak())
                }
                Ok(reply) => Told::Passed(reply.status.as_u16(), reply.text().to_owned().leak()),
                Err(_) => Told::CutOff,
            };
            assert_eq!(told, expected(fault), "{fault:?}");
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{fault:?} took {:?}", begun.elapsed());
        recovers(&bad, &gateway, fault).await;
    }
}

#[tokio::test]
async fn a_flow_answers_with_the_tenant_s_own_words_and_goes_on() {
    for fault in ALL {
        let bad = Bad::start(fault).await;
        let gateway = before(&bad);
        for stream in [false, true] {
            let begun = Instant::now();
            let reply = gateway.say("alpha", "u", json!({ "query": "q", "stream": stream })).await;
            assert!(reply.status == 200 && reply.text().contains("alpha is busy"), "{fault:?}: {}", reply.text());
            assert!(begun.elapsed() < Duration::from_secs(5), "{fault:?} took {:?}", begun.elapsed());
        }
        recovers(&bad, &gateway, fault).await;
    }
}

#[tokio::test]
async fn nobody_there_is_said_at_once() {
    let upstream = |protocol| format!("{{ protocol: {protocol}, endpoints: [\"http://{}\"] }}", "127.0.0.1:1");
    let site = Site::new().upstream(&upstream("answer")).also("app", &upstream("http")).route("{ path: /, public: true, upstream: app }");
    let gateway = site.start();
    get(&gateway).await.unwrap().error(502, "upstream_unreachable");
    assert_eq!(gateway.ask("alpha", "u", "q").await["answer"], "alpha is busy");
}

#[tokio::test]
async fn a_body_that_drips_arrives_as_long_as_it_never_pauses_for_too_long() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("{{ protocol: http, endpoints: [\"http://{}\"], timeouts: {{ idle: 300ms }} }}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(read_request(&mut stream).await);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n").await.unwrap();
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(30)).await;
            stream.write_all(b"x").await.unwrap();
        }
    });
    let gateway = Site::new().also("app", &upstream).route("{ path: /, public: true, upstream: app }").start();
    // 600 ms in all: twice what one pause may last.
    assert_eq!(get(&gateway).await.unwrap().text(), "x".repeat(20));
}

#[tokio::test]
async fn a_storm_of_failures_opens_the_circuit_and_spares_the_upstream() {
    let bad = Bad::start(Failure).await;
    let upstream = format!("{{ protocol: http, endpoints: [\"http://{}\"] }}", bad.addr);
    let route = "{ path: /, public: true, chain: [circuit_breaker: { failures: 5, retries: 0 }], upstream: app }";
    let gateway = Site::new().also("app", &upstream).route(route).start();
    let statuses: Vec<u16> = {
        let mut all = Vec::new();
        for _ in 0..40 {
            all.push(get(&gateway).await.unwrap().status.as_u16());
        }
        all
    };
    assert_eq!((&statuses[..5], &statuses[5..]), (&[500; 5][..], &[503; 35][..]));
    assert_eq!(bad.requests.load(Ordering::SeqCst), 5);
}
