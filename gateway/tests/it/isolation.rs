//! Nobody's words where they do not belong: every tenant puts words of its own into everything it can send, and then they are looked for
//! in everything that comes out.
//!
//! One thing a client chooses is printed by design: an `x-request-id` of plain characters.

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
use http::{Request, request::Parts};
use http_body_util::Full;
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    task::JoinSet,
};

use super::{
    client::{self, PATIENCE, Reply},
    harness::Site,
    model::{Behaviour, Model},
    speaker::{SHARED, Speaker},
    words::{TENANTS, found_in, only, word},
};

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
    let metrics = gateway.admin("GET", "/metrics").await;
    for unused in ["fengda_context_cache_evictions_total{cause=\"share\"} 0", "fengda_panics_total 0"] {
        assert!(!metrics.text().contains(unused), "{unused}, so the sweep proves little");
    }
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
