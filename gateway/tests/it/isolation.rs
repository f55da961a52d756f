//! Nobody's words where they do not belong: every tenant puts words of its own into everything it can send, and then they are looked for
//! in everything that comes out.
//!
//! The words are letters and digits, so that JSON, percent-encoding and `Debug` leave them as they are; hex, base64 and lists of bytes are
//! looked for besides. One thing a client chooses is printed by design: an `x-request-id` of plain characters.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use fengda_plugins::api::{BuildCtx, Decision, Plugin, PluginSpec, Registry, RequestCtx, Step};
use http::{HeaderValue, Request, request::Parts};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::{
    process::{Child, Command},
    task::JoinSet,
};

use super::{
    client::{self, PATIENCE, Reply},
    harness::{Site, post, secret},
    model::{Behaviour, Model},
};

const TENANTS: [&str; 3] = ["alpha", "beta", "gamma"];
/// The same in all tenants, so that nothing but the tenant keeps them apart.
const SHARED: &str = "shared";

/// A tenant's word for one way in.
fn word(tenant: &str, channel: &str) -> String {
    format!("zq{tenant}{channel}qz")
}

/// How a tenant's words would look wherever they turned up, in lower case.
fn traces(tenant: &str) -> Vec<String> {
    let plain = format!("zq{tenant}");
    let hex: String = plain.bytes().map(|b| format!("{b:02x}")).collect();
    let list = plain.bytes().map(|b| b.to_string()).collect::<Vec<_>>().join(", ");
    // Base64 of a text in a longer one depends on where it begins, and its ends on what is around it.
    let shifted = (0..3).map(|shift| {
        let whole = base64(&[&[0; 3][..shift], plain.as_bytes()].concat());
        whole[(shift * 8).div_ceil(6)..(shift + plain.len()) * 8 / 6].to_lowercase()
    });
    [plain.clone(), hex, list].into_iter().chain(shifted).collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<u8> = bytes.iter().flat_map(|b| (0..8).rev().map(move |i| b >> i & 1)).collect();
    let digit = |six: &[u8]| six.iter().chain([0; 5].iter()).take(6).fold(0, |sum, bit| sum * 2 + usize::from(*bit));
    bits.chunks(6).map(|six| char::from(DIGITS[digit(six)])).collect()
}

/// The tenants whose words are in there.
fn found_in(place: &[u8]) -> BTreeSet<&'static str> {
    let text = String::from_utf8_lossy(place).to_lowercase();
    TENANTS.into_iter().filter(|tenant| traces(tenant).iter().any(|trace| text.contains(trace))).collect()
}

/// Asserts that only this tenant's words are there, or nobody's.
fn only(tenant: Option<&str>, place: &[u8], what: &str) {
    let others: Vec<_> = found_in(place).into_iter().filter(|found| Some(*found) != tenant).collect();
    assert!(others.is_empty(), "words of {others:?} in {what}: {}", String::from_utf8_lossy(place));
}

#[test]
fn words_are_found_however_they_are_written() {
    let said = word("alpha", "query");
    let hex: String = said.bytes().map(|b| format!("{b:02X}")).collect();
    let mut ways =
        vec![json!({ "a": said }).to_string(), format!("%7B{said}%7D"), format!("{:?}", said.as_bytes()), hex, said.to_uppercase()];
    ways.extend((0..3).map(|n| base64(format!("{}{said} and more", "x".repeat(n)).as_bytes())));
    for way in &ways {
        assert_eq!(found_in(way.as_bytes()), ["alpha"].into(), "{way}");
    }
    assert!(found_in(b"zq zqdelta alpha 7a71").is_empty());
}

/// A plugin with a fault: it panics with what a header says.
struct Faulty;

impl Plugin for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn request<'a>(&'a self, head: &'a Parts, _: &'a mut RequestCtx) -> Step<'a, Decision> {
        if let Some(words) = head.headers.get("x-trip") {
            panic!("this is wrong: {words:?}");
        }
        Step::Ready(Decision::Continue)
    }
}

fn with_faulty(registry: &mut Registry) {
    let build = |_: &BuildCtx<'_>| Ok(Arc::new(Faulty) as Arc<dyn Plugin>);
    let spec = PluginSpec { name: "faulty", after: &["auth"], authenticates: false, schema: |_| true.into(), build: Box::new(build) };
    registry.register(spec).unwrap();
}

/// The gateway of the sweep: a process of its own, since its standard error is one of the places to look at, and no installed binary has
/// the plugin.
#[test]
#[ignore = "started by the sweep"]
fn a_gateway_with_a_faulty_plugin() {
    let Some(config) = std::env::var_os("SWEEP_CONFIG") else { return };
    fengda::telemetry::logger::log_panics();
    let options = fengda::server::Options { plugins: with_faulty, ..fengda::server::Options::new(config) };
    let running = fengda::server::start(options).unwrap_or_else(|e| panic!("{e}"));
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap(); // until the sweep is over
    assert_eq!(running.stop(), 0);
}

struct Swept {
    process: Child,
    log: PathBuf,
    public: SocketAddr,
    admin: SocketAddr,
}

impl Swept {
    async fn start(site: &Site) -> Self {
        let log = site.path("stderr");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["isolation::a_gateway_with_a_faulty_plugin", "--exact", "--ignored", "--nocapture"]);
        command.env("SWEEP_CONFIG", site.path("config.yaml")).stdin(Stdio::piped()).kill_on_drop(true);
        command.stdout(File::create(site.path("stdout")).unwrap()).stderr(File::create(&log).unwrap());
        let process = command.spawn().unwrap();
        let listening = tokio::time::timeout(PATIENCE, async {
            loop {
                let lines = fs::read_to_string(&log).unwrap();
                let events = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
                if let Some(event) = events.into_iter().find(|event| event["event"] == "listening") {
                    return event;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let listening = listening.await.unwrap_or_else(|_| panic!("{}", fs::read_to_string(&log).unwrap()));
        let addr = |key: &str| listening[key].as_str().unwrap().parse().unwrap();
        Self { process, log, public: addr("public"), admin: addr("admin") }
    }

    async fn admin(&self, method: &str, path: &str) -> Reply {
        let request = Request::builder().method(method).uri(path).header("host", "test").body(Full::<Bytes>::default()).unwrap();
        client::http1(self.admin, request).await
    }

    /// What operators can see, which is nobody's words.
    async fn look_at_admin(&self) {
        for (method, path) in [("GET", "/metrics"), ("GET", "/status"), ("POST", "/reload")] {
            let reply = self.admin(method, path).await;
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            only(None, &reply.body, path);
        }
    }

    async fn stop(mut self) -> String {
        drop(self.process.stdin.take());
        let ended = tokio::time::timeout(PATIENCE, self.process.wait()).await.expect("an end in time").unwrap();
        let log = fs::read_to_string(&self.log).unwrap();
        assert!(ended.success(), "{log}");
        log
    }
}

/// One user of a tenant, who says the tenant's words wherever there is room for words.
#[derive(Clone)]
struct Speaker {
    public: SocketAddr,
    tenant: &'static str,
    token: String,
}

impl Speaker {
    fn new(public: SocketAddr, tenant: &'static str, user: &str) -> Self {
        let key = jsonwebtoken::EncodingKey::from_secret(secret(tenant).as_bytes());
        let claims = json!({ "tenant_id": tenant, "user_id": user, "exp": 4_000_000_000_u64 });
        Self { public, tenant, token: jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap() }
    }

    fn word(&self, channel: &str) -> String {
        word(self.tenant, channel)
    }

    fn request(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        let mut request = post(path, Some(&self.token), body);
        *request.method_mut() = method.parse().unwrap();
        for name in ["user-agent", "cookie", "referer", "x-forwarded-for", "tracestate", "accept-language"] {
            request.headers_mut().insert(name, self.word("header").parse().unwrap());
        }
        request
    }

    /// Sends it; the answer holds nobody else's words.
    async fn send(&self, request: Request<Full<Bytes>>) -> Reply {
        let reply = client::http1(self.public, request).await;
        only(Some(self.tenant), format!("{:?}", reply.headers).as_bytes(), "a head");
        only(Some(self.tenant), &reply.body, "an answer");
        reply
    }

    async fn say(&self, body: Value) -> Reply {
        self.send(self.request("POST", "/v1/chat", body.to_string())).await
    }

    /// A conversation with everything in it that is good, and its history.
    async fn talk(&self, session: &str) {
        for (turn, act) in ["one", "say", "leak", "stream", "boom", "trouble", "last"].iter().enumerate() {
            let query = format!("{act} {}", self.word("query"));
            let message = format!("{}{turn}", self.word("message"));
            let body = json!({ "query": query, "session_id": session, "message_id": message, "stream": *act == "stream",
                "channel": self.word("channel"), "lang": self.word("lang"), "attachments": [self.word("attached")] });
            let answer = self.say(body.clone()).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            self.say(body.clone()).await; // answered from the store, or failing again
            let reused = json!({ "query": "another", "session_id": session, "message_id": message });
            if answer.body.windows(13).any(|w| w == b"\"stored\":true") {
                self.say(reused).await.error(409, "message_id_reused");
            }
        }
        let history = self.send(self.request("GET", &format!("/v1/history?session_id={session}"), "")).await;
        assert!(history.text().contains(&self.word("query")), "{}", history.text());
    }

    /// Everything that is refused.
    async fn annoy(&self) {
        let word = self.word("bad");
        for body in [
            format!("{{\"query\": \"{word}\""),
            format!("{{\"query\": {{\"{word}\": 1}}}}"),
            format!("{{\"query\": 1, \"{word}\": \"{word}\"}}"),
            format!("{{\"query\": \"q\", \"session_id\": \"{}\"}}", word.repeat(20)),
            format!("{{\"query\": \"q\", \"user_id\": \"{word}\"}}"),
            format!("{{\"query\": \"{}\"}}", word.repeat(2000)),
            format!("[\"{word}\"]"),
            word.repeat(100_000),
        ] {
            let status = self.send(self.request("POST", "/v1/chat", body)).await.status.as_u16();
            assert!((400..500).contains(&status), "{status}");
        }
        for path in [format!("/{word}"), format!("/v1/history?limit={word}"), format!("/v1/history?before={word}&{word}={word}")] {
            self.send(self.request("GET", &path, "")).await;
        }
        self.send(self.request(&word, "/v1/chat", "")).await;
        let mut typed = self.request("POST", "/v1/chat", "{}");
        typed.headers_mut().insert("content-type", word.parse().unwrap());
        self.send(typed).await.error(415, "unsupported_media_type");
        let mut stranger = self.request("POST", "/v1/chat", "{}");
        for credential in [format!("Bearer {word}"), format!("Basic {word}"), format!("Bearer {}.{word}", self.token)] {
            stranger.headers_mut().insert("authorization", credential.parse().unwrap());
            self.send(stranger.clone()).await.error(401, "unauthorized");
        }
        for bytes in
            [format!("{word} {word} {word}\r\n\r\n"), format!("POST /v1/chat HTTP/1.1\r\n{word}\r\n\r\n"), format!("GET / {word}\n\n")]
        {
            only(Some(self.tenant), client::raw(self.public, bytes.as_bytes()).await.as_bytes(), "an answer to bytes");
        }
        let mut tripping = self.request("POST", "/v1/chat", "{}");
        tripping.headers_mut().insert("x-trip", HeaderValue::from_str(&word).unwrap());
        let mut connection = client::Http1::connect(self.public).await;
        assert!(connection.try_begin(tripping).await.is_err(), "a panic ends its connection");
    }

    /// Fills the cache, so that others' conversations leave it.
    async fn crowd(&self, round: usize) {
        for n in 0..16 {
            let query = format!("{} {}", self.word("crowd"), "x".repeat(12_000));
            let reply = self.say(json!({ "query": query, "session_id": format!("{}{round}-{n}", self.word("session")) })).await;
            assert_eq!(reply.status, 200);
        }
    }

    async fn be_forgotten(&self) {
        let one = format!("/v1/history?session_id={}", self.word("session"));
        for path in [&one, "/v1/history"] {
            assert_eq!(self.send(self.request("DELETE", path, "")).await.status, 204);
        }
        let history = self.send(self.request("GET", &format!("/v1/history?session_id={SHARED}"), "")).await;
        only(None, &history.body, "an erased history");
    }
}

fn site(model: &Model) -> Site {
    let routes = "store: { cache: { size: 1MiB } }
routes:
  - { path: /v1/chat, chain: [auth, faulty, rate_limit, context, circuit_breaker], flow: model }
  - { path: /v1/history, chain: [auth, faulty, rate_limit, context], history: true }";
    let site = Site::new().model(model).breaker("{ failures: 1000, retries: 1 }").extra(routes);
    for tenant in TENANTS {
        // Apart from one word all tenants have the same script.
        let script = "return function(turn)
            log.warn('WORD ' .. turn.text)
            seen = (seen or '') .. turn.text
            if turn.text:find('boom') then error(turn.text) end
            if turn.text:find('trouble') then error({ said = turn.text }) end
            session.word, user.word = turn.text:sub(1, 99), turn.text:sub(1, 99)
            session[turn.text:sub(1, 20)] = { turn.user, turn.session, turn.message_id }
            if turn.text:find('say') then say(session.word); return canned('busy') .. user.word end
            if turn.text:find('leak') then return seen .. #history .. tostring(history[1] and history[1].q) end
            return nlp.answer(turn)
        end";
        site.script(tenant, &script.replace("WORD", &word(tenant, "log")));
    }
    let config = site.config().replace("access: false", "access: true, level: trace");
    let (beta, end) = (config.find("  beta:\n").unwrap(), config.find("log: {").unwrap());
    let gamma = config[beta..end].replace("beta", "gamma");
    let mut config = format!("{}{gamma}{}", &config[..end], &config[end..]);
    for tenant in TENANTS {
        config = config.replace(&format!("{tenant} is busy"), &word(tenant, "canned"));
    }
    site.write(&config);
    site
}

#[tokio::test]
async fn no_tenant_s_words_are_anywhere_but_with_that_tenant() {
    let model = Model::start().await;
    let site = site(&model);
    let gateway = Swept::start(&site).await;
    for round in 0..2 {
        model.plan((0..24).map(|n| match n % 4 {
            0 => Behaviour::Quote(500),
            1 => Behaviour::Quote(200),
            2 => Behaviour::HangUp,
            _ => Behaviour::Echo,
        }));
        let mut speaking = JoinSet::new();
        for tenant in TENANTS {
            let speaker = Speaker::new(gateway.public, tenant, SHARED);
            let (mut named, annoying, crowd) = (speaker.clone(), speaker.clone(), speaker.clone());
            named.token = Speaker::new(gateway.public, tenant, &word(tenant, "user")).token;
            speaking.spawn(async move { speaker.talk(&format!("{SHARED}{round}")).await });
            speaking.spawn(async move { named.talk(&format!("{}{round}", named.word("session"))).await });
            speaking.spawn(async move { annoying.annoy().await });
            speaking.spawn(async move { crowd.crowd(round).await });
        }
        gateway.look_at_admin().await; // a reload in between
        speaking.join_all().await;
        gateway.look_at_admin().await;
    }
    Speaker::new(gateway.public, "gamma", SHARED).be_forgotten().await;
    let evicted = gateway.admin("GET", "/metrics").await;
    assert!(!evicted.text().contains("evictions_total{cause=\"size\"} 0"), "the cache was too large");
    for (asked, head) in model.asked().iter().zip(model.heads()) {
        let told = format!("{asked} {head:?}");
        assert!(found_in(told.as_bytes()).len() <= 1, "a model is told of two tenants: {told}");
    }
    let log = gateway.stop().await;
    only(None, log.as_bytes(), "the gateway's log");
    for event in ["request", "flow_failed", "upstream_failed", "panicked", "reloaded", "stopped"] {
        assert!(log.contains(&format!("\"event\":\"{event}\"")), "the log has no {event}, so it proves little");
    }
    only(None, &fs::read(site.path("stdout")).unwrap(), "standard output");
    look_at_files(&site.path("data"), &site.path("data"));
    look_at_records(&site.path("data/context"));
}

/// Names of files are nobody's words; a tenant's log and last good script hold its own.
fn look_at_files(folder: &Path, data: &Path) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        only(None, entry.as_os_str().as_encoded_bytes(), "the name of a file");
        let inside = entry.strip_prefix(data).unwrap();
        if inside == Path::new("context") {
            continue; // record by record, below
        } else if entry.is_dir() {
            look_at_files(&entry, data);
        } else if let Some(owner) =
            TENANTS.into_iter().find(|t| inside == Path::new(&format!("logs/{t}.log")) || inside == Path::new(&format!("flows/{t}.lua")))
        {
            let text = fs::read(&entry).unwrap();
            only(Some(owner), &text, &inside.display().to_string());
            assert_eq!(found_in(&text), [owner].into(), "{} is where they belong", inside.display());
        } else {
            only(None, &fs::read(&entry).unwrap(), &inside.display().to_string());
        }
    }
}

/// The store's promise: a record's key begins with its tenant, and the record has words of no other. (Keys hold ids of users and
/// sessions as they are; nobody but the gateway's user may read the folder.)
fn look_at_records(folder: &Path) {
    let database = fjall::Database::builder(folder).open().unwrap();
    let mut holders = BTreeSet::new();
    for name in database.list_keyspace_names() {
        let keyspace = database.keyspace(&name, fjall::KeyspaceCreateOptions::default).unwrap();
        for record in keyspace.iter() {
            let (key, value) = record.into_inner().unwrap();
            let kind_and = |tenant: &str| [&[u8::try_from(tenant.len()).unwrap()], tenant.as_bytes()].concat();
            let owner = TENANTS.into_iter().find(|tenant| key[1..].starts_with(&kind_and(tenant)));
            only(owner, &key, "a record's key");
            only(owner, &value, "a record");
            holders.extend(found_in(&value));
        }
    }
    assert_eq!(holders, TENANTS.into(), "those whose words are stored");
    #[cfg(unix)]
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&fs::metadata(folder).unwrap()) & 0o777, 0o700);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_tenant_whose_log_takes_no_more_holds_up_nobody() {
    let gateway = Site::new().start();
    for tenant in ["alpha", "beta"] {
        gateway.site.script(tenant, "return function(turn) for i = 1, 50 do log(turn.text .. i) end return 'fine' end");
    }
    gateway.site.write(&gateway.site.config().replace("  alpha:\n", "  alpha:\n    log: /dev/full\n"));
    assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
    let before = gateway.metric("fengda_log_lines_dropped_total").await;
    for _ in 0..20 {
        for tenant in ["alpha", "beta"] {
            assert_eq!(gateway.ask(tenant, "u", "said ").await["answer"], "fine");
        }
    }
    let lines = gateway.tenant_log("beta").lines().count();
    assert_eq!(lines, 20 * 50);
    assert!(gateway.metric("fengda_log_lines_dropped_total").await >= before + 20.0 * 50.0);
}

#[tokio::test]
async fn a_log_that_cannot_be_opened_is_a_problem_of_the_configuration_and_not_of_another_tenant() {
    let gateway = Site::new().start();
    fs::write(gateway.site.path("file"), "").unwrap();
    gateway.site.write(&gateway.site.config().replace("  alpha:\n", "  alpha:\n    log: file/a.log\n"));
    let refused = gateway.admin("POST", "/reload").await;
    assert_eq!(refused.status, 422);
    let problem = refused.json()["problems"][0].as_str().unwrap().to_owned();
    assert!(problem.contains("config.yaml:1") && problem.contains("file/a.log"), "{problem}");
    assert_eq!(gateway.ask("beta", "u", "q").await["fallback"], false);
}

/// That a key comes from a tenant is the compiler's business (`plugins/src/api/misuse.rs`), that a tenant comes from the configuration is
/// not: the gateway is another crate, so whatever it may call a plugin may, too.
#[test]
fn only_the_configuration_makes_tenants() {
    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let test = entry.file_stem().is_some_and(|name| ["tests", "testing", "conformance", "misuse"].iter().any(|test| name == *test));
            match entry.is_dir() {
                _ if test => {}
                true => sources(&entry, found),
                false => found.push(entry),
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for folder in ["plugins/src", "gateway/src"] {
        sources(&root.join(folder), &mut files);
    }
    let makes = |file: &&PathBuf| {
        let source = fs::read_to_string(file).unwrap();
        source.split("#[cfg(test)]").next().unwrap().contains("from_config(")
    };
    let mut made: Vec<_> = files.iter().filter(makes).map(|file| file.strip_prefix(&root).unwrap().display().to_string()).collect();
    made.sort();
    assert_eq!(made, ["gateway/src/config/check/tenants.rs", "plugins/src/api/tenant.rs"]);
}
