//! The configuration file: what an operator wrote, turned once into a [`Config`] that proves it makes sense.
//!
//! | step | module | refuses |
//! |---|---|---|
//! | text → [`marks`] | where every value stands | what is no plain YAML, duplicate keys, bombs |
//! | tree → [`env`](mod@env) | `${NAME}` in string values | names that are not set |
//! | tree → [`raw`] | typed as written, defaults filled in | unknown keys, wrong types |
//! | raw → [`check`] → [`Config`] | everything resolved | what has no meaning |
//!
//! Each step goes on after a problem, so that an operator sees all of them at once, each with its line and a way out.
//! Plugins read their own part later; [`Config::locate`] gives their problems a place in the file.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fengda_plugins::api::{Problem, Registry, Tenant, TenantBuild, Text};
use serde_yaml::Value;

mod diagnostic;

pub use diagnostic::{Diagnostic, Diagnostics};

/// Looks an environment variable up; `None` if it is not set.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A checked configuration: every name in it is known, every path absolute or relative to the working directory, every limit sane.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect: HTTP/1.1 and h2c.
    pub listen: SocketAddr,
    /// Where operators connect: metrics, health, status, reload. Never the same as `listen`.
    pub admin: SocketAddr,
    /// The directory of the embedded store and the tenants' logs. Need not exist yet.
    pub data: PathBuf,
    /// Serving threads, one runtime each; at least 1.
    pub threads: usize,
    /// What one connection or request may take.
    pub limits: Limits,
    /// How long requests in flight may go on after SIGTERM.
    pub shutdown_grace: Duration,
    /// How long one turn may take, its queueing included; streamed answers excepted.
    pub turn_deadline: Duration,
    /// Where conversations are kept.
    pub store: Store,
    /// Upstreams by name.
    pub upstreams: BTreeMap<Arc<str>, Upstream>,
    /// Routes in the order in which they are tried; at least one.
    pub routes: Vec<Route>,
    /// Tenants, sorted by name; at least one.
    pub tenants: Vec<TenantConfig>,
    /// The gateway's own log.
    pub log: Log,
    /// Tells two configurations apart, environment included: 32 hex digits, the same on every replica. Says nothing of a secret in it.
    pub hash: String,
}

/// What one connection or request may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest request body in bytes.
    pub body: usize,
    /// Most header fields.
    pub headers: usize,
    /// Longest header field in bytes, name and value together.
    pub header_field: usize,
    /// How long an idle connection of a client is kept.
    pub keepalive: Duration,
    /// How long a client may pause while it sends a request.
    pub read_timeout: Duration,
    /// How many messages of one session may wait for their turn.
    pub session_queue: usize,
}

/// Where and for how long conversations are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// What a committed turn survives.
    pub durability: Durability,
    /// Most bytes of conversations held in memory.
    pub cache_size: u64,
    /// How long an unused conversation stays in memory.
    pub cache_idle: Duration,
    /// How many turns of a session are kept.
    pub history_turns: usize,
    /// How long a session is kept after its last turn.
    pub history_keep: Duration,
}

/// What a committed turn survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The death of the process; the death of the machine costs at most the last second.
    Os,
    /// The death of the machine: each commit waits for the disk.
    Disk,
}

/// Something that answers calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// The built-in model: offline, deterministic.
    Demo,
    /// A model behind `POST /v1/answer`.
    Answer(AnswerUpstream),
}

/// A model behind `POST /v1/answer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerUpstream {
    /// Where it is; at least one.
    pub endpoints: Vec<Endpoint>,
    /// The path to post to; begins with `/`.
    pub path: String,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long a streamed answer may take to begin.
    pub first_token_timeout: Duration,
    /// How long a streamed answer may pause.
    pub idle_timeout: Duration,
    /// How long a streamed answer may take in all.
    pub total_timeout: Duration,
    /// Most idle connections kept for each endpoint and thread.
    pub idle_connections: usize,
    /// Largest answer in bytes.
    pub max_answer: usize,
}

/// A host and port that speaks plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A name or an address; an IPv6 address without its brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What goes into the `Host` field, as written: `model.internal:9000`.
    pub authority: String,
}

/// A path, the plugins it goes through, and what answers.
#[derive(Debug, Clone)]
pub struct Route {
    /// Begins with `/`. See [`Route::matches`].
    pub path: Arc<str>,
    /// Says that nobody need prove who they are.
    pub public: bool,
    /// The plugins, in order of execution.
    pub chain: Vec<ChainEntry>,
    /// What answers.
    pub target: Target,
}

impl Route {
    /// Whether a request for this path is this route's, if no earlier route took it: the path itself, or anything below it if the
    /// route's path ends in `/`.
    pub fn matches(&self, path: &str) -> bool {
        path == &*self.path || (self.path.ends_with('/') && path.starts_with(&*self.path))
    }
}

/// What answers the requests of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The tenant's flow.
    Flow {
        /// The upstream that `nlp.answer` asks; a key of [`Config::upstreams`].
        upstream: Arc<str>,
    },
    /// The stored conversation.
    History,
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
    /// Ready-made answers by name; `busy` is always there.
    pub canned: Arc<BTreeMap<String, Text>>,
    /// Where its flow's log lines go; no other tenant's.
    pub log: PathBuf,
    /// Its `keys`, as written.
    pub keys: Keys,
}

/// A tenant's keys, opaque to all but the plugin that reads them. `Debug` shows nothing of them.
#[derive(Clone)]
pub struct Keys(pub Value);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("‹keys›")
    }
}

/// What one turn of a flow may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowLimits {
    /// Time on the processor.
    pub cpu: Duration,
    /// Growth of memory in bytes.
    pub memory: usize,
    /// Length of the answer in bytes.
    pub output: usize,
}

/// The gateway's own log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is written.
    pub level: log::LevelFilter,
    /// Whether each request gets a line.
    pub access: bool,
}

impl Config {
    /// Reads and checks a file. Relative paths in it are relative to its directory.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path, env: Env<'_>, registry: &Registry) -> Result<Self, Diagnostics> {
        let _ = (path, env, registry);
        unimplemented!("next commit")
    }

    /// Checks text as if it stood in the file at `path`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, path: &Path, env: Env<'_>, registry: &Registry) -> Result<Self, Diagnostics> {
        let _ = (text, path, env, registry);
        unimplemented!("next commit")
    }

    /// Finds the place in the file that a plugin's builder complained about: `entry` of `routes[route].chain`.
    ///
    /// Of the layers that make up a plugin's configuration (tenant, route, defaults) it is the most specific one that says
    /// something about the path, and in it the deepest part of the path that is there.
    pub fn locate(&self, route: usize, entry: usize, problem: &Problem) -> Diagnostic {
        let _ = (route, entry, problem);
        unimplemented!("next commit")
    }
}
