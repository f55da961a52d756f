//! The `fengda` command as a process: signals, sudden death, exit codes, and the conversation in the README.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    sync::Notify,
};

use super::{
    client::{self, PATIENCE},
    harness::{Site, post},
    model::{Behaviour, Model},
};

fn fengda() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fengda"));
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A gateway in a process of its own.
pub struct Process {
    pub child: Child,
    /// What it logs from now on, unless somebody else reads it.
    log: Option<Lines<BufReader<ChildStderr>>>,
    pub public: SocketAddr,
    pub admin: Option<SocketAddr>,
    /// What it logged up to the event `listening`, which is the last.
    pub began: Vec<Value>,
}

impl Process {
    pub async fn start(config: &Path) -> Self {
        Self::start_as(&[], config).await
    }

    /// Starts it through a command that takes the rest of its arguments for a command to run.
    pub async fn start_as(through: &[&str], config: &Path) -> Self {
        Self::run(through, &["run", "-c", config.to_str().unwrap()], Path::new(".")).await
    }

    /// Starts a command that serves.
    pub async fn spawn(arguments: &[&str], folder: &Path) -> Self {
        Self::run(&[], arguments, folder).await
    }

    async fn run(through: &[&str], arguments: &[&str], folder: &Path) -> Self {
        let words = [through, &[env!("CARGO_BIN_EXE_fengda")], arguments].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(folder).stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let began = events(&mut log, "listening").await;
        let addr = |key: &str| began[began.len() - 1][key].as_str().map(|a| a.parse().unwrap());
        Self { public: addr("public").unwrap(), admin: addr("admin"), child, log: Some(log), began }
    }

    /// Reads its log up to an event and returns that.
    pub async fn event(&mut self, name: &str) -> Value {
        events(self.log.as_mut().expect("nobody else reads it"), name).await.pop().expect("the event is the last")
    }

    /// Has its log read as it comes, up to its end.
    pub fn read_log(&mut self) -> Arc<Mutex<Vec<Value>>> {
        let mut lines = self.log.take().expect("nobody else reads it");
        let read = Arc::new(Mutex::new(Vec::new()));
        let reading = read.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                reading.lock().unwrap().push(serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}")));
            }
        });
        read
    }

    /// How many files it has open.
    pub fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).unwrap().count()
    }

    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub fn signal(&self, name: &str) {
        let pid = self.id().to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    pub async fn exit_code(&mut self) -> Option<i32> {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("an end in time").unwrap().code()
    }
}

/// Reads log lines up to an event and returns them.
async fn events(log: &mut Lines<BufReader<ChildStderr>>, name: &str) -> Vec<Value> {
    let mut read = Vec::new();
    loop {
        let line = tokio::time::timeout(PATIENCE, log.next_line()).await.expect("a log line in time").unwrap();
        let line = line.unwrap_or_else(|| panic!("the log ended before `{name}`"));
        read.push(serde_json::from_str::<Value>(&line).unwrap_or_else(|_| panic!("not JSON: {line}")));
        if read.last().is_some_and(|line| line["event"] == name) {
            return read;
        }
    }
}

pub async fn output(arguments: &[&str], folder: &Path) -> Output {
    fengda().args(arguments).current_dir(folder).output().await.unwrap()
}

pub fn token(tenant: &str) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(super::harness::secret(tenant).as_bytes());
    let claims = json!({ "tenant_id": tenant, "user_id": "u", "exp": 4_000_000_000_u64 });
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

pub fn message(tenant: &str, body: &Value) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    post("/v1/chat", Some(&token(tenant)), body.to_string())
}

#[tokio::test]
async fn sigterm_finishes_what_is_in_flight_and_then_goes_at_once() {
    let model = Model::start().await;
    let site = Site::new().model(&model);
    let mut process = Process::start(&site.write(&site.config())).await;
    let mut idle = client::Http1::connect(process.public).await;
    assert_eq!(idle.send(message("beta", &json!({ "query": "q", "stream": true }))).await.status, 200);
    let release = Arc::new(Notify::new());
    model.plan([Behaviour::Hold(release.clone())]);
    let public = process.public;
    let turn = tokio::spawn(async move { client::http1(public, message("alpha", &json!({ "query": "q" }))).await });
    model.wait_for(2).await;
    process.signal("-TERM");
    assert_eq!(process.event("draining").await["in_flight"], 2);
    let ready = http::Request::get("/readyz").header("host", "t").body(http_body_util::Full::default()).unwrap();
    let ready = client::http1(process.admin.unwrap(), ready).await;
    assert_eq!((ready.status.as_u16(), ready.text()), (503, "draining\n"));
    refuses(public).await;
    release.notify_one();
    let last = turn.await.unwrap();
    assert_eq!((&last.json()["answer"], &last.headers["connection"]), (&json!("0:q"), &http::HeaderValue::from_static("close")));
    assert_eq!(process.event("stopped").await["abandoned"], 0);
    assert_eq!(process.exit_code().await, Some(0));
    // What was answered is stored.
    let process = Process::start(&site.path("config.yaml")).await;
    assert_eq!(client::http1(process.public, message("alpha", &json!({ "query": "q2" }))).await.json()["answer"], "1:q2");
}

/// Waits until nothing listens there any more.
async fn refuses(addr: SocketAddr) {
    tokio::time::timeout(PATIENCE, async {
        while tokio::net::TcpStream::connect(addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the listener to close");
}

#[tokio::test]
async fn load_balancers_have_a_pause_to_notice_that_it_will_stop() {
    let site = Site::new().extra("shutdown: { pause: 2s }");
    let mut process = Process::start(&site.write(&site.config())).await;
    process.signal("-TERM");
    process.event("draining").await;
    let ready = http::Request::get("/readyz").header("host", "t").body(http_body_util::Full::default()).unwrap();
    assert_eq!(client::http1(process.admin.unwrap(), ready).await.status, 503);
    let late = client::http1(process.public, message("alpha", &json!({ "query": "late" }))).await;
    assert_eq!((late.status.as_u16(), &late.headers["connection"]), (200, &http::HeaderValue::from_static("keep-alive")));
    refuses(process.public).await;
    assert_eq!(process.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_turn_that_outlives_the_grace_is_abandoned_and_said_so() {
    let model = Model::start().await;
    let site = Site::new().model(&model).extra("shutdown: { grace: 50ms }");
    let mut process = Process::start(&site.write(&site.config())).await;
    model.plan([Behaviour::Hold(Arc::default())]);
    let public = process.public;
    let _turn = tokio::spawn(async move {
        let stream = tokio::net::TcpStream::connect(public).await.unwrap();
        let mut client = client::Http1::over(stream).await;
        let _ = client.try_begin(message("alpha", &json!({ "query": "q" }))).await;
    });
    model.wait_for(1).await;
    process.signal("-TERM");
    assert_ne!(process.event("stopped").await["abandoned"], 0);
    assert_eq!(process.exit_code().await, Some(1));
}

#[tokio::test]
async fn a_failing_model_is_in_the_log_with_its_reason() {
    let model = Model::start().await;
    let site = Site::new().model(&model);
    let mut process = Process::start(&site.write(&site.config())).await;
    model.plan([Behaviour::Status(404)]);
    client::http1(process.public, message("alpha", &json!({ "query": "q" }))).await;
    let failed = process.event("upstream_failed").await;
    let told = (&failed["tenant"], &failed["upstream"], &failed["error"], &failed["level"]);
    assert_eq!(told, (&json!("alpha"), &json!("model"), &json!("it answered with status 404"), &json!("warn")));
}

#[tokio::test]
async fn a_second_sigterm_does_not_wait() {
    let model = Model::start().await;
    let site = Site::new().model(&model);
    let mut process = Process::start(&site.write(&site.config())).await;
    model.plan([Behaviour::Hold(Arc::default())]);
    let public = process.public;
    let _turn = tokio::spawn(async move {
        let mut client = client::Http1::connect(public).await;
        let _ = client.try_begin(message("alpha", &json!({ "query": "q", "stream": true }))).await;
    });
    model.wait_for(1).await;
    process.signal("-TERM");
    process.event("draining").await;
    process.signal("-TERM");
    assert_eq!(process.exit_code().await, Some(1));
}

#[tokio::test]
async fn sigkill_loses_no_acknowledged_turn() {
    let site = Site::new();
    let config = site.write(&site.config());
    let mut process = Process::start(&config).await;
    let mut connection = client::Http1::connect(process.public).await;
    for seq in 1..=50 {
        let reply = connection.send(message("alpha", &json!({ "query": format!("q{seq}"), "message_id": format!("m{seq}") }))).await;
        assert_eq!(reply.json()["seq"], seq);
    }
    process.signal("-KILL");
    process.exit_code().await;
    let process = Process::start(&config).await;
    let again = client::http1(process.public, message("alpha", &json!({ "query": "q50", "message_id": "m50" }))).await.json();
    assert_eq!(again["seq"], 50);
    assert_eq!(client::http1(process.public, message("alpha", &json!({ "query": "q51" }))).await.json()["seq"], 51);
}

#[tokio::test]
async fn sighup_reloads() {
    let site = Site::new();
    let config = site.write(&site.config());
    let mut process = Process::start(&config).await;
    site.script("alpha", "return function() return 'new' end");
    process.signal("-HUP");
    assert_eq!(process.event("reloaded").await["generation"], 2);
    assert_eq!(client::http1(process.public, message("alpha", &json!({ "query": "q" }))).await.json()["answer"], "new");
    site.write("nonsense: [");
    process.signal("-HUP");
    let refused = process.event("reload_refused").await;
    assert!(refused["problems"][0].as_str().unwrap().contains("config.yaml:1:"), "{refused}");
}

#[tokio::test]
async fn the_log_holds_no_words_of_customers_and_every_line_is_json() {
    let site = Site::new();
    site.script("alpha", "return function(turn) error(turn.text) end");
    let config = site.config().replace("access: false", "access: true, level: trace");
    let mut process = Process::start(&site.write(&config)).await;
    let canary = "canary-51c2";
    let body = json!({ "query": canary, "session_id": canary, "message_id": canary });
    let mut request = message("alpha", &body);
    request.headers_mut().insert("x-evil", canary.parse().unwrap());
    request.headers_mut().insert("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap());
    client::http1(process.public, request).await;
    client::http1(process.public, message("beta", &body)).await;
    client::http1(process.public, post(&format!("/{canary}"), Some(canary), canary)).await.error(404, "not_found");
    process.signal("-TERM");
    let mut events = Vec::new();
    while let Some(line) = process.log.as_mut().unwrap().next_line().await.unwrap() {
        assert!(!line.contains(canary), "{line}");
        events.push(serde_json::from_str::<Value>(&line).unwrap());
    }
    // Each line is written when its answer was sent, so those of different connections may change places.
    let told = |e: &Value| json!([e["route"], e["tenant"], e["status"]]);
    let requests: Vec<_> = events.iter().filter(|e| e["event"] == "request").map(told).collect();
    assert_eq!(requests.len(), 3);
    for expected in [json!(["/v1/chat", "alpha", 200]), json!(["/v1/chat", "beta", 200]), json!(["-", null, 404])] {
        assert!(requests.contains(&expected), "{expected} in {requests:?}");
    }
    let traced = events.iter().filter(|e| e["event"] == "request" && e["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(traced.count(), 1);
    let failed = events.iter().find(|e| e["event"] == "flow_failed").expect("the failure is logged");
    assert_eq!((&failed["kind"], &failed["line"]), (&json!("runtime"), &json!(1)));
    assert!(process.exit_code().await.is_some());
}

#[tokio::test]
async fn a_damaged_record_costs_only_its_conversation() {
    let site = Site::new();
    let gateway = site.start();
    for user in ["whole", "hurt"] {
        gateway.ask("alpha", user, "q").await;
    }
    let site = gateway.stop();
    damage(&site.path("data/context"), b"hurt");
    let gateway = site.start();
    let reply = gateway.say("alpha", "hurt", json!({ "query": "q" })).await;
    assert!(reply.error(503, "context_unavailable").contains("damaged"));
    gateway.history("GET", "alpha", "hurt", "").await.error(503, "context_unavailable");
    for step in ["begin", "read"] {
        assert_eq!(gateway.metric(&format!("fengda_store_failures_total{{step=\"{step}\"}}")).await, 1.0, "{step}");
    }
    assert_eq!(gateway.ask("alpha", "whole", "q").await["seq"], 2);
    assert_eq!(gateway.ask("beta", "hurt", "q").await["seq"], 1);
    let session = gateway.say("alpha", "hurt", json!({ "query": "q", "session_id": "another" })).await;
    assert_eq!(session.json()["seq"], 1);
    assert_eq!(gateway.history("DELETE", "alpha", "hurt", "?session_id=default").await.status, 204);
    assert_eq!(gateway.ask("alpha", "hurt", "q").await["fallback"], false);
}

/// Flips a bit in every stored value whose key holds these bytes.
fn damage(folder: &Path, key_part: &[u8]) {
    let database = fjall::Database::builder(folder).open().unwrap();
    let mut hurt = 0;
    for name in database.list_keyspace_names() {
        let keyspace = database.keyspace(&name, fjall::KeyspaceCreateOptions::default).unwrap();
        let all: Vec<_> = keyspace.iter().map(|kv| kv.into_inner().unwrap()).collect();
        for (key, value) in all.into_iter().filter(|(k, _)| k.windows(key_part.len()).any(|w| w == key_part)) {
            let mut value = value.to_vec();
            let middle = value.len() / 2;
            value[middle] ^= 1;
            keyspace.insert(key, value).unwrap();
            hurt += 1;
        }
    }
    database.persist(fjall::PersistMode::SyncAll).unwrap();
    assert!(hurt > 0);
}

#[tokio::test]
async fn check_reports_everything_at_once_with_its_place() {
    let site = Site::new();
    site.write(&site.config());
    let folder = site.path("");
    let fine = output(&["check"], &folder).await;
    assert!(fine.status.success(), "{}", String::from_utf8_lossy(&fine.stderr));
    assert!(fine.stdout.is_empty());
    site.script("beta", "return function(\n");
    site.write(&site.config().replace("retries: 0", "retries: 0, probe: 1").replace("rate: 100000/s", "rate: fast"));
    let bad = output(&["check", "-c", "config.yaml"], &folder).await;
    let said = String::from_utf8(bad.stderr).unwrap();
    assert_eq!(bad.status.code(), Some(1));
    for part in ["config.yaml:7:", "`probes`", "config.yaml:8:", "fast", "flows/beta/main.lua:", "3 problems"] {
        assert!(said.contains(part), "{part} in\n{said}");
    }
    let missing = output(&["check", "-c", "none.yaml"], &folder).await;
    assert!(String::from_utf8_lossy(&missing.stderr).contains("none.yaml"), "{missing:?}");
    // A broken file does not start either, and says the same.
    let run = output(&["-c", "config.yaml"], &folder).await;
    assert_eq!(run.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&run.stderr).contains("config.yaml:7:"), "{run:?}");
}

#[tokio::test]
async fn token_prints_a_token_and_nothing_else() {
    let site = Site::new();
    let config = site.write(&site.config());
    let folder = site.path("");
    let made = output(&["token", "--tenant", "alpha", "--user", "u1", "--ttl", "5m"], &folder).await;
    let token = String::from_utf8(made.stdout).unwrap();
    assert!(made.status.success() && made.stderr.is_empty() && token.ends_with('\n') && token.trim().split('.').count() == 3, "{token}");
    let process = Process::start(&config).await;
    assert_eq!(client::http1(process.public, post("/v1/chat", Some(token.trim()), "{\"query\":\"q\"}")).await.status, 200);
    let unknown = output(&["token", "--tenant", "gamma", "--user", "u1"], &folder).await;
    assert_eq!((unknown.status.code(), unknown.stdout.len()), (Some(1), 0));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there are: alpha, beta"));
    let bad = output(&["token", "--tenant", "alpha", "--user", "u1", "--ttl", "soon"], &folder).await;
    assert_eq!(bad.status.code(), Some(2));
}

#[tokio::test]
async fn the_readme_shows_what_check_says() {
    let root: PathBuf = [env!("CARGO_MANIFEST_DIR"), ".."].iter().collect();
    let folder = tempfile::tempdir().unwrap();
    let copy = |name: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(root.join(name)).unwrap();
        assert!(text.contains(from), "{from} in {name}");
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    };
    copy("config.yaml", "    failures: 5", "    failure: 5");
    copy("tenant-flows/acme-shop/main.lua", "function greet()", "function greet(");
    copy("tenant-flows/harbor-bank/main.lua", "", "");
    let said = String::from_utf8(output(&["check"], folder.path()).await.stderr).unwrap();
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    assert!(readme.contains(said.trim_end()), "the README shows something else than:\n{said}");
}

#[tokio::test]
async fn the_shipped_configuration_passes_the_check() {
    let root: PathBuf = [env!("CARGO_MANIFEST_DIR"), ".."].iter().collect();
    let fine = output(&["check"], &root).await;
    assert!(fine.status.success(), "{}", String::from_utf8_lossy(&fine.stderr));
}
