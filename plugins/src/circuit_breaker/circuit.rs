//! The state machine of one circuit, without locks and clocks: `closed → open → half-open → closed`, or back to open.
//!
//! Every change of state begins a new generation. A permit carries its generation, and an outcome counts only in the one it
//! was permitted in, so a call that began before a change cannot undo it.

use std::time::Duration;

use super::config::BreakerConfig;
use crate::api::CallOutcome;

/// Retries that may happen before any budget has been earned.
const RESERVE: f64 = 3.0;
/// Most retries that can be saved up.
const MOST_SAVED: f64 = 10.0;

/// One circuit.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Circuit {
    generation: u64,
    state: State,
    /// Retries that may be made: each first attempt adds the budget's share, each retry takes one.
    saved: f64,
}

/// Times are [`crate::api::Clock::monotonic`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Calls pass; so many have failed in a row.
    Closed { failures: u32 },
    /// Calls are refused.
    Open { until: Duration },
    /// A few calls pass. Those whose outcome was not told in time count as lost, so that they cannot hold their places for ever.
    HalfOpen { in_flight: u32, passed: u32, until: Duration },
}

/// What an outcome did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Opened,
    Closed,
}

impl Default for Circuit {
    fn default() -> Self {
        Self { generation: 0, state: State::Closed { failures: 0 }, saved: RESERVE }
    }
}

impl Circuit {
    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Changes with the state.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Asks to make an attempt. The clock is read only if the circuit is not closed.
    ///
    /// # Errors
    /// Refused; it is worth asking again after this long.
    pub(super) fn permit(&mut self, config: &BreakerConfig, first: bool, now: impl FnOnce() -> Duration) -> Result<u64, Duration> {
        if !matches!(self.state, State::Closed { .. }) {
            self.probe(config, now())?;
        }
        if first {
            self.saved = (self.saved + config.retry_budget).min(MOST_SAVED);
        }
        Ok(self.generation)
    }

    fn probe(&mut self, config: &BreakerConfig, now: Duration) -> Result<(), Duration> {
        match &mut self.state {
            State::Open { until } | State::HalfOpen { until, .. } if *until <= now => {
                self.enter(State::HalfOpen { in_flight: 1, passed: 0, until: now + config.recovery });
                Ok(())
            }
            State::HalfOpen { in_flight, passed, .. } if *in_flight + *passed < config.probes => {
                *in_flight += 1;
                Ok(())
            }
            // The probes are all on their way; their outcomes are known by the end of a call's time.
            State::HalfOpen { until, .. } => Err(config.timeout.min(*until - now)),
            State::Open { until } => Err(*until - now),
            State::Closed { .. } => Ok(()),
        }
    }

    /// Takes note of how an attempt of this generation went.
    pub(super) fn outcome(
        &mut self,
        config: &BreakerConfig,
        generation: u64,
        outcome: CallOutcome,
        now: impl FnOnce() -> Duration,
    ) -> Option<Change> {
        if generation != self.generation {
            return None;
        }
        let failed = matches!(outcome, CallOutcome::Failed | CallOutcome::TimedOut);
        match &mut self.state {
            State::Closed { failures } if failed => {
                *failures += 1;
                (*failures >= config.failures).then(|| self.open(config, now()))
            }
            State::Closed { failures } => {
                if outcome == CallOutcome::Answered {
                    *failures = 0;
                }
                None
            }
            State::HalfOpen { .. } if failed => Some(self.open(config, now())),
            State::HalfOpen { in_flight, passed, .. } => {
                *in_flight = in_flight.saturating_sub(1);
                *passed += u32::from(outcome == CallOutcome::Answered);
                if *passed < config.probes {
                    return None;
                }
                self.enter(State::Closed { failures: 0 });
                Some(Change::Closed)
            }
            State::Open { .. } => None,
        }
    }

    /// Takes one retry from the budget, if the circuit is closed and the budget has one.
    pub(super) fn take_retry(&mut self) -> bool {
        let may = matches!(self.state, State::Closed { .. }) && self.saved >= 1.0;
        if may {
            self.saved -= 1.0;
        }
        may
    }

    fn open(&mut self, config: &BreakerConfig, now: Duration) -> Change {
        self.enter(State::Open { until: now + config.recovery });
        Change::Opened
    }

    fn enter(&mut self, state: State) {
        self.generation += 1;
        self.state = state;
    }
}
