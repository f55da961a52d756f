//! The file as it was typed: every key there is, its type, and its default. Meaning is [`super::check`]'s affair.
//!
//! [`super::schema`] makes the JSON Schema and the reference of these types: a doc comment is what an operator reads of a key, and
//! ends with the range that the check of its meaning allows.
//!
//! Items of lists and named entries are optional: one that was left empty, or cut out because it could not be read, leaves a hole
//! and does not move its neighbours.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use fengda_plugins::{
    api::{Secret, Text},
    auth::KeyConfig,
};
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use serde_yaml::Value;

use super::{
    schema,
    types::{FlowLimits, Limits, Log, Wait},
    units,
};

mod routes;
mod store;
mod upstreams;

pub(super) use routes::{Cors, Headers, Host, Route};
pub(super) use store::{Import, Redis, RedisTls, Store};
pub(super) use upstreams::{Balance, Upstream};

/// The whole file.
#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    /// Where clients connect: HTTP/1.1 and h2c.
    #[serde(with = "units::AddressText")]
    pub(super) listen: SocketAddr,
    /// Where operators connect: metrics, health, status, reload. Keep clients out. `none` if nowhere.
    #[serde(with = "units::AddressOrNone")]
    pub(super) admin: Option<SocketAddr>,
    /// The directory of the stored conversations and the tenants' logs; made if it is not there.
    pub(super) data: PathBuf,
    /// TLS on `listen`. Clients connect in the clear if absent.
    #[serde(deserialize_with = "some")]
    pub(super) tls: Option<Tls>,
    /// Serving threads: 1 to 512. One for each core if absent.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "usize")]
    pub(super) threads: Option<usize>,
    /// A page to chat in at `/`, for trying it out: demo tenants, from this machine.
    pub(super) try_page: bool,
    /// Whether files that change are put in force without being told: this one, `tenants.d`, scripts, keys.
    pub(super) watch: bool,
    /// What one connection or request may take; over a limit the client gets 4xx.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "Option<Limits>")]
    pub(super) limits: Limits,
    /// What happens after SIGTERM.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "Option<Shutdown>")]
    pub(super) shutdown: Shutdown,
    /// What one turn of a conversation may take.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "Option<Turn>")]
    pub(super) turn: Turn,
    /// Where and for how long conversations are kept.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "Option<Store>")]
    pub(super) store: Store,
    /// What is called, by name: models, applications. `model`, the built-in demo, if absent.
    #[schemars(with = "Option<BTreeMap<String, Upstream>>")]
    pub(super) upstreams: Option<BTreeMap<String, Option<Upstream>>>,
    /// Plugins' configuration; a route or a tenant replaces single keys.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "Option<schema::Plugins>")]
    pub(super) plugins: BTreeMap<String, Value>,
    /// Tried from top to bottom. `/v1/chat` and `/v1/history` if absent.
    #[schemars(with = "Option<Vec<Route>>")]
    pub(super) routes: Option<Vec<Option<Route>>>,
    /// Tenants by name, which is what the tenant claim of their tokens says.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "Option<BTreeMap<String, Tenant>>")]
    pub(super) tenants: BTreeMap<String, Option<Tenant>>,
    /// The gateway's own log.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "Option<Log>")]
    pub(super) log: Log,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin: Some(SocketAddr::from(([127, 0, 0, 1], 9901))),
            data: "./data".into(),
            tls: None,
            threads: None,
            try_page: false,
            watch: true,
            limits: Limits::default(),
            shutdown: Shutdown::default(),
            turn: Turn::default(),
            store: Store::default(),
            upstreams: None,
            plugins: BTreeMap::new(),
            routes: None,
            tenants: BTreeMap::new(),
            log: Log::default(),
        }
    }
}

/// The upstream that is there if the file names none.
pub(super) fn default_upstreams() -> BTreeMap<String, Option<Upstream>> {
    BTreeMap::from([("model".to_owned(), Some(Upstream { protocol: Some("demo".to_owned()), ..Upstream::default() }))])
}

/// The routes that are there if the file names none.
pub(super) fn default_routes() -> Vec<Option<Route>> {
    let chain = |names: &[&str]| names.iter().map(|name| Some(Entry { plugin: (*name).to_owned(), config: Value::Null })).collect();
    let chat = Route {
        path: Some("/v1/chat".to_owned()),
        chain: chain(&["auth", "rate_limit", "context", "circuit_breaker"]),
        flow: Some("model".to_owned()),
        ..Route::default()
    };
    let history =
        Route { path: Some("/v1/history".to_owned()), chain: chain(&["auth", "rate_limit", "context"]), history: true, ..Route::default() };
    vec![Some(chat), Some(history)]
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 1 << 20,
            query: 16 << 10,
            headers: 64,
            header_field: 8 << 10,
            connections: 20_000,
            streams: 128,
            h2_idle: Duration::from_mins(1),
            keepalive: Duration::from_mins(1),
            header_deadline: Duration::from_secs(10),
            body_deadline: Duration::from_secs(30),
            read_timeout: Duration::from_secs(30),
            session_queue: 16,
            in_flight: 5000,
        }
    }
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self { cpu: Duration::from_millis(50), share: units::Percent(15), memory: 32 << 20, output: 64 << 10 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: log::LevelFilter::Info, access: true }
    }
}

/// A certificate and its key: PEM, or the paths of files with it, read again at each reload.
// `super::keys` puts the text in the place of the path.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["cert", "key"]))]
pub(super) struct Tls {
    /// The server's own certificate and then the others of its chain. Required.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "String")]
    pub(super) cert: Option<String>,
    /// The private key of the first certificate, not encrypted. Required.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "Secret")]
    pub(super) key: Option<Secret>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Shutdown {
    /// How long requests in flight may go on: 0s to 1h. Keep it and `pause` together under the orchestrator's own limit.
    #[serde(with = "units::DurationText")]
    pub(super) grace: Duration,
    /// How long clients are still served before that while `/readyz` says no, for load balancers to notice: 0s to 10m.
    #[serde(with = "units::DurationText")]
    pub(super) pause: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { grace: Duration::from_secs(25), pause: Duration::ZERO }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Turn {
    /// From question in to answer out, waiting included: 10ms to 10m. Streamed answers have `timeouts` of their own.
    #[serde(with = "units::DurationText")]
    pub(super) deadline: Duration,
}

impl Default for Turn {
    fn default() -> Self {
        Self { deadline: Duration::from_millis(2500) }
    }
}

/// A plugin in a chain: `auth`, or `auth: {…}` with overrides.
pub(super) struct Entry {
    pub(super) plugin: String,
    pub(super) config: Value,
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct EntryVisitor;
        impl<'de> Visitor<'de> for EntryVisitor {
            type Value = Entry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a plugin, or one name with its overrides as in `rate_limit: {…}`")
            }

            fn visit_str<E: de::Error>(self, plugin: &str) -> Result<Entry, E> {
                Ok(Entry { plugin: plugin.to_owned(), config: Value::Null })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
                let (plugin, config) = map.next_entry()?.ok_or_else(|| de::Error::invalid_length(0, &self))?;
                match map.next_entry::<String, Value>()? {
                    None => Ok(Entry { plugin, config }),
                    Some(_) => Err(de::Error::custom("one item of a chain names one plugin; begin each with its own `-`")),
                }
            }
        }
        d.deserialize_any(EntryVisitor)
    }
}

#[derive(Deserialize, Default, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["flow", "keys"]))]
pub(super) struct Tenant {
    /// The script.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "String")]
    pub(super) flow: Option<PathBuf>,
    /// The keys of its tokens, at least one; several while they are rolled.
    #[schemars(with = "Vec<KeyConfig>")]
    pub(super) keys: Value,
    /// Ready-made answers by name, for `canned(name)` in the script; `busy` is also the answer when the model fails.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "Option<BTreeMap<String, Text>>")]
    pub(super) canned: BTreeMap<String, Text>,
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "Option<schema::Plugins>")]
    pub(super) plugins: BTreeMap<String, Value>,
    /// What the script logs; no other tenant's lines get in. In `logs/<tenant>.log` of the data directory if absent.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "PathBuf")]
    pub(super) log: Option<PathBuf>,
    /// How many of its requests may be in flight: 1 to 1000000. Bounded by fairness among tenants alone if absent.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "usize")]
    pub(super) in_flight: Option<usize>,
    /// The keys under which an older deployment has the tenant's conversations, such as `chat:{user_id}` or
    /// `chat:{user_id}:{session_id}`: each is brought over at its user's first contact. None are if absent.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "String")]
    pub(super) import: Option<String>,
    /// Replicas of `store.redis` that must have a turn before its answer is called stored, and an erasure before it is called done. None are
    /// waited for if absent.
    #[serde(deserialize_with = "some")]
    pub(super) wait: Option<Wait>,
    /// What one turn of the script may use.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "Option<FlowLimits>")]
    pub(super) flow_limits: FlowLimits,
}

/// A key that may be left out. One that is there with nothing in it is not left out: a section has its defaults then, anything else is
/// refused.
fn some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<T>, D::Error> {
    T::deserialize(d).map(Some)
}

/// A section whose keys are all commented out is there with nothing in it; that means its default.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Option::deserialize(d).map(Option::unwrap_or_default)
}
