//! The life of one turn, from its place in the queue to its outcome.

use std::{sync::Arc, time::Duration};

use fengda_plugins::api::{Begin, BeginTurn, Begun, COMMIT_TIME, Commit, Committed, Text, Turn, TurnError, TurnPhase};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::{Instant, timeout, timeout_at},
};

use super::{
    Answer, Message, Outcome, Refused,
    effects::{Effects, Opened},
    lanes,
};
use crate::{
    flow::{End, Input, Reply, Resume, Run, ScriptError, Step},
    gateway::Gateway,
    snapshot::TenantRuntime,
    telemetry::{Event, StoreStep, logger},
    upstream::{Answering, Caller, ModelError},
};

/// How long after the turn's deadline a begin may still answer that the session was busy all the time.
const BEGIN_GRACE: Duration = Duration::from_millis(100);
pub(super) struct Task {
    gateway: Arc<Gateway>,
    tenant: Arc<TenantRuntime>,
    caller: Caller,
    deadline: Instant,
    message: Message,
    pieces: Option<mpsc::Sender<Text>>,
    /// How long the client may still keep the pieces waiting, all together.
    patience: Duration,
}

/// What a flow's run came to, before it is committed.
enum Ran {
    /// The flow answered.
    Replied(Reply, Text),
    /// A model failed or took too long: the tenant's canned text, as a turn.
    Fallback(Option<Reply>),
    /// The script failed: the canned text, but no turn.
    Failed,
    /// The upstream failed after pieces of its answer were sent.
    Broken,
}

impl Task {
    pub(super) fn new(
        gateway: Arc<Gateway>,
        tenant: Arc<TenantRuntime>,
        caller: Caller,
        (time, patience): (Duration, Duration),
        message: Message,
        pieces: Option<mpsc::Sender<Text>>,
    ) -> Self {
        Self { gateway, tenant, caller, deadline: Instant::now() + time, message, pieces, patience }
    }

    pub(super) async fn run(mut self, mut lane: lanes::Place<Outcome>) {
        let counted = Counted(Some(self.tenant.clone()));
        let queued = lane.is_behind().then(Instant::now);
        let waited = timeout_at(self.deadline, lane.wait()).await;
        if let Some(since) = queued {
            self.message.waits.add(since.elapsed());
        }
        let (outcome, ended) = match waited {
            Ok(()) => self.take_turn().await,
            Err(_) => refuse(Refused::InProgress),
        };
        counted.count(ended);
        lane.finish(outcome);
    }

    async fn take_turn(&mut self) -> (Outcome, Ended) {
        let chain = self.caller.chain.clone();
        let phase = chain.turn_phase().expect("a flow route without such a plugin is refused by the configuration");
        match self.begin(phase).await {
            Ok(Begin::Answered(turn)) => (Outcome::Answered(Arc::new(Answer::from(&*turn))), Ended::Repeated),
            Ok(Begin::Aside(turn)) => (Outcome::Answered(Arc::new(Answer { stored: false, ..Answer::from(&*turn) })), Ended::Repeated),
            Ok(Begin::Limited(limited)) => refuse(Refused::Limited(limited)),
            Ok(Begin::Run(begun)) => {
                let held = Held { phase, begun: Some(begun) };
                self.run_and_commit(held).await
            }
            Err(TurnError::InProgress | TurnError::ClaimLost) => refuse(Refused::InProgress),
            Err(TurnError::MessageIdReused) => refuse(Refused::MessageIdReused),
            Err(error @ TurnError::Corrupt(_)) => {
                self.store_failed(StoreStep::Begin, &error);
                refuse(Refused::ContextDamaged)
            }
            Err(error @ TurnError::Unavailable(_)) => {
                self.store_failed(StoreStep::Begin, &error);
                self.without_context()
            }
        }
    }

    /// Answers with the canned text: without its conversation a message is not understood, so the flow is not run.
    fn without_context(&self) -> (Outcome, Ended) {
        let seq = self.message.seen.unwrap_or_default();
        let answer = Answer { text: self.tenant.busy.clone(), seq, fallback: true, stored: false, handoff: false, gap: false };
        (Outcome::Answered(Arc::new(answer)), Ended::Fallback)
    }

    async fn begin(&self, phase: &dyn TurnPhase) -> Result<Begin, TurnError> {
        let _timer = self.gateway.metrics.store_seconds.begin.start_timer();
        let lifetime = if self.message.stream { self.caller.upstream.stream_timeout() + self.patience } else { Duration::ZERO };
        let left = self.deadline.saturating_duration_since(Instant::now()) + lifetime + COMMIT_TIME;
        let turn = BeginTurn {
            key: &self.message.key,
            message_id: &self.message.message_id,
            q: &self.message.q,
            until: self.gateway.clock.now().after(left),
            wait: self.deadline.saturating_duration_since(Instant::now()),
            seen: self.message.seen,
            limits: &self.message.limits,
        };
        // Later than the wait for another turn, whose end is no fault of the store.
        timeout_at(self.deadline + BEGIN_GRACE, phase.begin(turn))
            .await
            .unwrap_or(Err(TurnError::Unavailable("no answer within the turn's deadline".into())))
    }

    async fn run_and_commit(&mut self, held: Held<'_>) -> (Outcome, Ended) {
        let begun = held.begun();
        let (gap, seq, awaits_past) = (begun.gap, begun.state.seq, begun.awaits_past);
        if gap {
            self.note_gap(begun);
        }
        let ran = match self.script(begun).await {
            Ok(Some((reply, ending))) => self.read(reply, ending).await,
            Ok(None) => Ran::Fallback(None),
            Err(ScriptFailed) => Ran::Failed,
        };
        let (reply, text, fallback) = match ran {
            Ran::Replied(reply, text) => (Some(reply), text, false),
            Ran::Fallback(reply) => (reply, self.tenant.busy.clone(), true),
            Ran::Failed => {
                let answer = Answer { text: self.tenant.busy.clone(), seq, fallback: true, stored: false, handoff: false, gap };
                return (Outcome::Answered(Arc::new(answer)), Ended::FlowFailed);
            }
            Ran::Broken => return refuse(Refused::BrokenStream),
        };
        let (handoff, slots, user_slots) = reply.map_or_else(Default::default, |r| (r.handoff, r.slots, r.user_slots));
        let (Message { message_id, q, .. }, wait) = (&self.message, self.tenant.wait);
        let commit = Commit {
            message_id: message_id.clone(),
            q: q.clone(),
            a: text.clone(),
            at: self.gateway.clock.now(),
            fallback,
            handoff,
            awaits_past,
            slots,
            user_slots,
            journal: None,
            wait,
        };
        let answer = match self.commit(held, commit).await {
            Some(turn) => Answer { gap, ..Answer::from(&*turn) },
            None => Answer { text, seq, fallback, stored: false, handoff, gap },
        };
        (Outcome::Answered(Arc::new(answer)), if fallback { Ended::Fallback } else { Ended::Answered })
    }

    /// Commits the turn. If that fails, or has to wait until the store is back, the answer still goes out, and says so.
    async fn commit(&self, held: Held<'_>, commit: Commit) -> Option<Arc<Turn>> {
        let _timer = self.gateway.metrics.store_seconds.commit.start_timer();
        let committed = held.phase.commit(held.begun(), commit).await;
        match committed {
            Ok(committed) => {
                held.spent();
                match committed {
                    Committed::Stored(turn) => Some(turn),
                    Committed::Aside => None,
                }
            }
            // The session was erased meanwhile, as its user wished.
            Err(TurnError::ClaimLost) => None,
            Err(error) => {
                self.store_failed(StoreStep::Commit, &error);
                None
            }
        }
    }

    /// Runs the script to its end; `None` if the turn's time is up before.
    async fn script(&self, begun: &Begun) -> Result<Option<(Reply, Ending)>, ScriptFailed> {
        let Some(script) = self.tenant.script.clone() else {
            self.gateway.metrics.flow_failures.with_label_values(&[self.tenant.tenant.name(), "no_script"]).inc();
            return Err(ScriptFailed);
        };
        let mut run = Run::start(Input {
            script,
            limits: self.tenant.limits,
            canned: self.tenant.canned.clone(),
            query: self.message.q.clone(),
            message_id: self.message.message_id.clone(),
            key: self.message.key.clone(),
            channel: self.message.channel.clone(),
            lang: self.message.lang.clone(),
            state: begun.state.clone(),
            now: self.gateway.clock.now(),
        });
        let mut effects = Effects::new(&self.caller, &self.message, &begun.state, self.deadline);
        let mut in_script = Duration::ZERO;
        let ended = timeout_at(self.deadline, async {
            let mut resume = Resume::Start;
            loop {
                let resumed = Instant::now();
                let step = run.resume(resume).await;
                in_script += resumed.elapsed();
                match step {
                    Step::Effect(effect) => resume = effects.perform(effect).await,
                    Step::Done(reply) => return Ok(reply),
                    Step::Failed(error) => return Err(error),
                }
            }
        });
        let ended = ended.await;
        self.tenant.metrics.flow_seconds.observe(in_script.saturating_sub(run.paused()).as_secs_f64());
        self.tenant.metrics.flow_memory.observe(run.grown() as f64);
        self.tenant.log_lines(&self.message.request_id, self.gateway.clock.now(), &run.take_logs());
        match ended {
            Ok(Ok(reply)) => {
                let ending = Ending::of(&reply, &mut effects);
                Ok(Some((reply, ending)))
            }
            Ok(Err(error)) => Err(self.script_failed(&error)),
            Err(_) => Ok(None),
        }
    }

    /// Reads the answer that the script returned, passing it on piece by piece if the client wants that.
    async fn read(&mut self, reply: Reply, ending: Ending) -> Ran {
        let (prefix, mut answer) = match ending {
            Ending::Text(text) => return Ran::Replied(reply, text.into()),
            Ending::Fallback => return Ran::Fallback(Some(reply)),
            Ending::Answer(prefix, answer) => (prefix, answer),
        };
        let (stream, deadline) = (self.message.stream, self.deadline);
        let reading = async {
            let mut text = String::new();
            if !prefix.is_empty() {
                text = prefix + "\n";
                self.send(text.as_str().into()).await;
            }
            while let Some(piece) = answer.next().await? {
                text.push_str(piece.expose());
                self.send(piece).await;
            }
            Ok::<_, ModelError>(text)
        };
        // A stream has a time of its own, in which the client's does not count.
        let read = if stream { reading.await } else { timeout_at(deadline, reading).await.unwrap_or(Err(ModelError::TimedOut)) };
        match read {
            Ok(text) => Ran::Replied(reply, text.into()),
            Err(error) => {
                self.caller.note_failure(&self.message.request_id, &error);
                if stream { Ran::Broken } else { Ran::Fallback(Some(reply)) }
            }
        }
    }

    /// Hands a piece to the client's connection, waiting while it is full. A client that is gone, or for which there is no more
    /// patience, gets no more.
    async fn send(&mut self, piece: Text) {
        let Some(pieces) = &self.pieces else { return };
        let taken = match pieces.try_send(piece) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(piece)) => {
                let since = Instant::now();
                let sent = timeout(self.patience, pieces.send(piece)).await;
                self.patience = self.patience.saturating_sub(since.elapsed());
                matches!(sent, Ok(Ok(())))
            }
        };
        if !taken {
            self.pieces = None;
        }
    }

    fn script_failed(&self, error: &ScriptError) -> ScriptFailed {
        let kind = error.kind.as_str();
        let request_id = &self.message.request_id;
        self.gateway.metrics.flow_failures.with_label_values(&[self.tenant.tenant.name(), kind]).inc();
        logger::emit(&Event::FlowFailed { tenant: self.tenant.tenant.name(), request_id, kind, line: error.line });
        self.tenant.log_failure(request_id, self.gateway.clock.now(), error);
        ScriptFailed
    }

    fn store_failed(&self, step: StoreStep, error: &TurnError) {
        self.gateway.metrics.store_faults.failed(self.tenant.tenant.name(), &self.message.request_id, step, error);
    }

    fn note_gap(&self, begun: &Begun) {
        let seen = self.message.seen.unwrap_or_default();
        self.gateway.metrics.store_faults.gap(self.tenant.tenant.name(), &self.message.request_id, seen, begun.state.seq);
    }
}

/// The script failed, and that was reported.
struct ScriptFailed;

/// How an answer ends, with what the script held open.
enum Ending {
    Text(String),
    Fallback,
    /// What was said before it, and the answer.
    Answer(String, Box<Answering>),
}

impl Ending {
    fn of(reply: &Reply, effects: &mut Effects<'_>) -> Self {
        let mut text = reply.said.iter().map(Text::expose).collect::<Vec<_>>().join("\n");
        let end = match &reply.end {
            End::Said => return Self::Text(text),
            End::Fallback => return Self::Fallback,
            End::Text(end) => end.clone(),
            End::Answer(id) => match effects.take(*id) {
                Opened::Open(answer) => return Self::Answer(text, answer),
                Opened::Read(Ok(read)) => read,
                Opened::Read(Err(_)) => return Self::Fallback,
            },
        };
        if !reply.said.is_empty() {
            text.push('\n');
        }
        text.push_str(end.expose());
        Self::Text(text)
    }
}

/// A begun turn. Its claim is given back when this is dropped, unless it was spent.
struct Held<'a> {
    phase: &'a dyn TurnPhase,
    begun: Option<Begun>,
}

impl Held<'_> {
    fn begun(&self) -> &Begun {
        self.begun.as_ref().expect("taken only by `spent`, which consumes this")
    }

    fn spent(mut self) {
        self.begun = None;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(claim) = self.begun.as_ref().and_then(|begun| begun.claim.as_ref()) {
            self.phase.release(claim);
        }
    }
}

/// How a turn ended, as it is counted.
#[derive(Clone, Copy)]
enum Ended {
    Answered,
    Fallback,
    FlowFailed,
    Repeated,
    Refused,
}

fn refuse(refused: Refused) -> (Outcome, Ended) {
    (Outcome::Refused(refused), Ended::Refused)
}

/// Counts the turn by its end; one that is dropped before it has any was cancelled, or lost by a fault of ours.
struct Counted(Option<Arc<TenantRuntime>>);

impl Counted {
    fn count(mut self, ended: Ended) {
        let Some(tenant) = self.0.take() else { return };
        let metrics = &tenant.metrics;
        match ended {
            Ended::Answered => metrics.answered.inc(),
            Ended::Fallback => metrics.fallback.inc(),
            Ended::FlowFailed => metrics.flow_failed.inc(),
            Ended::Repeated => metrics.repeated.inc(),
            Ended::Refused => metrics.refused.inc(),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(tenant) = &self.0 {
            let lost = std::thread::panicking();
            if lost { tenant.metrics.refused.inc() } else { tenant.metrics.cancelled.inc() }
        }
    }
}
