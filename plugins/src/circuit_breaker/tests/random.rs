//! The circuit against a slow model of it, under a thousand callers, and as a bound of the load.

use std::{
    collections::HashMap,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    super::{
        BreakerConfig,
        circuit::{Circuit, Phase},
    },
    *,
};
use crate::units::Percent;

#[test]
fn when_everything_fails_the_retry_budget_bounds_the_load() {
    let config = BreakerConfig { failures: 0, retries: 2, retry_budget: Percent(20), ..BreakerConfig::default() };
    let mut circuit = Circuit::new(&config);
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
            max_recovery: Duration::from_secs(3),
            ..BreakerConfig::default()
        };
        let (mut circuit, mut now) = (Circuit::new(&config), Duration::ZERO);
        let (mut calls, mut in_a_row, mut opened_at) = (Vec::new(), 0, None);
        let mut probes: HashMap<u64, (u32, u32)> = HashMap::new(); // generation → in flight, passed
        let mut lost_at = HashMap::new(); // generation → when those in flight lose their places
        for _ in 0..300 {
            now += Duration::from_millis(random.u64(..400));
            if random.bool() || calls.is_empty() {
                match circuit.permit(&config, true, || now) {
                    Ok(generation) => {
                        calls.push(generation);
                        if let Some(at) = opened_at {
                            assert!(now >= at + config.recovery * 4 / 5, "let through while open");
                            let (flying, passed) = probes.entry(generation).or_default();
                            let lost_at = lost_at.entry(generation).or_insert(now);
                            if *lost_at <= now {
                                (*flying, *lost_at) = (0, now + config.recovery);
                            }
                            *flying += 1;
                            assert!(*flying + *passed <= config.probes, "too many probes");
                        }
                    }
                    Err(wait) => assert!(opened_at.is_some() && !wait.is_zero(), "refused while closed"),
                }
                continue;
            }
            let generation = calls.swap_remove(random.usize(..calls.len()));
            let outcome = [ANSWERED, Failed, TimedOut, Cancelled][random.usize(..4)];
            let before = circuit.clone();
            circuit.outcome(&config, generation, outcome, || now);
            if generation != before.generation() {
                assert_eq!(circuit, before, "a stale outcome");
                continue;
            }
            let failed = matches!(outcome, Failed | TimedOut);
            match (opened_at, outcome) {
                (None, ANSWERED) => in_a_row = 0,
                (None, _) => in_a_row += u32::from(failed),
                (Some(_), _) => {
                    let (flying, passed) = probes.get_mut(&generation).unwrap();
                    *flying = flying.saturating_sub(1);
                    *passed += u32::from(outcome == ANSWERED);
                }
            }
            let opens = failed && (opened_at.is_some() || in_a_row == config.failures);
            let closes = opened_at.is_some() && !opens && probes[&generation].1 == config.probes;
            let expected = if opens {
                Phase::Open
            } else if closes {
                Phase::Closed
            } else {
                before.phase()
            };
            assert_eq!(circuit.phase(), expected);
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
    gate.until_half_open();
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
