//! What each plugin adds to a request that passes: auth with a token it knows and one it does not, two limits, one guarded call.
//!
//! Every group calls the plugin through the registry and the contract, as the gateway does.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use fengda_plugins::{
    api::{BuildCtx, Call, CallOutcome, Clock, Decision, Identity, Meters, Plugin, RequestCtx, RequestId, Step, Tenant, TenantBuild},
    auth, builtin,
};
use http::{HeaderMap, StatusCode, request::Parts};

const KEYS: &str = r#"[{"alg": "HS256", "secret": "bench-secret-bench-secret-bench-secret"}]"#;
/// Never refuses, so that every round takes the same path.
const LIMITS: &str = r#"{"limits": [
    {"name": "tenant", "by": "tenant", "rate": "100000000/s", "burst": 100000000},
    {"name": "user", "by": "user", "rate": "100000000/s", "burst": 100000000}]}"#;

/// A tenant with a plugin's configuration.
fn tenant(config: &str) -> TenantBuild {
    TenantBuild { tenant: Tenant::from_config("acme-shop").expect("a name"), config: json(config), keys: json(KEYS) }
}

/// JSON as whatever is wanted of it; JSON is YAML.
fn json<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).expect("JSON")
}

fn plugin(name: &str, config: &str) -> Arc<dyn Plugin> {
    let (config, tenants) = (json(config), [tenant(config)]);
    let ctx = BuildCtx { config: &config, tenants: &tenants, clock: &Clock::system(), meters: &Meters::default(), previous: None };
    (builtin(Arc::default(), Arc::default()).get(name).expect("built in").build)(&ctx).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn head() -> Parts {
    let TenantBuild { tenant, config, keys } = tenant("{}");
    let token = auth::sign(&keys, &config, &tenant, "user-1", Duration::from_secs(3600), &Clock::system()).expect("signed");
    http::Request::post("/v1/chat").header("authorization", format!("Bearer {token}")).body(()).expect("a request").into_parts().0
}

fn stranger() -> RequestCtx {
    RequestCtx::new(RequestId::random(), None, "/v1/chat".into(), [127, 0, 0, 1].into())
}

fn passes(plugin: &dyn Plugin, head: &Parts, ctx: &mut RequestCtx) {
    assert!(matches!(plugin.request(head, ctx), Step::Ready(Decision::Continue)));
}

fn auth(c: &mut Criterion) {
    let head = head();
    for (name, config) in [("auth/known_token", "{}"), ("auth/unknown_token_hs256", r#"{"cache": 0}"#)] {
        let plugin = plugin("auth", config);
        c.bench_function(name, |b| b.iter_batched_ref(stranger, |ctx| passes(&*plugin, black_box(&head), ctx), BatchSize::SmallInput));
    }
}

fn rate_limit(c: &mut Criterion) {
    let plugin = plugin("rate_limit", LIMITS);
    let head = head();
    let mut ctx = stranger();
    let user = Tenant::from_config("acme-shop").expect("a name").user("user-1").expect("an id");
    ctx.identify(Identity { user, seen: None });
    c.bench_function("rate_limit/two_limits", |b| b.iter(|| passes(&*plugin, &head, black_box(&mut ctx))));
    c.bench_function("rate_limit/response_headers", |b| {
        b.iter_batched_ref(HeaderMap::new, |headers| plugin.response(black_box(&ctx), StatusCode::OK, headers), BatchSize::SmallInput);
    });
}

fn circuit_breaker(c: &mut Criterion) {
    let plugin = plugin("circuit_breaker", "{}");
    let phase = plugin.call_phase().expect("it guards calls");
    let tenant = Tenant::from_config("acme-shop").expect("a name");
    let call = Call { tenant: Some(&tenant), upstream: "model", attempt: 0, repeatable: true };
    c.bench_function("circuit_breaker/permit_and_outcome", |b| {
        b.iter(|| {
            let permit = phase.permit(black_box(&call)).expect("closed");
            phase.outcome(&call, permit, CallOutcome::Answered { after: Duration::from_millis(20) })
        });
    });
}

criterion_group!(benches, auth, rate_limit, circuit_breaker);
criterion_main!(benches);
