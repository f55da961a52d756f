//! Limits as clients and operators meet them.

use std::time::Duration;

use fengda_plugins::redis::server::{Server, wait_until};
use serde_json::json;

use super::{
    client::{self, Http1},
    harness::{Site, post},
    process::{Process, message},
};

#[tokio::test]
async fn limits_are_per_tenant_and_user_and_say_when_to_come_back() {
    let gateway = Site::new().limits("[{ name: user, by: user, rate: 1/s, burst: 2 }]").start();
    for seq in 1..=2 {
        assert_eq!(gateway.ask("alpha", "u", "q").await["seq"], seq);
    }
    let reply = gateway.say("alpha", "u", json!({ "query": "q" })).await;
    reply.error(429, "rate_limited");
    assert_eq!(reply.headers["retry-after"], "1");
    assert!(reply.headers.contains_key("ratelimit") && reply.headers.contains_key("ratelimit-policy"), "{:?}", reply.headers);
    assert_eq!(gateway.ask("alpha", "other", "q").await["seq"], 1);
    assert_eq!(gateway.ask("beta", "u", "q").await["seq"], 1);
    gateway.site.clock.advance(Duration::from_secs(1));
    assert_eq!(gateway.ask("alpha", "u", "q").await["seq"], 3);
    assert_eq!(gateway.metric("fengda_plugin_rejections_total{code=\"rate_limited\",plugin=\"rate_limit\"}").await, 1.0);
}

#[tokio::test]
async fn decisions_and_keys_are_in_the_metrics() {
    let gateway =
        Site::new().limits("[{ name: user, by: user, rate: 1/s, burst: 2 }, { name: tight, by: tenant, rate: 1/h, shadow: true }]").start();
    for (user, status) in [("u", 200), ("u", 200), ("u", 429), ("v", 200)] {
        let reply = gateway.say("alpha", user, json!({ "query": "q" })).await;
        assert_eq!(reply.status, status);
        let told = ["ratelimit", "ratelimit-policy"].map(|name| reply.headers[name].to_str().unwrap().contains("tight"));
        assert_eq!(told, [false, false], "a limit in shadow mode is no client's business");
    }
    for (limit, decision, count) in
        [("user", "allowed", 3.0), ("user", "limited", 1.0), ("tight", "allowed", 1.0), ("tight", "shadow_limited", 2.0)]
    {
        let line = format!("fengda_rate_limit_decisions_total{{decision=\"{decision}\",limit=\"{limit}\",tenant=\"alpha\"}}");
        assert_eq!(gateway.metric(&line).await, count, "{line}");
    }
    assert_eq!(gateway.metric("fengda_rate_limit_keys{limit=\"user\"}").await, 2.0);
}

#[tokio::test]
async fn before_auth_a_limit_by_address_holds_back_who_guesses_tokens() {
    let routes = "routes: [{ path: /v1/chat, chain: [rate_limit, auth, context], flow: model }]";
    let gateway = Site::new().limits("[{ name: ip, by: ip, rate: 1/m, burst: 3 }]").extra(routes).start();
    let mut connection = Http1::connect(gateway.public()).await;
    for _ in 0..3 {
        connection.send(post("/v1/chat", Some("a.guess."), "{}")).await.error(401, "unauthorized");
    }
    let refused = connection.send(post("/v1/chat", Some("a.guess."), "{}")).await;
    refused.error(429, "rate_limited");
    assert_eq!(
        (&refused.headers["retry-after"], &refused.headers["ratelimit"]),
        (&"60".parse().unwrap(), &"\"ip\";r=0;t=60".parse().unwrap())
    );
    client::http1(gateway.public(), post("/v1/chat", None, "{}")).await.error(429, "rate_limited");
    let limited = "fengda_rate_limit_decisions_total{decision=\"limited\",limit=\"ip\",tenant=\"-\"}";
    assert_eq!(gateway.metric(limited).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_limit_holds_over_all_gateways_on_one_redis() {
    let server = Server::start();
    let redis = format!("store: {{ redis: {{ url: \"redis://127.0.0.1:{}\" }} }}", server.port());
    let [one, two] = [(); 2].map(|()| Site::new().limits("[{ name: user, by: user, rate: 1/m, burst: 3 }]").extra(&redis).start());
    for (seq, gateway) in [&one, &two, &one].into_iter().enumerate() {
        assert_eq!(gateway.ask("alpha", "u", "q").await["seq"], seq + 1);
    }
    let refused = two.say("alpha", "u", json!({ "query": "q" })).await;
    refused.error(429, "rate_limited");
    assert_eq!(
        (&refused.headers["retry-after"], &refused.headers["ratelimit"]),
        (&"60".parse().unwrap(), &"\"user\";r=0;t=60".parse().unwrap())
    );
    assert_eq!(two.ask("alpha", "other", "q").await["seq"], 1);
    assert_eq!(two.ask("beta", "u", "q").await["seq"], 1);
    assert_eq!(two.metric("fengda_plugin_rejections_total{code=\"rate_limited\",plugin=\"rate_limit\"}").await, 1.0);
    let limited = "fengda_rate_limit_decisions_total{decision=\"limited\",limit=\"user\",tenant=\"alpha\"}";
    assert_eq!(two.metric(limited).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_gives_its_leases_back() {
    let server = Server::start();
    let redis = format!("store: {{ redis: {{ url: \"redis://127.0.0.1:{}\" }} }}", server.port());
    let gateway = Site::new().limits("[{ name: tenant, by: tenant, rate: 100/s, burst: 100 }]").extra(&redis).start();
    for _ in 0..20 {
        gateway.ask("alpha", "u", "q").await;
    }
    let key = "fengda:{limit/tenant/100/1/100/-/tenant/alpha}";
    let fields = || server.cli::<u64>(&["HLEN", key]).unwrap();
    wait_until("a share is leased", || fields() == 2);
    gateway.stop();
    assert_eq!(fields(), 1, "only the pool is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_that_start_without_redis_share_a_limit_by_the_number_they_are_told() {
    let server = Server::start();
    let redis = format!("store: {{ redis: {{ url: \"redis://127.0.0.1:{}\" }} }}", server.port());
    server.kill();
    let gateway = Site::new().limits("[{ name: tenant, by: tenant, rate: 100/s, burst: 20 }], gateways: 4").extra(&redis).start();
    let alone = async { while gateway.metric("fengda_rate_limit_without_store").await < 1.0 {} };
    tokio::time::timeout(Duration::from_secs(10), alone).await.unwrap();
    for _ in 0..5 {
        assert_eq!(gateway.say("alpha", "u", json!({ "query": "q" })).await.status, 200);
    }
    gateway.say("alpha", "u", json!({ "query": "q" })).await.error(429, "rate_limited");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_are_told_when_limits_are_kept_without_redis() {
    let server = Server::start();
    let redis = format!("store: {{ redis: {{ url: \"redis://127.0.0.1:{}\" }} }}", server.port());
    let site = Site::new().limits("[{ name: tenant, by: tenant, rate: 100000/s }], without_store: closed").extra(&redis);
    let mut gateway = Process::start(&site.write(&site.config())).await;
    let answer = async || client::http1(gateway.public, message("alpha", &json!({ "query": "q" }))).await;
    assert_eq!(answer().await.status, 200);
    server.kill();
    let refused = loop {
        let reply = answer().await;
        if reply.status == 429 {
            break reply;
        }
    };
    assert_eq!(refused.headers["retry-after"], "1");
    let alone = gateway.event("limits_alone").await;
    assert_eq!((&alone["level"], &alone["fault"]), (&json!("warn"), &json!("down")));
    server.restart();
    assert_eq!(gateway.event("limits_together").await["level"], "info");
}
