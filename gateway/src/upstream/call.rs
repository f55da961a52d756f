//! Asking a model as the chain allows it: permit, attempt, verdict, again if it says so; the deadline is over all of it.

use fengda_plugins::api::{CallOutcome, Text, Verdict};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    ModelError, Pieces, Question, Reply,
    attempt::{Attempt, CallError, Caller},
    peers::Tried,
};

impl Caller {
    /// Asks until there is an answer, or the beginning of one, or the guards or the deadline say stop.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn ask(&self, question: &Question<'_>, deadline: Instant) -> Result<Answering, CallError> {
        let begun = Instant::now();
        let mut tried = Tried::default();
        let mut number = 0;
        loop {
            let mut attempt = Attempt::begin(self, number, true)?;
            let allowed = attempt.timeout.map_or(deadline, |t| begun + t);
            let until = deadline.min(allowed);
            let began = Instant::now();
            let result = timeout_at(until, self.upstream.ask(question, &mut tried)).await;
            attempt.came_back(tried.last(), began.elapsed());
            // A turn that queued for long leaves its call little time: that the time was too short says nothing of the upstream.
            let cut_short = result.is_err() && deadline < allowed;
            let error = match result.unwrap_or(Err(ModelError::TimedOut)) {
                Ok(Reply::Whole(text)) => {
                    let _ = attempt.settle(attempt.answered());
                    return Ok(Answering { read: text, rest: None });
                }
                Ok(Reply::Stream(first, pieces)) => return Ok(Answering { read: first, rest: Some((pieces, attempt)) }),
                Err(error) => error,
            };
            self.note_failure(question.request_id, &error);
            let outcome = if cut_short { CallOutcome::Cancelled } else { attempt.outcome_of(&error) };
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

/// An answer of which some or all was read.
pub struct Answering {
    read: Text,
    rest: Option<(Pieces, Attempt)>,
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
        let Some((pieces, attempt)) = &mut self.rest else { return Ok(None) };
        let asked = Instant::now();
        let next = pieces.next().await;
        attempt.caller.waits.add(asked.elapsed());
        if !matches!(next, Ok(Some(_))) {
            let _ = attempt.settle(next.as_ref().map_or_else(|error| attempt.outcome_of(error), |_| attempt.answered()));
            self.rest = None;
        }
        next
    }
}
