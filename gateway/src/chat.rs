//! `POST /v1/chat`: a message in, an answer out, as JSON or as server-sent events.

use std::{sync::Arc, time::Duration};

use fengda_plugins::api::{Code, Identity, Reject, RequestId, Text, check_id};
use http::{HeaderMap, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    admission::Place,
    downstream::Downstream,
    gateway::Gateway,
    respond::Unwritable,
    snapshot::Snapshot,
    telemetry::Metrics,
    turn::{self, Answer, Message, Outcome, Refused, Setup, Started},
    upstream::Upstream,
};

/// How often a stream that has nothing to say says so.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The session of a client that names none.
pub const DEFAULT_SESSION: &str = "default";

/// The body, as clients send it. Unknown fields are ignored.
#[derive(Deserialize)]
#[serde(expecting = "a JSON object")]
struct Body {
    #[serde(default)]
    query: Text,
    session_id: Option<Text>,
    message_id: Option<Text>,
    last_seq: Option<u64>,
    stream: Option<bool>,
    channel: Option<Text>,
    lang: Option<Text>,
    attachments: Option<Box<RawValue>>,
    user_id: Option<Text>,
}

/// The answer, as clients get it.
#[derive(Serialize)]
struct AnswerBody<'a> {
    answer: &'a str,
    seq: u64,
    session_id: &'a str,
    message_id: &'a str,
    fallback: bool,
    stored: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    handoff: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    gap: bool,
}

/// The ids that an answer repeats.
struct Ids {
    session: Text,
    message: Text,
}

impl Ids {
    fn body<'a>(&'a self, answer: &'a Answer) -> AnswerBody<'a> {
        AnswerBody {
            answer: answer.text.expose(),
            seq: answer.seq,
            session_id: self.session.expose(),
            message_id: self.message.expose(),
            fallback: answer.fallback,
            stored: answer.stored,
            handoff: answer.handoff,
            gap: answer.gap,
        }
    }
}

/// Serves one message.
///
/// # Errors
/// A rejection that is still to be written.
pub async fn serve(
    gateway: &Arc<Gateway>,
    snapshot: &Arc<Snapshot>,
    upstream: &Arc<Upstream>,
    place: &Arc<Place>,
    down: &mut Downstream,
) -> Result<(), Reject> {
    if down.head().method != Method::POST {
        return Err(Reject::new(Code::MethodNotAllowed, "send a POST").with(header::ALLOW, header::HeaderValue::from_static("POST")));
    }
    check_content_type(&down.head().headers)?;
    let body = down.read_body(&snapshot.config.limits).await?;
    let body = down.work_on(body, parse).await?;
    let identity = down.ctx.identity().ok_or_else(|| Reject::new(Code::Internal, "the route did not authenticate the request"))?;
    let tenant = snapshot.tenant(identity.user.tenant())?;
    let stream = body.stream.unwrap_or_else(|| accepts_events(&down.head().headers));
    let message = check(body, identity, stream, down, snapshot.config.limits.query)?;
    let ids = Ids { session: message.key.id().into(), message: message.message_id.clone() };
    let route = down.route.clone().expect("a target is only reached through its route");
    let setup = Setup { gateway, snapshot, chain: &route.chain, tenant, upstream, place };
    let started = turn::start(&setup, message).map_err(|refused| reject_for(refused, down, &gateway.metrics))?;
    // A client that is gone cannot be told, and what becomes of its turn is settled by then.
    let _ = if stream {
        let _open = gateway.metrics.stream();
        stream_events(down, started, &ids, &gateway.metrics).await?
    } else {
        answer_json(down, started, &ids, &gateway.metrics).await?
    };
    Ok(())
}

async fn answer_json(down: &mut Downstream, mut started: Started, ids: &Ids, metrics: &Metrics) -> Result<Result<(), Unwritable>, Reject> {
    let mut gone = false;
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = started.outcome() => break outcome,
            () = down.gone(), if !gone => {
                if started.cancels() {
                    return Ok(Err(Unwritable));
                }
                // Its turn goes on; should only its sending side be closed, it still gets the answer.
                gone = true;
                down.close_after();
            }
        }
    };
    match outcome {
        Outcome::Answered(answer) => Ok(down.json(StatusCode::OK, &ids.body(&answer)).await),
        Outcome::Refused(refused) => Err(reject_for(refused, down, metrics)),
    }
}

/// Errors before the first byte are plain JSON; later ones are an event.
async fn stream_events(
    down: &mut Downstream,
    mut started: Started,
    ids: &Ids,
    metrics: &Metrics,
) -> Result<Result<(), Unwritable>, Reject> {
    let mut events = Events { down, begun: false, pieces: 0 };
    match events.pass_on(&mut started).await {
        Err(Unwritable) => Ok(Err(Unwritable)),
        Ok(Outcome::Answered(answer)) => Ok(events.end(&answer, ids).await),
        Ok(Outcome::Refused(refused)) if !events.begun => Err(reject_for(refused, events.down, metrics)),
        Ok(Outcome::Refused(refused)) => {
            let reject = reject_for(refused, events.down, metrics);
            let told = events.down.error_event(&reject).await;
            Ok(told.and(events.down.end_events().await))
        }
    }
}

/// An answer as a stream, which begins with its first piece or heartbeat.
struct Events<'a> {
    down: &'a mut Downstream,
    begun: bool,
    pieces: usize,
}

impl Events<'_> {
    /// Passes pieces on as they come, until there is an outcome.
    async fn pass_on(&mut self, started: &mut Started) -> Result<Outcome, Unwritable> {
        let mut pieces = started.pieces.take();
        loop {
            tokio::select! {
                biased;
                piece = next(&mut pieces), if pieces.is_some() => match piece {
                    Some(piece) => self.piece(&piece).await?,
                    None if started.is_over() => pieces = None,
                    // The turn waited for it long enough.
                    None => return Err(self.down.give_up()),
                },
                outcome = started.outcome() => return Ok(outcome),
                () = tokio::time::sleep(HEARTBEAT) => {
                    self.begin().await?;
                    self.down.heartbeat().await?;
                }
                () = self.down.gone() => return Err(self.down.give_up()),
            }
        }
    }

    async fn begin(&mut self) -> Result<(), Unwritable> {
        match std::mem::replace(&mut self.begun, true) {
            true => Ok(()),
            false => self.down.begin_events().await,
        }
    }

    async fn piece(&mut self, text: &Text) -> Result<(), Unwritable> {
        self.begin().await?;
        self.pieces += 1;
        self.down.delta(text).await
    }

    async fn end(&mut self, answer: &Answer, ids: &Ids) -> Result<(), Unwritable> {
        if self.pieces == 0 {
            self.piece(&answer.text).await?;
        }
        self.down.event("done", &ids.body(answer)).await?;
        self.down.end_events().await
    }
}

async fn next(pieces: &mut Option<tokio::sync::mpsc::Receiver<Text>>) -> Option<Text> {
    pieces.as_mut()?.recv().await
}

/// Refuses a body that does not say it is JSON.
pub(crate) fn check_content_type(headers: &HeaderMap) -> Result<(), Reject> {
    let given = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
    let essence = given.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    if essence.eq_ignore_ascii_case(b"application/json") {
        return Ok(());
    }
    Err(Reject::new(Code::UnsupportedMediaType, "send the body as JSON, with the header `content-type: application/json`"))
}

fn accepts_events(headers: &HeaderMap) -> bool {
    let wanted = b"text/event-stream";
    headers
        .get_all(header::ACCEPT)
        .iter()
        .flat_map(|v| v.as_bytes().split(|b| *b == b','))
        .any(|part| part.split(|b| *b == b';').next().unwrap_or_default().trim_ascii().eq_ignore_ascii_case(wanted))
}

fn parse(body: &[u8]) -> Result<Body, Reject> {
    if body.is_empty() {
        return Err(Reject::new(Code::BadRequest, "the body is empty; send JSON such as {\"query\":\"你好\"}"));
    }
    // serde would take an array for a struct, field by field.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(Reject::new(Code::BadRequest, "the body is an array; send a JSON object such as {\"query\":\"你好\"}"));
    }
    serde_json::from_slice(body).map_err(|_| {
        // Only now, on the way to an error, is the body read again to find out which field is wrong.
        let error = serde_path_to_error::deserialize::<_, Body>(&mut serde_json::Deserializer::from_slice(body)).err();
        let message = match error {
            Some(e) if e.path().iter().next().is_some() => format!("the body's field `{}` does not fit: {}", e.path(), e.inner()),
            Some(e) => format!("the body is not a JSON object in UTF-8: {}", e.inner()),
            None => "the body has something after its JSON object".to_owned(),
        };
        Reject::new(Code::BadRequest, message)
    })
}

fn check(body: Body, identity: &Identity, stream: bool, down: &Downstream, longest: usize) -> Result<Message, Reject> {
    let bad = |message: String| Reject::new(Code::BadRequest, message);
    if body.user_id.as_ref().is_some_and(|id| id.expose() != identity.user.id()) {
        return Err(Reject::new(Code::Forbidden, "`user_id` is not the user of the token"));
    }
    if body.query.len() > longest {
        let message = format!("`query` is {} bytes long, at most {longest} are taken (`limits.query`)", body.query.len());
        return Err(Reject::new(Code::BodyTooLarge, message));
    }
    let attached = match body.attachments.as_deref().map(|a| a.get().trim()) {
        None | Some("null") => false,
        Some(list) if list.starts_with('[') => list.trim_start_matches('[').trim_start() != "]",
        Some(_) => return Err(bad("`attachments` is not a list".into())),
    };
    if body.query.expose().trim().is_empty() && !attached {
        return Err(bad("`query` is missing or empty; it holds the user's words".into()));
    }
    let session = body.session_id.as_ref().map_or(DEFAULT_SESSION, Text::expose);
    let key = identity.user.session(session).map_err(|e| bad(format!("`session_id` {e}")))?;
    if let Some(id) = &body.message_id {
        check_id(id.expose()).map_err(|e| bad(format!("`message_id` {e}")))?;
    }
    for (name, value) in [("channel", &body.channel), ("lang", &body.lang)] {
        if let Some(value) = value {
            check_id(value.expose()).map_err(|e| bad(format!("`{name}` {e}")))?;
        }
    }
    Ok(Message {
        key,
        repeatable: body.message_id.is_some(),
        message_id: body.message_id.unwrap_or_else(|| RequestId::random().as_str().into()),
        q: body.query,
        seen: body.last_seq.max(identity.seen),
        limits: down.ctx.turn_limits.clone(),
        channel: body.channel,
        lang: body.lang,
        attachments: body.attachments,
        stream,
        waits: down.timing.waits().clone(),
        request_id: down.ctx.request_id.as_str().to_owned(),
        trace: down.ctx.trace,
    })
}

fn reject_for(refused: Refused, down: &Downstream, metrics: &Metrics) -> Reject {
    match refused {
        Refused::Limited(limited) => down.chain().expect("a target is only reached through its route").limited(&down.ctx, limited, metrics),
        Refused::InProgress => Reject::new(
            Code::TurnInProgress,
            "other messages of this session are being answered; send this one again with the same message_id",
        ),
        Refused::MessageIdReused => {
            Reject::new(Code::MessageIdReused, "this message_id was used with another query; a new message needs a new id")
        }
        Refused::ContextDamaged => Reject::new(
            Code::ContextUnavailable,
            "the stored conversation is damaged and was left as it is; another session_id works, and DELETE /v1/history removes it",
        ),
        Refused::BrokenStream => {
            Reject::new(Code::UpstreamFailed, "the model failed amid its answer; nothing was stored, send the message again")
        }
        Refused::Lost => {
            Reject::new(Code::Internal, "the turn was lost by a fault of the gateway; send the message again with the same message_id")
        }
    }
}
