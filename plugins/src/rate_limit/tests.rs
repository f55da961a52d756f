//! The limits as clients meet them: what passes, what is refused and for how long, and what the headers promise.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode};

use super::{RateLimit, spec};
use crate::{
    api::{BuildCtx, Clock, Decision, Identity, Meters, Plugin, Problem, Reject, RequestCtx, Scope, Tenant},
    testing::{NOW, Place, ask, ctx, head, tenant, yaml},
};

struct Gate {
    plugin: Arc<dyn Plugin>,
    clock: Clock,
}

fn request(tenant: &str, user: &str, peer: &str) -> RequestCtx {
    let mut ctx = ctx(peer);
    if !tenant.is_empty() {
        ctx.identify(Identity { user: Tenant::from_config(tenant).unwrap().user(user).unwrap(), seen: None });
    }
    ctx
}

impl Gate {
    fn new(config: &str, overrides: &[(&str, &str)]) -> Self {
        let clock = Clock::manual(NOW);
        let tenants: Vec<_> = overrides.iter().map(|(name, config)| tenant(name, config, "[]")).collect();
        let plugin = Place { config, tenants: &tenants, clock: &clock, previous: None }.build(&spec());
        Self { plugin, clock }
    }

    fn send(&self, tenant: &str, user: &str, peer: &str) -> Result<(), Reject> {
        match ask(&*self.plugin, &head(&[]), &mut request(tenant, user, peer)) {
            Decision::Continue => Ok(()),
            Decision::Reject(reject) => Err(reject),
        }
    }

    /// How many of a user's requests pass now.
    fn passing(&self, tenant: &str, user: &str) -> usize {
        (0..10_000).take_while(|_| self.send(tenant, user, "192.0.2.1").is_ok()).count()
    }

    fn headers(&self, tenant: &str, user: &str) -> [String; 2] {
        let mut headers = HeaderMap::new();
        self.plugin.response(&request(tenant, user, "192.0.2.1"), StatusCode::OK, &mut headers);
        ["ratelimit", "ratelimit-policy"].map(|name| headers.get(name).map_or("", |v| v.to_str().unwrap()).to_owned())
    }
}

fn header<'a>(reject: &'a Reject, name: &str) -> &'a str {
    reject.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.to_str().unwrap())
}

#[test]
fn a_burst_passes_then_the_rate() {
    let gate = Gate::new("{limits: [{name: user, by: user, rate: 10/s, burst: 20}]}", &[]);
    assert_eq!(gate.passing("acme-shop", "u1"), 20);
    gate.clock.advance(Duration::from_millis(99));
    assert_eq!(gate.passing("acme-shop", "u1"), 0);
    gate.clock.advance(Duration::from_millis(1));
    assert_eq!(gate.passing("acme-shop", "u1"), 1);
    gate.clock.advance(Duration::from_secs(1));
    assert_eq!(gate.passing("acme-shop", "u1"), 10);
    gate.clock.advance(Duration::from_secs(3600));
    assert_eq!(gate.passing("acme-shop", "u1"), 20);
    assert_eq!(gate.passing("acme-shop", "u2"), 20, "another user");
    assert_eq!(gate.passing("harbor-bank", "u1"), 20, "another tenant's user of the same name");
}

#[test]
fn a_refusal_says_when_to_come_back_and_that_is_true() {
    let gate = Gate::new("{limits: [{name: minute, by: tenant, rate: 6/m, burst: 2}, {name: user, by: user, rate: 1/s, burst: 5}]}", &[]);
    assert_eq!(gate.passing("acme-shop", "u1"), 2);
    gate.clock.advance(Duration::from_millis(1500));
    let reject = gate.send("acme-shop", "u1", "::1").unwrap_err();
    assert_eq!(reject.code.as_str(), "rate_limited");
    assert_eq!(header(&reject, "retry-after"), "9", "8.5 s, rounded up");
    assert_eq!(header(&reject, "ratelimit"), r#""minute";r=0;t=9"#);
    assert_eq!(header(&reject, "ratelimit-policy"), r#""user";q=5;w=5, "minute";q=2;w=20"#);
    gate.clock.advance(Duration::from_secs(9));
    assert!(gate.send("acme-shop", "u1", "::1").is_ok());
}

#[test]
fn the_longest_wait_is_told_when_several_limits_are_used_up() {
    let gate = Gate::new("{limits: [{name: user, by: user, rate: 1/s, burst: 1}, {name: tenant, by: tenant, rate: 1/m, burst: 1}]}", &[]);
    assert!(gate.send("acme-shop", "u1", "::1").is_ok());
    let reject = gate.send("acme-shop", "u1", "::1").unwrap_err();
    assert_eq!((header(&reject, "retry-after"), header(&reject, "ratelimit")), ("60", r#""tenant";r=0;t=60"#));
}

#[test]
fn answers_tell_what_is_left_of_the_tightest_limit() {
    let gate = Gate::new("{}", &[]);
    let policy = r#""user";q=200;w=4, "tenant";q=1000;w=2"#;
    assert_eq!(gate.headers("acme-shop", "u1"), [r#""user";r=200;t=0"#, policy]);
    assert!(gate.send("acme-shop", "u1", "::1").is_ok());
    assert_eq!(gate.headers("acme-shop", "u1"), [r#""user";r=199;t=1"#, policy]);
    for user in ["u2", "u3", "u4", "u5", "u6"] {
        assert!(gate.passing("acme-shop", user) > 190);
    }
    assert_eq!(gate.headers("acme-shop", "u1"), [r#""tenant";r=0;t=2"#, policy]);
    assert_eq!(gate.headers("harbor-bank", "u1")[0], r#""user";r=200;t=0"#);
    assert_eq!(gate.headers("", ""), ["", ""], "neither limit applies to a stranger");
}

#[test]
fn the_headers_of_a_refusal_stay_as_they_are() {
    let gate = Gate::new("{limits: [{name: ip, by: ip, rate: 1/h}]}", &[]);
    let mut headers = HeaderMap::from_iter([(super::RATELIMIT, http::HeaderValue::from_static("x"))]);
    gate.plugin.response(&request("", "", "192.0.2.1"), StatusCode::OK, &mut headers);
    assert_eq!(headers.len(), 1);
}

#[test]
fn a_user_over_the_users_limit_does_not_use_up_the_tenants() {
    let gate =
        Gate::new("{limits: [{name: tenant, by: tenant, rate: 100/s, burst: 100}, {name: user, by: user, rate: 1/s, burst: 10}]}", &[]);
    for _ in 0..1000 {
        _ = gate.send("acme-shop", "flood", "192.0.2.1");
    }
    assert_eq!((0..9).map(|i| gate.passing("acme-shop", &format!("u{i}"))).sum::<usize>(), 90);
}

#[test]
fn strangers_are_limited_by_address_and_route_only() {
    let gate = Gate::new(
        "{limits: [{name: r, by: route, rate: 5/s}, {name: t, by: tenant, rate: 1/s}, {name: u, by: user, rate: 1/s}, {name: ip, by: ip, rate: 3/s}]}",
        &[],
    );
    let passing = |peer| (0..100).filter(|_| gate.send("", "", peer).is_ok()).count();
    assert_eq!(passing("2001:db8::1"), 3);
    assert_eq!(passing("2001:db8::2"), 0, "the same subscriber");
    assert_eq!(passing("192.0.2.7"), 2, "the route is used up");
    assert_eq!(gate.headers("", "")[1], r#""ip";q=3;w=1, "r";q=5;w=1"#);
}

#[test]
fn a_tenants_own_list_replaces_the_common_one_and_shares_nothing() {
    let own = "{limits: [{name: all, by: route, rate: 2/s}]}";
    let gate = Gate::new("{limits: [{name: user, by: user, rate: 1/s}]}", &[("harbor-bank", own), ("blue-air", own)]);
    assert_eq!(gate.passing("acme-shop", "u1"), 1);
    assert_eq!((0..10).filter(|i| gate.send("harbor-bank", &i.to_string(), "::1").is_ok()).count(), 2);
    assert_eq!(gate.passing("blue-air", "u1"), 2, "its budget is its own, though written alike");
}

#[test]
fn what_is_left_is_what_passes_and_the_wait_is_exact() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..50 {
        let (rate, burst) = ([1, 2, 4, 5, 8, 10, 20, 25, 40][random.usize(..9)], random.u32(1..30));
        let gate = Gate::new(&format!("{{limits: [{{name: user, by: user, rate: {rate}/s, burst: {burst}}}]}}"), &[]);
        let plugin = (&*gate.plugin as &dyn std::any::Any).downcast_ref::<RateLimit>().unwrap();
        for _ in 0..50 {
            gate.clock.advance(Duration::from_millis(random.u64(..2000)));
            for _ in 0..random.u32(..burst + 2) {
                _ = gate.send("acme-shop", "u1", "::1");
            }
            let (_, left) = plugin.common.tightest(&request("acme-shop", "u1", "::1")).unwrap();
            if random.bool() {
                assert_eq!(gate.passing("acme-shop", "u1"), usize::try_from(left.remaining).unwrap());
            } else if left.remaining == 0 {
                gate.clock.advance(left.wait - Duration::from_millis(1));
                assert!(gate.send("acme-shop", "u1", "::1").is_err());
                gate.clock.advance(Duration::from_millis(1));
                assert!(gate.send("acme-shop", "u1", "::1").is_ok());
            }
        }
    }
}

#[test]
fn a_reload_keeps_the_state_of_every_limit_that_did_not_change() {
    let clock = Clock::manual(NOW);
    let build = |config, previous| Place { config, tenants: &[], clock: &clock, previous }.build(&spec());
    let one =
        Gate { plugin: build("{limits: [{name: a, by: user, rate: 1/h}, {name: b, by: tenant, rate: 5/h}]}", None), clock: clock.clone() };
    assert_eq!(one.passing("acme-shop", "u1"), 1);
    let two = build("{limits: [{name: a, by: user, rate: 2/h}, {name: b, by: tenant, rate: 5/h}]}", Some(Arc::clone(&one.plugin)));
    let two = Gate { plugin: two, clock };
    assert_eq!(two.passing("acme-shop", "u1"), 2, "changed, so it begins anew");
    assert_eq!((0..10).filter(|i| two.send("acme-shop", &format!("x{i}"), "::1").is_ok()).count(), 2, "five less one less two");
}

#[test]
fn a_tenant_that_gets_a_list_of_its_own_keeps_what_it_has_used_of_the_limits_in_it() {
    let user = "{limits: [{name: u, by: user, rate: 5/h}]}";
    let before = Gate::new(user, &[("acme-shop", user)]);
    assert_eq!(before.passing("acme-shop", "u1"), 5);
    let own = "{limits: [{name: u, by: user, rate: 5/h}, {name: t, by: tenant, rate: 9/h}]}";
    let (tenants, previous) = ([tenant("acme-shop", own, "[]")], Some(Arc::clone(&before.plugin)));
    let plugin = Place { config: user, tenants: &tenants, clock: &before.clock, previous }.build(&spec());
    let after = Gate { plugin, clock: before.clock };
    assert_eq!(after.passing("acme-shop", "u1"), 0);
    assert_eq!(after.passing("acme-shop", "u2"), 5);
    let status = after.plugin.status();
    let user = status.as_array().unwrap().iter().find(|l| l["name"] == "u").unwrap();
    assert_eq!(*user, serde_json::json!({ "name": "u", "tenant": null, "rate": "5 per 3600s", "burst": 5, "keys": 2 }));
}

#[test]
fn many_threads_at_once_get_the_burst_and_no_more() {
    let gate = Gate::new("{limits: [{name: user, by: user, rate: 1/s, burst: 300}]}", &[]);
    let passed: usize = std::thread::scope(|scope| {
        let threads = [(); 8].map(|()| scope.spawn(|| (0..100).filter(|_| gate.send("acme-shop", "u1", "::1").is_ok()).count()));
        threads.map(|t| t.join().unwrap()).iter().sum()
    });
    assert_eq!(passed, 300);
}

#[test]
fn problems_name_the_limit() {
    let config = yaml("{limits: [{name: a, by: user, rate: 0/s}]}");
    let clock = Clock::manual(NOW);
    let read = |config: &serde_yaml::Value| {
        (spec().build)(&BuildCtx { config, tenants: &[], clock: &clock, meters: &Meters::default(), previous: None }).err().unwrap()
    };
    let problem = |path: &str, message: &str| Problem { scope: Scope::Plugin, path: path.into(), message: message.into() };
    let rate = "`0/s` is not a rate: write a whole number from 1 to 100000000 and /s, /m or /h, as `50/s`";
    assert_eq!(read(&config), [problem("limits[0].rate", rate)]);
    let name = "a name has 1 to 32 bytes of a-z, 0-9, _ and -";
    let two = yaml(
        "{limits: [{name: a\"b, by: user, rate: 1/s}, {name: x, by: ip, rate: 1/m}, {name: x, by: ip, rate: 1/m, burst: 100000001}, {name: y, by: ip, rate: 1/h, burst: 721}]}",
    );
    let expected = [
        problem("limits[0].name", name),
        problem("limits[2].name", "another limit has this name"),
        problem("limits[2].burst", "at most 100000000 are allowed"),
        problem("limits[3].burst", "at this rate it would take more than 30 days to come back"),
    ];
    assert_eq!(read(&two), expected);
    for bad in ["50", "/s", "+5/s", "-1/s", "1.5/s", "5/d", "5 /s", "100000001/s", ""] {
        let config = yaml(&format!("{{limits: [{{name: a, by: user, rate: '{bad}'}}]}}"));
        assert_eq!(read(&config)[0].path, "limits[0].rate", "{bad}");
    }
}
