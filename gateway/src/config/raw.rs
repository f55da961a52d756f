//! The file as it was typed: every key there is, its type, and its default. Meaning is [`super::check`]'s affair.
//!
//! Items of lists and named entries are optional: one that was left empty, or cut out because it could not be read, leaves a hole
//! and does not move its neighbours.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use fengda_plugins::api::Text;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use serde_yaml::Value;

use super::{
    types::{Durability, FlowLimits, Limits, Log},
    units,
};

/// The whole file.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    #[serde(deserialize_with = "units::address")]
    pub(super) listen: SocketAddr,
    #[serde(deserialize_with = "units::address")]
    pub(super) admin: SocketAddr,
    pub(super) data: PathBuf,
    /// One for each core if absent.
    pub(super) threads: Option<usize>,
    #[serde(deserialize_with = "or_default")]
    pub(super) limits: Limits,
    #[serde(deserialize_with = "or_default")]
    pub(super) shutdown: Shutdown,
    #[serde(deserialize_with = "or_default")]
    pub(super) turn: Turn,
    #[serde(deserialize_with = "or_default")]
    pub(super) store: Store,
    /// A demo model if absent.
    pub(super) upstreams: Option<BTreeMap<String, Option<Upstream>>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) plugins: BTreeMap<String, Value>,
    /// Chat and history if absent.
    pub(super) routes: Option<Vec<Option<Route>>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) tenants: BTreeMap<String, Option<Tenant>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) log: Log,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin: SocketAddr::from(([127, 0, 0, 1], 9901)),
            data: "data".into(),
            threads: None,
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
            keepalive: Duration::from_mins(1),
            header_deadline: Duration::from_secs(10),
            body_deadline: Duration::from_secs(30),
            read_timeout: Duration::from_secs(30),
            session_queue: 16,
        }
    }
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self { cpu: Duration::from_millis(50), memory: 32 << 20, output: 64 << 10 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: log::LevelFilter::Info, access: true }
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Shutdown {
    #[serde(deserialize_with = "units::duration")]
    pub(super) grace: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { grace: Duration::from_secs(25) }
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Turn {
    #[serde(deserialize_with = "units::duration")]
    pub(super) deadline: Duration,
}

impl Default for Turn {
    fn default() -> Self {
        Self { deadline: Duration::from_millis(2500) }
    }
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Store {
    #[serde(deserialize_with = "or_default")]
    pub(super) embedded: Embedded,
    #[serde(deserialize_with = "or_default")]
    pub(super) cache: Cache,
    #[serde(deserialize_with = "or_default")]
    pub(super) history: History,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Embedded {
    pub(super) durability: Durability,
}

impl Default for Embedded {
    fn default() -> Self {
        Self { durability: Durability::Os }
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Cache {
    #[serde(deserialize_with = "units::size")]
    pub(super) size: u64,
    #[serde(deserialize_with = "units::duration")]
    pub(super) idle: Duration,
}

impl Default for Cache {
    fn default() -> Self {
        Self { size: 256 << 20, idle: Duration::from_mins(30) }
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct History {
    pub(super) turns: usize,
    #[serde(deserialize_with = "units::duration")]
    pub(super) keep: Duration,
}

impl Default for History {
    fn default() -> Self {
        Self { turns: 100, keep: Duration::from_hours(7 * 24) }
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Upstream {
    pub(super) protocol: Option<String>,
    pub(super) endpoints: Vec<Option<String>>,
    pub(super) path: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) timeouts: Timeouts,
    pub(super) idle_connections: usize,
    #[serde(deserialize_with = "units::size")]
    pub(super) max_answer: usize,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            protocol: None,
            endpoints: Vec::new(),
            path: "/v1/answer".to_owned(),
            timeouts: Timeouts::default(),
            idle_connections: 64,
            max_answer: 1 << 20,
        }
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Timeouts {
    #[serde(deserialize_with = "units::duration")]
    pub(super) connect: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub(super) first_token: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub(super) idle: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub(super) total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_millis(500),
            first_token: Duration::from_millis(1500),
            idle: Duration::from_secs(5),
            total: Duration::from_mins(1),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Route {
    pub(super) path: Option<String>,
    pub(super) public: bool,
    pub(super) chain: Vec<Option<Entry>>,
    pub(super) flow: Option<String>,
    pub(super) history: bool,
    /// Plain proxying; reserved.
    pub(super) upstream: Option<Value>,
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

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Tenant {
    pub(super) flow: Option<PathBuf>,
    pub(super) keys: Value,
    #[serde(deserialize_with = "or_default")]
    pub(super) canned: BTreeMap<String, Text>,
    #[serde(deserialize_with = "or_default")]
    pub(super) plugins: BTreeMap<String, Value>,
    pub(super) log: Option<PathBuf>,
    #[serde(deserialize_with = "or_default")]
    pub(super) flow_limits: FlowLimits,
}

/// A section whose keys are all commented out is there with nothing in it; that means its default.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Option::deserialize(d).map(Option::unwrap_or_default)
}
