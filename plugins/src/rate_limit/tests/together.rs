//! Limits that four gateways keep together, in real time, on a real Redis.
#![allow(clippy::disallowed_methods, reason = "these have their threads to themselves")]

use std::time::Instant;

use super::*;
use crate::{
    redis::{
        Redis, RedisConfig,
        server::{Server, wait_until},
    },
    testing::redis_config,
};

/// A gateway with a connection of its own.
fn gateway(server: &Server, config: &str) -> Gate {
    gateway_on(redis_config(server.port()), config)
}

fn gateway_on(redis: RedisConfig, config: &str) -> Gate {
    let (meters, slot) = (Meters::default(), Slot::default());
    let redis = Redis::open(redis, &meters).unwrap();
    wait_until("redis is up", || redis.is_up());
    slot.set(redis).ok().unwrap();
    Gate::of(&spec(slot), config, &[], Clock::system(), None)
}

/// Lets requests of `acme-shop` come in at these rates for a time; how many passed.
fn drive(gates: &[Gate], loads: &[u32], time: Duration) -> usize {
    let (start, mut sent, mut passed) = (Instant::now(), vec![0; gates.len()], 0);
    while start.elapsed() < time {
        for (gate, (load, sent)) in gates.iter().zip(loads.iter().zip(&mut sent)) {
            while f64::from(*sent) < start.elapsed().as_secs_f64() * f64::from(*load) {
                *sent += 1;
                passed += usize::from(gate.send("acme-shop", "u1", "::1").is_ok());
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    passed
}

fn exchanges(server: &Server) -> u64 {
    let stats = server.info("commandstats");
    let calls = |name: &str| stats.split(&format!("cmdstat_{name}:calls=")).nth(1)?.split(',').next()?.parse::<u64>().ok();
    calls("evalsha").unwrap_or(0) + calls("eval").unwrap_or(0)
}

#[test]
fn four_gateways_let_the_limit_through_together_for_a_command_in_a_hundred_requests() {
    let server = Server::start();
    let config = "{limits: [{name: tenant, by: tenant, rate: 1000/s, burst: 1000}]}";
    let gates = [(); 4].map(|()| gateway(&server, config));
    let loads = [1400, 400, 150, 50];
    drive(&gates, &loads, Duration::from_secs(3));
    let before = exchanges(&server);
    let passed = drive(&gates, &loads, Duration::from_secs(4));
    assert!((3880..=4120).contains(&passed), "{passed} in 4 s at 1000/s");
    let asked = exchanges(&server) - before;
    assert!(asked <= 4 * 2000 / 100, "{asked} commands for {} requests", 4 * 2000);
}

#[test]
fn a_limit_below_a_hundred_a_second_costs_no_command_but_goes_with_the_turn() {
    let server = Server::start();
    let gate = gateway(&server, "{limits: [{name: user, by: user, rate: 50/s, burst: 20}, {name: ip, by: ip, rate: 99/s}]}");
    let before = exchanges(&server);
    let mut ctx = request("acme-shop", "u1", "::1");
    assert!(matches!(ask(&*gate.plugin, &head(&[]), &mut ctx), Decision::Continue));
    assert_eq!(gate.passing("acme-shop", "u1"), 19, "this gateway alone lets no more through than the limit");
    let [limit] = &*ctx.turn_limits else { panic!("{:?}", ctx.turn_limits) };
    assert_eq!((&*limit.name, limit.period, limit.burst, limit.shadow), ("user/50/1/20", Duration::from_millis(20), 20, false));
    let refused = gate.plugin.limited(&ctx, Limited { index: 0, wait: Duration::from_millis(1500) }).unwrap();
    assert_eq!((header(&refused, "retry-after"), header(&refused, "ratelimit")), ("2", r#""user";r=0;t=2"#));
    assert_eq!(metric(&gate.meters, "fengda_rate_limit_decisions_total", &["limited", "user", "acme-shop"]), Some(2.0));
    assert_eq!(exchanges(&server), before);
}

#[test]
fn without_redis_each_gateway_goes_on_as_it_is_told_within_a_second_and_comes_back() {
    let server = Server::start();
    let config = |without: &str| format!("{{limits: [{{name: tenant, by: tenant, rate: 400/s, burst: 400}}], without_store: {without}}}");
    let share = [(); 2].map(|()| gateway(&server, &config("share")));
    let (open, closed) = (gateway(&server, &config("open")), gateway(&server, &config("closed")));
    let without = |gate: &Gate| metric(&gate.meters, "fengda_rate_limit_without_store", &[]).unwrap() > 0.0;
    let gates = || share.iter().chain([&open, &closed]);
    drive(&share, &[600, 600], Duration::from_secs(1));
    assert!(!gates().any(without));
    server.kill();
    let killed = Instant::now();
    while !gates().all(without) {
        drive(&share, &[600, 600], Duration::from_millis(20));
        assert!(killed.elapsed() < Duration::from_secs(1));
    }
    assert_eq!(closed.passing("acme-shop", "u1"), 0);
    assert_eq!(header(&closed.send("acme-shop", "u1", "::1").unwrap_err(), "retry-after"), "1");
    assert!(open.passing("acme-shop", "u1") >= 25, "the whole limit");
    share.iter().for_each(|gate| _ = gate.passing("acme-shop", "u1"));
    let passed = drive(&share, &[600, 600], Duration::from_secs(1));
    assert!((380..=420).contains(&passed), "{passed} by two gateways at 400/s");
    let passed = drive(std::slice::from_ref(&open), &[600], Duration::from_secs(1));
    assert!(passed >= 380, "{passed}");
    server.restart();
    wait_until("redis is used again", || !gates().any(without));
    assert!(closed.send("acme-shop", "u1", "::1").is_ok());
}

#[test]
fn a_redis_that_stands_still_is_gone_for_limits_in_use_within_a_second() {
    let server = Server::start();
    let redis = RedisConfig { timeout: Duration::from_millis(250), ..redis_config(server.port()) };
    let gate = gateway_on(redis, "{limits: [{name: tenant, by: tenant, rate: 400/s, burst: 400}], without_store: closed}");
    let without = || metric(&gate.meters, "fengda_rate_limit_without_store", &[]).unwrap() > 0.0;
    let load = |time| drive(std::slice::from_ref(&gate), &[600], time);
    load(Duration::from_secs(1));
    assert!(!without());
    server.pause();
    let paused = Instant::now();
    while !without() {
        load(Duration::from_millis(20));
        assert!(paused.elapsed() < Duration::from_secs(1));
    }
    assert_eq!(gate.passing("acme-shop", "u1"), 0, "as it is told");
    server.resume();
    wait_until("redis is used again", || !without());
}
