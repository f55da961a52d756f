//! The clients: each plays one dialogue after the other, turn by turn, and believes nothing it is told.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use fengda_plugins::api::Text;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use indicatif::ProgressBar;
use serde::Deserialize;
use tokio::sync::watch;

use super::{
    fault::{Fault, Faults},
    model::{KEPT_TURNS, Model},
    plan::{Dialogue, Plan, PlannedTurn, SESSION},
};
use crate::{
    http::{CallError, Connection},
    token,
};

/// How long a message is sent again and again while the gateway is being restarted.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause before a message is sent again.
const PAUSE: Duration = Duration::from_millis(20);

/// What all clients share.
pub(super) struct Stage {
    /// What to play.
    pub plan: Arc<Plan>,
    /// Each dialogue's `Authorization`, from [`bearers`].
    pub bearers: Vec<String>,
    /// Who counts the questions.
    pub model: Arc<Model>,
    /// Where faults go.
    pub faults: Arc<Faults>,
    /// The next dialogue that nobody plays yet.
    pub next: AtomicUsize,
    /// How many turns were acknowledged.
    pub acknowledged: watch::Sender<usize>,
    /// Where the gateways listen that are up.
    pub gateways: watch::Receiver<Vec<SocketAddr>>,
    /// Whether the gateway may die: then a message without an answer is sent again under its id.
    pub patient: bool,
    /// Shows how far the clients are.
    pub bar: ProgressBar,
}

/// What one client brings home.
#[derive(Default)]
pub(super) struct Played {
    /// For each acknowledged turn, from first sending to answer.
    pub latencies: Vec<Duration>,
    /// How many times a message was sent again.
    pub resent: u64,
    /// Dialogues that were acknowledged from the first turn to the last.
    pub whole: Vec<usize>,
}

/// Plays dialogues until none is left. A dialogue ends at its first fault.
pub(super) async fn play(stage: Arc<Stage>) -> Played {
    let mut client = Client { stage: stage.clone(), connections: HashMap::new(), sent: 0, played: Played::default() };
    loop {
        let dialogue = stage.next.fetch_add(1, Ordering::Relaxed);
        if dialogue >= stage.plan.dialogues.len() {
            return client.played;
        }
        if client.dialogue(dialogue).await {
            client.played.whole.push(dialogue);
        }
    }
}

/// Reads every dialogue of `whole` back and holds it against what was acknowledged.
pub(super) async fn verify(stage: Arc<Stage>, whole: &[usize]) {
    let mut client = Client { stage: stage.clone(), connections: HashMap::new(), sent: 0, played: Played::default() };
    for &dialogue in whole {
        if let Err(fault) = client.history(dialogue).await {
            stage.faults.note(fault, || stage.plan.place(dialogue, stage.plan.dialogues[dialogue].turns.len() - 1));
        }
    }
}

struct Client {
    stage: Arc<Stage>,
    /// By the gateway's address.
    connections: HashMap<SocketAddr, Connection>,
    /// How many requests it has sent: each goes to the next gateway.
    sent: usize,
    played: Played,
}

/// The body of an answered turn.
#[derive(Deserialize)]
struct Reply {
    answer: Text,
    seq: u64,
    session_id: String,
    message_id: String,
    fallback: bool,
    stored: bool,
}

#[derive(Deserialize)]
struct History {
    session_id: String,
    seq: u64,
    turns: Vec<Stored>,
}

#[derive(Deserialize)]
struct Stored {
    seq: u64,
    message_id: String,
    q: Text,
    a: Text,
    fallback: bool,
}

impl Client {
    /// Plays one dialogue; whether every turn of it was acknowledged.
    async fn dialogue(&mut self, dialogue: usize) -> bool {
        let stage = self.stage.clone();
        for (i, turn) in stage.plan.dialogues[dialogue].turns.iter().enumerate() {
            let started = Instant::now();
            if let Err(fault) = self.turn(dialogue, i, turn).await {
                stage.faults.note(fault, || stage.plan.place(dialogue, i));
                return false;
            }
            self.played.latencies.push(started.elapsed());
            stage.acknowledged.send_modify(|n| *n += 1);
            stage.bar.inc(1);
        }
        true
    }

    /// Sends one message until it is answered, and checks the answer.
    async fn turn(&mut self, dialogue: usize, i: usize, turn: &PlannedTurn) -> Result<(), Fault> {
        let message_id = (i + 1).to_string();
        let body = serde_json::json!({ "query": turn.q.expose(), "session_id": SESSION, "message_id": message_id, "last_seq": i });
        let (sent, body) = self.send(dialogue, Method::POST, "/v1/chat", body.to_string().into()).await?;
        let reply: Reply = serde_json::from_slice(&body).map_err(|_| Fault::Unreadable)?;
        check_reply(&reply, turn, i, &message_id)?;
        let asked = self.stage.model.calls(dialogue, i);
        if (1..=sent).contains(&asked) { Ok(()) } else { Err(Fault::Calls) }
    }

    async fn history(&mut self, dialogue: usize) -> Result<(), Fault> {
        let stage = self.stage.clone();
        let target = format!("/v1/history?session_id={SESSION}&limit={KEPT_TURNS}");
        let (_, body) = self.send(dialogue, Method::GET, &target, Bytes::new()).await?;
        let history: History = serde_json::from_slice(&body).map_err(|_| Fault::Unreadable)?;
        check_history(&history, &stage.plan.dialogues[dialogue].turns)
    }

    /// Sends a request for the dialogue's user until it is answered with 200; returns how often it was sent, and the body.
    async fn send(&mut self, dialogue: usize, method: Method, target: &str, body: Bytes) -> Result<(u32, Bytes), Fault> {
        let until = Instant::now() + PATIENCE;
        for sent in 1.. {
            let fault = match self.attempt(dialogue, &method, target, body.clone()).await {
                Ok((StatusCode::OK, body)) => return Ok((sent, body)),
                // The dead gateway's claim on the session may still hold, or the new one may not be ready.
                Ok((status @ (StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE), _)) => Fault::Status(status.as_u16()),
                Ok((status, _)) => return Err(Fault::Status(status.as_u16())),
                Err(_) => Fault::Connection,
            };
            if !self.stage.patient || Instant::now() >= until {
                return Err(fault);
            }
            self.played.resent += 1;
            tokio::time::sleep(PAUSE).await;
        }
        unreachable!("patience ends before the count does")
    }

    async fn attempt(&mut self, dialogue: usize, method: &Method, target: &str, body: Bytes) -> Result<(StatusCode, Bytes), CallError> {
        let gateway = self.next_gateway().await;
        let mut connection = self.connections.remove(&gateway);
        // A gateway may close a connection between two requests: nothing was sent yet, so that is no fault.
        if let Some(open) = &mut connection
            && !open.is_ready().await
        {
            connection = None;
        }
        let mut connection = match connection {
            Some(open) => open,
            None => Connection::open(gateway).await?,
        };
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, "replay")
            .header(header::AUTHORIZATION, &self.stage.bearers[dialogue])
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .expect("a constant target and a base64 token make a request");
        let answer = connection.call(request).await?;
        self.connections.insert(gateway, connection); // one that failed is not used again
        Ok(answer)
    }

    /// Waits until there is a gateway.
    async fn next_gateway(&mut self) -> SocketAddr {
        self.sent += 1;
        let mut gateways = self.stage.gateways.clone();
        let up = gateways.wait_for(|up| !up.is_empty()).await.expect("the run outlives its clients");
        up[self.sent % up.len()]
    }
}

/// The `Authorization` of every dialogue's user.
pub(super) fn bearers(plan: &Plan) -> Vec<String> {
    let bearer = |(number, dialogue): (usize, &Dialogue)| {
        let tenant = plan.tenant_of(number);
        token::bearer(&tenant.name, &tenant.secret, &dialogue.user)
    };
    plan.dialogues.iter().enumerate().map(bearer).collect()
}

fn check_reply(reply: &Reply, turn: &PlannedTurn, i: usize, message_id: &str) -> Result<(), Fault> {
    for (wrong, fault) in [
        (reply.fallback, Fault::Fallback),
        (reply.answer != turn.a, Fault::Answer),
        (reply.seq != i as u64 + 1, Fault::Seq),
        (reply.session_id != SESSION || reply.message_id != message_id, Fault::Echo),
        (!reply.stored, Fault::NotStored),
    ] {
        if wrong {
            return Err(fault);
        }
    }
    Ok(())
}

/// Whether the stored conversation is exactly `turns`, as far as it is kept.
fn check_history(history: &History, turns: &[PlannedTurn]) -> Result<(), Fault> {
    let dropped = turns.len().saturating_sub(KEPT_TURNS);
    let kept = turns.iter().zip(1u64..).skip(dropped);
    let same = |(stored, (turn, seq)): (&Stored, (&PlannedTurn, u64))| {
        stored.seq == seq && stored.message_id == seq.to_string() && stored.q == turn.q && stored.a == turn.a && !stored.fallback
    };
    let whole = history.session_id == SESSION && history.seq == turns.len() as u64 && history.turns.len() == turns.len() - dropped;
    if whole && history.turns.iter().zip(kept).all(same) { Ok(()) } else { Err(Fault::Stored) }
}

#[cfg(test)]
mod tests;
