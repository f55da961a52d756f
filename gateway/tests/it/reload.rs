//! Files that change under a running gateway: noticed by themselves, put in force whole, and nobody is the worse for it.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{
    client::{self, Http1, until},
    harness::{Gateway, PASS, Site, post},
    model::{Behaviour, Model},
    process::{Process, token},
};

/// Waits until the watch has dealt with the files as they are now.
async fn settled(gateway: &Gateway) {
    let look = async || {
        let (now, read) = gateway.running().gateway.look();
        now == read
    };
    until("the files as they are to be read", look).await;
}

/// The generation after the watch has dealt with what changed.
async fn generation(gateway: &Gateway) -> u64 {
    settled(gateway).await;
    gateway.running().gateway.snapshot.load().generation
}

fn tenant(name: &str, flow: &str) -> String {
    format!("{name}: {{ flow: {flow}, keys: [{{ alg: HS256, secret: {} }}] }}\n", super::harness::secret(name))
}

#[tokio::test]
async fn every_kind_of_file_is_watched() {
    let gateway = Site::new().watched().start();
    let site = &gateway.site;
    site.write(&site.config().replace("alpha is busy", "changed"));
    assert_eq!(generation(&gateway).await, 2, "the file itself");
    site.script("alpha", "return function() return 'new' end");
    assert_eq!(generation(&gateway).await, 3, "a script");
    assert_eq!(gateway.ask("alpha", "u", "q").await["answer"], "new");
    fs::create_dir(site.path("tenants.d")).unwrap();
    fs::write(site.path("tenants.d/gamma.yaml"), tenant("gamma", "flows/beta/main.lua")).unwrap();
    assert_eq!(generation(&gateway).await, 4, "a tenant in a file of its own");
    assert_eq!(gateway.ask("gamma", "u", "q").await["seq"], 1);
    fs::remove_file(site.path("tenants.d/gamma.yaml")).unwrap();
    assert_eq!(generation(&gateway).await, 5, "a file that is gone");
    assert_eq!(gateway.say("gamma", "u", json!({ "query": "q" })).await.status, 401);
}

#[tokio::test]
async fn a_file_that_is_written_again_with_the_same_words_changes_nothing() {
    let gateway = Site::new().watched().start();
    gateway.site.write(&gateway.site.config());
    gateway.site.script("alpha", PASS);
    assert_eq!(generation(&gateway).await, 1);
    // Nor does what was put in force by hand count again when the watch sees it.
    gateway.site.write(&gateway.site.config().replace("alpha is busy", "changed"));
    gateway.admin("POST", "/reload").await;
    assert_eq!(generation(&gateway).await, 2);
}

#[tokio::test]
async fn a_problem_is_told_once_and_a_file_that_comes_later_mends_it() {
    let gateway = Site::new().watched().start();
    let refused = async || gateway.metric("fengda_reloads_total{result=\"refused\"}").await;
    let site = &gateway.site;
    let config = site.config().replace("flows/beta/main.lua", "flows/later.lua");
    for _ in 0..2 {
        site.write(&config);
        assert_eq!((generation(&gateway).await, refused().await), (1, 1.0));
    }
    fs::write(site.path("flows/later.lua"), "return function() return 'later' end").unwrap();
    assert_eq!(generation(&gateway).await, 2);
    assert_eq!(gateway.ask("beta", "u", "q").await["answer"], "later");
}

/// As Kubernetes mounts a ConfigMap: the file is a link through `..data`, which is swapped.
#[tokio::test]
async fn a_link_that_is_swapped_is_a_change() {
    let site = Site::new().watched();
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, site.path("new")).unwrap();
        fs::rename(site.path("new"), site.path(name)).unwrap();
    };
    for (version, busy) in [("..1", "alpha is busy"), ("..2", "changed")] {
        fs::create_dir(site.path(version)).unwrap();
        fs::write(site.path(version).join("config.yaml"), site.config().replace("alpha is busy", busy)).unwrap();
    }
    link("..1", "..data");
    link("..data/config.yaml", "config.yaml");
    let running = fengda::server::start(site.options()).unwrap();
    assert_eq!(running.gateway.snapshot.load().generation, 1);
    link("..2", "..data");
    until("the second version", async || running.gateway.snapshot.load().generation == 2).await;
    tokio::task::spawn_blocking(move || running.stop()).await.unwrap();
}

#[tokio::test]
async fn a_reload_keeps_a_good_script_that_could_not_be_kept_or_was_lost() {
    let gateway = Site::new().start();
    let kept = gateway.site.path("data/flows/alpha.lua");
    assert_eq!(fs::read_to_string(&kept).unwrap(), PASS);
    fs::remove_dir_all(gateway.site.path("data/flows")).unwrap();
    assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
    assert_eq!(fs::read_to_string(&kept).unwrap(), PASS);
}

#[tokio::test]
async fn limits_in_use_are_kept_when_tenants_and_routes_come_before_them() {
    let limit = |count| format!("rate_limit: {{ limits: [{{ name: user, by: user, rate: {count}/h, burst: {count} }}] }}");
    let chat = format!("  - {{ path: /v1/chat, chain: [auth, {}, context], flow: model }}\n", limit(1));
    let gateway = Site::new().extra(&format!("routes:\n{chat}")).start();
    gateway.ask("alpha", "u", "q").await;
    let before = format!("  - {{ path: /before, chain: [auth, {}, context], flow: model }}\n", limit(2));
    gateway.site.write(&gateway.site.config().replace(&chat, &[before, chat.clone()].concat()));
    fs::create_dir(gateway.site.path("tenants.d")).unwrap();
    fs::write(gateway.site.path("tenants.d/gamma.yaml"), tenant("gamma", "flows/beta/main.lua")).unwrap();
    assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
    gateway.say("alpha", "u", json!({ "query": "q" })).await.error(429, "rate_limited");
}

#[tokio::test]
async fn what_was_replaced_is_dropped() {
    let gateway = Site::new().start();
    let mut old = Vec::new();
    for i in 0..5 {
        gateway.ask("alpha", "u", "q").await;
        old.push(Arc::downgrade(&gateway.running().gateway.snapshot.load_full()));
        gateway.site.write(&gateway.site.config().replace("alpha is busy", &format!("changed {i}")));
        gateway.site.script("beta", &format!("return function() return '{i}' end"));
        assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
    }
    until("old configurations to go", async || old.iter().all(|old| old.upgrade().is_none())).await;
}

/// What a client of `alpha` does all the time: each message must be answered by the model, and remembered.
async fn chat(process: std::net::SocketAddr, user: String, stop: Arc<AtomicBool>) -> usize {
    let mut connection = Http1::connect(process).await;
    let key = jsonwebtoken::EncodingKey::from_secret(super::harness::secret("alpha").as_bytes());
    let claims = json!({ "tenant_id": "alpha", "user_id": user, "exp": 4_000_000_000_u64 });
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
    let mut turns = 0;
    while !stop.load(Ordering::Relaxed) {
        let reply = connection.send(post("/v1/chat", Some(&token), json!({ "query": "q" }).to_string())).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let reply = reply.json();
        assert_eq!((&reply["answer"], &reply["stored"]), (&json!(format!("{}:q", turns.min(100))), &json!(true)), "{reply}");
        turns += 1;
    }
    turns
}

/// What must not grow with the number of reloads.
struct Size {
    series: Vec<String>,
    files: usize,
    memory_kib: usize,
}

impl Size {
    async fn of(process: &Process) -> Self {
        let metrics = admin(process, "GET", "/metrics").await.1;
        // The one series that names the configuration changes with it.
        let name = |line: &str| line.split(' ').next().unwrap().split("{hash=").next().unwrap().to_owned();
        let mut series: Vec<_> = metrics.as_str().unwrap().lines().filter(|line| !line.starts_with('#')).map(name).collect();
        series.sort();
        let proc = format!("/proc/{}", process.child.id().unwrap());
        let status = fs::read_to_string(format!("{proc}/status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        Self { series, files: fs::read_dir(format!("{proc}/fd")).unwrap().count(), memory_kib: memory.unwrap().parse().unwrap() }
    }
}

async fn admin(process: &Process, method: &str, path: &str) -> (u16, Value) {
    let request = http::Request::builder().method(method).uri(path).header("host", "t").body(http_body_util::Full::default()).unwrap();
    let reply = client::http1(process.admin.unwrap(), request).await;
    let text = reply.text().to_owned();
    (reply.status.as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// One reload of four kinds, and what must come of it: 200 or 422, and whether the script of `alpha` is in force.
async fn reload(process: &Process, site: &Site, config: &str, round: usize) -> u64 {
    let script = |text: &str| site.script("alpha", text);
    let (text, status, flow) = match round % 4 {
        0 => (config.replace("burst: 100000", &format!("burst: {}", 100_001 + round)), 200, true),
        1 => (config.replace("routes:", "rotues:").replace("retries: 0", "retries: lots"), 422, true),
        2 => {
            script("return function(turn) return nlp.");
            (config.to_owned(), 200, false)
        }
        _ => {
            script(&format!("{PASS} -- {round}"));
            (config.replace("alpha is busy", &format!("alpha is busy {round}")), 200, true)
        }
    };
    site.write(&text);
    let (got, report) = admin(process, "POST", "/reload").await;
    assert_eq!(got, status, "{report}");
    assert!(status != 200 || (report["flows"]["alpha"] == "ok") == flow, "{report}");
    report["generation"].as_u64().unwrap_or(0)
}

/// A site whose tenant `beta` has a limit of one message an hour, and a circuit that opens at once and stays open.
fn site_under_load(model: &Model) -> Site {
    let routes = "routes:
  - { path: /v1/chat, chain: [auth, rate_limit, context, circuit_breaker], flow: model }
turn: { deadline: 5m }
";
    Site::new()
        .model(model)
        .breaker("{ retries: 0, failures: 1, recovery: 1h, max_recovery: 1h, timeout: 5m }")
        .extra(routes)
        .tenant_beta("plugins: { rate_limit: { limits: [{ name: user, by: user, rate: 1/h, burst: 1 }] } }")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_reloads_under_load_fail_no_request_and_lose_no_state() {
    let model = Model::start().await;
    let site = site_under_load(&model);
    let config = site.config();
    let process = Process::start(&site.write(&config)).await;
    let public = process.public;
    let beta =
        async |query: &str| client::http1(public, post("/v1/chat", Some(&token("beta")), json!({ "query": query }).to_string())).await;

    model.plan([Behaviour::Status(500)]);
    assert_eq!(beta("1").await.json()["fallback"], true, "the circuit is open now, and the limit used up");
    let release = Arc::new(Notify::new());
    model.plan([Behaviour::Hold(release.clone())]);
    let held = tokio::spawn(client::http1(public, post("/v1/chat", Some(&token("alpha")), json!({ "query": "held" }).to_string())));
    model.wait_for(2).await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4).map(|i| tokio::spawn(chat(public, format!("client-{i}"), stop.clone()))).collect();

    let (mut generation, mut early) = (1, None);
    for round in 0..100 {
        let reached = reload(&process, &site, &config, round).await;
        assert!(reached == 0 || reached == generation + 1, "{reached} after {generation}");
        generation = generation.max(reached);
        if round == 19 {
            early = Some(Size::of(&process).await);
        }
    }
    assert_eq!(generation, 1 + 75);
    let (early, late) = (early.unwrap(), Size::of(&process).await);
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.await.unwrap() > 5, "there was load");
    }
    release.notify_one();
    assert_eq!(held.await.unwrap().json()["answer"], "0:held", "a turn outlives the configuration it began with");
    beta("2").await.error(429, "rate_limited");
    let status = admin(&process, "GET", "/status").await.1;
    assert_eq!(status["plugins"]["circuit_breaker"]["beta/model"]["state"], "open", "{status}");
    assert!(model.connections() <= 6, "{} connections for 4 clients and 2 messages", model.connections());
    assert_eq!(late.series, early.series);
    assert!(late.files <= early.files + 4, "{} open files, then {}", early.files, late.files);
    assert!(late.memory_kib < early.memory_kib + (24 << 10), "{} KiB, then {}", early.memory_kib, late.memory_kib);
}
