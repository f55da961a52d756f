//! The circuit as its callers meet it, step by step.

mod config;
mod operator;
mod random;
mod rates;

use std::{sync::Arc, time::Duration};

use super::spec;
use crate::{
    api::{Call, CallOutcome, Clock, Meters, Permit, Plugin, Refusal, Tenant, TenantBuild, Verdict},
    testing::{NOW, Place, tenant},
};
use CallOutcome::{Cancelled, Failed, TimedOut};

const ANSWERED: CallOutcome = CallOutcome::Answered { after: Duration::from_millis(20) };

struct Gate {
    plugin: Arc<dyn Plugin>,
    meters: Meters,
    clock: Clock,
    acme: Tenant,
    bank: Tenant,
}

fn tenants(config: &str) -> Vec<TenantBuild> {
    ["acme-shop", "harbor-bank"].map(|name| tenant(name, config, "[]")).into()
}

fn gate(config: &str) -> Gate {
    let (clock, meters) = (Clock::manual(NOW), Meters::default());
    let place = Place { config: "{}", tenants: &tenants(config), clock: &clock, previous: None };
    let plugin = place.try_build_with(&spec(), &meters).unwrap_or_else(|problems| panic!("{problems:?}"));
    let read = Arc::clone(&plugin);
    meters.before_gather(move |readings| read.gauges(readings));
    let named = |name| Tenant::from_config(name).unwrap();
    Gate { plugin, meters, clock, acme: named("acme-shop"), bank: named("harbor-bank") }
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

    /// How long it refuses calls for now.
    fn open_for(&self) -> Duration {
        match self.permit() {
            Err(Refusal::Open { retry_after }) => retry_after,
            Ok(permit) => panic!("{permit:?}"),
        }
    }

    /// Waits until it lets a call through, and returns how long it had been asked to wait.
    fn wait(&self) -> Duration {
        let open_for = self.open_for();
        self.clock.advance(open_for + Duration::from_millis(1));
        open_for
    }

    /// Opens it with five failures and waits until it may be tried out.
    fn until_half_open(&self) {
        self.each(&[Failed; 5]);
        self.wait();
    }

    fn state(&self) -> String {
        self.plugin.status()["acme-shop/model"]["state"].as_str().unwrap_or("none").to_owned()
    }
}

fn open_for(ms: u64) -> Result<Permit, Refusal> {
    Err(Refusal::Open { retry_after: Duration::from_millis(ms) })
}

#[test]
fn five_failures_in_a_row_open_it_for_at_most_thirty_seconds() {
    let gate = gate("{}");
    gate.each(&[Failed, TimedOut, Failed, Failed, ANSWERED, Failed, Failed, Cancelled, Failed, TimedOut]);
    assert_eq!(gate.permit().unwrap().timeout, Some(Duration::from_millis(1500)));
    assert_eq!(gate.state(), "closed");
    gate.each(&[Failed]);
    let open_for = gate.open_for();
    assert!((24_000..=30_000).contains(&open_for.as_millis()), "{open_for:?}");
    let asked = Duration::from_millis(u64::try_from(open_for.as_millis()).unwrap());
    gate.clock.advance(asked - Duration::from_millis(1));
    assert_eq!(gate.state(), "open");
    assert!(gate.open_for() <= Duration::from_millis(2));
    gate.clock.advance(Duration::from_millis(2));
    assert!(gate.permit().is_ok());
    assert_eq!(gate.state(), "half_open");
}

#[test]
fn each_time_it_stays_open_twice_as_long_until_it_was_in_good_order_for_long() {
    let gate = gate("{max_recovery: 150s}");
    let within = |open_for: Duration, most: u64| {
        assert!(open_for <= Duration::from_secs(most) && open_for >= Duration::from_secs(most) * 4 / 5, "{open_for:?} of {most} s");
    };
    gate.each(&[Failed; 5]);
    for most in [30, 60, 120, 150, 150] {
        within(gate.wait(), most);
        gate.each(&[Failed]);
    }
    gate.wait();
    gate.each(&[ANSWERED; 3]);
    assert_eq!(gate.state(), "closed");
    gate.clock.advance(Duration::from_secs(149));
    gate.each(&[Failed; 5]);
    within(gate.wait(), 150);
    gate.each(&[ANSWERED; 3]);
    gate.clock.advance(Duration::from_secs(150));
    gate.each(&[Failed; 5]);
    within(gate.wait(), 30);
}

#[test]
fn circuits_that_open_together_do_not_all_come_back_together() {
    let waits = (0..20).map(|_| {
        let gate = gate("{}");
        gate.each(&[Failed; 5]);
        gate.open_for()
    });
    let waits: std::collections::BTreeSet<_> = waits.collect();
    assert!(waits.len() > 10 && waits.last().unwrap().abs_diff(*waits.first().unwrap()) > Duration::from_secs(1), "{waits:?}");
}

#[test]
fn three_probes_that_succeed_close_it_and_no_fourth_is_let_through_meanwhile() {
    let gate = gate("{}");
    gate.until_half_open();
    let probes = [gate.permit().unwrap(), gate.permit().unwrap(), gate.permit().unwrap()];
    assert_eq!(gate.permit(), open_for(1500));
    gate.tell(probes[0], ANSWERED);
    gate.tell(probes[1], ANSWERED);
    assert_eq!(gate.permit(), open_for(1500), "one more success is enough, and it is on its way");
    gate.tell(probes[2], ANSWERED);
    assert_eq!(gate.state(), "closed");
    gate.each(&[Failed; 4]);
    assert_eq!(gate.state(), "closed", "it counts from nothing");
}

#[test]
fn one_probe_that_fails_opens_it_again_and_a_cancelled_one_gives_its_place_back() {
    let gate = gate("{}");
    gate.until_half_open();
    let probes = [gate.permit().unwrap(), gate.permit().unwrap(), gate.permit().unwrap()];
    gate.tell(probes[0], Cancelled);
    let fourth = gate.permit().unwrap();
    assert_eq!(gate.permit(), open_for(1500));
    gate.clock.advance(Duration::from_secs(10));
    gate.tell(fourth, TimedOut);
    assert_eq!(gate.state(), "open");
    gate.tell(probes[1], ANSWERED);
    gate.tell(probes[2], ANSWERED);
    assert_eq!(gate.state(), "open", "answers of the round before count no more");
}

#[test]
fn probes_whose_outcome_is_never_told_do_not_hold_it_half_open_for_ever() {
    let gate = gate("{}");
    gate.until_half_open();
    let lost = [gate.permit().unwrap(), gate.permit().unwrap(), gate.permit().unwrap()];
    gate.clock.advance(Duration::from_secs(30));
    gate.each(&[ANSWERED, ANSWERED]);
    gate.tell(lost[0], Cancelled);
    gate.each(&[ANSWERED]);
    assert_eq!(gate.state(), "closed");
}

#[test]
fn a_tenant_whose_users_write_seldom_gets_its_circuit_closed_too() {
    let gate = gate("{}");
    gate.until_half_open();
    for _ in 0..3 {
        gate.each(&[ANSWERED]);
        gate.clock.advance(Duration::from_secs(31));
    }
    assert_eq!(gate.state(), "closed");
}

#[test]
fn probes_that_last_longer_than_the_recovery_count_when_they_end() {
    let gate = gate("{recovery: 1s}");
    gate.until_half_open();
    let mut streams = vec![gate.permit().unwrap()];
    for _ in 0..2 {
        gate.clock.advance(Duration::from_secs(2));
        streams.push(gate.permit().unwrap());
    }
    for stream in streams {
        assert_eq!(gate.state(), "half_open");
        gate.tell(stream, ANSWERED);
    }
    assert_eq!(gate.state(), "closed");
}

#[test]
fn outcomes_of_calls_from_before_a_change_are_ignored() {
    let gate = gate("{recovery: 1s, probes: 1}");
    let before: Vec<_> = (0..20).map(|_| gate.permit().unwrap()).collect();
    gate.each(&[Failed; 5]);
    gate.tell(before[0], ANSWERED);
    assert_eq!(gate.state(), "open");
    gate.clock.advance(Duration::from_secs(1));
    let probe = gate.permit().unwrap();
    gate.tell(before[1], Failed);
    gate.tell(before[2], ANSWERED);
    assert_eq!(gate.state(), "half_open");
    gate.tell(probe, ANSWERED);
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
    let gate = gate("{failures: 100, retry_budget: 100%}");
    let phase = gate.plugin.call_phase().unwrap();
    let verdict = |attempt, repeatable, outcome| {
        let call = Call { attempt, repeatable, ..gate.call() };
        phase.outcome(&call, phase.permit(&call).unwrap(), outcome)
    };
    for outcome in [ANSWERED, TimedOut, Cancelled] {
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
