//! The `answer` protocol: `POST /v1/answer` with the question and its history, answered with `{"text"}` or a stream of events.
//!
//! A stream is `text/event-stream` in the words our own clients get: `event: delta` with `{"text"}` for each piece, then
//! `event: done`. An upstream that does not stream just answers with JSON.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use fengda_plugins::api::{Clock, Text, Turn};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeSeq};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    ModelError, Outgoing, Question, Reply,
    peers::{Peers, Tried, hash},
    pool::Connection,
    sse::SseReader,
};
use crate::config::{AnswerUpstream, Balance, Endpoint};

/// How much of an error's body is read, and for how long.
const ERROR_BODY: usize = 8 << 10;
const ERROR_BODY_TIME: Duration = Duration::from_millis(20);

pub(super) struct Client {
    config: AnswerUpstream,
    peers: Peers,
}

impl Client {
    pub(super) fn new(config: AnswerUpstream, clock: Clock) -> Self {
        Self { peers: Peers::new(&config.peers, clock), config }
    }

    pub(super) fn peers(&self) -> &Peers {
        &self.peers
    }

    pub(super) fn stream_timeout(&self) -> Duration {
        self.config.total_timeout
    }

    pub(super) async fn ask(&self, question: &Question<'_>, tried: &mut Tried) -> Result<Reply, ModelError> {
        let (mut connection, endpoint) = self.peers.connect(self.key(question), tried).await?;
        let body: Bytes = serde_json::to_vec(&Body::from(question)).expect("strings and numbers always serialize").into();
        let request = || self.request(question, endpoint, body.clone());
        let response = connection.send(request(), || Some(request())).await?;
        match response.status() {
            StatusCode::OK if is_event_stream(&response) => self.begin_stream(response).await,
            StatusCode::OK => {
                let body = read_whole(response, connection, self.config.max_answer).await?;
                let answer: Answer = serde_json::from_slice(&body).map_err(|_| ModelError::Unreadable("not JSON with a `text`"))?;
                Ok(Reply::Whole(answer.text))
            }
            status => {
                // Its body says nothing we use, but if it is there and short, the connection can be used again.
                let _ = timeout(ERROR_BODY_TIME, read_whole(response, connection, ERROR_BODY)).await;
                Err(ModelError::Status(status.as_u16()))
            }
        }
    }

    /// What the choice of an endpoint sticks to.
    fn key(&self, question: &Question<'_>) -> Option<u64> {
        let (tenant, user) = (question.key.tenant().name().as_bytes(), question.key.user().id().as_bytes());
        match self.peers.balance() {
            Balance::RoundRobin => None,
            Balance::User => Some(hash(&[tenant, user])),
            Balance::Session | Balance::Header(_) | Balance::Cookie(_) => Some(hash(&[tenant, user, question.key.id().as_bytes()])),
        }
    }

    fn request(&self, question: &Question<'_>, endpoint: &Endpoint, body: Bytes) -> Request<Outgoing> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.config.path.as_str())
            .header(header::HOST, endpoint.authority.as_str())
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-request-id", question.request_id);
        if question.stream {
            request = request.header(header::ACCEPT, "text/event-stream, application/json");
        }
        if let Some(trace) = &question.trace {
            request = request.header("traceparent", trace.child().as_str());
        }
        request.body(Outgoing::Whole(Full::new(body))).expect("path, authority and ids were checked to be valid in a request")
    }

    async fn begin_stream(&self, response: Response<Incoming>) -> Result<Reply, ModelError> {
        let mut pieces = Pieces {
            body: response.into_body(),
            reader: SseReader::default(),
            seen: 0,
            max: self.config.max_answer,
            idle: self.config.first_token_timeout,
            until: Instant::now() + self.config.total_timeout,
            unasked: None,
        };
        let Some(first) = pieces.next().await? else { return Ok(Reply::Whole(Text::default())) };
        pieces.idle = self.config.idle_timeout;
        Ok(Reply::Stream(first, super::Pieces::Answer(pieces)))
    }
}

/// Reads a whole body of at most `most` bytes, and keeps the connection for the next request.
async fn read_whole(response: Response<Incoming>, connection: Connection<'_>, most: usize) -> Result<Bytes, ModelError> {
    let mut body = response.into_body();
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|e| ModelError::Broken(e.to_string()))?.into_data() else { continue };
        if first.len() + more.len() + data.len() > most {
            return Err(ModelError::Unreadable("longer than max_answer"));
        }
        if first.is_empty() {
            first = data;
        } else {
            more.extend_from_slice(&data);
        }
    }
    connection.keep();
    Ok(if more.is_empty() { first } else { [first, more.freeze()].concat().into() })
}

fn is_event_stream(response: &Response<Incoming>) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
    kind.get(..17).is_some_and(|k| k.eq_ignore_ascii_case(b"text/event-stream"))
}

/// The rest of a streamed answer. Its connection is not used again: a stream that was read to its end is followed by a close.
pub(super) struct Pieces {
    body: Incoming,
    reader: SseReader,
    seen: usize,
    max: usize,
    idle: Duration,
    until: Instant,
    /// Since when nobody has asked for more.
    unasked: Option<Instant>,
}

impl Pieces {
    /// The next piece. Time in which nobody asks for it is not the model's.
    pub(super) async fn next(&mut self) -> Result<Option<Text>, ModelError> {
        if let Some(since) = self.unasked.take() {
            self.until += since.elapsed();
        }
        let next = self.read_next().await;
        self.unasked = Some(Instant::now());
        next
    }

    async fn read_next(&mut self) -> Result<Option<Text>, ModelError> {
        loop {
            while let Some(event) = self.reader.next() {
                match event.name.as_str() {
                    "" | "delta" => {
                        let piece: Answer =
                            serde_json::from_slice(&event.data).map_err(|_| ModelError::Unreadable("a delta without `text`"))?;
                        if !piece.text.is_empty() {
                            return Ok(Some(piece.text));
                        }
                    }
                    "done" => return Ok(None),
                    "error" => return Err(ModelError::Broken("the upstream sent an error event".into())),
                    _ => {}
                }
            }
            let step = timeout_at(self.until, timeout(self.idle, self.body.frame())).await;
            let Ok(Ok(frame)) = step else { return Err(ModelError::TimedOut) };
            let Some(frame) = frame else { return Err(ModelError::Broken("the stream ended without `done`".into())) };
            if let Ok(data) = frame.map_err(|e| ModelError::Broken(e.to_string()))?.into_data() {
                self.seen += data.len();
                if self.seen > self.max {
                    return Err(ModelError::Unreadable("longer than max_answer"));
                }
                self.reader.push(&data);
            }
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    text: Text,
}

/// What the upstream gets.
#[derive(Serialize)]
struct Body<'a> {
    query: &'a str,
    #[serde(serialize_with = "serialize_history")]
    history: &'a [Arc<Turn>],
    tenant: &'a str,
    user_id: &'a str,
    session_id: &'a str,
    message_id: &'a str,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lang: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attachments: Option<&'a RawValue>,
}

impl<'a> From<&'a Question<'a>> for Body<'a> {
    fn from(q: &'a Question<'a>) -> Self {
        Self {
            query: q.query.expose(),
            history: q.history,
            tenant: q.key.tenant().name(),
            user_id: q.key.user().id(),
            session_id: q.key.id(),
            message_id: q.message_id.expose(),
            stream: q.stream,
            channel: q.channel.map(Text::expose),
            lang: q.lang.map(Text::expose),
            attachments: q.attachments,
        }
    }
}

/// Oldest first; a fallback turn is nothing that the model said, so it does not get to see it.
fn serialize_history<S: Serializer>(turns: &[Arc<Turn>], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Said<'a> {
        q: &'a str,
        a: &'a str,
    }
    let mut list = serializer.serialize_seq(None)?;
    for turn in turns.iter().filter(|t| !t.fallback) {
        list.serialize_element(&Said { q: turn.q.expose(), a: turn.a.expose() })?;
    }
    list.end()
}
