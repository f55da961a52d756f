//! One attempt at a call under the chain's guards: leave before it, one outcome after it, whatever happens in between.

use std::{sync::Arc, time::Duration};

use fengda_plugins::api::{Call, CallOutcome, Permit, Refusal, Tenant, Verdict};

use super::{ModelError, Upstream};
use crate::{
    chain::Chain,
    telemetry::{Event, Metrics, Waits, logger},
};

/// For whom whom is called, and who has a say in it.
#[derive(Clone)]
pub struct Caller {
    /// The route's chain: its guards decide on every attempt.
    pub chain: Arc<Chain>,
    /// For whom; `None` on a public route.
    pub tenant: Option<Tenant>,
    /// Whom to ask.
    pub upstream: Arc<Upstream>,
    /// Where attempts are counted.
    pub metrics: Arc<Metrics>,
    /// Where the time that its request waits for upstreams is added up.
    pub waits: Waits,
}

/// Why a call came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// A guard refused the attempt: the circuit is open.
    #[error("the circuit is open")]
    Open {
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// The last attempt failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl Caller {
    /// The tenant as a label.
    pub(super) fn tenant_name(&self) -> &str {
        self.tenant.as_ref().map_or("-", Tenant::name)
    }

    fn observe(&self, took: Duration) {
        self.metrics.upstream_seconds.with_label_values(&[self.tenant_name(), self.upstream.name()]).observe(took.as_secs_f64());
        self.waits.add(took);
    }

    /// Logs a failure, unless there was one of this upstream less than a second ago.
    pub(crate) fn note_failure(&self, request_id: &str, error: &ModelError) {
        if let Some(left_out) = self.upstream.failures.pass() {
            let (tenant, upstream) = (self.tenant_name(), &**self.upstream.name());
            logger::emit(&Event::UpstreamFailed { tenant, upstream, request_id, error: error.to_string(), left_out });
        }
    }
}

/// An attempt for which leave was given. Dropped without an outcome, it counts as cancelled.
pub(crate) struct Attempt {
    pub(super) caller: Caller,
    number: u32,
    permits: Vec<Permit>,
    /// How long the whole call may take, all attempts together, if a guard says so.
    pub(crate) timeout: Option<Duration>,
    /// The endpoint that had it, once known.
    peer: Option<usize>,
    /// How long it took until its answer, or the first of it.
    after: Duration,
    /// Whether making it twice does no harm.
    pub(crate) repeatable: bool,
    settled: bool,
}

impl Attempt {
    /// Asks the guards for leave.
    pub(crate) fn begin(caller: &Caller, number: u32, repeatable: bool) -> Result<Self, CallError> {
        let call = Call { tenant: caller.tenant.as_ref(), upstream: caller.upstream.name(), attempt: number, repeatable };
        match caller.chain.permit(&call) {
            Ok(permits) => {
                let timeout = permits.iter().filter_map(|p| p.timeout).min();
                Ok(Self { caller: caller.clone(), number, permits, timeout, peer: None, after: Duration::ZERO, repeatable, settled: false })
            }
            Err(Refusal::Open { retry_after }) => {
                count(caller, "refused");
                Err(CallError::Open { retry_after })
            }
        }
    }

    /// Takes note of who had it, and how long it took until its answer, or the first of it, or its failure.
    pub(crate) fn came_back(&mut self, peer: Option<usize>, after: Duration) {
        (self.peer, self.after) = (peer, after);
        self.caller.observe(after);
    }

    /// What an error says of the upstream's health.
    pub(crate) fn outcome_of(&self, error: &ModelError) -> CallOutcome {
        match error {
            ModelError::TimedOut => CallOutcome::TimedOut,
            ModelError::Status(400..=499) => self.answered(),
            _ => CallOutcome::Failed,
        }
    }

    /// That it was answered.
    pub(crate) fn answered(&self) -> CallOutcome {
        CallOutcome::Answered { after: self.after }
    }

    /// Says how it went, once. The guards' verdict is on whether there is to be another.
    pub(crate) fn settle(&mut self, outcome: CallOutcome) -> Verdict {
        self.settled = true;
        count(
            &self.caller,
            match outcome {
                CallOutcome::Answered { .. } => "answered",
                CallOutcome::Failed => "failed",
                CallOutcome::TimedOut => "timed_out",
                CallOutcome::Cancelled => "cancelled",
            },
        );
        let Caller { chain, tenant, upstream, .. } = &self.caller;
        if let Some(peers) = upstream.peers() {
            peers.report(self.peer, outcome);
        }
        let call = Call { tenant: tenant.as_ref(), upstream: upstream.name(), attempt: self.number, repeatable: self.repeatable };
        chain.outcome(&call, &self.permits, outcome)
    }

    /// Says how it went, if that was not said before; there will not be another.
    pub(crate) fn settle_once(&mut self, outcome: CallOutcome) {
        if !self.settled {
            let _ = self.settle(outcome);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.settle_once(CallOutcome::Cancelled);
    }
}

fn count(caller: &Caller, outcome: &str) {
    caller.metrics.upstream_calls.with_label_values(&[caller.tenant_name(), caller.upstream.name(), outcome]).inc();
}
