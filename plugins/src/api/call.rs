//! The `upstream_call` phase: leave to make an attempt, and the verdict on how it went.

use std::time::Duration;

use super::Tenant;

/// One attempt at calling an upstream.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// For whom; `None` on a public route.
    pub tenant: Option<&'a Tenant>,
    /// The upstream's configured name.
    pub upstream: &'a str,
    /// 0 for the first attempt, counted up by retries.
    pub attempt: u32,
    /// Whether making it twice does no harm: only such calls are retried.
    pub repeatable: bool,
}

/// Leave to make one attempt. Its holder reports exactly one [`CallOutcome`] for it, [`CallOutcome::Cancelled`] if it gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Permit {
    /// The plugin's own note; handed back with the outcome.
    pub token: u64,
    /// How long the whole call may take, all attempts together: until the answer, or its first token if it streams.
    pub timeout: Option<Duration>,
}

/// Why no attempt may be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The circuit is open.
    Open {
        /// When it is worth trying again.
        retry_after: Duration,
    },
}

/// How an attempt went, as far as the upstream's health is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    /// It answered. A 4xx is an answer: the fault was in what we sent.
    Answered {
        /// Time from the attempt's beginning to the answer, or to its first token if it streams.
        after: Duration,
    },
    /// It could not be reached, answered 5xx, or answered what cannot be read.
    Failed,
    /// It did not answer in time.
    TimedOut,
    /// We did not wait for the answer; says nothing of the upstream.
    Cancelled,
}

/// What an operator makes of a guard, whatever that thinks of the upstream itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// No call is made.
    Open,
    /// All calls are made.
    Closed,
    /// The guard decides again, beginning anew.
    Auto,
}

/// What to do after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Take the result as it is.
    Accept,
    /// Try again after this pause, if the deadline allows.
    Retry(Duration),
}

/// Guards calls to upstreams. No method waits or does I/O; on the way of a call none allocates.
pub trait CallPhase: Send + Sync {
    /// Asked before each attempt.
    ///
    /// # Errors
    /// The attempt must not be made.
    fn permit(&self, call: &Call<'_>) -> Result<Permit, Refusal>;

    /// Told after each attempt, once for each permit.
    fn outcome(&self, call: &Call<'_>, permit: Permit, outcome: CallOutcome) -> Verdict;

    /// Does what an operator says with the calls of a tenant (`None`: of public routes) to an upstream, until told otherwise. Both are
    /// configured. False if this guard has no such switch.
    fn switch(&self, _tenant: Option<&Tenant>, _upstream: &str, _to: Switch) -> bool {
        false
    }

    /// An upstream is gone, or is another one under the same name: what was learned of it holds no more, and outcomes of calls that are
    /// under way say nothing of the new one. What an operator said stays.
    fn forget(&self, _upstream: &str) {}
}
