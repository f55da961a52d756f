//! What an operator does: health, metrics, reload, plugins of one's own, and a look at what must not be in any of it.

use std::sync::Arc;

use fengda_plugins::api::{BuildCtx, Decision, Plugin, PluginSpec, Registry, RequestCtx, Step};
use http::{HeaderMap, HeaderValue, StatusCode, request::Parts};
use serde_json::json;

use super::{
    client,
    harness::{Site, post},
    metrics::counted,
    model::{Behaviour, Model},
};

#[tokio::test]
async fn health_status_and_metrics_are_on_the_admin_listener_only() {
    let gateway = Site::new().start();
    gateway.ask("alpha", "u", "q").await;
    for path in ["/livez", "/readyz"] {
        let reply = gateway.admin("GET", path).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (200, "ok\n"));
        client::http1(gateway.public(), post(path, None, "")).await.error(404, "not_found");
    }
    let status = gateway.admin("GET", "/status").await.json();
    assert_eq!(
        (&status["generation"], &status["draining"], &status["flows"]),
        (&json!(1), &json!(false), &json!({ "alpha": "ok", "beta": "ok" }))
    );
    counted(&gateway, "alpha", 1).await;
    let metrics = gateway.admin("GET", "/metrics").await;
    assert_eq!(metrics.headers["content-type"], "text/plain; version=0.0.4");
    for line in [
        "fengda_requests_total{route=\"/v1/chat\",status=\"200\",tenant=\"alpha\"} 1",
        "fengda_turns_total{outcome=\"answered\",tenant=\"alpha\"} 1",
        "fengda_upstream_calls_total{outcome=\"answered\",tenant=\"alpha\",upstream=\"model\"} 1",
        "fengda_store_duration_seconds_count{step=\"commit\"} 1",
        "fengda_config_generation 1",
    ] {
        assert!(metrics.text().contains(line), "{line} in\n{}", metrics.text());
    }
    assert_eq!(gateway.admin("POST", "/metrics").await.status, 405);
    assert_eq!(gateway.admin("GET", "/reload").await.status, 405);
    assert_eq!(gateway.admin("GET", "/v1/chat").await.status, 404);
}

#[tokio::test]
async fn a_reload_puts_all_of_a_file_in_force_or_nothing() {
    let gateway = Site::new().start();
    gateway.ask("alpha", "u", "q").await;
    let good = gateway.site.config();
    gateway.site.write(&good.replace("alpha is busy", "alpha is closed").replace("flows/alpha/main.lua", "flows/closed.lua"));
    std::fs::write(gateway.site.path("flows/closed.lua"), "return function() return canned('busy') end").unwrap();
    let report = gateway.admin("POST", "/reload").await;
    assert_eq!(report.status, 200);
    let report = report.json();
    assert_eq!((&report["generation"], report["config_hash"].as_str().unwrap().len()), (&json!(2), 32));
    assert_eq!(gateway.ask("alpha", "u", "q").await["answer"], "alpha is closed");

    gateway.site.write(&good.replace("upstreams:", "upstream:").replace("retries: 0", "retries: lots").replace("threads: 2", "thread: 2"));
    let refused = gateway.admin("POST", "/reload").await;
    assert_eq!(refused.status, 422);
    let problems = refused.json()["problems"].as_array().unwrap().clone();
    let problems: Vec<&str> = problems.iter().map(|p| p.as_str().unwrap()).collect();
    assert!(problems.iter().any(|p| p.contains("config.yaml:3:1: ") && p.contains("`threads`")), "{problems:?}");
    assert!(problems.iter().any(|p| p.contains("config.yaml:4:1: ") && p.contains("`upstreams`")), "{problems:?}");
    assert_eq!(gateway.admin("GET", "/status").await.json()["generation"], 2);
    assert_eq!(gateway.ask("alpha", "u", "q").await["answer"], "alpha is closed");

    // A problem that only the plugin can see has a place too.
    gateway.site.write(&good.replace("retries: 0", "retries: lots"));
    let refused = gateway.admin("POST", "/reload").await.json();
    assert!(refused["problems"][0].as_str().unwrap().contains("config.yaml:7:"), "{refused}");
    // What was opened once takes a restart, and says so.
    gateway.site.write(&good.replace("threads: 2", "threads: 3"));
    let refused = gateway.admin("POST", "/reload").await.json();
    assert!(refused["problems"][0].as_str().unwrap().contains("restart"), "{refused}");
    assert_eq!(gateway.metric("fengda_reloads_total{result=\"refused\"}").await, 3.0);
}

#[tokio::test]
async fn a_page_in_an_operator_s_browser_gives_no_orders() {
    let gateway = Site::new().start();
    for path in ["/reload", "/circuits?tenant=alpha&upstream=model&state=open"] {
        let order = http::Request::post(path).header("host", "test").header("origin", "http://evil.example");
        let refused = client::http1(gateway.running().admin.unwrap(), order.body(http_body_util::Full::default()).unwrap()).await;
        assert_eq!((refused.status.as_u16(), refused.text()), (403, "orders are not taken from web pages\n"), "{path}");
    }
    assert_eq!(gateway.admin("GET", "/status").await.json()["generation"], 1);
    assert_eq!(gateway.ask("alpha", "u", "q").await["fallback"], false);
}

#[tokio::test]
async fn a_reload_keeps_limits_circuits_and_turns_in_flight() {
    let model = Model::start().await;
    let gateway = Arc::new(Site::new().model(&model).limits("[{ name: user, by: user, rate: 1/h, burst: 3 }]").start());
    model.plan((0..2).map(|_| Behaviour::Status(500)));
    gateway.ask("alpha", "u", "1").await;
    gateway.ask("alpha", "u", "2").await;
    let release = Arc::new(tokio::sync::Notify::new());
    model.plan([Behaviour::Hold(release.clone())]);
    let in_flight = {
        let gateway = gateway.clone();
        tokio::spawn(async move { gateway.ask("alpha", "u", "3").await })
    };
    model.wait_for(3).await;
    gateway.site.write(&gateway.site.config().replace("alpha is busy", "changed"));
    assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
    release.notify_one();
    assert_eq!(in_flight.await.unwrap()["answer"], "0:3");
    gateway.say("alpha", "u", json!({ "query": "4" })).await.error(429, "rate_limited");
    let status = gateway.admin("GET", "/status").await.json();
    assert!(status["plugins"]["circuit_breaker"]["alpha/model"].is_object(), "{status}");
}

#[tokio::test]
async fn a_broken_configuration_does_not_start_and_leaves_nothing_behind() {
    let site = Site::new();
    for (from, to, says) in [
        ("tenants:", "tenant:", "config.yaml:"),
        ("listen: 127.0.0.1:0", "listen: 0.0.0.0", "config.yaml:1:9: "),
        ("flow: flows/alpha/main.lua", "flow: flows/none.lua", "flows/none.lua"),
        ("retries: 0", "retry: 0", "retries"),
    ] {
        site.write(&site.config().replace(from, to));
        let error = fengda::server::start(site.options()).err().expect("refused").to_string();
        assert!(error.contains(says), "{error}");
    }
    site.start().ask("alpha", "u", "fine").await;
}

#[tokio::test]
async fn a_second_gateway_on_the_same_data_is_refused() {
    let gateway = Site::new().start();
    let error = fengda::server::start(gateway.site.options()).err().expect("refused").to_string();
    assert!(error.contains("in use by another fengda"), "{error}");
    let taken = gateway.site.config().replace("listen: 127.0.0.1:0", &format!("listen: {}", gateway.public()));
    gateway.site.write(&taken);
    let error = fengda::server::start(gateway.site.options()).err().expect("refused").to_string();
    assert!(error.contains("`listen: ") && error.contains("in use"), "{error}");
}

/// A plugin as an operator would write it: it turns away a header and marks answers.
struct Doorman;

impl Plugin for Doorman {
    fn name(&self) -> &'static str {
        "doorman"
    }

    fn request<'a>(&'a self, head: &'a Parts, _: &'a mut RequestCtx) -> Step<'a, Decision> {
        use fengda_plugins::api::{Code, Reject};
        // As a plugin that has to wait would answer.
        Step::Pending(Box::pin(async move {
            tokio::task::yield_now().await;
            match head.headers.contains_key("x-muddy-boots") {
                true => Decision::Reject(Reject::new(Code::Forbidden, "not with these boots")),
                false => Decision::Continue,
            }
        }))
    }

    fn response(&self, ctx: &RequestCtx, status: StatusCode, headers: &mut HeaderMap) {
        let tenant = ctx.tenant().map_or("nobody", |t| t.name());
        headers.insert("x-doorman", HeaderValue::try_from(format!("{tenant} {}", status.as_u16())).unwrap());
    }
}

fn with_doorman(registry: &mut Registry) {
    let build = |_: &BuildCtx<'_>| Ok(Arc::new(Doorman) as Arc<dyn Plugin>);
    let spec = PluginSpec { name: "doorman", after: &["auth"], authenticates: false, schema: |_| true.into(), build: Box::new(build) };
    registry.register(spec).unwrap();
}

#[tokio::test]
async fn a_plugin_of_one_s_own_takes_its_place_in_the_chain() {
    let routes = "routes: [{ path: /v1/chat, chain: [auth, doorman, rate_limit, context, circuit_breaker], flow: model }]";
    let gateway = Site::new().plugins(with_doorman).extra(routes).start();
    let reply = gateway.say("alpha", "u", json!({ "query": "q" })).await;
    assert_eq!((reply.status.as_u16(), &reply.headers["x-doorman"]), (200, &HeaderValue::from_static("alpha 200")));
    let mut request = gateway.chat("alpha", "u", &json!({ "query": "q" }));
    request.headers_mut().insert("x-muddy-boots", HeaderValue::from_static("yes"));
    let reply = client::http1(gateway.public(), request).await;
    assert_eq!(reply.error(403, "forbidden"), "not with these boots");
    assert_eq!(reply.headers["x-doorman"], "alpha 403");
    // Without the binary that registers it, the configuration is refused, with the nearest name there is.
    let site = gateway.stop().plugins(|_| {});
    let error = fengda::server::start(site.options()).err().expect("refused").to_string();
    assert!(error.contains("doorman"), "{error}");
}

#[tokio::test]
async fn what_tenants_and_users_say_is_in_no_metric_status_or_other_tenant_s_log() {
    let gateway = Site::new().start();
    gateway.site.script("alpha", "return function(turn) if turn.text:find('boom') then error(turn.text) end return nlp.answer(turn) end");
    gateway.admin("POST", "/reload").await;
    let canary = "canary-7f3a";
    for query in [canary.to_owned(), format!("boom {canary}")] {
        let body = json!({ "query": query, "session_id": canary, "message_id": format!("{canary}-{}", query.len()), "channel": canary });
        gateway.say("alpha", canary, body).await;
    }
    gateway.say("alpha", canary, json!({ "query": { canary: 1 } })).await.error(400, "bad_request");
    for path in ["/metrics", "/status"] {
        assert!(!gateway.admin("GET", path).await.text().contains(canary), "{path}");
    }
    assert!(gateway.tenant_log("alpha").contains(canary));
    assert!(!gateway.tenant_log("beta").contains(canary));
    gateway.say("beta", "u", json!({ "query": "q" })).await;
    assert!(!gateway.history("GET", "beta", canary, "").await.text().contains(canary));
}

#[test]
fn the_api_s_document_names_every_error_code_with_its_status() {
    let document = include_str!("../../../docs/api.md");
    for code in fengda_plugins::api::Code::ALL {
        let status = code.status().as_u16().to_string();
        let told = document.lines().any(|l| l.starts_with('|') && l.contains(&status) && l.contains(&format!("`{}`", code.as_str())));
        assert!(told, "{} {status}", code.as_str());
    }
}

#[test]
fn compression_inside_pingora_works_with_the_zlib_that_stands_in() {
    use std::io::{Read, Write};
    let words = "蜂答".repeat(10_000);
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(words.as_bytes()).unwrap();
    let packed = packer.finish().unwrap();
    assert!(packed.len() < words.len() / 50);
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut unpacked).unwrap();
    assert!(unpacked == words);
}
