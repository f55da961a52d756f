//! A turn: begin, run the flow, commit. It is a task of its own, so that it ends well even if its client goes away.

mod effects;
mod lanes;
mod task;

use std::{sync::Arc, time::Instant};

use fengda_plugins::api::{Limited, SessionKey, Text, TraceParent, Turn, UserLimit};
use serde_json::value::RawValue;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

use crate::{
    admission::Place,
    chain::Chain,
    gateway::Gateway,
    snapshot::{Snapshot, TenantRuntime},
    telemetry::Waits,
    upstream::{Caller, Upstream},
};

pub use lanes::Lanes;
use lanes::{Entry, LaneError};

/// Pieces of a streamed answer that may wait for a slow client; with so many the upstream is read no further.
const PIECES: usize = 16;

/// A client's message, checked.
pub struct Message {
    /// Whose conversation.
    pub key: SessionKey,
    /// Its id.
    pub message_id: Text,
    /// Whether the client chose the id, and so may send the message again.
    pub repeatable: bool,
    /// The words.
    pub q: Text,
    /// The newest turn the client says it saw.
    pub seen: Option<u64>,
    /// See [`RequestCtx::turn_limits`](fengda_plugins::api::RequestCtx::turn_limits).
    pub limits: Arc<[UserLimit]>,
    /// See the chat contract.
    pub channel: Option<Text>,
    /// See the chat contract.
    pub lang: Option<Text>,
    /// As the client sent them.
    pub attachments: Option<Box<RawValue>>,
    /// Whether the answer is wanted piece by piece.
    pub stream: bool,
    /// Where its request's waits are added up.
    pub waits: Waits,
    /// The request's id, for logs.
    pub request_id: String,
    /// The caller's trace.
    pub trace: Option<TraceParent>,
}

/// What a turn came to. Every copy of its message gets the same.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// There is an answer.
    Answered(Arc<Answer>),
    /// There is none.
    Refused(Refused),
}

/// The answer to a message.
#[derive(Debug)]
pub struct Answer {
    /// The words.
    pub text: Text,
    /// The turn's number; that of the newest committed turn if this one was not, as far as that is known.
    pub seq: u64,
    /// A canned text because a model or the flow failed.
    pub fallback: bool,
    /// Whether the turn is in the store.
    pub stored: bool,
    /// The flow asked for a person to take over.
    pub handoff: bool,
    /// The client saw turns that the store does not have.
    pub gap: bool,
}

impl From<&Turn> for Answer {
    fn from(turn: &Turn) -> Self {
        Self { text: turn.a.clone(), seq: turn.seq, fallback: turn.fallback, stored: true, handoff: turn.handoff, gap: false }
    }
}

/// Why a message gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Other messages of the session took all the time there was, or too many wait.
    InProgress,
    /// The user has begun too many turns: one of the message's limits says so.
    Limited(Limited),
    /// The id was used before with another question.
    MessageIdReused,
    /// What is stored for the session cannot be read.
    ContextDamaged,
    /// The upstream failed after a part of its answer was sent.
    BrokenStream,
    /// The turn was given up without an outcome: a fault of ours.
    Lost,
}

/// A turn under way, as its client sees it. Dropping it cancels the turn if nobody could ever ask for its outcome again.
pub struct Started {
    outcome: watch::Receiver<Option<Outcome>>,
    /// Pieces of a streamed answer, until its end or until the client has kept them waiting for too long; what is not streamed comes only
    /// with the outcome.
    pub pieces: Option<mpsc::Receiver<Text>>,
    cancel: Option<AbortHandle>,
    /// Of a copy: since when it waits for the outcome of the first.
    joined: Option<(Instant, Waits)>,
}

impl Started {
    /// Waits for the outcome.
    pub async fn outcome(&mut self) -> Outcome {
        let outcome = match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().expect("waited for"),
            Err(_) => Outcome::Refused(Refused::Lost),
        };
        self.cancel = None;
        if let Some((since, waits)) = self.joined.take() {
            waits.add(since.elapsed());
        }
        outcome
    }

    /// Whether the turn is at its end: before it, pieces that come no more are those of a client that takes them too slowly.
    pub fn is_over(&self) -> bool {
        self.outcome.has_changed().is_err() || self.outcome.borrow().is_some()
    }

    /// Whether dropping this cancels the turn.
    pub fn cancels(&self) -> bool {
        self.cancel.is_some()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            cancel.abort();
        }
    }
}

/// Where a turn runs: what its route and tenant give it.
pub struct Setup<'a> {
    /// The gateway.
    pub gateway: &'a Arc<Gateway>,
    /// The configuration the request began with.
    pub snapshot: &'a Snapshot,
    /// The route's chain.
    pub chain: &'a Arc<Chain>,
    /// The tenant's part.
    pub tenant: &'a Arc<TenantRuntime>,
    /// Whom `nlp.answer` asks.
    pub upstream: &'a Arc<Upstream>,
    /// The request's place among those in flight, which its turn keeps if it goes on alone.
    pub place: &'a Arc<Place>,
}

/// Starts a message's turn, or joins the one that a copy of it started.
///
/// # Errors
/// The session's queue is full, or the id is in it with another question.
pub fn start(setup: &Setup<'_>, message: Message) -> Result<Started, Refused> {
    let Setup { gateway, snapshot, chain, tenant, upstream, place } = setup;
    let lane = match gateway.lanes.enter(&message.key, &message.message_id, &message.q, snapshot.config.limits.session_queue) {
        Ok(Entry::Lead(lane)) => lane,
        Ok(Entry::Join(outcome)) => {
            tenant.metrics.repeated.inc();
            return Ok(Started { outcome, pieces: None, cancel: None, joined: Some((Instant::now(), message.waits)) });
        }
        Err(error) => {
            tenant.metrics.refused.inc();
            return Err(match error {
                LaneError::Full => Refused::InProgress,
                LaneError::MessageIdReused => Refused::MessageIdReused,
            });
        }
    };
    let (send, pieces) = if message.stream {
        let (send, pieces) = mpsc::channel(PIECES);
        (Some(send), Some(pieces))
    } else {
        (None, None)
    };
    let outcome = lane.outcome();
    let repeatable = message.repeatable;
    let caller = Caller {
        chain: (*chain).clone(),
        tenant: Some(tenant.tenant.clone()),
        upstream: (*upstream).clone(),
        metrics: gateway.metrics.clone(),
        waits: message.waits.clone(),
    };
    let time = (snapshot.config.turn_deadline, snapshot.config.limits.read_timeout);
    let task = task::Task::new((*gateway).clone(), (*tenant).clone(), caller, time, message, send);
    let in_flight = (gateway.work.token(), (*place).clone());
    let running = tokio::spawn(async move {
        let _in_flight = in_flight;
        task.run(lane).await;
    });
    Ok(Started { outcome, pieces, cancel: (!repeatable).then(|| running.abort_handle()), joined: None })
}
