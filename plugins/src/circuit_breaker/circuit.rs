//! The state machine of one circuit, without locks and clocks: `closed → open → half-open → closed`, or back to open.
//!
//! Every change of state begins a new generation. A permit carries its generation, and an outcome counts only in the one it
//! was permitted in, so a call that began before a change cannot undo it.

use std::time::Duration;

use super::{
    config::BreakerConfig,
    window::{Mark, Tally, Window},
};
use crate::{
    api::{CallOutcome, Switch},
    units::Percent,
};

/// What one retry costs of what is saved up for retries.
const RETRY: u32 = 100;
/// Retries that may happen before any have been earned.
const RESERVE: u32 = 3 * RETRY;
/// Most retries that can be saved up.
const MOST_SAVED: u32 = 10 * RETRY;

/// One circuit.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Circuit {
    generation: u64,
    state: State,
    /// What the newest calls of a closed circuit were; only if the configuration has a rate.
    window: Option<Window>,
    /// When it was closed last.
    closed_at: Duration,
    /// How often it opened since it was closed for long.
    openings: u32,
    /// What is saved up for retries: each first attempt adds the budget's per cent, each retry takes [`RETRY`].
    saved: u32,
}

/// Times are [`crate::api::Clock::monotonic`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Calls pass; so many have failed in a row.
    Closed { failures: u32 },
    /// Calls are refused.
    Open { until: Duration },
    /// A few calls pass. At `until` the places of those whose outcome was not told are given away, so that lost ones cannot hold them
    /// for ever; what long ones tell later still counts, as does what passed before.
    HalfOpen { in_flight: u32, passed: u32, until: Duration },
    /// An operator decided, and nothing else does.
    Held { open: bool },
}

/// A state as operators and metrics know it: the number is the gauge's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Closed = 0,
    HalfOpen = 1,
    Open = 2,
}

impl Phase {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

impl Circuit {
    /// A closed one. It begins with a generation of its own: no call that began under another circuit counts in it.
    pub(super) fn new(config: &BreakerConfig) -> Self {
        let window = config.has_rate().then(|| Window::new(config.window));
        let generation = u64::from(fastrand::u32(..)) << 32;
        Self { generation, state: State::Closed { failures: 0 }, window, closed_at: Duration::ZERO, openings: 0, saved: RESERVE }
    }

    /// One that an operator holds.
    pub(super) fn held(config: &BreakerConfig, open: bool) -> Self {
        Self { state: State::Held { open }, ..Self::new(config) }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn phase(&self) -> Phase {
        match self.state {
            State::Closed { .. } | State::Held { open: false } => Phase::Closed,
            State::HalfOpen { .. } => Phase::HalfOpen,
            State::Open { .. } | State::Held { open: true } => Phase::Open,
        }
    }

    /// Changes with the state.
    #[cfg(test)]
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Asks to make an attempt. The clock is read only if the circuit is not closed.
    ///
    /// # Errors
    /// Refused; it is worth asking again after this long.
    pub(super) fn permit(&mut self, config: &BreakerConfig, first: bool, now: impl FnOnce() -> Duration) -> Result<u64, Duration> {
        if self.phase() != Phase::Closed {
            self.probe(config, now())?;
        }
        if first {
            self.saved = (self.saved + config.retry_budget.0).min(MOST_SAVED);
        }
        Ok(self.generation)
    }

    fn probe(&mut self, config: &BreakerConfig, now: Duration) -> Result<(), Duration> {
        match &mut self.state {
            State::Open { until } if *until <= now => {
                self.enter(State::HalfOpen { in_flight: 1, passed: 0, until: now + config.recovery });
                Ok(())
            }
            State::HalfOpen { in_flight, until, .. } if *until <= now => {
                (*in_flight, *until) = (1, now + config.recovery);
                Ok(())
            }
            State::HalfOpen { in_flight, passed, .. } if *in_flight + *passed < config.probes => {
                *in_flight += 1;
                Ok(())
            }
            // The probes are all on their way; their outcomes are known by the end of a call's time.
            State::HalfOpen { until, .. } => Err(config.timeout.min(*until - now)),
            State::Open { until } => Err(*until - now),
            State::Held { .. } => Err(config.recovery),
            State::Closed { .. } => Ok(()),
        }
    }

    /// Takes note of how an attempt of this generation went. The clock is read only if that opens or closes the circuit, or if
    /// the window is one of time.
    pub(super) fn outcome(&mut self, config: &BreakerConfig, generation: u64, outcome: CallOutcome, now: impl Fn() -> Duration) {
        if generation != self.generation {
            return;
        }
        let mark = mark(config, outcome);
        match (&mut self.state, mark) {
            (State::Closed { failures }, Some(mark)) => {
                *failures = if mark.failed { failures.saturating_add(1) } else { 0 };
                let in_a_row = config.failures > 0 && *failures >= config.failures;
                let too_many = self.window.as_mut().is_some_and(|window| over(config, window.add(mark, &now)));
                if in_a_row || too_many {
                    self.open(config, now());
                }
            }
            (State::HalfOpen { .. }, Some(Mark { failed, slow })) if failed || slow => self.open(config, now()),
            (State::HalfOpen { in_flight, passed, .. }, mark) => {
                *in_flight = in_flight.saturating_sub(1);
                *passed += u32::from(mark.is_some());
                if *passed >= config.probes {
                    self.close(now());
                }
            }
            (State::Closed { .. } | State::Open { .. } | State::Held { .. }, _) => {}
        }
    }

    /// Takes one retry from the budget, if the circuit is closed and the budget has one.
    pub(super) fn take_retry(&mut self) -> bool {
        let may = self.phase() == Phase::Closed && self.saved >= RETRY;
        if may {
            self.saved -= RETRY;
        }
        may
    }

    /// Does what an operator says.
    pub(super) fn switch(&mut self, to: Switch, now: Duration) {
        match to {
            Switch::Open => self.enter(State::Held { open: true }),
            Switch::Closed => self.enter(State::Held { open: false }),
            Switch::Auto => {
                self.openings = 0;
                self.close(now);
            }
        }
    }

    /// Opens for twice as long as the last time, up to `max_recovery`, less up to a fifth: gateways that opened together do
    /// not come back together. After as long as `max_recovery` in good order it begins with `recovery` again.
    fn open(&mut self, config: &BreakerConfig, now: Duration) {
        if matches!(self.state, State::Closed { .. }) && now.saturating_sub(self.closed_at) >= config.max_recovery {
            self.openings = 0;
        }
        let doubled = config.recovery.saturating_mul(2_u32.saturating_pow(self.openings)).min(config.max_recovery);
        self.openings = self.openings.saturating_add(1);
        self.enter(State::Open { until: now + doubled.mul_f64(1.0 - 0.2 * fastrand::f64()) });
    }

    fn close(&mut self, now: Duration) {
        self.closed_at = now;
        if let Some(window) = &mut self.window {
            window.clear();
        }
        self.enter(State::Closed { failures: 0 });
    }

    fn enter(&mut self, state: State) {
        self.generation += 1;
        self.state = state;
    }
}

/// What a call was; nothing if it says nothing of the upstream. Without a slow-call rate no answer is slow.
fn mark(config: &BreakerConfig, outcome: CallOutcome) -> Option<Mark> {
    let slow = |after: Duration| config.slow_rate.is_some() && after > config.slow;
    match outcome {
        CallOutcome::Answered { after } => Some(Mark { failed: false, slow: slow(after) }),
        CallOutcome::Failed => Some(Mark { failed: true, slow: false }),
        CallOutcome::TimedOut => Some(Mark { failed: true, slow: true }),
        CallOutcome::Cancelled => None,
    }
}

/// Whether so many calls, and so many bad ones among them, open a circuit.
fn over(config: &BreakerConfig, Tally { calls, failed, slow }: Tally) -> bool {
    let reaches =
        |bad: u32, rate: Option<Percent>| rate.is_some_and(|Percent(rate)| u64::from(bad) * 100 >= u64::from(rate) * u64::from(calls));
    calls >= config.minimum && (reaches(failed, config.failure_rate) || reaches(slow, config.slow_rate))
}
