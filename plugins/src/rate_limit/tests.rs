//! The limits as clients meet them: what passes, what is refused and for how long, and what the headers promise.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode};

use super::{RateLimit, spec};
use crate::{
    api::{BuildCtx, Clock, Decision, Identity, Meters, Plugin, Problem, Reject, RequestCtx, Scope, Tenant},
    testing::{NOW, Place, ask, ctx, head, metric, tenant, yaml},
};

struct Gate {
    plugin: Arc<dyn Plugin>,
    meters: Meters,
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
        Self::after(config, overrides, Clock::manual(NOW), None)
    }

    /// Three tenants; those without a configuration of their own have the common one.
    fn after(config: &str, overrides: &[(&str, &str)], clock: Clock, previous: Option<Arc<dyn Plugin>>) -> Self {
        let own = |name| overrides.iter().find(|(n, _)| *n == name).map_or(config, |(_, own)| own);
        let tenants = ["acme-shop", "harbor-bank", "blue-air"].map(|name| tenant(name, own(name), "[]"));
        let meters = Meters::default();
        let plugin = Place { config, tenants: &tenants, clock: &clock, previous }.try_build_with(&spec(), &meters);
        Self { plugin: plugin.unwrap_or_else(|problems| panic!("{problems:?}")), meters, clock }
    }

    /// The same place after a reload.
    fn reloaded(&self, config: &str, overrides: &[(&str, &str)]) -> Self {
        Self::after(config, overrides, self.clock.clone(), Some(Arc::clone(&self.plugin)))
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
    assert_eq!(gate.headers("acme-shop", "u1"), [r#""user";r=200;t=4"#, policy]);
    assert!(gate.send("acme-shop", "u1", "::1").is_ok());
    assert_eq!(gate.headers("acme-shop", "u1"), [r#""user";r=199;t=4"#, policy]);
    for user in ["u2", "u3", "u4", "u5", "u6"] {
        assert!(gate.passing("acme-shop", user) > 190);
    }
    assert_eq!(gate.headers("acme-shop", "u1"), [r#""tenant";r=0;t=1"#, policy]);
    assert_eq!(gate.headers("harbor-bank", "u1")[0], r#""user";r=200;t=4"#);
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
    let acme = Tenant::from_config("acme-shop").unwrap();
    for _ in 0..50 {
        let (rate, burst) = ([1, 2, 4, 5, 8, 10, 20, 25, 40][random.usize(..9)], random.u32(1..30));
        let gate = Gate::new(&format!("{{limits: [{{name: user, by: user, rate: {rate}/s, burst: {burst}}}]}}"), &[]);
        let plugin = (&*gate.plugin as &dyn std::any::Any).downcast_ref::<RateLimit>().unwrap();
        for _ in 0..50 {
            gate.clock.advance(Duration::from_millis(random.u64(..2000)));
            for _ in 0..random.u32(..burst + 2) {
                _ = gate.send("acme-shop", "u1", "::1");
            }
            let (_, left) = plugin.tenants[&acme].tightest(&request("acme-shop", "u1", "::1")).unwrap();
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
    let one = Gate::new("{limits: [{name: a, by: user, rate: 1/h}, {name: b, by: tenant, rate: 5/h}]}", &[]);
    assert_eq!(one.passing("acme-shop", "u1"), 1);
    let two = one.reloaded("{limits: [{name: a, by: user, rate: 2/h}, {name: b, by: tenant, rate: 5/h}]}", &[]);
    assert_eq!(two.passing("acme-shop", "u1"), 2, "changed, so it begins anew");
    assert_eq!((0..10).filter(|i| two.send("acme-shop", &format!("x{i}"), "::1").is_ok()).count(), 2, "five less one less two");
    let shadow = two.reloaded("{limits: [{name: b, by: tenant, rate: 5/h, shadow: true}]}", &[]);
    assert_eq!(shadow.passing("acme-shop", "u1"), 10_000);
    let three = shadow.reloaded("{limits: [{name: b, by: tenant, rate: 5/h}]}", &[]);
    assert_eq!(three.passing("acme-shop", "u1"), 0, "a limit in shadow mode is the same limit");
    let four = three.reloaded("{limits: [{name: b, by: tenant, rate: 5/h}], max_keys: 5000}", &[]);
    assert_eq!(four.passing("acme-shop", "u1"), 5, "a table of another size is a new one");
}

#[test]
fn a_tenant_that_gets_a_list_of_its_own_keeps_what_it_has_used_of_the_limits_in_it() {
    let user = "{limits: [{name: u, by: user, rate: 5/h}]}";
    let before = Gate::new(user, &[("acme-shop", user)]);
    assert_eq!(before.passing("acme-shop", "u1"), 5);
    let own = "{limits: [{name: u, by: user, rate: 5/h}, {name: t, by: tenant, rate: 9/h}]}";
    let after = before.reloaded(user, &[("acme-shop", own)]);
    assert_eq!(after.passing("acme-shop", "u1"), 0);
    assert_eq!(after.passing("acme-shop", "u2"), 5);
    let status = after.plugin.status();
    let user = status.as_array().unwrap().iter().find(|l| l["name"] == "u").unwrap();
    assert_eq!(*user, serde_json::json!({ "name": "u", "tenant": null, "rate": "5 per 3600s", "burst": 5, "keys": 2 }));
}

#[test]
fn the_size_of_the_tables_is_not_a_tenants_to_choose() {
    let tenants = [tenant("acme-shop", "{max_keys: 5000}", "[]")];
    let built = Place { config: "{}", tenants: &tenants, clock: &Clock::manual(NOW), previous: None }.try_build(&spec());
    let said: Vec<_> = built.err().unwrap().into_iter().map(|p| format!("{}: {}", p.path, p.message)).collect();
    assert_eq!(said, ["max_keys: the same for all tenants: they share the tables"]);
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
fn after_retry_after_a_request_passes_and_a_second_before_it_does_not() {
    for rate in ["1/h", "7/h", "1/m", "9/m", "70/m", "1/s", "3/s", "50/s", "999/s"] {
        for burst in [1, 2, 7, 200] {
            for early in [0, 1, 499, 999] {
                let config = format!("{{limits: [{{name: user, by: user, rate: {rate}, burst: {burst}}}]}}");
                let (gate, told) = (Gate::new(&config, &[]), format!("{rate} {burst} {early}"));
                gate.clock.advance(Duration::from_millis(early));
                assert_eq!(gate.passing("acme-shop", "u1"), burst, "{told}");
                gate.clock.advance(Duration::from_millis(early / 2));
                let Err(reject) = gate.send("acme-shop", "u1", "::1") else { continue };
                let seconds: u64 = header(&reject, "retry-after").parse().unwrap();
                assert_eq!(header(&reject, "ratelimit"), format!(r#""user";r=0;t={seconds}"#));
                gate.clock.advance(Duration::from_secs(seconds - 1));
                assert!(gate.send("acme-shop", "u1", "::1").is_err(), "{told}: a second early");
                gate.clock.advance(Duration::from_secs(1));
                assert!(gate.send("acme-shop", "u1", "::1").is_ok(), "{told}: after {seconds} s");
            }
        }
    }
}

#[test]
fn who_uses_no_more_than_what_remains_in_its_window_is_never_refused() {
    let gate = Gate::new("{limits: [{name: user, by: user, rate: 7/s, burst: 30}]}", &[]);
    for _ in 0..50 {
        let [header, _] = gate.headers("acme-shop", "u1");
        let number = |name: &str| header.split(';').find_map(|p| p.strip_prefix(name)).unwrap().parse::<u64>().unwrap();
        let (remaining, window) = (number("r="), number("t="));
        assert!((0..remaining).all(|_| gate.send("acme-shop", "u1", "::1").is_ok()), "{header}");
        gate.clock.advance(Duration::from_secs(window));
    }
}

#[test]
fn a_limit_in_shadow_mode_counts_and_refuses_nobody() {
    let limits = "{limits: [{name: user, by: user, rate: 1/s, burst: 2}, {name: tight, by: tenant, rate: 1/h, shadow: true}]}";
    let gate = Gate::new(limits, &[]);
    assert_eq!(gate.passing("acme-shop", "u1"), 2);
    assert_eq!(gate.headers("acme-shop", "u2"), [r#""user";r=2;t=2"#, r#""user";q=2;w=2"#], "clients are not told of it");
    assert_eq!(gate.passing("acme-shop", "u2"), 2);
    let counted = |limit, decision| metric(&gate.meters, "fengda_rate_limit_decisions_total", &[decision, limit, "acme-shop"]);
    let decisions = ["allowed", "limited", "shadow_limited"];
    assert_eq!(decisions.map(|d| counted("user", d)), [Some(4.0), Some(2.0), None]);
    assert_eq!(decisions.map(|d| counted("tight", d)), [Some(1.0), None, Some(3.0)]);
}

#[test]
fn decisions_are_counted_for_strangers_too_and_keys_for_each_limit() {
    let gate = Gate::new("{limits: [{name: ip, by: ip, rate: 1/s}, {name: user, by: user, rate: 1/s}]}", &[]);
    for peer in ["192.0.2.1", "192.0.2.1", "192.0.2.2"] {
        _ = gate.send("", "", peer);
    }
    let counted = |limit, decision| metric(&gate.meters, "fengda_rate_limit_decisions_total", &[decision, limit, "-"]);
    assert_eq!((counted("ip", "allowed"), counted("ip", "limited"), counted("user", "allowed")), (Some(2.0), Some(1.0), None));
    gate.plugin.gauges(&gate.meters.readings());
    let keys = ["ip", "user"].map(|limit| metric(&gate.meters, "fengda_rate_limit_keys", &[limit]));
    assert_eq!(keys, [Some(2.0), Some(0.0)]);
}

#[test]
fn a_million_users_neither_grow_the_table_nor_free_one_who_is_over_the_limit() {
    let gate = Gate::new("{limits: [{name: user, by: user, rate: 1/m, burst: 10}], max_keys: 10000}", &[]);
    let keys = || gate.plugin.status()[0]["keys"].as_u64().unwrap();
    assert_eq!(gate.passing("acme-shop", "over"), 10);
    for user in 0..1_000_000 {
        assert!(gate.send("acme-shop", &user.to_string(), "::1").is_ok());
        assert!(user % 1000 != 0 || keys() <= 10_000, "{}", keys());
        if user % 100_000 == 0 {
            assert!(gate.send("acme-shop", "over", "::1").is_err(), "after {user} others");
        }
    }
    assert!(gate.send("acme-shop", "over", "::1").is_err());
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
    let three = yaml("{limits: [{name: '', by: user, rate: 0/s, burts: 1}, {by: usr}, {name: Y, by: ip, rate: 1/s}], max_keys: 1, m: 2}");
    let paths: Vec<_> = read(&three).into_iter().map(|p| p.path).collect();
    assert_eq!(paths, ["limits[2].name", "limits[0].rate", "limits[0].burts", "limits[1].by", "m"]);
    assert_eq!(read(&yaml("{max_keys: 1}")), [problem("max_keys", "must be 1024 to 16777216")]);
    assert_eq!(read(&yaml("{limits: 5}"))[0].path, "limits");
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
