//! Circuits that open by a rate of failures or of slow calls.

use super::*;

const SLOW: CallOutcome = CallOutcome::Answered { after: Duration::from_millis(1001) };
const NOT_SLOW: CallOutcome = CallOutcome::Answered { after: Duration::from_secs(1) };

/// How many calls of a repeating pattern it takes to open, at most `most`.
fn calls_until_open(gate: &Gate, pattern: &[CallOutcome], most: usize) -> Option<usize> {
    (1..=most).find(|i| {
        gate.each(&[pattern[(i - 1) % pattern.len()]]);
        gate.state() == "open"
    })
}

#[test]
fn a_rate_of_failures_opens_it_once_there_are_enough_calls() {
    let config = "{failures: 0, failure_rate: 50%, minimum: 20}";
    assert_eq!(calls_until_open(&gate(config), &[Failed], 100), Some(20));
    assert_eq!(calls_until_open(&gate(config), &[Failed, ANSWERED], 100), Some(20), "half of them is enough");
    assert_eq!(calls_until_open(&gate(config), &[TimedOut, ANSWERED, Cancelled], 100), Some(29), "cancelled ones are no calls");
    assert_eq!(calls_until_open(&gate(config), &[ANSWERED, ANSWERED, Failed], 1000), None);
}

#[test]
fn a_window_of_calls_forgets_the_oldest() {
    let gate = gate("{failures: 0, failure_rate: 40%, minimum: 10, window: 10}");
    gate.each(&[Failed, Failed, Failed, ANSWERED]);
    gate.each(&[ANSWERED; 9]);
    gate.each(&[Failed, Failed, Failed]);
    assert_eq!(gate.state(), "closed");
    gate.each(&[Failed]);
    assert_eq!(gate.state(), "open", "four of the last ten");
}

#[test]
fn a_window_of_time_forgets_what_is_older() {
    let gate = gate("{failures: 0, failure_rate: 50%, minimum: 4, window: 10s}");
    gate.each(&[Failed, Failed, Failed]);
    gate.clock.advance(Duration::from_secs(10));
    gate.each(&[Failed, Failed, Failed]);
    assert_eq!(gate.state(), "closed");
    gate.clock.advance(Duration::from_secs(8));
    gate.each(&[Failed]);
    assert_eq!(gate.state(), "open");
}

#[test]
fn slow_calls_open_it_by_their_rate() {
    let config = "{failures: 0, slow_rate: 60%, slow: 1s, window: 10, minimum: 10}";
    assert_eq!(calls_until_open(&gate(config), &[SLOW], 100), Some(10));
    assert_eq!(calls_until_open(&gate(config), &[TimedOut], 100), Some(10), "a call that timed out was slow");
    assert_eq!(calls_until_open(&gate(config), &[NOT_SLOW, Failed], 100), None);
    assert_eq!(calls_until_open(&gate("{}"), &[SLOW], 100), None, "nobody asked how fast it is");
}

#[test]
fn a_slow_probe_leaves_it_open() {
    let gate = gate("{slow_rate: 60%}");
    gate.until_half_open();
    gate.each(&[SLOW]);
    assert_eq!(gate.state(), "open");
}

#[test]
fn a_closed_circuit_begins_with_an_empty_window() {
    let gate = gate("{failures: 0, failure_rate: 50%, window: 10, minimum: 4}");
    gate.each(&[Failed; 4]);
    gate.wait();
    gate.each(&[ANSWERED; 3]);
    gate.each(&[Failed; 3]);
    assert_eq!(gate.state(), "closed");
    gate.each(&[Failed]);
    assert_eq!(gate.state(), "open");
}

#[test]
fn failures_in_a_row_and_a_rate_go_together() {
    let gate = gate("{failures: 3, failure_rate: 50%}");
    gate.each(&[Failed; 3]);
    assert_eq!(gate.state(), "open");
}
