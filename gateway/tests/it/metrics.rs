//! What Prometheus sees: every family documented, every number right, and a real Prometheus that can tell.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use fengda_plugins::api::{Family, Kind};
use serde_json::json;
use tokio::{io::AsyncWriteExt, process::Command, sync::Notify};

use super::{
    client::{self, Events, PATIENCE},
    harness::{Gateway, PASS, Site},
    model::{Behaviour, Model},
    prometheus::Prometheus,
    tool,
};

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All there are, whatever the store.
fn families() -> Vec<(Family, Kind)> {
    let redis = "store: { redis: { url: \"redis://127.0.0.1:1\" } }";
    let sites = [Site::new(), Site::new().extra(redis)];
    let all = sites.into_iter().flat_map(|site| site.start().running().gateway.metrics.meters().families());
    let by_name: BTreeMap<_, _> = all.map(|(family, kind)| (family.name, (family, kind))).collect();
    by_name.into_values().collect()
}

/// The table of `docs/metrics.md`. The last column is written by hand and kept.
fn table(families: &[(Family, Kind)], watch: &BTreeMap<String, String>) -> String {
    let mut table = "| name | kind | labels | what it is | what to watch |\n|---|---|---|---|---|\n".to_owned();
    for (Family { name, help, labels }, kind) in families {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        let kind = format!("{kind:?}").to_lowercase();
        let watch = watch.get(*name).map_or("", String::as_str);
        table += &format!("| `{name}` | {kind} | {} | {help} | {watch} |\n", labels.join(" "));
    }
    table
}

#[tokio::test]
async fn the_document_describes_every_metric() {
    let path = root().join("docs/metrics.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- table: made by the test that checks it -->\n", "<!-- end of table -->\n");
    let (before, rest) = document.split_once(begin).unwrap();
    let (present, after) = rest.split_once(end).unwrap();
    let cells = |row: &str| Some((row.split('`').nth(1)?.to_owned(), row.split(" | ").nth(4)?.trim_end_matches(" |").to_owned()));
    let watch = present.lines().skip(2).filter_map(cells).collect();
    let expected = table(&families(), &watch);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, [before, begin, &expected, end, after].concat()).unwrap();
        return;
    }
    assert!(
        present == expected,
        "docs/metrics.md is behind; `UPDATE_DOCS=1 cargo test -p fengda --test it metrics` renews it:\n{expected}"
    );
    let silent: Vec<_> = expected.lines().filter(|row| row.ends_with(" |  |")).collect();
    assert!(silent.is_empty(), "say in docs/metrics.md what to watch: {silent:#?}");
}

/// Runs a tool that checks something and must have nothing to say against it.
async fn check(arguments: &[&str], folder: &Path, input: &[u8]) {
    let mut command = Command::new(tool::find("promtool"));
    command.args(arguments).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).await.unwrap();
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("an answer in time").unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && !said.contains("FAILED"), "{arguments:?}: {said}");
}

#[tokio::test]
async fn the_example_alerts_are_valid_and_look_at_metrics_that_exist() {
    let folder = root().join("deploy/prometheus");
    check(&["check", "config", "prometheus.yaml"], &folder, b"").await;
    check(&["check", "rules", "alerts.yaml"], &folder, b"").await;
    let known: Vec<_> = families().iter().map(|(family, _)| family.name).collect();
    for file in ["deploy/prometheus/alerts.yaml", "docs/metrics.md", "docs/operating.md", "docs/performance.md"] {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let names =
            text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|w| w.starts_with("fengda_") || w.starts_with("process_"));
        for name in names {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(known.contains(&family) || known.contains(&name), "{name} in {file}");
        }
    }
}

#[tokio::test]
async fn the_exposition_passes_prometheus_s_own_check() {
    let gateway = Site::new().start();
    gateway.ask("alpha", "u", "q").await;
    gateway.history("DELETE", "alpha", "u", "").await;
    let metrics = gateway.admin("GET", "/metrics").await;
    check(&["check", "metrics"], &root(), &metrics.body).await;
}

#[tokio::test]
async fn a_real_prometheus_scrapes_it_and_works_with_it() {
    let gateway = Site::new().start();
    let prometheus = Prometheus::start(&gateway).await;
    prometheus.wait_for("up{job=\"fengda\"}", |up| up == 1.0).await;
    for number in 1..=10 {
        assert_eq!(gateway.ask("alpha", "u", "q").await["seq"], number);
    }
    prometheus.wait_for("fengda_requests_total{tenant=\"alpha\",route=\"/v1/chat\",status=\"200\"}", |n| n == 10.0).await;
    prometheus.wait_for("fengda_turns_total{tenant=\"alpha\",outcome=\"answered\"}", |n| n == 10.0).await;
    let p95 = "histogram_quantile(0.95, sum by (le) (fengda_request_duration_seconds_bucket{tenant=\"alpha\"}))";
    prometheus.wait_for(p95, |seconds| seconds > 0.0 && seconds < 10.0).await;
    let overhead = "fengda_gateway_overhead_seconds_sum < fengda_request_duration_seconds_sum";
    prometheus.wait_for(overhead, |seconds| seconds > 0.0).await;
    prometheus.wait_for("process_resident_memory_bytes", |bytes| bytes > 1e6).await;
    prometheus.wait_for("fengda_build_info{version!=\"\"}", |one| one == 1.0).await;
    let rules = prometheus.get("/api/v1/rules").await.json();
    assert!(rules["data"]["groups"][0]["rules"].as_array().unwrap().iter().all(|rule| rule["health"] != "err"), "{rules}");
    let targets = prometheus.get("/api/v1/targets").await.json();
    assert_eq!(targets["data"]["activeTargets"][0]["lastError"], "", "{targets}");
}

#[tokio::test]
async fn waiting_for_the_model_is_not_the_gateway_s_own_time() {
    let model = Model::start().await;
    let gateway = Arc::new(Site::new().model(&model).start());
    for (stream, asked) in [(false, 1), (true, 2)] {
        let release = Arc::new(Notify::new());
        model.plan([Behaviour::Hold(release.clone())]);
        let turn = {
            let gateway = gateway.clone();
            tokio::spawn(async move { gateway.say("alpha", "u", json!({ "query": "q", "stream": stream })).await })
        };
        model.wait_for(asked).await;
        tokio::time::sleep(Duration::from_millis(300)).await; // how slow this model is
        release.notify_one();
        assert_eq!(turn.await.unwrap().status, 200);
    }
    counted(&gateway, "alpha", 2).await;
    let sum = async |name: &str| gateway.metric(&format!("{name}_sum{{route=\"/v1/chat\",tenant=\"alpha\"}}")).await;
    let (all, own) = (sum("fengda_request_duration_seconds").await, sum("fengda_gateway_overhead_seconds").await);
    assert!(all >= 0.6 && own < all - 0.55, "{own} of {all}");
    assert_eq!(gateway.metric("fengda_gateway_overhead_seconds_count{route=\"/v1/chat\",tenant=\"alpha\"}").await, 2.0);
}

#[tokio::test]
async fn waiting_for_an_earlier_message_is_not_the_gateway_s_own_time() {
    let model = Model::start().await;
    let gateway = Arc::new(Site::new().model(&model).start());
    let release = Arc::new(Notify::new());
    model.plan([Behaviour::Hold(release.clone())]);
    let say = |id: &'static str| {
        let gateway = gateway.clone();
        tokio::spawn(async move { gateway.say("alpha", "u", json!({ "query": "q", "message_id": id })).await })
    };
    let first = say("1");
    model.wait_for(1).await;
    let others = [say("1"), say("2")]; // a copy, and the next message
    wait_for(&gateway, "fengda_in_flight", 3.0).await; // a turn has the place of its request
    tokio::time::sleep(Duration::from_millis(300)).await; // how slow this model is
    release.notify_one();
    for turn in std::iter::once(first).chain(others) {
        assert_eq!(turn.await.unwrap().status, 200);
    }
    counted(&gateway, "alpha", 3).await;
    let own = gateway.metric("fengda_gateway_overhead_seconds_sum{route=\"/v1/chat\",tenant=\"alpha\"}").await;
    let all = gateway.metric("fengda_request_duration_seconds_sum{route=\"/v1/chat\",tenant=\"alpha\"}").await;
    assert!(all >= 0.9 && own < all - 0.85, "{own} of {all}");
}

#[tokio::test]
async fn the_pauses_of_a_script_that_computes_for_long_are_not_its_own_time() {
    let site = Site::new().tenant_beta("flow_limits: { cpu: 60ms, share: 10% }").extra("turn: { deadline: 60s }");
    site.script("beta", "return function() while true do end end");
    let gateway = site.start();
    // A tenth of the time, once the credit of 20 ms on the CPU is used up.
    let begun = std::time::Instant::now();
    gateway.say("beta", "u", json!({ "query": "q" })).await;
    let (took, ran) = (begun.elapsed().as_secs_f64(), gateway.metric("fengda_flow_duration_seconds_sum{tenant=\"beta\"}").await);
    assert!(ran < took / 2.0 && ran > 0.03, "{ran} s of {took} s");
}

#[tokio::test]
async fn a_turn_leaves_its_mark_everywhere_it_passes() {
    let gateway = Site::new().start();
    for _ in 0..34 {
        gateway.ask("alpha", "u", "q").await;
    }
    assert_eq!(gateway.history("GET", "alpha", "u", "").await.status, 200);
    assert_eq!(gateway.history("DELETE", "alpha", "u", "").await.status, 204);
    counted(&gateway, "alpha", 34).await;
    let sent = gateway.metric("fengda_sent_bytes_total{route=\"/v1/chat\",tenant=\"alpha\"}").await;
    let received = gateway.metric("fengda_received_bytes_total{route=\"/v1/chat\",tenant=\"alpha\"}").await;
    assert_eq!(received, 34.0 * f64::from(u32::try_from(json!({ "query": "q" }).to_string().len()).unwrap()));
    assert!(sent > 34.0 * 50.0, "{sent}");
    for (line, least) in [
        ("fengda_context_cache_lookups_total{outcome=\"miss\"}", 1.0),
        ("fengda_context_cache_lookups_total{outcome=\"hit\"}", 33.0),
        ("fengda_store_duration_seconds_count{step=\"begin\"}", 34.0),
        ("fengda_store_duration_seconds_count{step=\"commit\"}", 34.0),
        ("fengda_store_duration_seconds_count{step=\"read\"}", 1.0),
        ("fengda_store_duration_seconds_count{step=\"erase\"}", 1.0),
        ("fengda_flow_duration_seconds_count{tenant=\"alpha\"}", 34.0),
        ("fengda_flow_memory_bytes_count{tenant=\"alpha\"}", 34.0),
        ("fengda_flow_memory_bytes_sum{tenant=\"alpha\"}", 1.0),
        ("fengda_flow_vms", 1.0),
        ("fengda_plugin_duration_seconds_count{phase=\"request\",plugin=\"auth\"}", 1.0),
        ("fengda_plugin_duration_seconds_count{phase=\"upstream_call\",plugin=\"circuit_breaker\"}", 1.0),
        ("fengda_plugin_duration_seconds_count{phase=\"response\",plugin=\"rate_limit\"}", 1.0),
        ("fengda_plugin_duration_seconds_count{phase=\"log\",plugin=\"context\"}", 1.0),
        ("fengda_connections_accepted_total{protocol=\"http1\"}", 36.0),
        ("process_open_fds", 5.0),
        ("process_threads", 4.0),
    ] {
        let value = gateway.metric(line).await;
        assert!(value >= least, "{line} is {value}");
    }
}

#[tokio::test]
async fn what_is_open_is_counted_until_it_is_closed() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).start();
    let (send, events) = tokio::sync::mpsc::channel(4);
    model.plan([Behaviour::Stream(events)]);
    let mut client = client::Http1::connect(gateway.public()).await;
    let silent = tokio::net::TcpStream::connect(gateway.public()).await.unwrap();
    send.send(super::model::delta("one")).await.unwrap();
    let request = gateway.chat("alpha", "u", &json!({ "query": "q", "stream": true }));
    let mut answer = Events::of(client.begin(request).await);
    answer.next().await.unwrap();
    wait_for(&gateway, "fengda_streams", 1.0).await;
    wait_for(&gateway, "fengda_connections{protocol=\"http1\"}", 1.0).await;
    wait_for(&gateway, "fengda_connections{protocol=\"silent\"}", 1.0).await;
    send.send("event: done\ndata: {\"text\":\"one\"}\n\n".into()).await.unwrap();
    send.send("end".into()).await.unwrap();
    while answer.next().await.is_some() {}
    wait_for(&gateway, "fengda_streams", 0.0).await;
    drop((client, answer, silent));
    wait_for(&gateway, "fengda_connections{protocol=\"http1\"}", 0.0).await;
    wait_for(&gateway, "fengda_connections{protocol=\"silent\"}", 0.0).await;
    client::http2(gateway.public(), gateway.chat("alpha", "u", &json!({ "query": "q" }))).await;
    assert_eq!(gateway.metric("fengda_connections_accepted_total{protocol=\"http2\"}").await, 1.0);
}

/// Waits until a tenant's answered messages are counted: that comes after the answer.
pub async fn counted(gateway: &Gateway, tenant: &str, requests: u32) {
    let line = format!("fengda_requests_total{{route=\"/v1/chat\",status=\"200\",tenant=\"{tenant}\"}}");
    wait_for(gateway, &line, f64::from(requests)).await;
}

async fn wait_for(gateway: &Gateway, line: &str, value: f64) {
    let met = tokio::time::timeout(PATIENCE, async {
        while gateway.metric(line).await != value {
            tokio::task::yield_now().await;
        }
    });
    assert!(met.await.is_ok(), "{line} is {}, not {value}", gateway.metric(line).await);
}

#[tokio::test]
async fn a_tenant_that_a_reload_removes_takes_its_series_along_and_one_that_stays_goes_on() {
    let gateway = Site::new().start();
    for tenant in ["alpha", "beta"] {
        gateway.ask(tenant, "u", "q").await;
        counted(&gateway, tenant, 1).await;
    }
    let hash = gateway.admin("GET", "/status").await.json()["config_hash"].as_str().unwrap().to_owned();
    assert_eq!(gateway.metric(&format!("fengda_config_info{{hash=\"{hash}\"}}")).await, 1.0);
    let config = gateway.site.config();
    let beta = config.find("  beta:\n").unwrap()..config.find("log:").unwrap();
    gateway.site.clock.advance(Duration::from_secs(60));
    gateway.site.write(&config.replace(&config[beta], ""));
    assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
    let metrics = gateway.admin("GET", "/metrics").await;
    let of_beta: Vec<_> = metrics.text().lines().filter(|line| line.contains("beta")).collect();
    assert!(of_beta.is_empty(), "{of_beta:#?}");
    assert!(!metrics.text().contains(&hash));
    gateway.ask("alpha", "u", "q").await;
    counted(&gateway, "alpha", 2).await;
    let told = gateway.metric("fengda_config_last_reload_success_timestamp_seconds").await;
    assert_eq!(told, f64::from(u32::try_from(gateway.site.clock.now().0 / 1000).unwrap()));
}

#[tokio::test]
async fn a_refused_reload_leaves_no_series_of_what_it_would_have_brought() {
    let gateway = Site::new().start();
    let config = gateway.site.config();
    let gamma = "  gamma: { flow: flows/beta/main.lua, keys: [{ alg: HS256, secret: a-key-for-tests-only-of-the-tenant-gamma }] }\nlog:";
    let limits = "limits: [{ name: tenant, by: nobody, rate: 1/s, burst: 1 }]";
    let known = "limits: [{ name: tenant, by: tenant, rate: 100000/s, burst: 100000 }]";
    gateway.site.write(&config.replace("log:", gamma).replace(known, limits));
    let refused = gateway.admin("POST", "/reload").await;
    assert_eq!(refused.status, 422, "{}", refused.text());
    let metrics = gateway.admin("GET", "/metrics").await;
    let of_gamma: Vec<_> = metrics.text().lines().filter(|line| line.contains("gamma")).collect();
    assert!(of_gamma.is_empty(), "{of_gamma:#?}");
}

#[tokio::test]
async fn a_refused_reload_and_a_refused_script_show_until_they_are_mended() {
    let gateway = Site::new().start();
    let config = gateway.site.config();
    let told = async |line: &str| gateway.metric(line).await;
    assert_eq!(told("fengda_config_last_reload_successful").await, 1.0);
    gateway.site.write("nonsense");
    gateway.admin("POST", "/reload").await;
    assert_eq!(told("fengda_config_last_reload_successful").await, 0.0);
    gateway.site.write(&config);
    gateway.site.script("alpha", "no Lua");
    gateway.admin("POST", "/reload").await;
    assert_eq!(told("fengda_config_last_reload_successful").await, 1.0);
    assert_eq!((told("fengda_flow_refused{tenant=\"alpha\"}").await, told("fengda_flow_refused{tenant=\"beta\"}").await), (1.0, 0.0));
    gateway.site.script("alpha", PASS);
    gateway.admin("POST", "/reload").await;
    assert_eq!(told("fengda_flow_refused{tenant=\"alpha\"}").await, 0.0);
}
