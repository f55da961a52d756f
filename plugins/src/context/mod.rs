//! The context plugin: conversations that survive restarts, kept hot in memory.
//!
//! [`Store`] is what keeps them ([`embedded`] on the local disk), [`cache`] holds the recent ones in front of it, and [`Context`]
//! joins the two behind the contract's `turn` phase. The gateway opens one [`Context`] per process and gives it to [`spec`]; routes share it.

pub mod cache;
mod codec;
#[cfg(any(test, feature = "conformance"))]
#[macro_use]
pub mod conformance;
pub mod embedded;
mod loads;
mod meters;
pub mod redis;
mod shares;
mod store;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use schemars::JsonSchema;
use serde::Deserialize;

pub use self::{
    cache::CacheConfig,
    store::{BeginRequest, Limits, Store, StoreBegin, Stored},
};
use self::{cache::SessionCache, embedded::Embedded, loads::Loads};
use crate::{
    api::{
        Begin, BeginTurn, Begun, BoxFuture, BuildCtx, Claim, Clock, Commit, Committed, Meters, Plugin, PluginSpec, Problem, Readings,
        Scope, SessionKey, SessionState, Step, Tenant, TurnError, TurnPhase, UserKey, parse_config,
    },
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
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Conversations cannot be kept in Redis yet.
    #[error("conversations cannot be kept in Redis yet: remove `store.redis`")]
    NotYet,
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
    cache: SessionCache,
    loads: Loads,
}

impl Context {
    /// Opens the store. Blocks on the disk: not for a runtime thread that serves requests. Redis need not be there.
    ///
    /// # Errors
    /// The directory is in use, or cannot be read or written.
    pub fn open(config: &ContextConfig, clock: Clock, meters: &Meters) -> Result<Arc<Self>, OpenError> {
        let limits = Limits { turns: config.history_turns, keep: config.history_keep };
        let store: Arc<dyn Store> = match &config.backend {
            Backend::Embedded(durability) => Arc::new(Embedded::open(&config.dir, *durability, limits, clock)?),
            Backend::Redis(_) => return Err(OpenError::NotYet),
        };
        Ok(Self::new(store, config.cache, meters))
    }

    /// Puts a cache before any store.
    pub fn new(store: Arc<dyn Store>, cache: CacheConfig, meters: &Meters) -> Arc<Self> {
        let context = Arc::new(Self { store, cache: SessionCache::new(cache, meters), loads: Loads::default() });
        meters::watch(&context, meters);
        context
    }

    /// Resolves when everything acknowledged before is on the disk. Last call before the process ends.
    ///
    /// # Errors
    /// The store cannot write.
    pub async fn flush(&self) -> Result<(), TurnError> {
        self.store.flush().await
    }

    /// The session as the store has it. It is sent only if the cached copy is not current.
    async fn load(&self, key: &SessionKey) -> Result<Arc<SessionState>, TurnError> {
        let (mark, cached) = (self.cache.mark(), self.cache.get(key));
        let newer = settle(self.store.load(key, cached.as_ref().map(|state| state.version))).await?;
        if let Some(newer) = &newer {
            self.cache.count_load();
            self.cache.insert(key, newer, mark);
        }
        Ok(newer.or(cached).unwrap_or_default())
    }

    /// Whether conversations can be kept now.
    ///
    /// # Errors
    /// The store's reason why not.
    pub async fn health(&self) -> Result<(), TurnError> {
        self.store.health().await
    }
}

impl TurnPhase for Context {
    fn begin<'a>(&'a self, turn: BeginTurn<'a>) -> BoxFuture<'a, Result<Begin, TurnError>> {
        Box::pin(async move {
            let mark = self.cache.mark();
            let cached = match self.cache.get(turn.key) {
                // What a reader loads just now need not be sent twice. If that fails, so does what follows.
                None => self.loads.join(turn.key, || self.load(turn.key)).await.and_then(Result::ok),
                cached => cached,
            };
            let BeginTurn { key, message_id, q, until, wait, seen, limits } = turn;
            let request = BeginRequest { key, message_id, q, until, wait, known: cached.as_ref(), limits };
            let (claim, state) = match settle(self.store.begin(request)).await? {
                StoreBegin::Answered(turn) => return Ok(Begin::Answered(turn)),
                StoreBegin::Limited(limited) => return Ok(Begin::Limited(limited)),
                StoreBegin::Claimed { claim, state } => (claim, state),
            };
            self.cache.count_lookup(cached.is_some(), state.is_none());
            let state = match (state, cached) {
                (Some(state), _) => {
                    self.cache.count_load();
                    self.cache.insert(key, &state, mark);
                    state
                }
                (None, Some(cached)) => cached,
                (None, None) => Arc::default(),
            };
            let gap = seen.is_some_and(|seen| seen > state.seq);
            Ok(Begin::Run(Begun { claim: Some(claim), state, gap }))
        })
    }

    fn commit<'a>(&'a self, begun: &'a Begun, commit: Commit) -> BoxFuture<'a, Result<Committed, TurnError>> {
        Box::pin(async move {
            let claim = begun.claim.as_ref().ok_or_else(|| TurnError::Unavailable("begun without the store".into()))?;
            let mark = self.cache.mark();
            let stored = self.store.commit(claim, &begun.state, commit).await?;
            self.cache.insert(&claim.key, &stored.state, mark);
            Ok(Committed::Stored(stored.turn))
        })
    }

    fn release(&self, claim: &Claim) {
        self.store.release(claim);
    }

    fn history<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<Arc<SessionState>, TurnError>> {
        Box::pin(self.loads.share(key, || self.load(key)))
    }

    fn erase_session<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<(), TurnError>> {
        Box::pin(async move {
            let erased = self.store.erase_session(key).await;
            self.cache.remove(key);
            erased
        })
    }

    fn erase_user<'a>(&'a self, key: &'a UserKey) -> BoxFuture<'a, Result<(), TurnError>> {
        Box::pin(async move {
            let erased = self.store.erase_user(key).await;
            self.cache.remove_user(key);
            erased
        })
    }
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
