//! A call to an upstream as the chain allows it: permit, attempt, verdict, again if it says so; the deadline is over all of it.

use std::sync::Arc;

use fengda_plugins::api::{Call, CallOutcome, Permit, Refusal, Tenant, Text, Verdict};
use tokio::time::{Duration, Instant, sleep, timeout_at};

use super::{ModelError, Pieces, Question, Reply, Upstream};
use crate::{
    chain::Chain,
    telemetry::{Event, Metrics, Waits, logger},
};

/// Everything a call needs besides the question.
#[derive(Clone)]
pub struct Caller {
    /// The route's chain: its guards decide on every attempt.
    pub chain: Arc<Chain>,
    /// For whom.
    pub tenant: Tenant,
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
    Open,
    /// The last attempt failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl Caller {
    /// Asks until there is an answer, or the beginning of one, or the guards or the deadline say stop.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn ask(&self, question: &Question<'_>, deadline: Instant) -> Result<Answering, CallError> {
        let begun = Instant::now();
        let mut number = 0;
        loop {
            let mut attempt = Attempt::begin(self, number)?;
            let allowed = attempt.timeout.map_or(deadline, |t| begun + t);
            let until = deadline.min(allowed);
            let tried = Instant::now();
            let result = timeout_at(until, self.upstream.ask(question)).await;
            let after = tried.elapsed();
            let labels = &[self.tenant.name(), &**self.upstream.name()];
            self.metrics.upstream_seconds.with_label_values(labels).observe(after.as_secs_f64());
            self.waits.add(after);
            // A turn that queued for long leaves its call little time: that the time was too short says nothing of the upstream.
            let cut_short = result.is_err() && deadline < allowed;
            let error = match result.unwrap_or(Err(ModelError::TimedOut)) {
                Ok(Reply::Whole(text)) => {
                    let _ = attempt.settle(CallOutcome::Answered { after });
                    return Ok(Answering { read: text, rest: None });
                }
                Ok(Reply::Stream(first, pieces)) => return Ok(Answering { read: first, rest: Some(Rest { pieces, attempt, after }) }),
                Err(error) => error,
            };
            self.note_failure(question.request_id, &error);
            let outcome = if cut_short { CallOutcome::Cancelled } else { outcome_of(&error, after) };
            match attempt.settle(outcome) {
                Verdict::Retry(pause) if Instant::now() + pause < until => {
                    sleep(pause).await;
                    self.waits.add(pause);
                }
                _ => return Err(error.into()),
            }
            number += 1;
        }
    }
}

impl Caller {
    /// Logs a failure, unless there was one of this upstream less than a second ago.
    pub fn note_failure(&self, request_id: &str, error: &ModelError) {
        if let Some(left_out) = self.upstream.failures.pass() {
            let (tenant, upstream) = (self.tenant.name(), &**self.upstream.name());
            logger::emit(&Event::UpstreamFailed { tenant, upstream, request_id, error: error.to_string(), left_out });
        }
    }
}

fn outcome_of(error: &ModelError, after: Duration) -> CallOutcome {
    match error {
        ModelError::TimedOut => CallOutcome::TimedOut,
        ModelError::Status(400..=499) => CallOutcome::Answered { after },
        _ => CallOutcome::Failed,
    }
}

/// An answer of which some or all was read.
pub struct Answering {
    read: Text,
    rest: Option<Rest>,
}

/// The rest of an answer that streams.
struct Rest {
    pieces: Pieces,
    attempt: Attempt,
    /// When its first piece came.
    after: Duration,
}

impl Answering {
    /// The next piece of it, the first time what was read before; `None` at the end.
    ///
    /// # Errors
    /// The upstream failed amid its answer.
    pub async fn next(&mut self) -> Result<Option<Text>, ModelError> {
        if !self.read.is_empty() {
            return Ok(Some(std::mem::take(&mut self.read)));
        }
        let Some(Rest { pieces, attempt, after }) = &mut self.rest else { return Ok(None) };
        let asked = Instant::now();
        let next = pieces.next().await;
        attempt.caller.waits.add(asked.elapsed());
        if !matches!(next, Ok(Some(_))) {
            let answered = CallOutcome::Answered { after: *after };
            let _ = attempt.settle(next.as_ref().map_or_else(|error| outcome_of(error, *after), |_| answered));
            self.rest = None;
        }
        next
    }
}

/// An attempt for which leave was given. Dropped without an outcome, it counts as cancelled.
struct Attempt {
    caller: Caller,
    number: u32,
    permits: Vec<Permit>,
    timeout: Option<Duration>,
    settled: bool,
}

impl Attempt {
    fn begin(caller: &Caller, number: u32) -> Result<Self, CallError> {
        let call = Call { tenant: Some(&caller.tenant), upstream: caller.upstream.name(), attempt: number, repeatable: true };
        match caller.chain.permit(&call) {
            Ok(permits) => {
                let timeout = permits.iter().filter_map(|p| p.timeout).min();
                Ok(Self { caller: caller.clone(), number, permits, timeout, settled: false })
            }
            Err(Refusal::Open { .. }) => {
                count(caller, "refused");
                Err(CallError::Open)
            }
        }
    }

    fn settle(&mut self, outcome: CallOutcome) -> Verdict {
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
        let call = Call { tenant: Some(tenant), upstream: upstream.name(), attempt: self.number, repeatable: true };
        chain.outcome(&call, &self.permits, outcome)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.settled {
            let _ = self.settle(CallOutcome::Cancelled);
        }
    }
}

fn count(caller: &Caller, outcome: &str) {
    caller.metrics.upstream_calls.with_label_values(&[caller.tenant.name(), caller.upstream.name(), outcome]).inc();
}
