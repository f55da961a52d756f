//! Conversations held in memory: how often the store is asked for one, and whose they are.

use http::Request;
use http_body_util::Full;
use tokio::task::JoinSet;

use super::{client, harness::Site};

#[tokio::test]
async fn a_thousand_who_ask_for_a_cold_conversation_cause_one_load() {
    let gateway = Site::new().start();
    gateway.ask("alpha", "u", "q").await;
    let gateway = gateway.stop().start();
    let token = gateway.token("alpha", "u");
    let mut asking = JoinSet::new();
    for _ in 0..20 {
        let (addr, authorization) = (gateway.public(), format!("Bearer {token}"));
        asking.spawn(async move {
            let mut client = client::Http1::connect(addr).await;
            for _ in 0..50 {
                let request = Request::get("/v1/history").header("host", "test").header("authorization", &authorization);
                let reply = client.send(request.body(Full::default()).unwrap()).await;
                assert_eq!(reply.json()["turns"][0]["q"], "q");
            }
        });
    }
    asking.join_all().await;
    assert_eq!(gateway.metric("fengda_context_loads_total").await, 1.0);
}

#[tokio::test]
async fn each_tenants_part_of_the_cache_is_told_as_long_as_it_is_configured() {
    let gateway = Site::new().extra("store: { cache: { size: 1MiB, share: 10% } }").start();
    for (tenant, users) in [("alpha", 3), ("beta", 100)] {
        for user in 0..users {
            gateway.ask(tenant, &format!("u{user}"), "q").await;
        }
    }
    assert_eq!(gateway.metric("fengda_context_cache_sessions{tenant=\"alpha\"}").await, 3.0);
    assert!((10.0..100.0).contains(&gateway.metric("fengda_context_cache_sessions{tenant=\"beta\"}").await));
    let bytes = gateway.metric("fengda_context_cache_bytes{tenant=\"beta\"}").await;
    assert!(bytes > 80_000.0 && bytes < 0.1 * 1_048_576.0, "{bytes}");
    let config = gateway.site.config();
    let (before, beta) = config.split_once("  beta:").unwrap();
    gateway.site.write(&format!("{before}log:{}", beta.split_once("log:").unwrap().1));
    assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
    let metrics = gateway.admin("GET", "/metrics").await;
    assert!(metrics.text().contains("fengda_context_cache_bytes{tenant=\"alpha\"}"));
    assert!(!metrics.text().contains("fengda_context_cache_bytes{tenant=\"beta\"}"));
}
