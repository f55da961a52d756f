//! What operators see of circuits and do with them, and what a reload leaves of that.

use super::*;
use crate::{api::Switch, testing::metric};

impl Gate {
    fn switch(&self, to: Switch) {
        assert!(self.plugin.call_phase().unwrap().switch(Some(&self.acme), "model", to));
    }

    /// What the gauge and the counter of each state say.
    fn metrics(&self) -> (Option<f64>, [f64; 3]) {
        let moved = |to| metric(&self.meters, "fengda_circuit_transitions_total", &["acme-shop", to, "model"]).unwrap_or_default();
        (metric(&self.meters, "fengda_circuit_state", &["acme-shop", "model"]), ["closed", "half_open", "open"].map(moved))
    }

    /// The same place after a reload.
    fn reloaded(&self, config: &str) -> Self {
        let previous = Some(Arc::clone(&self.plugin));
        let plugin = Place { config: "{}", tenants: &tenants(config), clock: &self.clock, previous }.build(&spec());
        let (clock, meters) = (self.clock.clone(), Meters::default());
        Self { plugin, meters, clock, acme: self.acme.clone(), bank: self.bank.clone() }
    }
}

#[test]
fn metrics_tell_the_state_and_every_change_of_it() {
    let gate = gate("{}");
    assert_eq!(gate.metrics(), (None, [0.0; 3]), "nobody has called the upstream");
    gate.each(&[Failed; 5]);
    assert_eq!(gate.metrics(), (Some(2.0), [0.0, 0.0, 1.0]));
    gate.wait();
    gate.each(&[ANSWERED]);
    assert_eq!(gate.metrics(), (Some(1.0), [0.0, 1.0, 1.0]));
    gate.each(&[ANSWERED; 2]);
    assert_eq!(gate.metrics(), (Some(0.0), [1.0, 1.0, 1.0]));
}

#[test]
fn a_circuit_held_open_stays_open_until_it_is_let_go() {
    let gate = gate("{}");
    gate.switch(Switch::Open);
    assert_eq!(gate.permit(), open_for(30_000));
    gate.clock.advance(Duration::from_hours(24));
    assert_eq!(gate.permit(), open_for(30_000));
    assert_eq!(gate.plugin.status()["acme-shop/model"], serde_json::json!({ "state": "open", "held": true }));
    assert_eq!(gate.metrics(), (Some(2.0), [0.0, 0.0, 1.0]));
    let phase = gate.plugin.call_phase().unwrap();
    assert!(phase.permit(&Call { tenant: Some(&gate.bank), ..gate.call() }).is_ok(), "another tenant's goes on");
    gate.switch(Switch::Auto);
    gate.each(&[Failed; 4]);
    assert_eq!(gate.state(), "closed");
    gate.each(&[Failed]);
    assert_eq!(gate.state(), "open");
}

#[test]
fn a_circuit_held_closed_lets_calls_through_whatever_comes_of_them() {
    let gate = gate("{failure_rate: 1%}");
    gate.each(&[Failed; 5]);
    gate.switch(Switch::Closed);
    gate.each(&[Failed; 500]);
    assert_eq!(gate.plugin.status()["acme-shop/model"], serde_json::json!({ "state": "closed", "held": true }));
    gate.switch(Switch::Auto);
    gate.each(&[Failed; 5]);
    assert_eq!(gate.state(), "open");
}

#[test]
fn calls_that_began_before_a_switch_do_not_count_after_it() {
    let gate = gate("{failures: 1}");
    let before = gate.permit().unwrap();
    gate.switch(Switch::Open);
    gate.switch(Switch::Auto);
    gate.tell(before, Failed);
    assert_eq!(gate.state(), "closed");
}

#[test]
fn a_reload_keeps_the_circuits_of_tenants_whose_configuration_did_not_change() {
    let gate = gate("{}");
    gate.each(&[Failed; 5]);
    assert_eq!(gate.reloaded("{failures: 5}").state(), "open", "the same, written out");
    assert!(gate.reloaded("{failures: 6}").permit().is_ok());
}

#[test]
fn what_was_learned_of_an_upstream_that_is_gone_is_forgotten_and_what_an_operator_said_is_not() {
    let gate = gate("{failures: 1}");
    let before = gate.permit().unwrap();
    gate.each(&[Failed]);
    let forget = || gate.plugin.call_phase().unwrap().forget("model");
    forget();
    assert_eq!(gate.plugin.status(), serde_json::json!({}));
    assert!(gate.permit().is_ok());
    gate.tell(before, Failed);
    assert_eq!(gate.state(), "closed", "it was the old one that failed");
    gate.switch(Switch::Open);
    forget();
    assert_eq!(gate.permit(), open_for(30_000));
}

#[test]
fn what_an_operator_holds_outlives_every_reload() {
    let gate = gate("{}");
    gate.switch(Switch::Open);
    for config in ["{}", "{failures: 6}"] {
        let gate = gate.reloaded(config);
        assert_eq!(gate.permit(), open_for(30_000));
        gate.switch(Switch::Auto);
        assert!(gate.permit().is_ok());
        gate.switch(Switch::Open);
    }
}
