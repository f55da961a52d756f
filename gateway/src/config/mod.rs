//! The configuration: what an operator wrote, turned once into a [`Config`] that proves it makes sense.
//!
//! | step | module | refuses |
//! |---|---|---|
//! | text → `marks` | where every value stands | what is no plain YAML, duplicate keys, bombs |
//! | `tenants_d` → tree | the tenants of other files, in their place | the same for each file, a tenant twice |
//! | tree → `env` | `${NAME}` in string values | names that are not set |
//! | tree → `raw` | typed as written, defaults filled in | unknown keys, wrong types |
//! | raw → `keys` | the text of key and certificate files in the place of their paths | what cannot be read |
//! | raw → `check` → [`Config`] | everything resolved | what has no meaning |
//!
//! Each step goes on after a problem, so that an operator sees all of them at once, each with its line and a way out.
//! Plugins read their own part when they are built; [`Config::locate_all`] gives their problems a place in the file.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fengda_plugins::{
    api::{Registry, Tenant},
    context::import::Pattern,
};

use crate::edge::tls;

mod check;
mod diagnostic;
mod env;
mod hash;
mod keys;
mod locate;
mod marks;
mod path;
mod raw;
mod read;
mod reference;
mod reload;
mod schema;
mod tenants_d;
#[cfg(test)]
mod tests;
mod types;
mod units;
mod upstream;
mod wording;

use diagnostic::Report;
pub use diagnostic::{Diagnostic, Diagnostics};
use marks::{Flaw, MAX_BYTES, Mark, Marks};
pub use reference::reference;
pub use schema::schema;
pub use types::{
    Backend, ChainEntry, Cors, Durability, FlowLimits, Import, Limits, Log, Origins, RedisStore, Route, Store, Target, TenantConfig, Wait,
};
pub use upstream::{
    AnswerUpstream, Balance, Eject, Endpoint, Forward, HeaderRules, HttpTimeouts, HttpUpstream, MAX_PEERS, PeersConfig, Upstream,
};

/// The plugin that keeps conversations.
const CONTEXT: &str = "context";

/// Looks an environment variable up; `None` if it is not set.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where a configuration comes from, at the start and at each reload.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A file that an operator edits.
    File(PathBuf),
    /// Text that was made of a command's arguments.
    Text(String),
}

impl Origin {
    /// Reads and checks it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self, env: Env<'_>, registry: &Registry) -> Result<Config, Diagnostics> {
        match self {
            Self::File(path) => Config::load(path, env, registry),
            // No folder is called so: there is nothing beside it to be read along.
            Self::Text(text) => Config::parse(text, Path::new("command line/arguments"), env, registry),
        }
    }

    /// The files it would read now; see [`Config::listed`].
    pub fn listed(&self) -> Vec<PathBuf> {
        match self {
            Self::File(path) => Config::listed(path),
            Self::Text(_) => Vec::new(),
        }
    }
}

/// A checked configuration: every name in it is known, every path resolved, every limit sane.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect: HTTP/1.1 and HTTP/2.
    pub listen: SocketAddr,
    /// What TLS on `listen` is spoken with; clients connect in the clear if absent.
    pub tls: Option<tls::Acceptor>,
    /// Where operators connect: metrics, health, status, reload. Never the same as `listen`; `None` if nowhere.
    pub admin: Option<SocketAddr>,
    /// The directory of the embedded store and the tenants' logs. Need not exist yet.
    pub data: PathBuf,
    /// Serving threads, one runtime each; at least 1.
    pub threads: usize,
    /// Whether its files are watched, and put in force when they change.
    pub watch: bool,
    /// What one connection or request may take.
    pub limits: Limits,
    /// How long requests in flight may go on after SIGTERM.
    pub shutdown_grace: Duration,
    /// How long after SIGTERM requests are still accepted while `/readyz` says no; the grace begins after it.
    pub shutdown_pause: Duration,
    /// How long one turn may take, its queueing included; streamed answers excepted.
    pub turn_deadline: Duration,
    /// Where conversations are kept.
    pub store: Store,
    /// Upstreams by name.
    pub upstreams: BTreeMap<Arc<str>, Upstream>,
    /// Routes in the order in which they are tried; at least one.
    pub routes: Vec<Route>,
    /// Tenants, sorted by name; at least one, unless all routes are public.
    pub tenants: Vec<TenantConfig>,
    /// The gateway's own log.
    pub log: Log,
    /// Tells two configurations apart, environment, key and certificate files included: 32 hex digits, the same on every replica. Gives no
    /// secret away that is too long to be guessed.
    pub hash: String,
    /// All files it is made of: itself, those of `tenants.d`, flows, keys. A change of one makes another configuration.
    pub files: Vec<PathBuf>,
    /// What works, but most likely is not what was meant.
    pub warnings: Vec<Diagnostic>,
    source: Arc<Source>,
}

/// The files a configuration came from, for the problems that plugins find later.
struct Source {
    /// The main one, and those of `tenants.d`.
    files: Vec<PathBuf>,
    marks: Marks,
    /// Values that hold something from the environment: maybe a secret, so never shown.
    hidden: Vec<path::Path>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.files[0].display())
    }
}

impl Source {
    /// A path in any of the files, seen from where the process runs: they are all relative to the main one.
    fn resolve(&self, path: &Path) -> PathBuf {
        self.files[0].parent().unwrap_or(Path::new("")).join(path.strip_prefix(".").unwrap_or(path))
    }
}

impl Config {
    /// Reads and checks a file, and the tenants in `tenants.d` beside it. Relative paths in all of them are relative to its directory.
    ///
    /// # Errors
    /// Everything that is wrong with it. If nothing is, what only plugins can see in their parts shows when they are built.
    pub fn load(path: &Path, env: Env<'_>, registry: &Registry) -> Result<Self, Diagnostics> {
        Self::read(&bytes(path)?, path, env, registry)
    }

    /// Checks text as if it stood in the file at `path`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, path: &Path, env: Env<'_>, registry: &Registry) -> Result<Self, Diagnostics> {
        Self::read(text.as_bytes(), path, env, registry)
    }

    /// Finds everything that is wrong with a file, plugins' parts included. The configuration has something harmless in the place of
    /// what is wrong, for checks that go further; there is none if the file cannot be read.
    pub fn examine(path: &Path, env: Env<'_>, registry: &Registry) -> (Option<Self>, Diagnostics) {
        match bytes(path).and_then(|bytes| Self::interpret(&bytes, path, env, registry)) {
            Ok((config, mut report)) => {
                config.try_plugins(registry, &mut report);
                (Some(config), report.finish())
            }
            Err(problems) => (None, problems),
        }
    }

    fn read(bytes: &[u8], path: &Path, env: Env<'_>, registry: &Registry) -> Result<Self, Diagnostics> {
        let (config, mut report) = Self::interpret(bytes, path, env, registry)?;
        if report.is_clean() {
            return Ok(config);
        }
        config.try_plugins(registry, &mut report);
        Err(report.finish())
    }

    /// Whether a route keeps conversations, so that there must be a store.
    pub fn keeps_conversations(&self) -> bool {
        self.routes.iter().any(|route| route.chain.iter().any(|entry| entry.plugin == CONTEXT))
    }

    /// The keys of tenants' conversations in an older deployment.
    pub fn imports(&self) -> HashMap<Tenant, Pattern> {
        self.tenants.iter().filter_map(|tenant| Some((tenant.tenant.clone(), tenant.import.clone()?))).collect()
    }

    /// Tells the operator of what most likely is not what was meant.
    pub(crate) fn log_warnings(&self) {
        self.warnings.iter().for_each(|warning| log::warn!(target: "fengda::config", "{warning}"));
    }

    /// The files that [`Config::load`] would read now, as far as that can be told without reading any: the main one and those of
    /// `tenants.d`, which may have come or gone.
    pub fn listed(path: &Path) -> Vec<PathBuf> {
        [vec![path.to_owned()], tenants_d::list(path).unwrap_or_default()].concat()
    }

    fn interpret(bytes: &[u8], path: &Path, env: Env<'_>, registry: &Registry) -> Result<(Self, Report), Diagnostics> {
        let (mut marks, mut tree) = read::parse(bytes).map_err(|flaws| unparsed(path, flaws))?;
        let parts = tenants_d::read_in(path, &mut tree, &mut marks);
        let expanded = env::expand(&mut tree, &marks, env);
        let mut report = Report::new(Source { files: parts.files, marks, hidden: expanded.paths }, expanded.problems);
        for (place, flaw) in parts.flaws {
            report.flaw(place, flaw);
        }
        let mut raw = read::typed(tree, &mut report);
        let key_files = keys::read_in(&mut raw, &mut report);
        let mut config = check::check(raw, &key_files, registry, &mut report);
        let (files, texts) = report.made_of();
        (config.files, config.warnings) = (files, report.warnings());
        config.hash = hash::of(bytes, &[parts.texts, expanded.used, texts].concat());
        Ok((config, report))
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, Diagnostics> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    match std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)) {
        Ok(_) => Ok(bytes),
        Err(e) => {
            let flaw = Flaw::new(Mark::START, format!("cannot be read: {e}"), missing(&e));
            Err(unparsed(path, vec![flaw]))
        }
    }
}

fn missing(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            "run it where the file is, or name another with `-c FILE`; the `config.yaml` that comes with Fengda is complete"
        }
        _ => "name another file with `-c FILE`",
    }
}

fn unparsed(path: &Path, flaws: Vec<Flaw>) -> Diagnostics {
    let source = Source { files: vec![path.to_owned()], marks: Marks::default(), hidden: Vec::new() };
    let found: Vec<_> = flaws.into_iter().map(|flaw| source.diagnostic(flaw.mark, flaw.message, flaw.hint)).collect();
    Diagnostics::new(found, source.files)
}
