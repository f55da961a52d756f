//! More requests than may be in flight, scripts that never end, and operators who want to know about it meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fengda_plugins::api::{BuildCtx, Call, CallOutcome, CallPhase, Permit, Plugin, PluginSpec, Refusal, Registry, Verdict};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, net::TcpStream, sync::Notify, task::JoinHandle};

use super::{
    client::{self, Events, Http1, PATIENCE, Reply},
    harness::{Gateway, Site},
    model::{Behaviour, Model, delta},
};

const PATIENT: &str = "turn: { deadline: 60s }";

/// A gateway with a bound, whose model and turns wait for as long as a test does.
fn bounded(model: &Model, bound: usize) -> Arc<Gateway> {
    let site = Site::new().model(model).breaker("{ retries: 0, timeout: 60s }");
    Arc::new(site.extra(&format!("limits: {{ in_flight: {bound} }}\n{PATIENT}")).start())
}

/// Messages of one tenant that the model does not answer yet.
struct Held {
    release: Arc<Notify>,
    replies: Vec<JoinHandle<Reply>>,
}

impl Held {
    /// Sends so many messages, each of a user of its own, and waits until the model has them.
    async fn send(gateway: &Arc<Gateway>, model: &Model, tenant: &'static str, count: usize) -> Self {
        let (release, before) = (Arc::new(Notify::new()), model.asked().len());
        model.plan((0..count).map(|_| Behaviour::Hold(release.clone())));
        let send = |user: usize| {
            let gateway = gateway.clone();
            tokio::spawn(async move { gateway.say(tenant, &format!("held-{user}"), json!({ "query": "q" })).await })
        };
        let replies = (0..count).map(send).collect();
        model.wait_for(before + count).await;
        Self { release, replies }
    }

    /// Lets the model answer, and checks that all are answered.
    async fn release(self) {
        self.replies.iter().for_each(|_| self.release.notify_one());
        for reply in self.replies {
            let reply = tokio::time::timeout(PATIENCE, reply).await.expect("an answer in time").unwrap();
            assert_eq!((reply.status.as_u16(), &reply.json()["answer"]), (200, &json!("0:q")));
        }
    }
}

/// Waits until a metric has this value.
async fn becomes(gateway: &Gateway, line: &str, value: f64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = gateway.metric(line).await;
        if now == value {
            return;
        }
        assert!(Instant::now() < deadline, "{line} is {now}, not {value}");
    }
}

#[tokio::test]
async fn a_greedy_tenant_is_refused_before_others_and_told_so_in_its_own_words() {
    let model = Model::start().await;
    let gateway = bounded(&model, 8);
    let greedy = Held::send(&gateway, &model, "alpha", 6).await;
    // The last quarter is for tenants under their fair share.
    let refused = gateway.say("alpha", "u", json!({ "query": "one more" })).await;
    refused.error(503, "overloaded");
    assert_eq!(
        (&refused.json()["answer"], &refused.headers["retry-after"]),
        (&json!("alpha is busy"), &http::HeaderValue::from_static("1"))
    );
    let modest = Held::send(&gateway, &model, "beta", 2).await;
    // All is taken: that is said before it is known who asks.
    let refused = gateway.say("beta", "u", json!({ "query": "q", "stream": true })).await;
    refused.error(503, "overloaded");
    assert_eq!(refused.json()["answer"], Value::Null);
    for (line, value) in [
        ("fengda_in_flight", 8.0),
        ("fengda_tenant_in_flight{tenant=\"alpha\"}", 6.0),
        ("fengda_tenant_in_flight{tenant=\"beta\"}", 2.0),
        ("fengda_shed_total{reason=\"share\",tenant=\"alpha\"}", 1.0),
        ("fengda_shed_total{reason=\"full\",tenant=\"-\"}", 1.0),
    ] {
        assert_eq!(gateway.metric(line).await, value, "{line}");
    }
    greedy.release().await;
    modest.release().await;
    becomes(&gateway, "fengda_in_flight", 0.0).await;
    assert_eq!(gateway.ask("alpha", "u", "again").await["answer"], "0:again");
    assert_eq!(model.asked().len(), 9, "what was refused never reached the model");
}

#[tokio::test]
async fn a_tenant_s_own_bound_holds_from_the_reload_on_and_history_is_refused_without_an_answer() {
    let model = Model::start().await;
    let gateway = bounded(&model, 100);
    let before = Held::send(&gateway, &model, "alpha", 2).await;
    let config = gateway.site.config();
    gateway.site.write(&config.replace("    canned: { busy: alpha is busy }", "    canned: { busy: alpha is busy }\n    in_flight: 2"));
    assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
    gateway.say("alpha", "u", json!({ "query": "q" })).await.error(503, "overloaded");
    let history = gateway.history("GET", "alpha", "u", "").await;
    history.error(503, "overloaded");
    assert_eq!(history.json()["answer"], Value::Null);
    assert_eq!(gateway.metric("fengda_shed_total{reason=\"tenant\",tenant=\"alpha\"}").await, 2.0);
    assert_eq!(gateway.ask("beta", "u", "q").await["answer"], "0:q");
    before.release().await;
    becomes(&gateway, "fengda_tenant_in_flight{tenant=\"alpha\"}", 0.0).await;
    assert_eq!(gateway.history("GET", "alpha", "u", "").await.status, 200);
}

#[tokio::test]
async fn a_turn_whose_client_left_keeps_its_place_until_it_is_done() {
    let model = Model::start().await;
    let gateway = bounded(&model, 100);
    let release = Arc::new(Notify::new());
    model.plan([Behaviour::Hold(release.clone())]);
    let mut client = Http1::connect(gateway.public()).await;
    let request = gateway.chat("alpha", "u", &json!({ "query": "q", "message_id": "m", "stream": true }));
    let gone = tokio::spawn(async move { client.try_begin(request).await.map(drop) });
    model.wait_for(1).await;
    gone.abort();
    assert_eq!(gateway.metric("fengda_in_flight").await, 1.0);
    release.notify_one();
    becomes(&gateway, "fengda_in_flight", 0.0).await;
    assert_eq!(gateway.metric("fengda_turns_total{outcome=\"answered\",tenant=\"alpha\"}").await, 1.0);
}

#[tokio::test]
async fn a_stream_is_in_flight_until_its_end() {
    let model = Model::start().await;
    let gateway = bounded(&model, 100);
    let (pieces, stream) = tokio::sync::mpsc::channel(4);
    model.plan([Behaviour::Stream(stream)]);
    let mut client = Http1::connect(gateway.public()).await;
    pieces.send(delta("one")).await.unwrap();
    let mut events = Events::of(client.begin(gateway.chat("alpha", "u", &json!({ "query": "q", "stream": true }))).await);
    assert_eq!(events.next().await.unwrap().1["text"], "one");
    assert_eq!(gateway.metric("fengda_tenant_in_flight{tenant=\"alpha\"}").await, 1.0);
    pieces.send("event: done\ndata: {}\n\n".into()).await.unwrap();
    pieces.send("end".into()).await.unwrap();
    assert_eq!(events.next().await.unwrap().0, "done");
    becomes(&gateway, "fengda_in_flight", 0.0).await;
}

#[tokio::test]
async fn operators_get_answers_while_all_places_are_taken_and_scripts_loop() {
    let model = Model::start().await;
    let site =
        Site::new().model(&model).breaker("{ retries: 0, timeout: 60s }").extra("limits: { in_flight: 16 }\nturn: { deadline: 60s }");
    site.script("beta", "return function() while true do end end");
    let gateway = Arc::new(site.start());
    let held = Held::send(&gateway, &model, "alpha", 12).await;
    let looping: Vec<_> = (0..8)
        .map(|client| {
            let gateway = gateway.clone();
            tokio::spawn(async move {
                loop {
                    gateway.say("beta", &format!("u{client}"), json!({ "query": "loop" })).await;
                }
            })
        })
        .collect();
    becomes(&gateway, "fengda_in_flight", 16.0).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        for path in ["/livez", "/readyz", "/metrics", "/status"] {
            let begun = Instant::now();
            assert_eq!(gateway.admin("GET", path).await.status, 200, "{path}");
            slowest = slowest.max(begun.elapsed());
        }
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert_ne!(gateway.metric("fengda_shed_total{reason=\"full\",tenant=\"-\"}").await, 0.0);
    looping.iter().for_each(JoinHandle::abort);
    held.release().await;
}

#[tokio::test]
async fn silent_connections_to_the_admin_listener_give_way_to_new_ones() {
    let gateway = Site::new().start();
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(gateway.running().admin.unwrap()).await.unwrap());
    }
    assert_eq!(gateway.admin("GET", "/livez").await.status, 200);
    // The first to come are closed, the last ones still there.
    let read = |stream: &mut TcpStream| stream.try_read(&mut [0; 1]).map_err(|e| e.kind());
    let first = tokio::time::timeout(PATIENCE, silent[0].read(&mut [0; 1])).await.expect("to be closed in time");
    assert_eq!(first.unwrap(), 0);
    assert_eq!(read(&mut silent[199]), Err(std::io::ErrorKind::WouldBlock));
}

#[tokio::test]
async fn a_data_directory_that_takes_no_files_is_a_reason_not_to_be_ready() {
    let gateway = Site::new().start();
    assert_eq!(gateway.admin("GET", "/readyz").await.text(), "ok\n");
    // A directory in the place of the file that is written to find out.
    let probe = gateway.site.path("data/.probe");
    std::fs::create_dir(&probe).unwrap();
    let not_ready = gateway.admin("GET", "/readyz").await;
    assert_eq!(not_ready.status, 503);
    assert!(not_ready.text().starts_with("the context store failed: the data directory cannot be written to: "), "{}", not_ready.text());
    assert_eq!(gateway.admin("GET", "/livez").await.status, 200);
    std::fs::remove_dir(&probe).unwrap();
    assert_eq!(gateway.admin("GET", "/readyz").await.text(), "ok\n");
    assert!(!probe.exists());
    client::http1(gateway.public(), gateway.chat("alpha", "u", &json!({ "query": "q" }))).await;
}

/// A guard with a fault, which shows once.
struct Faulty(AtomicBool);

impl Plugin for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn call_phase(&self) -> Option<&dyn CallPhase> {
        Some(self)
    }
}

impl CallPhase for Faulty {
    fn permit(&self, _: &Call<'_>) -> Result<Permit, Refusal> {
        assert!(self.0.swap(true, Ordering::Relaxed), "a fault");
        Ok(Permit { token: 0, timeout: None })
    }

    fn outcome(&self, _: &Call<'_>, _: Permit, _: CallOutcome) -> Verdict {
        Verdict::Accept
    }
}

fn with_faulty(registry: &mut Registry) {
    let build = |_: &BuildCtx<'_>| Ok(Arc::new(Faulty(AtomicBool::new(false))) as Arc<dyn Plugin>);
    let spec = PluginSpec { name: "faulty", after: &["auth"], authenticates: false, schema: |_| true.into(), build: Box::new(build) };
    registry.register(spec).unwrap();
}

#[tokio::test]
async fn a_turn_that_a_fault_of_ours_ends_gives_everything_back_and_is_counted_as_refused() {
    let routes = "routes: [{ path: /v1/chat, chain: [auth, context, circuit_breaker, faulty], flow: model }]";
    let gateway = Site::new().plugins(with_faulty).extra(routes).start();
    gateway.say("alpha", "u", json!({ "query": "q", "message_id": "m" })).await.error(500, "internal");
    for (line, value) in [("fengda_in_flight", 0.0), ("fengda_session_messages", 0.0)] {
        becomes(&gateway, line, value).await;
    }
    for (outcome, turns) in [("refused", 1.0), ("cancelled", 0.0)] {
        assert_eq!(gateway.metric(&format!("fengda_turns_total{{outcome=\"{outcome}\",tenant=\"alpha\"}}")).await, turns, "{outcome}");
    }
    // The same message, of the same session, at once.
    let again = gateway.say("alpha", "u", json!({ "query": "q", "message_id": "m" })).await;
    assert_eq!((again.status.as_u16(), &again.json()["seq"]), (200, &json!(1)));
}

#[tokio::test]
async fn long_bodies_wait_for_their_tenant_s_share_of_the_thread_and_hold_up_nobody_else() {
    let site = Site::new().tenant_beta("flow_limits: { share: 1% }").extra("limits: { body: 8MiB }");
    let gateway = site.start();
    let long = |tenant, size| gateway.chat(tenant, "u", &json!({ "query": "x".repeat(size) }));
    let mut connection = Http1::connect(gateway.public()).await;
    connection.send(long("beta", 8_000_000)).await.error(413, "body_too_large");
    // It has used up the share of the next second on this connection's thread.
    let next = long("beta", 1_000_000);
    let waiting = tokio::spawn(async move { connection.send(next).await });
    client::http1(gateway.public(), long("alpha", 1_000_000)).await.error(413, "body_too_large");
    gateway.ask("beta", "u", "short").await;
    assert!(!waiting.is_finished());
    waiting.await.unwrap().error(413, "body_too_large");
}
