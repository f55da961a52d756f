//! The configuration file: what an operator wrote, turned once into a [`Config`] that proves it makes sense.
//!
//! | step | module | refuses |
//! |---|---|---|
//! | text → `marks` | where every value stands | what is no plain YAML, duplicate keys, bombs |
//! | tree → `env` | `${NAME}` in string values | names that are not set |
//! | tree → `raw` | typed as written, defaults filled in | unknown keys, wrong types |
//! | raw → `keys` | the text of key files in the place of their paths | what cannot be read |
//! | raw → `check` → [`Config`] | everything resolved | what has no meaning |
//!
//! Each step goes on after a problem, so that an operator sees all of them at once, each with its line and a way out.
//! Plugins read their own part later; [`Config::locate`] gives their problems a place in the file.

use std::{
    collections::BTreeMap,
    fmt,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fengda_plugins::api::Registry;

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
mod reload;
mod schema;
#[cfg(test)]
mod tests;
mod types;
mod units;
mod wording;

use diagnostic::Report;
pub use diagnostic::{Diagnostic, Diagnostics};
use marks::{MAX_BYTES, Marks};
pub use schema::schema;
pub use types::{AnswerUpstream, ChainEntry, Durability, Endpoint, FlowLimits, Limits, Log, Route, Store, Target, TenantConfig, Upstream};

/// Looks an environment variable up; `None` if it is not set.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A checked configuration: every name in it is known, every path resolved, every limit sane.
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
    /// Tells two configurations apart, environment and key files included: 32 hex digits, the same on every replica. Gives no
    /// secret away that is too long to be guessed.
    pub hash: String,
    source: Arc<Source>,
}

/// The file a configuration came from, for the problems that plugins find later.
struct Source {
    file: PathBuf,
    marks: Marks,
    /// Values that hold something from the environment: maybe a secret, so never shown.
    hidden: Vec<path::Path>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())
    }
}

impl Source {
    /// A path of the file, seen from where the process runs.
    fn resolve(&self, path: &Path) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path.strip_prefix(".").unwrap_or(path))
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

impl Config {
    /// Reads and checks a file. Relative paths in it are relative to its directory.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path, env: Env<'_>, registry: &Registry) -> Result<Self, Diagnostics> {
        let mut bytes = Vec::new();
        let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        match std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)) {
            Ok(_) => Self::read(&bytes, path, env, registry),
            Err(e) => Err(vec![Diagnostic {
                file: path.to_owned(),
                line: 1,
                column: 1,
                message: format!("cannot be read: {e}"),
                hint: Some(missing(&e).to_owned()),
            }]
            .into()),
        }
    }

    /// Checks text as if it stood in the file at `path`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, path: &Path, env: Env<'_>, registry: &Registry) -> Result<Self, Diagnostics> {
        Self::read(text.as_bytes(), path, env, registry)
    }

    fn read(bytes: &[u8], path: &Path, env: Env<'_>, registry: &Registry) -> Result<Self, Diagnostics> {
        let (marks, mut tree) = read::tree(bytes, path)?;
        let expanded = env::expand(&mut tree, &marks, env);
        let source = Source { file: path.to_owned(), marks, hidden: expanded.paths };
        let mut report = Report::new(source, expanded.problems);
        let mut raw = read::typed(tree, &mut report);
        let key_files = keys::read_in(&mut raw.tenants, &mut report);
        let hash =
            hash::of(bytes, &[expanded.used, key_files.iter().map(|key| (key.place.to_string(), key.text.clone())).collect()].concat());
        let config = check::check(raw, &key_files, hash, registry, &mut report);
        report.finish()?;
        Ok(config)
    }
}
