//! What a checked configuration says of upstreams and of passing requests on to them.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::DurationText;

/// Most endpoints of an upstream.
pub const MAX_PEERS: usize = 64;

/// Something that answers calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// The built-in model: offline, deterministic.
    Demo,
    /// A model behind `POST /v1/answer`.
    Answer(AnswerUpstream),
    /// An application that gets requests as clients sent them.
    Http(HttpUpstream),
}

/// A model behind `POST /v1/answer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerUpstream {
    /// Where it is.
    pub peers: PeersConfig,
    /// The path to post to; begins with `/`.
    pub path: String,
    /// How long a streamed answer may take to begin.
    pub first_token_timeout: Duration,
    /// How long a streamed answer may pause.
    pub idle_timeout: Duration,
    /// How long a streamed answer may take in all.
    pub total_timeout: Duration,
    /// Largest answer in bytes.
    pub max_answer: usize,
}

/// An application that gets requests as clients sent them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUpstream {
    /// Where it is.
    pub peers: PeersConfig,
    /// How long it may take for what.
    pub timeouts: HttpTimeouts,
}

/// How long an application may take for what, besides connecting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpTimeouts {
    /// Until the head of its response, all attempts together; from the last that it took of the request's body, if there is one.
    pub first_byte: Duration,
    /// Between two pieces of its response; on an upgraded connection, without anything in either direction.
    pub idle: Duration,
}

/// Where an upstream is, and how calls are spread over its endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeersConfig {
    /// 1 to [`MAX_PEERS`].
    pub endpoints: Vec<Endpoint>,
    /// The certificates to trust instead of the machine's, in PEM form (RFC 7468).
    pub ca: Option<Arc<str>>,
    /// Which endpoint gets a call.
    pub balance: Balance,
    /// When an endpoint is left out.
    pub eject: Eject,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// Most idle connections kept for each endpoint and thread.
    pub idle_connections: usize,
}

/// Which endpoint gets a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    /// Each in turn.
    RoundRobin,
    /// The same for all calls of a user; of a client's address, where the user is not known.
    User,
    /// The same for all calls of a conversation. A request that is passed on names it with `x-session-id`.
    Session,
    /// The same for all requests with the same value of this header field.
    Header(HeaderName),
    /// The same for all requests with the same value of this cookie.
    Cookie(String),
}

/// When an endpoint is left out, and for how long. Never are all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Eject {
    /// After so many failures in a row: 1 to 1000.
    pub failures: u32,
    /// For how long, the first time: 100ms to 1h. Each time after that for longer, up to 16 times.
    #[serde(rename = "for", with = "DurationText")]
    pub time: Duration,
}

impl Default for Eject {
    fn default() -> Self {
        Self { failures: 5, time: Duration::from_secs(10) }
    }
}

/// A host and port that speaks HTTP/1.1.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A name or an address; an IPv6 address without its brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What goes into the `Host` field, as `model.internal:9000`.
    pub authority: String,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// How a route's requests are passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// To whom; a key of [`upstreams`](super::Config::upstreams) that speaks `http`.
    pub upstream: Arc<str>,
    /// Cut off the front of the path; empty, or whole segments of the route's own path.
    pub strip: String,
    /// Put before what is left of the path; empty, or begins with `/` and does not end with it.
    pub add: String,
    /// Whether the upstream gets its endpoint's name as `Host` instead of the client's.
    pub own_host: bool,
    /// Largest request body in bytes.
    pub body: u64,
    /// How long it may take to arrive whole.
    pub body_deadline: Duration,
    /// Whether `X-Forwarded-*` fields come from a proxy of one's own, to be added to, or from anybody, to be replaced.
    pub trust_forwarded: bool,
    /// Changes to the request's header fields, after our own.
    pub request: HeaderRules,
    /// Changes to the response's header fields.
    pub response: HeaderRules,
}

/// Changes to header fields. `Debug` shows no values: they may be secrets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderRules {
    /// Fields that get one value, whatever they had.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Fields that are taken out.
    pub remove: Vec<HeaderName>,
}
