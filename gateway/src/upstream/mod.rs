//! What is called on behalf of clients: one [`Upstream`] for each in the configuration, whatever protocol it speaks.

mod answer;
mod attempt;
mod body;
mod call;
mod connect;
mod demo;
mod peers;
mod pool;
mod sse;

use std::{fmt, sync::Arc, time::Duration};

use fengda_plugins::api::{Clock, SessionKey, Text, TraceParent, Turn};
use serde_json::value::RawValue;

use crate::{
    config::{self, HttpTimeouts},
    telemetry::Throttle,
};

pub(crate) use attempt::Attempt;
pub use attempt::{CallError, Caller};
pub use body::{Outgoing, Piece};
pub use call::Answering;
pub(crate) use peers::{Peers, Tried, hash};
pub(crate) use pool::Connection;

/// One configured upstream.
pub struct Upstream {
    name: Arc<str>,
    protocol: Protocol,
    failures: Throttle,
}

enum Protocol {
    Demo,
    Answer(answer::Client),
    Http(HttpTimeouts, Peers),
}

impl Upstream {
    /// Makes the client for what the configuration says; connects to nothing yet.
    pub fn new(name: Arc<str>, config: &config::Upstream, clock: &Clock) -> Self {
        let protocol = match config {
            config::Upstream::Demo => Protocol::Demo,
            config::Upstream::Answer(answer) => Protocol::Answer(answer::Client::new(answer.clone(), clock.clone())),
            config::Upstream::Http(http) => Protocol::Http(http.timeouts, Peers::new(&http.peers, clock.clone())),
        };
        Self { name, protocol, failures: Throttle::default() }
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How long the whole of a streamed answer may take.
    pub fn stream_timeout(&self) -> Duration {
        match &self.protocol {
            Protocol::Demo => Duration::from_secs(1),
            Protocol::Answer(client) => client.stream_timeout(),
            Protocol::Http(..) => Duration::ZERO,
        }
    }

    /// Its endpoints, unless it is built in.
    pub(crate) fn peers(&self) -> Option<&Peers> {
        match &self.protocol {
            Protocol::Demo => None,
            Protocol::Answer(client) => Some(client.peers()),
            Protocol::Http(_, peers) => Some(peers),
        }
    }

    /// Its endpoints and timeouts, if requests can be passed on to it.
    pub(crate) fn http(&self) -> Option<(&Peers, HttpTimeouts)> {
        match &self.protocol {
            Protocol::Http(timeouts, peers) => Some((peers, *timeouts)),
            Protocol::Demo | Protocol::Answer(_) => None,
        }
    }

    /// Makes one attempt to get an answer, and returns when it is there or has begun to stream. The caller sets the deadline.
    async fn ask(&self, question: &Question<'_>, tried: &mut Tried) -> Result<Reply, ModelError> {
        match &self.protocol {
            Protocol::Demo => Ok(demo::answer(question)),
            Protocol::Answer(client) => client.ask(question, tried).await,
            Protocol::Http(..) => Err(ModelError::Unreadable("it is no model")),
        }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({})", self.name)
    }
}

/// What a model is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Whose conversation.
    pub key: &'a SessionKey,
    /// The message's id.
    pub message_id: &'a Text,
    /// The question.
    pub query: &'a Text,
    /// The conversation so far, oldest first. Fallback turns in it are not passed on.
    pub history: &'a [Arc<Turn>],
    /// The channel the client named.
    pub channel: Option<&'a Text>,
    /// The language the client named.
    pub lang: Option<&'a Text>,
    /// What the client attached, as it sent it.
    pub attachments: Option<&'a RawValue>,
    /// Whether the answer is wanted piece by piece.
    pub stream: bool,
    /// The request's id, for the upstream's logs.
    pub request_id: &'a str,
    /// The caller's trace.
    pub trace: Option<TraceParent>,
}

/// An answer, or the beginning of one.
enum Reply {
    Whole(Text),
    /// The first piece is in it.
    Stream(Text, Pieces),
}

/// The rest of a streamed answer. Nothing is read from the upstream before the next piece is asked for.
enum Pieces {
    Demo(std::vec::IntoIter<Text>),
    Answer(answer::Pieces),
}

impl Pieces {
    async fn next(&mut self) -> Result<Option<Text>, ModelError> {
        match self {
            Self::Demo(pieces) => Ok(pieces.next()),
            Self::Answer(pieces) => pieces.next().await,
        }
    }
}

/// Why an upstream gave no answer. Holds nothing of what it said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The connection broke before or amid the answer.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// It answered with an error status.
    #[error("it answered with status {0}")]
    Status(u16),
    /// It answered 200 with something that is no answer.
    #[error("its answer cannot be read: {0}")]
    Unreadable(&'static str),
    /// It did not answer in time, or paused for too long.
    #[error("it took too long")]
    TimedOut,
}
