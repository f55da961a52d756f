//! The circuit breaker between real clients and a real upstream, and what operators do with it.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::sync::Notify;

use super::{
    harness::{Gateway, Site},
    model::{Behaviour, Model},
};

const STATE: &str = "fengda_circuit_state{tenant=\"alpha\",upstream=\"model\"}";

async fn state(gateway: &Gateway) -> String {
    let status = gateway.admin("GET", "/status").await.json();
    status["plugins"]["circuit_breaker"]["alpha/model"]["state"].as_str().unwrap_or("none").to_owned()
}

/// Whether a question reaches the model.
async fn passes(gateway: &Gateway, tenant: &str) -> bool {
    gateway.ask(tenant, "u", "q").await["fallback"] == false
}

#[tokio::test]
async fn of_a_thousand_questions_at_once_three_try_the_model_out() {
    let model = Model::start().await;
    let gateway =
        Arc::new(Site::new().model(&model).breaker("{ failures: 1, retries: 0, timeout: 15s }").extra("turn: { deadline: 20s }").start());
    model.plan([Behaviour::Status(500)]);
    assert!(!passes(&gateway, "alpha").await);
    gateway.site.clock.advance(Duration::from_secs(30));

    let probes = [(); 3].map(|()| Arc::new(Notify::new()));
    model.plan(probes.clone().map(Behaviour::Hold));
    let ask = |i: usize| {
        let gateway = gateway.clone();
        async move { gateway.ask("alpha", &format!("u{i}"), "q").await["fallback"] == false }
    };
    let mut answers: tokio::task::JoinSet<bool> = (0..1000).map(ask).collect();
    for _ in 0..997 {
        assert!(!answers.join_next().await.unwrap().unwrap(), "answered at once, and not by the model");
    }
    assert_eq!((model.asked().len(), state(&gateway).await.as_str()), (4, "half_open"));
    assert_eq!(gateway.metric(STATE).await, 1.0);
    probes.iter().for_each(|probe| probe.notify_one());
    assert_eq!(answers.join_all().await, [true; 3]);
    assert_eq!(gateway.metric(STATE).await, 0.0);
    assert!(passes(&gateway, "alpha").await);
    for (to, count) in [("open", 1.0), ("half_open", 1.0), ("closed", 1.0)] {
        let moved = format!("fengda_circuit_transitions_total{{tenant=\"alpha\",to=\"{to}\",upstream=\"model\"}}");
        assert_eq!(gateway.metric(&moved).await, count, "{to}");
    }
}

#[tokio::test]
async fn when_everything_fails_the_model_gets_the_retry_budget_more_and_a_few() {
    let model = Model::start().await;
    let breaker = "{ failures: 0, failure_rate: 100%, window: 1000, minimum: 1000, retries: 2, backoff: 0ms..1ms, retry_budget: 10% }";
    let gateway = Site::new().model(&model).breaker(breaker).start();
    let calls = 200;
    model.plan((0..2 * calls).map(|_| Behaviour::Status(503)));
    for _ in 0..calls {
        assert!(!passes(&gateway, "alpha").await);
    }
    let attempts = model.asked().len();
    assert!((calls + calls / 10..=calls + calls / 10 + 3).contains(&attempts), "{attempts} attempts for {calls} calls");
}

#[tokio::test]
async fn answers_that_are_too_slow_open_the_circuit_by_their_rate() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).breaker("{ slow_rate: 75%, slow: 20ms, window: 4, minimum: 4, retries: 0 }").start();
    for slow in [true, false, true, true] {
        if slow {
            let release = Arc::new(Notify::new());
            model.plan([Behaviour::Hold(release.clone())]);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                release.notify_one();
            });
        }
        assert!(passes(&gateway, "alpha").await);
    }
    assert_eq!(state(&gateway).await, "open");
    assert!(!passes(&gateway, "alpha").await);
    assert_eq!(model.asked().len(), 4);
}

#[tokio::test]
async fn what_clients_got_wrong_does_not_count_against_the_model() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).breaker("{ failures: 1, failure_rate: 1%, minimum: 1, retries: 2 }").start();
    model.plan((0..20).map(|i| Behaviour::Status(400 + i)));
    for _ in 0..20 {
        assert!(!passes(&gateway, "alpha").await);
    }
    assert_eq!((model.asked().len(), state(&gateway).await.as_str()), (20, "closed"));
}

#[tokio::test]
async fn an_operator_opens_and_closes_circuits_and_lets_them_go() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).breaker("{ failures: 2, retries: 0 }").start();
    let switch = async |state: &str| {
        let done = gateway.admin("POST", &format!("/circuits?tenant=alpha&upstream=model&state={state}")).await;
        assert_eq!((done.status.as_u16(), done.json()), (200, json!({ "tenant": "alpha", "upstream": "model", "state": state })));
    };
    switch("open").await;
    assert_eq!((passes(&gateway, "alpha").await, passes(&gateway, "beta").await), (false, true));
    assert_eq!((state(&gateway).await.as_str(), gateway.metric(STATE).await), ("open", 2.0));
    // Neither time nor reloads undo it, whether they touch the breaker or not.
    gateway.site.clock.advance(Duration::from_hours(1));
    for (from, to) in [("alpha is busy", "alpha is closed"), ("failures: 2", "failures: 3")] {
        gateway.site.write(&gateway.site.config().replace(from, to));
        assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
        assert!(!passes(&gateway, "alpha").await, "{to}");
    }
    switch("closed").await;
    model.plan((0..10).map(|_| Behaviour::Status(500)));
    for _ in 0..10 {
        assert!(!passes(&gateway, "alpha").await);
    }
    assert!(passes(&gateway, "alpha").await, "closed whatever comes of it");
    switch("auto").await;
    model.plan((0..3).map(|_| Behaviour::Status(500)));
    for _ in 0..3 {
        assert!(!passes(&gateway, "alpha").await);
    }
    assert_eq!(state(&gateway).await, "open");
}

#[tokio::test]
async fn another_upstream_under_the_same_name_begins_with_a_closed_circuit() {
    let (broken, spare) = (Model::start().await, Model::start().await);
    let gateway = Site::new().model(&broken).breaker("{ failures: 1, retries: 0, recovery: 1h, max_recovery: 1h }").start();
    broken.plan([Behaviour::Status(500)]);
    assert!(!passes(&gateway, "alpha").await);
    let reload = async |from: String, to: String| {
        gateway.site.write(&gateway.site.config().replace(&from, &to));
        assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
    };
    reload("alpha is busy".into(), "changed".into()).await;
    assert_eq!((passes(&gateway, "alpha").await, state(&gateway).await.as_str()), (false, "open"));
    reload(broken.addr.to_string(), spare.addr.to_string()).await;
    assert!(passes(&gateway, "alpha").await);
    assert_eq!((spare.asked().len(), state(&gateway).await.as_str()), (1, "closed"));
}

#[tokio::test]
async fn switches_that_do_not_exist_are_refused_with_those_that_do() {
    let gateway = Site::new().start();
    for (query, status, says) in [
        ("tenant=gamma&upstream=model&state=open", 404, "there is no tenant of this name; there are: alpha, beta, -\n"),
        ("tenant=alpha&upstream=orders&state=open", 404, "there is no upstream of this name; there are: model\n"),
        ("tenant=alpha&upstream=model&state=ajar", 400, "a state of `open`, `closed` or `auto`"),
        ("tenant=alpha&upstream=model", 400, "send `?tenant="),
        ("tenant=alpha&tenant=beta&upstream=model&state=open", 400, "each once"),
        ("tenant=alpha&upstream=model&state=open&for=1h", 400, "send `?tenant="),
        ("", 400, "send `?tenant="),
    ] {
        let reply = gateway.admin("POST", &format!("/circuits?{query}")).await;
        assert_eq!(reply.status, status, "{query}");
        assert!(reply.text().contains(says), "{query}: {}", reply.text());
    }
    assert_eq!(gateway.admin("GET", "/circuits?tenant=alpha&upstream=model&state=open").await.status, 405);
    assert_eq!(gateway.admin("POST", "/circuits?tenant=-&upstream=model&state=open").await.status, 200, "calls of public routes");
    assert!(passes(&gateway, "alpha").await);
    let routes = "routes: [{ path: /v1/chat, chain: [auth, context], flow: model }]";
    let unguarded = Site::new().extra(routes).start();
    let reply = unguarded.admin("POST", "/circuits?tenant=alpha&upstream=model&state=open").await;
    assert_eq!((reply.status.as_u16(), reply.text()), (404, "no chain has a `circuit_breaker`\n"));
}
