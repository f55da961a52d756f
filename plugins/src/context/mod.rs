//! The context plugin: conversations that survive restarts, kept hot in memory.
//!
//! [`Store`] is what keeps them ([`embedded`] on the local disk, [`redis`] for many gateways), [`cache`] holds the recent ones in front
//! of it, and [`Context`] joins the two behind the contract's `turn` phase (`phase`). Turns that are answered while the store is away
//! (`aside`) wait in the `spool`. The gateway opens one [`Context`] per process and gives it to [`spec`]; routes share it.

mod aside;
pub mod cache;
mod codec;
#[cfg(any(test, feature = "conformance"))]
#[macro_use]
pub mod conformance;
pub mod embedded;
pub mod import;
mod loads;
mod meters;
mod phase;
pub mod redis;
mod shares;
mod spool;
mod store;
#[cfg(test)]
mod tests;
mod throttle;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use schemars::JsonSchema;
use serde::Deserialize;

pub use self::{
    cache::CacheConfig,
    spool::{SpoolConfig, SpoolStatus},
    store::{BeginRequest, Limits, Store, StoreBegin, Stored},
};
use self::{
    cache::SessionCache,
    embedded::Embedded,
    import::{FirstContact, Lists, Pattern},
    loads::Loads,
    redis::RedisStore,
    spool::Spool,
};
use crate::{
    api::{BuildCtx, Clock, Meters, Plugin, PluginSpec, Problem, Readings, Scope, Step, Tenant, TurnError, TurnPhase, parse_config},
    redis::Redis,
};

/// What an acknowledged commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The process being killed. A power cut may lose the last second.
    #[default]
    Os,
    /// A power cut too: each group of commits is synced to the disk before it is acknowledged.
    Disk,
}

/// What keeps conversations.
#[derive(Clone)]
pub enum Backend {
    /// The local disk.
    Embedded(Durability),
    /// A Redis that many gateways share.
    Redis(Arc<Redis>),
}

/// How conversations are kept; `data` and `store` of the configuration file.
#[derive(Clone)]
pub struct ContextConfig {
    /// See [`Backend`].
    pub backend: Backend,
    /// How much is held in memory.
    pub cache: CacheConfig,
    /// Most turns kept of a session; at least 1.
    pub history_turns: usize,
    /// How long after its last turn a session is kept.
    pub history_keep: Duration,
    /// The data directory. One process at a time may use it.
    pub dir: PathBuf,
    /// Where turns wait while the store is away; none for a store that is not to be away.
    pub spool: Option<SpoolConfig>,
    /// Where the lists of an older deployment are, and how long a turn may wait for one of them.
    pub import: Option<(Lists, Duration)>,
}

impl ContextConfig {
    /// How much of a conversation is kept.
    pub fn limits(&self) -> Limits {
        Limits { turns: self.history_turns, keep: self.history_keep }
    }

    /// Opens the store. Blocks on the disk: not for a runtime thread that serves requests. Redis need not be there.
    ///
    /// # Errors
    /// The directory is in use, or cannot be read or written.
    pub fn open_store(&self, clock: Clock, meters: &Meters) -> Result<Arc<dyn Store>, OpenError> {
        match &self.backend {
            Backend::Embedded(durability) => Ok(Arc::new(Embedded::open(&self.dir, *durability, self.limits(), clock)?)),
            Backend::Redis(redis) => Ok(Arc::new(RedisStore::new(redis.clone(), self.limits(), clock, meters))),
        }
    }
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("data directory {} is in use by another fengda", .0.display())]
    InUse(PathBuf),
    /// It cannot be read or written.
    #[error("data directory {}: {cause}", .dir.display())]
    Storage {
        /// Which directory.
        dir: PathBuf,
        /// What the operating system or the storage engine says.
        cause: String,
    },
}

/// Conversations in a [`Store`] behind a cache. One per process.
pub struct Context {
    store: Arc<dyn Store>,
    cache: Arc<SessionCache>,
    loads: Loads,
    spool: Option<Spool>,
    /// The store was in reach once.
    reached: AtomicBool,
    first_contact: Option<FirstContact>,
    /// Most turns of a conversation.
    turns: usize,
}

impl Context {
    /// Opens the store and puts a cache before it. See [`ContextConfig::open_store`].
    ///
    /// # Errors
    /// The directory is in use, or cannot be read or written.
    pub fn open(config: &ContextConfig, clock: Clock, meters: &Meters) -> Result<Arc<Self>, OpenError> {
        let store = config.open_store(clock.clone(), meters)?;
        Self::new(store, config, clock, meters)
    }

    /// Puts a cache before any store, and a spool beside it if the configuration has one.
    ///
    /// # Errors
    /// The spool's directory is in use, or cannot be read or written.
    pub fn new(store: Arc<dyn Store>, config: &ContextConfig, clock: Clock, meters: &Meters) -> Result<Arc<Self>, OpenError> {
        spool::declare(meters);
        import::declare(meters);
        let cache = Arc::new(SessionCache::new(config.cache, meters));
        let first_contact = config.import.clone();
        let first_contact = first_contact.map(|(lists, wait)| FirstContact::new(lists, wait, config.limits(), clock.clone(), meters));
        let open = |spool| Spool::open(spool, config, store.clone(), cache.clone(), clock, meters);
        let spool = config.spool.as_ref().map(open).transpose()?;
        let context = Arc::new(Self {
            store,
            cache,
            loads: Loads::default(),
            spool,
            reached: AtomicBool::new(false),
            first_contact,
            turns: config.history_turns,
        });
        meters::watch(&context, meters);
        Ok(context)
    }

    /// What waits for the store; none if turns cannot be put aside.
    pub fn spool(&self) -> Option<SpoolStatus> {
        self.spool.as_ref().map(Spool::status)
    }

    /// Says which tenants' sessions are looked for in an older deployment at their first contact, and under which keys.
    pub fn import(&self, patterns: HashMap<Tenant, Pattern>) {
        if let Some(first_contact) = &self.first_contact {
            first_contact.set(patterns);
        }
    }

    /// Resolves when everything acknowledged before is on the disk. Last call before the process ends.
    ///
    /// # Errors
    /// The store cannot write.
    pub async fn flush(&self) -> Result<(), TurnError> {
        self.store.flush().await
    }

    /// Whether users ought to be sent here, found out by trying.
    ///
    /// A store that went away takes no gateway out as long as turns can be put aside: all gateways lose it at once, and those of them that
    /// still have conversations in memory are better than none. One that was never in reach may be a mistake in the configuration.
    pub async fn readiness(&self) -> Readiness {
        match self.store.health().await {
            Ok(()) => {
                self.reached.store(true, Ordering::Relaxed);
                Readiness::Ready
            }
            Err(error) if self.reached.load(Ordering::Relaxed) && self.spool().is_some_and(|spool| spool.bytes < spool.most) => {
                Readiness::Aside(error)
            }
            Err(error) => Readiness::Not(error),
        }
    }
}

/// What [`Context::readiness`] found.
#[derive(Debug)]
pub enum Readiness {
    /// Turns are stored.
    Ready,
    /// The store is away; turns are answered, and wait for it on this gateway's disk.
    Aside(TurnError),
    /// Turns cannot be kept.
    Not(TurnError),
}

/// Awaits a [`Step`]; one that is ready costs nothing.
async fn settle<T>(step: Step<'_, T>) -> T {
    match step {
        Step::Ready(value) => value,
        Step::Pending(later) => later.await,
    }
}

/// The plugin's own configuration: how conversations are kept is said once, under `store`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ContextConfig")]
struct Config {}

/// Where the process's conversations are found. Empty while a configuration is only checked: nothing is opened then.
pub type Slot = Arc<OnceLock<Arc<Context>>>;

struct ContextPlugin {
    slot: Slot,
    tenants: Vec<Tenant>,
}

impl Plugin for ContextPlugin {
    fn name(&self) -> &'static str {
        "context"
    }

    fn turn_phase(&self) -> Option<&dyn TurnPhase> {
        self.slot.get().map(|context| &**context as &dyn TurnPhase)
    }

    fn gauges(&self, readings: &Readings<'_>) {
        if let Some(context) = self.slot.get() {
            meters::tell_held(&context.cache, &self.tenants, readings);
        }
    }
}

/// The plugin `context` over the process's conversations. It comes after `auth`, which says whose they are.
pub fn spec(slot: Slot) -> PluginSpec {
    let build = move |ctx: &BuildCtx<'_>| -> Result<Arc<dyn Plugin>, Vec<Problem>> {
        let own = std::iter::once((Scope::Plugin, ctx.config));
        let differing = ctx.tenants.iter().filter(|t| t.config != *ctx.config);
        let tenants = differing.map(|t| (Scope::Tenant(t.tenant.clone()), &t.config));
        let problems: Vec<Problem> =
            own.chain(tenants).filter_map(|(scope, value)| parse_config::<Config>(&scope, value).err()).flatten().collect();
        if !problems.is_empty() {
            return Err(problems);
        }
        let tenants = ctx.tenants.iter().map(|t| t.tenant.clone()).collect();
        Ok(Arc::new(ContextPlugin { slot: slot.clone(), tenants }))
    };
    PluginSpec { name: "context", after: &["auth"], authenticates: false, schema: |g| g.subschema_for::<Config>(), build: Box::new(build) }
}
