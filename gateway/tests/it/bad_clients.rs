//! Clients that are slow, leave, or never meant well: they get what they are due, nobody else notices, and nothing of them stays.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    task::JoinSet,
};

use super::{
    client::{self, PATIENCE},
    frames::{self, Connection},
    harness::{Gateway, Site},
    model::{Behaviour, Model, delta},
    process::{Process, message, token},
    tls,
    turns::{hang_up, send_raw, wait_until},
};

/// Sends bytes one by one for as long as the server takes them; returns what it said.
async fn drip(stream: impl AsyncRead + AsyncWrite + Unpin, bytes: impl IntoIterator<Item = u8>) -> String {
    let (mut from, mut to) = tokio::io::split(stream);
    let mut said = Vec::new();
    let slowly = async {
        for byte in bytes {
            if to.write_all(&[byte]).await.is_err() || to.flush().await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the server waited for all of it");
    };
    tokio::select! {
        _ = from.read_to_end(&mut said) => {}
        () = slowly => {}
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// A head that goes on for more than a minute.
fn endless_head() -> impl Iterator<Item = u8> {
    "GET /v1/history HTTP/1.1\r\nhost: t\r\n".bytes().chain("x: y\r\n".bytes().cycle().take(6_000))
}

const SHORT: &str = "limits: { header_deadline: 200ms, body_deadline: 200ms, h2_idle: 200ms }";

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A connection that begins with these bytes, encrypted if the gateway is.
async fn open(gateway: &Gateway, alpn: &str, begin: &[u8]) -> Box<dyn Wire> {
    let mut stream: Box<dyn Wire> = match gateway.site.config().contains("tls:") {
        true => Box::new(tls::connected(gateway, &[alpn]).await),
        false => Box::new(TcpStream::connect(gateway.public()).await.unwrap()),
    };
    stream.write_all(begin).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

/// The preface and the head of a stream, whose end is up to the flags.
fn begin_http2(flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    let head = frames::frame(frames::HEADERS, flags, 1, &frames::block(fields));
    [frames::PREFACE, &frames::frame(frames::SETTINGS, 0, 0, &[]), &head].concat()
}

/// A chat request's fields over HTTP/2.
fn chat(bearer: &str) -> Vec<(&str, &str)> {
    let pseudo = [(":method", "POST"), (":scheme", "http"), (":path", "/v1/chat"), (":authority", "t")];
    [&pseudo[..], &[("authorization", bearer), ("content-type", "application/json")]].concat()
}

#[tokio::test]
async fn heads_that_come_byte_by_byte_are_cut_off_on_any_connection() {
    for gateway in [Site::new().extra(SHORT).start(), tls::encrypted(SHORT)] {
        let begun = Instant::now();
        // One frame, so that only its time can end it: continuations are counted.
        let large = begin_http2(frames::END_HEADERS, &[("x", &"y".repeat(16_000))]);
        let (beginning, rest) = large.split_at(60);
        let http1 = open(&gateway, "http/1.1", b"").await;
        let late_preface = open(&gateway, "h2", b"").await;
        let endless = open(&gateway, "h2", beginning).await;
        tokio::join!(
            async { assert_eq!(drip(http1, endless_head()).await, "") },
            drip(late_preface, large.iter().copied()),
            drip(endless, rest.iter().copied()),
        );
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        wait_until(|| gateway.running().gateway.connections.is_empty()).await;
    }
}

#[tokio::test]
async fn bodies_that_come_byte_by_byte_are_cut_off_on_any_connection() {
    for gateway in [Site::new().extra(SHORT).start(), tls::encrypted(SHORT)] {
        let bearer = format!("Bearer {}", gateway.token("alpha", "u"));
        let head = format!(
            "POST /v1/chat HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\nauthorization: {bearer}\r\ncontent-length: 6000\r\n\r\n"
        );
        let http1 = open(&gateway, "http/1.1", head.as_bytes()).await;
        let http2 = open(&gateway, "h2", &begin_http2(frames::END_HEADERS, &chat(&bearer))).await;
        let pieces = frames::frame(frames::DATA, 0, 1, b"x").into_iter().cycle();
        let (http1, http2) = tokio::join!(drip(http1, "x".bytes().cycle().take(6_000)), drip(http2, pieces.take(60_000)));
        for said in [http1, http2] {
            assert!(said.contains("\"code\":\"request_timeout\""), "{said}");
        }
        wait_until(|| gateway.running().gateway.connections.is_empty() && gateway.running().gateway.work.is_empty()).await;
    }
}

#[tokio::test]
async fn an_http2_client_that_takes_no_more_of_a_stream_is_let_go() {
    let model = Model::start().await;
    let upstream = format!("{{ protocol: answer, endpoints: [\"http://{}\"], max_answer: 64MiB }}", model.addr);
    let gateway = Site::new().upstream(&upstream).extra("limits: { read_timeout: 200ms, h2_idle: 200ms }").start();
    let (pieces, from) = tokio::sync::mpsc::channel(1);
    model.plan([Behaviour::Stream(from)]);
    let feed = tokio::spawn(async move { while pieces.send(delta(&"x".repeat(100_000))).await.is_ok() {} });
    let bearer = format!("Bearer {}", gateway.token("alpha", "u"));
    let mut connection = Connection::open(gateway.public()).await;
    connection.send(&frames::frame(frames::HEADERS, frames::END_HEADERS, 1, &frames::block(&chat(&bearer)))).await;
    connection.send(&frames::frame(frames::DATA, frames::END_STREAM, 1, b"{\"query\":\"q\",\"stream\":true}")).await;
    // It never gives the server leave to send more than the first window.
    feed.await.unwrap();
    wait_until(|| gateway.running().gateway.work.is_empty() && gateway.running().gateway.connections.is_empty()).await;
}

/// A stream of some 300 kB that an HTTP/2 client has begun, and that its first window does not let through.
async fn begin_long_stream(gateway: &Gateway, model: &Model) -> Connection<TcpStream> {
    let (pieces, from) = tokio::sync::mpsc::channel(64);
    model.plan([Behaviour::Stream(from)]);
    let end = ["event: done\ndata: {}\n\n".to_owned(), "end".to_owned()];
    for piece in std::iter::repeat_n(delta(&"x".repeat(10_000)), 30).chain(end) {
        pieces.send(piece).await.unwrap();
    }
    let bearer = format!("Bearer {}", gateway.token("alpha", "u"));
    let mut connection = Connection::open(gateway.public()).await;
    connection.send(&frames::frame(frames::HEADERS, frames::END_HEADERS, 1, &frames::block(&chat(&bearer)))).await;
    connection.send(&frames::frame(frames::DATA, frames::END_STREAM, 1, b"{\"query\":\"q\",\"stream\":true}")).await;
    connection
}

#[tokio::test]
async fn a_client_that_reads_a_stream_slowly_is_not_taken_for_a_slow_model() {
    let model = Model::start().await;
    let upstream = format!("{{ protocol: answer, endpoints: [\"http://{}\"], timeouts: {{ total: 300ms }} }}", model.addr);
    let gateway = Site::new().upstream(&upstream).start();
    let mut connection = begin_long_stream(&gateway, &model).await;
    connection.next_of(frames::DATA).await.unwrap();
    // Longer than the model may take.
    tokio::time::sleep(Duration::from_millis(700)).await;
    for stream in [0, 1] {
        connection.send(&frames::frame(frames::WINDOW_UPDATE, 0, stream, &(1u32 << 24).to_be_bytes())).await;
    }
    let mut last = frames::Frame { kind: 0, flags: 0, stream: 0, payload: Vec::new() };
    let mut said = Vec::new();
    while last.flags & frames::END_STREAM == 0 {
        last = connection.next_of(frames::DATA).await.unwrap();
        said.extend_from_slice(&last.payload);
    }
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("event: done") && said.contains("\"stored\":true"), "{}", &said[said.len() - 300..]);
    assert_eq!(gateway.metric("fengda_upstream_calls_total{outcome=\"answered\",tenant=\"alpha\",upstream=\"model\"}").await, 1.0);
}

#[tokio::test]
async fn a_client_that_keeps_a_stream_waiting_for_too_long_has_gone_and_the_model_is_not_blamed() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).extra("limits: { read_timeout: 200ms, h2_idle: 200ms }").start();
    let _connection = begin_long_stream(&gateway, &model).await;
    let gone = "fengda_requests_total{route=\"/v1/chat\",status=\"499\",tenant=\"alpha\"}";
    let end = Instant::now() + PATIENCE;
    while gateway.metric(gone).await == 0.0 {
        assert!(Instant::now() < end, "the client is still waited for");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    wait_until(|| gateway.running().gateway.connections.is_empty() && gateway.running().gateway.work.is_empty()).await;
    assert_eq!(gateway.metric(gone).await, 1.0);
    for outcome in ["timed_out", "failed"] {
        let blamed = format!("fengda_upstream_calls_total{{outcome=\"{outcome}\",tenant=\"alpha\",upstream=\"model\"}}");
        assert_eq!(gateway.metric(&blamed).await, 0.0, "{outcome}");
    }
}

#[tokio::test]
async fn a_slow_client_that_goes_on_reading_gets_all_of_a_long_answer() {
    let model = Model::start().await;
    let upstream = format!("{{ protocol: answer, endpoints: [\"http://{}\"], max_answer: 64MiB }}", model.addr);
    let gateway = Site::new().upstream(&upstream).extra("limits: { read_timeout: 300ms }").start();
    model.plan([Behaviour::Raw(json!({ "text": "x".repeat(20 << 20) }).to_string().leak())]);
    let mut client = send_raw(&gateway, "u", &json!({ "query": "q" })).await;
    let (mut got, mut buffer) = (0, vec![0; 256 << 10]);
    while got < 20 << 20 {
        let read = client.read(&mut buffer).await.unwrap();
        assert!(read > 0, "cut off after {got} bytes");
        got += read;
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}

#[tokio::test]
async fn a_client_that_closes_its_sending_side_after_its_request_gets_its_answer() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).start();
    for (calls, stream) in [(1, false), (2, true)] {
        let release = Arc::new(Notify::new());
        model.plan([Behaviour::Hold(release.clone())]);
        let mut waiting = send_raw(&gateway, "u", &json!({ "query": "q", "stream": stream })).await;
        waiting.shutdown().await.unwrap();
        model.wait_for(calls).await;
        release.notify_one();
        let answer = client::rest(waiting).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(&format!("\"seq\":{calls}")), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_closes_its_connection_later_has_gone() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).start();
    model.plan([Behaviour::Hold(Arc::default())]);
    let mut closed = send_raw(&gateway, "u", &json!({ "query": "q" })).await;
    // Longer than what passes for closing it along with the request.
    tokio::time::sleep(Duration::from_millis(600)).await;
    closed.shutdown().await.unwrap();
    model.wait_for_cancel().await;
    assert_eq!(client::rest(closed).await, "");
    assert_eq!(gateway.metric("fengda_turns_total{outcome=\"cancelled\",tenant=\"alpha\"}").await, 1.0);
}

/// A gateway of its own process, so that its open files can be counted.
struct Watched {
    process: Process,
    _site: Site,
}

impl Watched {
    async fn start(site: Site) -> Self {
        let config = site.write(&site.config());
        Self { process: Process::start(&config).await, _site: site }
    }

    async fn admin(&self, path: &str) -> client::Reply {
        let request = http::Request::get(path).header("host", "t").body(http_body_util::Full::default()).unwrap();
        client::http1(self.process.admin.unwrap(), request).await
    }

    /// What is [`NOTHING`] when nobody is there: connections, requests and turns in flight, sessions in turn, calls under the breaker's
    /// eyes, tasks. And open files.
    async fn held(&self) -> ([u64; 5], usize) {
        let metrics = self.admin("/metrics").await;
        let gauge = |name: &str| -> u64 {
            let lines = metrics.text().lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
            lines.filter(|(labels, _)| labels.is_empty() || labels.starts_with('{')).map(|(_, value)| value.parse::<u64>().unwrap()).sum()
        };
        let status = self.admin("/status").await.json();
        let breaker = &status["plugins"]["circuit_breaker"]["alpha/model"]["in_flight"];
        let counts = [
            gauge("fengda_connections"),
            gauge("fengda_in_flight"),
            status["sessions_in_turn"].as_u64().unwrap(),
            breaker.as_u64().unwrap_or_default(),
            gauge("fengda_tasks"),
        ];
        (counts, self.process.files())
    }

    /// Waits until nothing is held and no more files are open than these, but for the few that the store opens and closes.
    async fn wait_for_rest(&self, files: usize) {
        let begun = Instant::now();
        loop {
            let (counts, open) = self.held().await;
            if counts == NOTHING && open <= files.saturating_add(8) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "still held: {counts:?}, {open} files instead of {files}");
        }
    }
}

/// Each of the two threads has a task that listens.
const NOTHING: [u64; 5] = [0, 0, 0, 0, 2];

/// How a client leaves in the middle of its turn.
async fn leave(addr: SocketAddr, number: usize) {
    let mut body = match number % 4 {
        0 => json!({ "query": "q" }),
        1 => json!({ "query": "q", "message_id": format!("m{number}") }),
        2 => json!({ "query": "q", "stream": true }),
        _ => json!({ "query": "q", "stream": true, "message_id": format!("m{number}") }),
    };
    body["session_id"] = json!(format!("session-{number}"));
    let (body, token) = (body.to_string(), token("alpha"));
    let request = format!(
        "POST /v1/chat HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(addr).await.unwrap();
    match number % 5 {
        // Before the request is whole.
        0 => {
            stream.write_all(&request.as_bytes()[..request.len() - 5]).await.unwrap();
            hang_up(stream);
        }
        // At once after it.
        1 => {
            stream.write_all(request.as_bytes()).await.unwrap();
            hang_up(stream);
        }
        2 => {
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
        // While it is being answered.
        kind => {
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut first = [0; 1];
            let _ = tokio::time::timeout(Duration::from_millis(20), stream.read_exact(&mut first)).await;
            if kind == 3 { hang_up(stream) } else { drop(stream) }
        }
    }
}

async fn crowd(addr: SocketAddr, numbers: std::ops::Range<usize>) {
    let mut clients: JoinSet<()> = numbers.map(|number| leave(addr, number)).collect();
    while let Some(left) = clients.join_next().await {
        left.unwrap();
    }
}

#[tokio::test]
async fn a_thousand_clients_that_leave_amid_their_turn_leave_nothing_behind() {
    let model = Model::start().await;
    // Idle connections to the model would be open files that come and go.
    let upstream = format!("{{ protocol: answer, endpoints: [\"http://{}\"], idle_connections: 0 }}", model.addr);
    let site = Site::new().upstream(&upstream).breaker("{ failures: 1000, timeout: 300ms, retries: 0 }");
    let gateway = Watched::start(site).await;
    // Every second answer comes only after its time.
    model.plan((0..1_200).map(|i| if i % 2 == 0 { Behaviour::Hold(Arc::default()) } else { Behaviour::Echo }));
    crowd(gateway.process.public, 0..200).await;
    gateway.wait_for_rest(usize::MAX).await;
    let (_, files) = gateway.held().await;
    for wave in 1..6 {
        crowd(gateway.process.public, wave * 200..(wave + 1) * 200).await;
    }
    gateway.wait_for_rest(files).await;
    let metrics = gateway.admin("/metrics").await;
    for outcome in ["answered", "cancelled", "fallback"] {
        let line = format!("fengda_turns_total{{outcome=\"{outcome}\",tenant=\"alpha\"}} ");
        let turns: u32 = metrics.text().lines().find_map(|l| l.strip_prefix(&line)).unwrap().parse().unwrap();
        assert!(turns > 9, "{turns} {outcome}: they left amid their turns");
    }
    let reply = client::http1(gateway.process.public, message("beta", &json!({ "query": "fine" }))).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

/// What is no request, or not the one that was agreed upon.
fn garbage(number: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number as u64);
    match number % 8 {
        0 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        1 => b"GET /\r\n".to_vec(),
        2 => (0..random.usize(1..4_000)).map(|_| random.u8(..)).collect(),
        3 => [frames::PREFACE, &(0..200).map(|_| random.u8(..)).collect::<Vec<_>>()].concat(),
        4 => [frames::PREFACE, &frames::frame(frames::SETTINGS, 0, 0, &[1, 2, 3])].concat(),
        5 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r".to_vec(),
        6 => b"\r\n".repeat(1_000),
        _ => b"POST /v1/chat HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\nZZZZ\r\n".to_vec(),
    }
}

#[tokio::test]
async fn a_thousand_openings_of_garbage_leave_nothing_behind() {
    let limits = "limits: { header_deadline: 200ms, body_deadline: 200ms, keepalive: 1s, h2_idle: 200ms }";
    for over_tls in [false, true] {
        let site = Site::new().extra(&if over_tls { format!("tls: {{ cert: chain.pem, key: key.pem }}\n{limits}") } else { limits.into() });
        tls::install(&site, "first.pem", "first-key.pem");
        let gateway = Watched::start(site).await;
        let (_, files) = gateway.held().await;
        for wave in 0..5 {
            let public = gateway.process.public;
            let open = |number: usize| async move {
                let mut stream = TcpStream::connect(public).await.unwrap();
                let _ = stream.write_all(&garbage(number)).await;
                client::rest(stream).await
            };
            let all: JoinSet<String> = (wave * 200..(wave + 1) * 200).map(open).collect();
            for said in all.join_all().await {
                assert!(!said.contains(" 200 "), "{said}");
            }
        }
        gateway.wait_for_rest(files).await;
    }
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_by_the_thousand_end_their_connection_or_nothing() {
    let gateway = Watched::start(Site::new()).await;
    let (_, files) = gateway.held().await;
    let bearer = format!("Bearer {}", token("alpha"));
    let mut connection = Connection::open(gateway.process.public).await;
    let mut stream = 1;
    let mut open = true;
    while open && stream < 10_000 {
        let mut many = Vec::new();
        for _ in 0..50 {
            many.extend(frames::get(stream, "/v1/history", &[(":authority", "t"), ("authorization", &bearer)]));
            many.extend(frames::frame(frames::RST_STREAM, 0, stream, &8u32.to_be_bytes()));
            stream += 2;
        }
        open = connection.send(&many).await;
    }
    let reply = client::http1(gateway.process.public, message("beta", &json!({ "query": "fine" }))).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    drop(connection);
    gateway.wait_for_rest(files).await;
}

#[tokio::test]
async fn floods_of_frames_end_their_connection() {
    let gateway = Site::new().start();
    // Continuations without an end.
    let fields = frames::block(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "t")]);
    let mut connection = Connection::open(gateway.public()).await;
    connection.send(&frames::frame(frames::HEADERS, 0, 1, &fields)).await;
    let more = frames::frame(frames::CONTINUATION, 0, 1, &frames::block(&[("x", "y")])).repeat(1_000);
    let ended = async { while connection.send(&more).await {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("an end of patience");
    wait_until(|| gateway.running().gateway.connections.is_empty()).await;
    assert_eq!(gateway.ask("alpha", "u", "fine").await["seq"], 1);
}
