//! What a checked configuration is made of.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use fengda_plugins::{
    api::{Tenant, TenantBuild, Text},
    context::{CacheConfig, import::Pattern},
    redis::RedisConfig,
};
use http::{HeaderName, HeaderValue, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use super::{path::Path, units, upstream::Forward};

/// Below this is what the page at `/` asks for.
pub(super) const TRY: &str = "/try/";

/// What one connection or request may take, and all of them together.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest request body: 1KiB to 64MiB; 413 `body_too_large`.
    #[serde(with = "units::SizeText")]
    pub body: usize,
    /// Longest `query` of a message: 64B to 1MiB; 413.
    #[serde(with = "units::SizeText")]
    pub query: usize,
    /// Most header fields: 1 to 256; 431 `headers_too_large`.
    pub headers: usize,
    /// Longest header field, name and value together: 64B to 1MiB; 431.
    #[serde(with = "units::SizeText")]
    pub header_field: usize,
    /// Most connections of clients at a time: 1 to 1000000; one more is closed at once.
    pub connections: usize,
    /// Most streams of an HTTP/2 connection at a time: 1 to 10000.
    pub streams: u32,
    /// How long an HTTP/2 connection without a stream is kept: 100ms to 1h.
    #[serde(with = "units::DurationText")]
    pub h2_idle: Duration,
    /// How long an idle HTTP/1.1 connection is kept, and how long any may take to say its first word: 1s to 1h.
    #[serde(with = "units::DurationText")]
    pub keepalive: Duration,
    /// How long a request's whole head may take once its first byte is there: 100ms to 10m.
    #[serde(with = "units::DurationText")]
    pub header_deadline: Duration,
    /// How long a request's whole body may take: 100ms to 10m.
    #[serde(with = "units::DurationText")]
    pub body_deadline: Duration,
    /// How long one read from a client, or one write to it, may wait: 100ms to 10m.
    #[serde(with = "units::DurationText")]
    pub read_timeout: Duration,
    /// How many messages of one session may wait for their turn: 0 to 1024; one more gets 409 `turn_in_progress`.
    pub session_queue: usize,
    /// How many requests may be in flight, of all tenants together: 1 to 1000000; 503 `overloaded`. The last quarter is for tenants with
    /// less than their fair share.
    pub in_flight: usize,
}

/// Where and for how long conversations are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// What keeps them.
    pub backend: Backend,
    /// Where those of an older deployment are; nowhere if absent.
    pub import: Option<Import>,
    /// How much is held in memory.
    pub cache: CacheConfig,
    /// How many turns of a session are kept.
    pub history_turns: usize,
    /// How long a session is kept after its last turn.
    pub history_keep: Duration,
}

impl Store {
    /// How the Redis that keeps them is reached, if one does.
    pub fn redis(&self) -> Option<&RedisConfig> {
        match &self.backend {
            Backend::Redis(redis) => Some(&redis.link),
            Backend::Embedded { .. } => None,
        }
    }

    /// Whether a gateway that runs with another one can go on with this: only the certificates for Redis may differ.
    pub fn goes_on_from(&self, running: &Self) -> bool {
        let mut this = self.clone();
        if let (Backend::Redis(new), Backend::Redis(old)) = (&mut this.backend, &running.backend)
            && new.link.tls.is_some() == old.link.tls.is_some()
        {
            new.link.tls.clone_from(&old.link.tls);
        }
        this == *running
    }
}

/// Conversations of an older deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// How they are reached; where the new ones are kept, if absent.
    pub link: Option<RedisConfig>,
    /// How long a session's first turn may wait for what was said before.
    pub wait: Duration,
}

/// What keeps conversations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// This gateway's disk.
    Embedded {
        /// What a committed turn survives.
        durability: Durability,
    },
    /// Redis, which other gateways may share.
    Redis(Box<RedisStore>),
}

/// Conversations in Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisStore {
    /// How it is reached.
    pub link: RedisConfig,
    /// Most bytes of turns kept in the data directory while it is out of reach.
    pub spool: u64,
}

/// How many replicas must have a turn before its answer is called stored, and an erasure before it is called done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Wait {
    /// How many: 1 to 16.
    pub replicas: u32,
    /// How long for them: 1ms to 500ms. After that the turn is stored, or the conversation erased, all the same; it is counted and logged.
    #[serde(with = "units::DurationText")]
    pub timeout: Duration,
}

impl Default for Wait {
    fn default() -> Self {
        Self { replicas: 1, timeout: Duration::from_millis(100) }
    }
}

/// What a committed turn survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The death of the process; the death of the machine costs at most the last second.
    Os,
    /// The death of the machine: each commit waits for the disk.
    Disk,
}

/// A path, the plugins it goes through, and what answers. Its chain proves who a request is from, unless it is public.
#[derive(Debug, Clone)]
pub struct Route {
    /// Begins with `/`. See [`Route::matches`].
    pub path: Arc<str>,
    /// The plugins, in order of execution.
    pub chain: Vec<ChainEntry>,
    /// What answers.
    pub target: Target,
    /// Which pages of other origins may use it; none if absent.
    pub cors: Option<Cors>,
}

/// What browsers are told about a route (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// Whose pages may read its answers.
    pub origins: Origins,
    /// The methods that they may use; at least one.
    pub methods: Vec<Method>,
    /// The request's fields that they may set besides those that any page may.
    pub headers: Vec<HeaderName>,
    /// Whether they may send cookies and other credentials that the browser holds. Never with [`Origins::Any`].
    pub credentials: bool,
    /// How long a browser may remember all this.
    pub max_age: Duration,
}

/// Origins of pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// All of them.
    Any,
    /// These, as browsers write them in `Origin`; at least one.
    These(Vec<HeaderValue>),
}

impl Route {
    /// Whether a request for this path is this route's, if no earlier route took it: the path itself, or anything below it if the
    /// route's path ends in `/`. The page has `/` and what is below `/try/`.
    pub fn matches(&self, path: &str) -> bool {
        let below = if self.target == Target::TryPage { TRY } else { &self.path };
        path == &*self.path || (below.ends_with('/') && path.starts_with(below))
    }
}

/// What answers the requests of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The tenant's flow.
    Flow {
        /// The upstream that `nlp.answer` asks; a key of [`upstreams`](super::Config::upstreams).
        upstream: Arc<str>,
    },
    /// The stored conversation.
    History,
    /// The page to chat in, and what it asks for.
    TryPage,
    /// An application behind the gateway.
    Forward(Box<Forward>),
}

/// One plugin of a chain, with everything its builder needs. `Debug` shows only its name: the rest may hold secrets.
#[derive(Clone)]
pub struct ChainEntry {
    /// Its name in the registry.
    pub plugin: String,
    /// The defaults of `plugins:` with the route's overrides laid over them; a mapping.
    pub config: Value,
    /// The same with each tenant's overrides laid over it, sorted by tenant.
    pub tenants: Vec<TenantBuild>,
    /// Where the file names it.
    pub(super) place: Path,
}

impl fmt::Debug for ChainEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.plugin)
    }
}

/// One tenant. Its keys are in [`ChainEntry::tenants`].
#[derive(Debug, Clone)]
pub struct TenantConfig {
    /// Who.
    pub tenant: Tenant,
    /// Its flow's script; a file that was there when the configuration was read.
    pub flow: PathBuf,
    /// What one turn of its flow may use.
    pub flow_limits: FlowLimits,
    /// How many of its requests may be in flight; bounded by fairness alone if absent.
    pub in_flight: Option<usize>,
    /// Which replicas its turns wait for; none if absent.
    pub wait: Option<Wait>,
    /// The keys of its conversations in an older deployment, to be brought over at their first contact.
    pub import: Option<Pattern>,
    /// Ready-made answers by name; `busy` is always there.
    pub canned: Arc<BTreeMap<String, Text>>,
    /// Where its flow's log lines go; no other tenant's.
    pub log: PathBuf,
    /// Whether all its keys are demo keys, which everybody knows.
    pub demo: bool,
}

/// What one turn of a flow may use.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FlowLimits {
    /// Time on the processor: 1ms to 10s.
    #[serde(with = "units::DurationText")]
    pub cpu: Duration,
    /// What all turns of the tenant that compute for longer than a millisecond or two, and its request bodies over 64KiB, may use
    /// together of each thread's time in the long run: 1% to 100%.
    pub share: units::Percent,
    /// Growth of memory: 1MiB to 1GiB.
    #[serde(with = "units::SizeText")]
    pub memory: usize,
    /// Length of the answer: 64B to 4MiB.
    #[serde(with = "units::SizeText")]
    pub output: usize,
}

/// The gateway's own log.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The least severe level that is written.
    #[serde(with = "units::LevelText")]
    pub level: log::LevelFilter,
    /// Whether each request gets a line.
    pub access: bool,
}
