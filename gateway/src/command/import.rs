//! `fengda import`: conversations of an older deployment, before their users come.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use fengda::{
    config::Config,
    import::{self, Request, Source},
    registry,
};
use fengda_plugins::{
    api::Clock,
    context::import::{News, Pattern, Tally},
    redis::{ClientCertificate, Mode, RedisTls},
};

use super::{
    ConfigFile,
    terminal::{self, Style, styled},
};

/// Most lines about single keys.
const MAX_LINES: u32 = 100;
/// How often progress is told: to somebody who watches, and to a file.
const WATCHED: Duration = Duration::from_millis(200);
const UNWATCHED: Duration = Duration::from_secs(5);

/// Bring a tenant's conversations over from an older deployment's Redis, which stays as it is
#[derive(Args)]
#[command(after_help = "Examples:
  fengda import --tenant acme-shop --pattern 'chat:{user_id}' --dry-run
  fengda import --tenant acme-shop --pattern 'chat:{user_id}' --from redis://old.internal:6379
  fengda import --tenant acme-shop --pattern 'chat:{user_id}:{session_id}'

The lists hold JSON objects {\"q\", \"a\"}, the newest first. Sessions that the store has already are left as they are, so it can be
stopped at any time and run again; the embedded store must be nobody else's meanwhile")]
pub(super) struct Import {
    /// The tenant, as named in the configuration
    #[arg(long)]
    tenant: String,
    /// The keys of the lists: text with {user_id}, maybe {session_id}; {{ and }} are braces. Default: the tenant's `import`
    #[arg(long, value_name = "KEY")]
    pattern: Option<Pattern>,
    #[command(flatten)]
    from: From,
    /// Read and count only: nothing is written, and the store is not opened
    #[arg(long)]
    dry_run: bool,
    /// Most sessions to bring over
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    limit: u64,
    #[command(flatten)]
    file: ConfigFile,
}

/// Where the lists are; the same as `store.import` says, except that several servers, and passwords out of sight, are for the configuration.
#[derive(Args)]
struct From {
    /// The Redis that has them, 5.0 or newer, maybe a replica. Default: `store.import` of the configuration, else `store.redis`
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// That Redis is a node of a cluster
    #[arg(long, requires = "from")]
    cluster: bool,
    /// That Redis is a sentinel, which knows the server of this name
    #[arg(long, value_name = "NAME", requires = "from", conflicts_with = "cluster")]
    sentinel: Option<String>,
    /// PEM: the certificates to trust instead of the machine's
    #[arg(long, value_name = "FILE", requires = "from")]
    ca: Option<PathBuf>,
    /// PEM: the certificate to show, if that Redis asks for one
    #[arg(long, value_name = "FILE", requires_all = ["from", "key"])]
    cert: Option<PathBuf>,
    /// PEM: the private key of that certificate
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

impl From {
    fn source(self) -> Result<Option<Source>> {
        let Some(url) = self.from else { return Ok(None) };
        let mode = match self.sentinel {
            // Who has a login for sentinels gives it in the configuration, where it is not seen by who sees the processes.
            Some(master) => Mode::Sentinel { master, login: None },
            None if self.cluster => Mode::Cluster,
            None => Mode::Standalone,
        };
        let read = |file: PathBuf| std::fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()));
        let ca = self.ca.map(read).transpose()?;
        let client = match self.cert.zip(self.key) {
            Some((cert, key)) => Some(ClientCertificate { chain: read(cert)?.into(), key: read(key)?.into() }),
            None => None,
        };
        let tls = (ca.is_some() || client.is_some()).then(|| RedisTls { ca: ca.map(Into::into), client });
        Ok(Some(Source { url, mode, tls }))
    }
}

impl Import {
    pub(super) fn run(self) -> Result<()> {
        let registry = registry::builtin(&registry::Slots::default(), |_| {});
        let config = Config::load(&self.file.config, &|name| std::env::var(name).ok(), &registry)?;
        let request =
            Request { tenant: &self.tenant, pattern: self.pattern, from: self.from.source()?, dry_run: self.dry_run, most: self.limit };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime can be made")?;
        let bulk = runtime.block_on(import::prepare(&config, request, Clock::system()))?;
        let mut told = Told { verb: if self.dry_run { "would be" } else { "were" }, ..Told::default() };
        let ended = runtime.block_on(async {
            let ended = bulk.run(|tally, news| told.hear(tally, news)).await;
            if let Some(store) = &bulk.store {
                store.flush().await?;
            }
            anyhow::Ok(ended)
        });
        told.clear();
        told.reasons();
        let tally = ended?.context("what was brought over stays; run it again to go on")?;
        terminal::print(&format!("{}\n", told.summary(&tally)))?;
        match tally {
            Tally { keys: 0, .. } => bail!("no key there fits the pattern: compare both, and look whether it is the right database"),
            Tally { busy: 0, .. } => Ok(()),
            Tally { busy, .. } => bail!("{busy} sessions were in use all the time: run it again"),
        }
    }
}

/// What the person at the terminal was told.
#[derive(Default)]
struct Told {
    verb: &'static str,
    lines: u32,
    /// How many keys and elements were left, by the reason.
    left: BTreeMap<(&'static str, &'static str), u64>,
    last: Option<Instant>,
    /// A line of progress stands there, to be written over.
    standing: bool,
}

impl Told {
    fn hear(&mut self, tally: &Tally, news: News<'_>) {
        match news {
            News::Left(key, why) => {
                *self.left.entry(("keys", why.reason())).or_default() += 1;
                self.line(key, None, &why.to_string());
            }
            News::Element(key, index, flaw) => {
                *self.left.entry(("elements", flaw.reason())).or_default() += 1;
                self.line(key, Some(index), &flaw.to_string());
            }
            News::Progress(walked, all) => self.progress(tally, walked, all),
        }
    }

    fn line(&mut self, key: &[u8], index: Option<usize>, why: &str) {
        self.lines += 1;
        if self.lines > MAX_LINES {
            return;
        }
        self.clear();
        // Escaped: a key may hold anything, and a terminal obeys some of it.
        let key = String::from_utf8_lossy(key).escape_debug().to_string();
        let place = index.map_or(String::new(), |index| format!(" [{index}]"));
        terminal::tell(&format!("{}{place} {why}", styled(Style::Bold, &key)));
        if self.lines == MAX_LINES {
            terminal::tell("further ones are only counted");
        }
    }

    fn progress(&mut self, tally: &Tally, walked: u64, all: Option<u64>) {
        let watched = terminal::is_watched();
        let last = *self.last.get_or_insert_with(Instant::now);
        if last.elapsed() < if watched { WATCHED } else { UNWATCHED } {
            return;
        }
        self.last = Some(Instant::now());
        self.clear();
        // The walk is a little ahead of what is done, and keys come and go.
        let done = all.map_or(String::new(), |all| format!("{} %, ", (100 * walked / all.max(1)).min(99)));
        terminal::tell(&styled(Style::Faint, &format!("{done}{} keys: {}", tally.keys, self.summary(tally))));
        self.standing = watched;
    }

    /// Says how much was left, and why.
    fn reasons(&self) {
        for ((what, reason), count) in &self.left {
            terminal::tell(&format!("{count} {what} {reason}"));
        }
    }

    /// Makes room where the last line of progress stands.
    fn clear(&mut self) {
        if std::mem::take(&mut self.standing) {
            terminal::take_back();
        }
    }

    fn summary(&self, tally: &Tally) -> String {
        let Tally { imported, turns, there, left, elements, .. } = tally;
        let verb = self.verb;
        format!(
            "{imported} sessions with {turns} turns {verb} brought over, {there} were there already; {left} keys and {elements} elements were left"
        )
    }
}
