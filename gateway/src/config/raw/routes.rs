//! One item of `routes:` as it was typed.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Entry, or_default, some};
use crate::config::units::{self, DurationText, SizeText};

#[derive(Deserialize, Default, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["path"]))]
pub(in crate::config) struct Route {
    /// Of the URL, as `/v1/chat`; one that ends in `/` takes everything below it too.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "String")]
    pub(in crate::config) path: Option<String>,
    /// Whether its chain need not prove who a request is from. Never with a flow or history.
    pub(in crate::config) public: bool,
    /// The plugins that its requests go through, in order of execution.
    #[schemars(with = "Vec<Entry>")]
    pub(in crate::config) chain: Vec<Option<Entry>>,
    /// The tenant's script answers; its `nlp.answer` asks this upstream.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "String")]
    pub(in crate::config) flow: Option<String>,
    /// The stored conversation answers.
    pub(in crate::config) history: bool,
    /// Requests are passed on to this upstream, which speaks `http`. The keys below are for such a route.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "String")]
    pub(in crate::config) upstream: Option<String>,
    /// Changes to the path.
    #[serde(deserialize_with = "some")]
    pub(in crate::config) rewrite: Option<Rewrite>,
    /// Whose name the upstream gets as `Host`: what the client said (the default), or its own.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "Host")]
    pub(in crate::config) host: Option<Host>,
    /// Largest request body: up to 1024GiB, 1GiB by default; it is passed on as it comes. `limits.body` is for the other routes.
    #[serde(deserialize_with = "units::some_size")]
    #[schemars(with = "Option<SizeText>")]
    pub(in crate::config) body: Option<u64>,
    /// How long a request's whole body may take: 100ms to 7d, 1h by default; 408 `request_timeout`. `limits.body_deadline` is for the
    /// other routes.
    #[serde(deserialize_with = "units::some_duration")]
    #[schemars(with = "Option<DurationText>")]
    pub(in crate::config) body_deadline: Option<Duration>,
    /// Whether `X-Forwarded-*` come from a proxy of one's own, and are added to. False by default: they are replaced.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "bool")]
    pub(in crate::config) trust_forwarded: Option<bool>,
    /// Changes to the request's header fields.
    #[serde(deserialize_with = "some")]
    pub(in crate::config) request_headers: Option<Headers>,
    /// Changes to the response's header fields.
    #[serde(deserialize_with = "some")]
    pub(in crate::config) response_headers: Option<Headers>,
    /// Which pages of other origins may use it. None if absent.
    #[serde(deserialize_with = "some")]
    pub(in crate::config) cors: Option<Cors>,
}

#[derive(Deserialize, Serialize, Default, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Rewrite {
    /// Cut off the front: the route's path, or a part of it up to a `/`.
    pub(in crate::config) strip: String,
    /// Put before what is left, as `/v2`.
    pub(in crate::config) add: String,
}

#[derive(Deserialize, Serialize, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Host {
    /// What the client said.
    Client,
    /// The endpoint's own name.
    Upstream,
}

#[derive(Deserialize, Serialize, Default, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Headers {
    /// Fields that get one value, whatever they had.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub(in crate::config) set: BTreeMap<String, String>,
    /// Fields that are taken out.
    pub(in crate::config) remove: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["origins"]))]
pub(in crate::config) struct Cors {
    /// As browsers write them, such as `https://shop.example`, or `*` alone for all. Required.
    #[schemars(with = "Vec<String>")]
    pub(in crate::config) origins: Vec<Option<String>>,
    /// That pages may use. Those of the route's target if absent.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "Option<Vec<String>>")]
    pub(in crate::config) methods: Option<Vec<Option<String>>>,
    /// The request's header fields that pages may set.
    #[schemars(with = "Vec<String>")]
    pub(in crate::config) headers: Vec<Option<String>>,
    /// Whether pages may send what the browser holds, such as cookies. Never with `*`.
    pub(in crate::config) credentials: bool,
    /// How long a browser may remember this: 0s to 1d.
    #[serde(with = "units::DurationText")]
    pub(in crate::config) max_age: Duration,
}

impl Default for Cors {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            methods: None,
            headers: ["authorization", "content-type"].map(|name| Some(name.to_owned())).into(),
            credentials: false,
            max_age: Duration::from_mins(10),
        }
    }
}
