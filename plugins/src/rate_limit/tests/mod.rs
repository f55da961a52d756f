//! The limits as clients meet them: what passes and what is refused, across tenants, reloads and threads.

mod config;
mod exact;
mod fleet;
mod headers;
mod together;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode};

use super::{RateLimit, spec};
use crate::redis::Slot;
use crate::{
    api::{Clock, Decision, Identity, Limited, Meters, Plugin, PluginSpec, Reject, RequestCtx, Tenant},
    testing::{NOW, Place, ask, ctx, head, metric, tenant},
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
        Self::of(&spec(Slot::default()), config, overrides, Clock::manual(NOW), None)
    }

    /// Three tenants; those without a configuration of their own have the common one.
    fn of(spec: &PluginSpec, config: &str, overrides: &[(&str, &str)], clock: Clock, previous: Option<Arc<dyn Plugin>>) -> Self {
        let own = |name| overrides.iter().find(|(n, _)| *n == name).map_or(config, |(_, own)| own);
        let tenants = ["acme-shop", "harbor-bank", "blue-air"].map(|name| tenant(name, own(name), "[]"));
        let meters = Meters::default();
        let plugin = Place { config, tenants: &tenants, clock: &clock, previous }.try_build_with(spec, &meters);
        let plugin = plugin.unwrap_or_else(|problems| panic!("{problems:?}"));
        let read = Arc::clone(&plugin);
        meters.before_gather(move |readings| read.gauges(readings));
        Self { plugin, meters, clock }
    }

    /// The same place after a reload.
    fn reloaded(&self, config: &str, overrides: &[(&str, &str)]) -> Self {
        Self::of(&spec(Slot::default()), config, overrides, self.clock.clone(), Some(Arc::clone(&self.plugin)))
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
fn many_threads_at_once_get_the_burst_and_no_more() {
    let gate = Gate::new("{limits: [{name: user, by: user, rate: 1/s, burst: 300}]}", &[]);
    let passed: usize = std::thread::scope(|scope| {
        let threads = [(); 8].map(|()| scope.spawn(|| (0..100).filter(|_| gate.send("acme-shop", "u1", "::1").is_ok()).count()));
        threads.map(|t| t.join().unwrap()).iter().sum()
    });
    assert_eq!(passed, 300);
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
