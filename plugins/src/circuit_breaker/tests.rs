//! The circuit as its callers meet it, step by step, at random and from many threads.

use std::{
    collections::HashMap,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{BreakerConfig, circuit::Circuit, spec};
use crate::{
    api::{Call, CallOutcome, Clock, Permit, Plugin, Problem, Refusal, Scope, Tenant, TenantBuild, Verdict},
    testing::{NOW, Place, tenant},
};
use CallOutcome::{Answered, Cancelled, Failed, TimedOut};

struct Gate {
    plugin: Arc<dyn Plugin>,
    clock: Clock,
    acme: Tenant,
    bank: Tenant,
}

fn tenants(config: &str) -> Vec<TenantBuild> {
    ["acme-shop", "harbor-bank"].map(|name| tenant(name, config, "[]")).into()
}

fn gate(config: &str) -> Gate {
    let clock = Clock::manual(NOW);
    let plugin = Place { config: "{}", tenants: &tenants(config), clock: &clock, previous: None }.build(&spec());
    let named = |name| Tenant::from_config(name).unwrap();
    Gate { plugin, clock, acme: named("acme-shop"), bank: named("harbor-bank") }
}

impl Gate {
    fn call(&self) -> Call<'_> {
        Call { tenant: Some(&self.acme), upstream: "model", attempt: 0, repeatable: false }
    }

    fn permit(&self) -> Result<Permit, Refusal> {
        self.plugin.call_phase().unwrap().permit(&self.call())
    }

    fn tell(&self, permit: Permit, outcome: CallOutcome) {
        assert_eq!(self.plugin.call_phase().unwrap().outcome(&self.call(), permit, outcome), Verdict::Accept);
    }

    fn each(&self, outcomes: &[CallOutcome]) {
        for outcome in outcomes {
            self.tell(self.permit().unwrap(), *outcome);
        }
    }

    fn state(&self) -> String {
        self.plugin.status()["acme-shop/model"]["state"].as_str().unwrap_or("none").to_owned()
    }
}

fn open_for(ms: u64) -> Result<Permit, Refusal> {
    Err(Refusal::Open { retry_after: Duration::from_millis(ms) })
}

#[test]
fn five_failures_in_a_row_open_it_for_thirty_seconds() {
    let gate = gate("{}");
    gate.each(&[Failed, TimedOut, Failed, Failed, Answered, Failed, Failed, Cancelled, Failed, TimedOut]);
    assert_eq!(gate.permit().unwrap().timeout, Some(Duration::from_millis(1500)));
    assert_eq!(gate.state(), "closed");
    gate.each(&[Failed]);
    assert_eq!(gate.permit(), open_for(30_000));
    gate.clock.advance(Duration::from_millis(29_999));
    assert_eq!(gate.permit(), open_for(1));
    assert_eq!(gate.plugin.status()["acme-shop/model"], serde_json::json!({ "state": "open", "retry_in_ms": 1 }));
    gate.clock.advance(Duration::from_millis(1));
    assert!(gate.permit().is_ok());
    assert_eq!(gate.state(), "half_open");
}

#[test]
fn three_probes_that_succeed_close_it_and_no_fourth_is_let_through_meanwhile() {
    let gate = gate("{}");
    gate.each(&[Failed; 5]);
    gate.clock.advance(Duration::from_secs(30));
    let probes = [gate.permit().unwrap(), gate.permit().unwrap(), gate.permit().unwrap()];
    assert_eq!(gate.permit(), open_for(1500));
    gate.tell(probes[0], Answered);
    gate.tell(probes[1], Answered);
    assert_eq!(gate.permit(), open_for(1500), "one more success is enough, and it is on its way");
    gate.tell(probes[2], Answered);
    assert_eq!(gate.state(), "closed");
    gate.each(&[Failed; 4]);
    assert_eq!(gate.state(), "closed", "it counts from nothing");
}

#[test]
fn one_probe_that_fails_opens_it_again_and_a_cancelled_one_gives_its_place_back() {
    let gate = gate("{}");
    gate.each(&[Failed; 5]);
    gate.clock.advance(Duration::from_secs(30));
    let probes = [gate.permit().unwrap(), gate.permit().unwrap(), gate.permit().unwrap()];
    gate.tell(probes[0], Cancelled);
    let fourth = gate.permit().unwrap();
    assert_eq!(gate.permit(), open_for(1500));
    gate.clock.advance(Duration::from_secs(10));
    gate.tell(fourth, TimedOut);
    assert_eq!(gate.permit(), open_for(30_000));
    gate.tell(probes[1], Answered);
    gate.tell(probes[2], Answered);
    assert_eq!(gate.permit(), open_for(30_000), "answers of the round before count no more");
}

#[test]
fn probes_whose_outcome_is_never_told_do_not_hold_it_half_open_for_ever() {
    let gate = gate("{}");
    gate.each(&[Failed; 5]);
    gate.clock.advance(Duration::from_secs(30));
    let lost = [gate.permit().unwrap(), gate.permit().unwrap(), gate.permit().unwrap()];
    gate.clock.advance(Duration::from_secs(30));
    gate.each(&[Answered, Answered]);
    gate.tell(lost[0], Failed);
    gate.each(&[Answered]);
    assert_eq!(gate.state(), "closed");
}

#[test]
fn outcomes_of_calls_from_before_a_change_are_ignored() {
    let gate = gate("{recovery: 1s, probes: 1}");
    let before: Vec<_> = (0..20).map(|_| gate.permit().unwrap()).collect();
    gate.each(&[Failed; 5]);
    gate.tell(before[0], Answered);
    assert_eq!(gate.state(), "open");
    gate.clock.advance(Duration::from_secs(1));
    let probe = gate.permit().unwrap();
    gate.tell(before[1], Failed);
    gate.tell(before[2], Answered);
    assert_eq!(gate.state(), "half_open");
    gate.tell(probe, Answered);
    for old in &before[3..] {
        gate.tell(*old, Failed);
    }
    assert_eq!(gate.state(), "closed");
}

#[test]
fn tenants_and_upstreams_do_not_open_each_others_circuits() {
    let gate = gate("{}");
    gate.each(&[Failed; 5]);
    let phase = gate.plugin.call_phase().unwrap();
    assert!(phase.permit(&Call { upstream: "orders", ..gate.call() }).is_ok());
    assert!(phase.permit(&Call { tenant: Some(&gate.bank), ..gate.call() }).is_ok());
    assert_eq!(gate.plugin.status().as_object().unwrap().len(), 3);
}

#[test]
fn only_repeatable_calls_that_failed_are_retried_and_not_too_often() {
    let gate = gate("{failures: 100, retry_budget: 1}");
    let phase = gate.plugin.call_phase().unwrap();
    let verdict = |attempt, repeatable, outcome| {
        let call = Call { attempt, repeatable, ..gate.call() };
        phase.outcome(&call, phase.permit(&call).unwrap(), outcome)
    };
    for outcome in [Answered, TimedOut, Cancelled] {
        assert_eq!(verdict(0, true, outcome), Verdict::Accept);
    }
    assert_eq!(verdict(0, false, Failed), Verdict::Accept);
    assert_eq!(verdict(2, true, Failed), Verdict::Accept);
    for (attempt, bound) in [(0, 25), (1, 50)] {
        let Verdict::Retry(pause) = verdict(attempt, true, Failed) else { panic!("retried") };
        assert!(pause < Duration::from_millis(bound));
    }
}

#[test]
fn the_failure_that_opens_the_circuit_is_not_retried() {
    let gate = gate("{failures: 2}");
    let phase = gate.plugin.call_phase().unwrap();
    let call = Call { repeatable: true, ..gate.call() };
    assert!(matches!(phase.outcome(&call, phase.permit(&call).unwrap(), Failed), Verdict::Retry(_)));
    let again = Call { attempt: 1, ..call };
    assert_eq!(phase.outcome(&again, phase.permit(&again).unwrap(), Failed), Verdict::Accept);
}

#[test]
fn when_everything_fails_the_retry_budget_bounds_the_load() {
    let config = BreakerConfig { failures: u32::MAX, retries: 2, retry_budget: 0.2, ..BreakerConfig::default() };
    let mut circuit = Circuit::default();
    let calls = 10_000;
    let mut attempts = 0;
    for _ in 0..calls {
        for attempt in 0..=config.retries {
            let generation = circuit.permit(&config, attempt == 0, || unreachable!("closed: no clock is read")).unwrap();
            attempts += 1;
            circuit.outcome(&config, generation, Failed, || unreachable!("not opened"));
            if attempt == config.retries || !circuit.take_retry() {
                break;
            }
        }
    }
    assert!((11_990..=12_003).contains(&attempts), "{attempts} attempts for {calls} calls");
}

#[test]
fn at_random_the_circuit_does_what_a_slow_model_of_it_does() {
    let mut random = fastrand::Rng::with_seed(11);
    let mut seen = HashMap::from([(true, 0), (false, 0)]);
    for _ in 0..200 {
        let config = BreakerConfig {
            failures: random.u32(1..5),
            probes: random.u32(1..4),
            recovery: Duration::from_secs(3),
            ..BreakerConfig::default()
        };
        let (mut circuit, mut now) = (Circuit::default(), Duration::ZERO);
        let (mut calls, mut in_a_row, mut opened_at) = (Vec::new(), 0, None);
        let mut probes: HashMap<u64, (u32, u32)> = HashMap::new(); // generation → in flight, passed
        for _ in 0..300 {
            now += Duration::from_millis(random.u64(..400));
            if random.bool() || calls.is_empty() {
                match circuit.permit(&config, true, || now) {
                    Ok(generation) => {
                        calls.push(generation);
                        if let Some(at) = opened_at {
                            assert!(now >= at + config.recovery, "let through while open");
                            let (flying, passed) = probes.entry(generation).or_default();
                            *flying += 1;
                            assert!(*flying + *passed <= config.probes, "too many probes");
                        }
                    }
                    Err(wait) => assert!(opened_at.is_some() && !wait.is_zero(), "refused while closed"),
                }
                continue;
            }
            let generation = calls.swap_remove(random.usize(..calls.len()));
            let outcome = [Answered, Failed, TimedOut, Cancelled][random.usize(..4)];
            let before = circuit.clone();
            let change = circuit.outcome(&config, generation, outcome, || now);
            if generation != before.generation() {
                assert_eq!(circuit, before, "a stale outcome");
                continue;
            }
            let failed = matches!(outcome, Failed | TimedOut);
            match (opened_at, outcome) {
                (None, Answered) => in_a_row = 0,
                (None, _) => in_a_row += u32::from(failed),
                (Some(_), _) => {
                    let (flying, passed) = probes.get_mut(&generation).unwrap();
                    *flying -= 1;
                    *passed += u32::from(outcome == Answered);
                }
            }
            let opens = failed && (opened_at.is_some() || in_a_row == config.failures);
            let closes = opened_at.is_some() && !opens && probes[&generation].1 == config.probes;
            assert_eq!(change.map(|c| format!("{c:?}")), opens.then(|| "Opened".to_owned()).or(closes.then(|| "Closed".to_owned())));
            if opens || closes {
                *seen.entry(opens).or_default() += 1;
            }
            if opens {
                opened_at = Some(now);
            } else if closes {
                (opened_at, in_a_row) = (None, 0);
            }
        }
    }
    assert!(seen[&true] > 100 && seen[&false] > 100, "opened and closed: {seen:?}");
}

#[test]
fn of_a_thousand_callers_at_once_three_may_probe() {
    let gate = gate("{}");
    gate.each(&[Failed; 5]);
    gate.clock.advance(Duration::from_secs(30));
    let (start, permitted) = (Barrier::new(50), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                start.wait();
                permitted.fetch_add((0..20).filter(|_| gate.permit().is_ok()).count(), Ordering::Relaxed);
            });
        }
    });
    assert_eq!(permitted.into_inner(), 3);
}

#[test]
fn a_reload_keeps_the_circuits_of_tenants_whose_configuration_did_not_change() {
    let gate = gate("{}");
    gate.each(&[Failed; 5]);
    let reload = |config| {
        let previous = Some(Arc::clone(&gate.plugin));
        let plugin = Place { config: "{}", tenants: &tenants(config), clock: &gate.clock, previous }.build(&spec());
        plugin.call_phase().unwrap().permit(&gate.call())
    };
    assert_eq!(reload("{failures: 5}"), open_for(30_000), "the same, written out");
    assert!(reload("{failures: 6}").is_ok());
}

#[test]
fn problems_name_the_value() {
    let bad = [
        ("{failures: 0}", "failures", "must be 1 to 1000"),
        ("{probes: 1001}", "probes", "must be 1 to 1000"),
        ("{recovery: 0s}", "recovery", "must be longer than nothing"),
        ("{timeout: 0ms}", "timeout", "must be longer than nothing"),
        ("{retries: 11}", "retries", "must be at most 10"),
        ("{retry_budget: 1.1}", "retry_budget", "must be 0 to 1"),
        ("{retry_budget: .nan}", "retry_budget", "must be 0 to 1"),
        ("{backoff: 2s..1s}", "backoff", "`2s..1s` is not a backoff: write the first and the longest pause, as `25ms..250ms`"),
    ];
    for (config, path, message) in bad {
        let tenants = [tenant("acme-shop", config, "[]")];
        let built = Place { config: "{}", tenants: &tenants, clock: &Clock::manual(NOW), previous: None }.try_build(&spec());
        let scope = Scope::Tenant(tenants[0].tenant.clone());
        assert_eq!(built.err().unwrap(), [Problem { scope, path: path.into(), message: message.into() }]);
    }
}
