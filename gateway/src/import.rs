//! Conversations of an older deployment: where the configuration says they are, and what `fengda import` does with them.

use std::{io, sync::Arc, time::Duration};

use fengda_plugins::{
    api::{Clock, Meters},
    context::{
        OpenError, Store,
        import::{Bulk, Lists, Pattern},
    },
    redis::{Health, Login, Mode, Redis, RedisConfig, RedisTls, RedisUrl, UrlError},
};
use tokio::time::timeout;

use crate::{config::Config, server::context_config};

/// How long to wait until a Redis is reached, and until one that was reached is back.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one command may take: nobody waits for an answer to a message here.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What to bring over.
pub struct Request<'a> {
    /// The tenant, as named in the configuration.
    pub tenant: &'a str,
    /// The keys of the lists; as the configuration has it for the tenant, if absent.
    pub pattern: Option<Pattern>,
    /// The Redis that has them; as the configuration has it, if absent.
    pub from: Option<Source>,
    /// Whether the lists are only read.
    pub dry_run: bool,
    /// Most sessions to bring over.
    pub most: u64,
}

/// A Redis that is not in the configuration.
pub struct Source {
    /// Its URL, or that of a sentinel or of a node of a cluster.
    pub url: String,
    /// What stands there.
    pub mode: Mode,
    /// Whom to trust and what to show, if the URL asks for TLS.
    pub tls: Option<RedisTls>,
}

/// Why nothing is brought over.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The configuration has no such tenant.
    #[error("there is no tenant `{name}`; there are: {known}")]
    UnknownTenant {
        /// What was asked for.
        name: String,
        /// The tenants there are, separated by commas.
        known: String,
    },
    /// Nothing says which keys.
    #[error("nothing says under which keys the conversations are: give `--pattern`, such as `chat:{{user_id}}`, or the tenant's `import`")]
    NoPattern,
    /// Nothing says where.
    #[error("nothing says where the conversations are: give `--from redis://host:6379`, or `store.import` in the configuration")]
    NoSource,
    /// The URL cannot be read.
    #[error("`--from`: {0}, such as `redis://127.0.0.1:6379` or `rediss://user:password@redis.internal:6380/0`")]
    Url(UrlError),
    /// The URL does not go with what else is given.
    #[error("`--from`: {0}")]
    Source(&'static str),
    /// The store is another process's, or cannot be opened.
    #[error("{0}; the import needs the store to itself, so stop the gateway first (with `store.redis` it may run)")]
    Locked(OpenError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(OpenError),
    /// No connection.
    #[error("the Redis {which} cannot be used: {reason}")]
    Unreachable {
        /// Of the two.
        which: &'static str,
        /// Its address, and what it or the operating system says.
        reason: Arc<str>,
    },
    /// No thread to be had.
    #[error("no thread can be started")]
    Thread(#[from] io::Error),
}

/// Where the configuration says that older conversations are, and how long a turn may wait for one of them. `redis` is what keeps the
/// new ones. Begins to connect.
///
/// # Errors
/// No thread is to be had.
pub(crate) fn lists(config: &Config, redis: Option<&Arc<Redis>>) -> io::Result<Option<(Lists, Duration)>> {
    let Some(import) = &config.store.import else { return Ok(None) };
    let redis = match (&import.link, redis) {
        (Some(link), _) => Redis::open_source(link.clone())?,
        (None, Some(store)) => store.clone(),
        (None, None) => return Ok(None),
    };
    Ok(Some((Lists::new(redis), import.wait)))
}

/// Opens what an import needs and waits until it can be reached. Blocks on the disk.
///
/// # Errors
/// See [`ImportError`].
pub async fn prepare(config: &Config, request: Request<'_>, clock: Clock) -> Result<Bulk, ImportError> {
    let tenant = config.tenants.iter().find(|tenant| tenant.tenant.name() == request.tenant).ok_or_else(|| ImportError::UnknownTenant {
        name: request.tenant.to_owned(),
        known: config.tenants.iter().map(|tenant| tenant.tenant.name()).collect::<Vec<_>>().join(", "),
    })?;
    let pattern = request.pattern.or_else(|| tenant.import.clone()).ok_or(ImportError::NoPattern)?;
    let link = source(config, request.from)?;
    let target = config.store.redis().filter(|_| !request.dry_run).cloned();
    let target = target.map(|link| Redis::open(RedisConfig { timeout: TIMEOUT, ..link }, &Meters::default())).transpose()?;
    if let Some(target) = &target {
        reach(target, "of the store").await?;
    }
    let opened = context_config(config, target, None);
    let store: Option<Arc<dyn Store>> =
        if request.dry_run { None } else { Some(opened.open_store(clock.clone(), &Meters::default()).map_err(refused)?) };
    let redis = Redis::open_source(RedisConfig { timeout: TIMEOUT, ..link })?;
    reach(&redis, "with the lists").await?;
    let (tenant, limits) = (tenant.tenant.clone(), opened.limits());
    Ok(Bulk { lists: Lists::new(redis), pattern, tenant, store, limits, clock, most: request.most, patience: PATIENCE })
}

fn source(config: &Config, from: Option<Source>) -> Result<RedisConfig, ImportError> {
    let Some(Source { url, mode, tls: certificates }) = from else {
        let import = config.store.import.as_ref().ok_or(ImportError::NoSource)?;
        return import.link.clone().or_else(|| config.store.redis().cloned()).ok_or(ImportError::NoSource);
    };
    let RedisUrl { server, database, username, password, tls } = RedisUrl::parse(&url).map_err(ImportError::Url)?;
    if mode == Mode::Cluster && database != 0 {
        return Err(ImportError::Source("a cluster has no databases but 0; leave the number away"));
    }
    let login = match (username, password) {
        (Some(_), None) => return Err(ImportError::Source("it names a user and no password, and Redis lets nobody in by name only")),
        (username, password) => password.map(|password| Login { username, password }),
    };
    if certificates.is_some() && !tls {
        return Err(ImportError::Source("certificates are for TLS, and this URL is one in the clear; begin it with `rediss://`"));
    }
    let tls = tls.then(|| certificates.unwrap_or_default());
    Ok(RedisConfig { servers: vec![server], mode, database, login, tls, timeout: TIMEOUT })
}

fn refused(error: OpenError) -> ImportError {
    match error {
        OpenError::InUse(_) => ImportError::Locked(error),
        error => ImportError::Store(error),
    }
}

async fn reach(redis: &Redis, which: &'static str) -> Result<(), ImportError> {
    let mut health = redis.health();
    let _ = timeout(PATIENCE, health.wait_for(Health::is_up)).await; // what it says then counts
    match &*health.borrow() {
        Health::Up => Ok(()),
        Health::Partly { reason, .. } | Health::Down { reason, .. } => Err(ImportError::Unreachable { which, reason: reason.clone() }),
    }
}
