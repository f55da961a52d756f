//! What every [`Store`] must do, as one suite over any of them.
//!
//! `store_conformance!` makes a test of each behaviour in [`suite`] from an expression that opens an empty store.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests, although another crate's tests cannot see a `cfg(test)`")]

pub mod model;
mod parts;
#[macro_use]
pub mod suite;

use std::{
    any::Any,
    path::{Path, PathBuf},
    sync::{
        Arc, Once,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{BeginRequest, Limits, Store, StoreBegin, Stored, settle};
use crate::api::{Claim, Clock, Commit, Journal, SessionKey, SessionState, Tenant, Timestamp, TurnError, UserKey};

/// What the suite asks its stores to keep.
pub const LIMITS: Limits = Limits { turns: 4, keep: Duration::from_secs(3600) };
/// How long the suite's claims live.
const TURN: Duration = Duration::from_secs(60);

/// A store under test.
pub struct Subject {
    store: Arc<dyn Store>,
    clock: Clock,
    /// What its tenants' names end with.
    suffix: String,
    /// Kept until the store is closed, such as the directory it is in.
    _with: Box<dyn Any + Send + Sync>,
}

impl Subject {
    /// An empty store that keeps [`LIMITS`] and reads the manual `clock`, and what has to outlive it.
    pub fn new(store: Arc<dyn Store>, clock: Clock, with: impl Any + Send + Sync) -> Self {
        Self { store, clock, suffix: String::new(), _with: Box::new(with) }
    }

    /// The same on a server that others use: its tenants are like nobody else's of this process.
    #[must_use]
    pub fn apart(self) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { suffix: format!("-{}", NEXT.fetch_add(1, Ordering::Relaxed)), ..self }
    }

    /// Another store of the same conversations.
    #[must_use]
    pub fn beside(&self, store: Arc<dyn Store>) -> Self {
        Self { store, clock: self.clock.clone(), suffix: self.suffix.clone(), _with: Box::new(()) }
    }

    /// A user of one of its tenants.
    ///
    /// # Panics
    /// One of the names is none.
    pub fn user(&self, tenant: &str, id: &str) -> UserKey {
        user(&format!("{tenant}{}", self.suffix), id)
    }

    /// A session of some user of some tenant.
    ///
    /// # Panics
    /// The id is none.
    pub fn session(&self, id: &str) -> SessionKey {
        self.user("bank", "u").session(id).unwrap()
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Its clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Begins a turn whose question is `q` and its id.
    ///
    /// # Errors
    /// As the store's.
    pub async fn begin(&self, key: &SessionKey, id: &str, known: Option<&Arc<SessionState>>) -> Result<StoreBegin, TurnError> {
        self.begin_within(TURN, key, id, known).await
    }

    /// Begins a turn that must be claimed.
    ///
    /// # Panics
    /// It is not.
    pub async fn claim(&self, key: &SessionKey, id: &str) -> (Claim, Arc<SessionState>) {
        match self.begin(key, id, None).await.unwrap() {
            StoreBegin::Claimed { claim, state } => (claim, state.unwrap_or_default()),
            StoreBegin::Answered(turn) => panic!("answered as {}", turn.seq),
            StoreBegin::Limited(limited) => panic!("limited: {limited:?}"),
        }
    }

    /// A whole turn.
    ///
    /// # Panics
    /// It fails.
    pub async fn turn(&self, key: &SessionKey, id: &str) -> Stored {
        let (claim, base) = self.claim(key, id).await;
        self.store.commit(&claim, &base, Commit { at: self.clock.now(), ..commit(id) }).await.unwrap()
    }

    /// The session as it stands.
    ///
    /// # Panics
    /// It cannot be read.
    pub async fn state(&self, key: &SessionKey) -> Arc<SessionState> {
        settle(self.store.load(key, None)).await.unwrap().unwrap_or_default()
    }

    async fn turn_with(&self, key: &SessionKey, commit: Commit) -> Stored {
        let (claim, base) = self.claim(key, commit.message_id.expose()).await;
        self.store.commit(&claim, &base, commit).await.unwrap()
    }

    /// Begins a turn that is willing to wait so long.
    ///
    /// # Errors
    /// As the store's.
    pub async fn begin_within(
        &self,
        wait: Duration,
        key: &SessionKey,
        id: &str,
        known: Option<&Arc<SessionState>>,
    ) -> Result<StoreBegin, TurnError> {
        let (message_id, q) = (id.into(), format!("q {id}").into());
        let until = self.clock.now().after(TURN);
        settle(self.store.begin(BeginRequest { key, message_id: &message_id, q: &q, until, wait, known, limits: &[] })).await
    }
}

/// Directories of tests: this, the process that made it, a number.
const PREFIX: &str = "fengda-test-";

/// A directory of its own, removed with the test. What a process left behind, for it was killed, the next one removes.
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes one.
    ///
    /// # Panics
    /// The system's temporary directory cannot be written.
    #[expect(clippy::new_without_default, reason = "it has an effect")]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
        let dir = std::env::temp_dir().join(format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // a leftover does no harm
    }
}

/// Removes the directories of processes that are gone.
fn sweep() {
    for entry in std::fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            let _ = std::fs::remove_dir_all(entry.path()); // another process may be at it
        }
    }
}

/// When the turns of [`commit`] were answered.
pub const ANSWERED: Timestamp = Timestamp(1_700_000_000_000);

/// A commit that goes with [`Subject::begin`].
pub fn commit(id: &str) -> Commit {
    Commit {
        message_id: id.into(),
        q: format!("q {id}").into(),
        a: format!("a {id}").into(),
        at: ANSWERED,
        fallback: false,
        handoff: false,
        awaits_past: false,
        slots: Vec::new(),
        user_slots: Vec::new(),
        journal: None,
        wait: None,
    }
}

/// A journal that says so.
///
/// # Panics
/// It is too large.
pub fn journal(text: &str) -> Option<Journal> {
    Some(Journal::new(text.into()).unwrap())
}

/// A manual clock that does not begin at zero.
pub fn clock() -> Clock {
    Clock::manual(Timestamp(1_700_000_000_000))
}

/// A user of a tenant.
///
/// # Panics
/// One of the names is none.
pub fn user(tenant: &str, user: &str) -> UserKey {
    Tenant::from_config(tenant).unwrap().user(user).unwrap()
}

/// A session of some user of some tenant.
///
/// # Panics
/// The id is none.
pub fn session(id: &str) -> SessionKey {
    user("bank", "u").session(id).unwrap()
}
