//! `upstreams:` as it was typed. What may be left out differs from protocol to protocol, so those keys have no default here.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{or_default, some};
use crate::config::{
    Eject,
    units::{self, DurationText, SizeText},
};

#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["protocol"]))]
pub(in crate::config) struct Upstream {
    /// What it speaks: `demo` is built in, `answer` is a model behind `POST /v1/answer`, `http` an application.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "String", extend("enum" = ["demo", "answer", "http"]))]
    pub(in crate::config) protocol: Option<String>,
    /// Where it is, as `http://127.0.0.1:9000` or `https://app.internal`: a scheme, a host, a port. 1 to 64.
    #[schemars(with = "Vec<String>")]
    pub(in crate::config) endpoints: Vec<Option<String>>,
    /// A file in PEM form with the certificates to trust for `https://`, instead of the machine's.
    // After `keys::read_authorities` the text of that file.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "String")]
    pub(in crate::config) ca: Option<String>,
    /// Which endpoint gets a call: each in turn, or the same for one user, session, header field or cookie.
    #[serde(deserialize_with = "serde_yaml::with::singleton_map::deserialize")]
    pub(in crate::config) balance: Balance,
    /// When an endpoint is left out because it keeps failing. Never are all.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "Option<Eject>")]
    pub(in crate::config) eject: Eject,
    /// The path to post to; of `answer`, where it is `/v1/answer` by default.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "String")]
    pub(in crate::config) path: Option<String>,
    /// How long it may take for what.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "Option<Timeouts>")]
    pub(in crate::config) timeouts: Timeouts,
    /// Most idle connections kept open for each endpoint and thread: 0 to 4096.
    pub(in crate::config) idle_connections: usize,
    /// Largest answer: 1KiB to 64MiB; of `answer`, where it is 1MiB by default.
    #[serde(deserialize_with = "units::some_size")]
    #[schemars(with = "Option<SizeText>")]
    pub(in crate::config) max_answer: Option<usize>,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            protocol: None,
            endpoints: Vec::new(),
            ca: None,
            balance: Balance::RoundRobin,
            eject: Eject::default(),
            path: None,
            timeouts: Timeouts::default(),
            idle_connections: 64,
            max_answer: None,
        }
    }
}

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Balance {
    /// Each in turn.
    RoundRobin,
    /// The same for all calls of a user, or of a client's address where the user is not known.
    User,
    /// The same for all calls of a conversation; requests that are passed on name it in `x-session-id`.
    Session,
    /// The same for all requests with the same value of this field; of `http`.
    Header(String),
    /// The same for all requests with the same value of this cookie; of `http`.
    Cookie(String),
}

#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Timeouts {
    /// To connect, TLS included: 1ms to 1m.
    #[serde(with = "DurationText")]
    pub(in crate::config) connect: Duration,
    /// Until a streamed answer begins: 1ms to 10m; of `answer`, 1500ms by default.
    #[serde(deserialize_with = "units::some_duration")]
    #[schemars(with = "Option<DurationText>")]
    pub(in crate::config) first_token: Option<Duration>,
    /// Until a response begins, once the request was taken: 1ms to 1h; of `http`, 30s by default.
    #[serde(deserialize_with = "units::some_duration")]
    #[schemars(with = "Option<DurationText>")]
    pub(in crate::config) first_byte: Option<Duration>,
    /// The longest pause of an answer: 1ms to 10m, 5s by default; of `http` up to 1d, 60s by default, upgraded connections too.
    #[serde(deserialize_with = "units::some_duration")]
    #[schemars(with = "Option<DurationText>")]
    pub(in crate::config) idle: Option<Duration>,
    /// A streamed answer in all: 1ms to 1h; of `answer`, 60s by default.
    #[serde(deserialize_with = "units::some_duration")]
    #[schemars(with = "Option<DurationText>")]
    pub(in crate::config) total: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_millis(500), first_token: None, first_byte: None, idle: None, total: None }
    }
}
