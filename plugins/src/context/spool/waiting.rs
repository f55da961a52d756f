//! The turns that wait, in memory, by user and in order of arrival.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use tokio::sync::Notify;

use super::record::Entry;
use crate::api::{SessionKey, TurnError, UserKey};

/// Who waits.
#[derive(Default)]
pub(in crate::context) struct Waiting {
    users: Mutex<HashMap<UserKey, User>>,
    /// Turns in all of them, to be looked at without the lock.
    count: AtomicUsize,
    arrived: Notify,
}

/// Held by who stores a user's turns. It says when the store was last found to be away, and how, unless it has taken turns since.
pub(super) type Storing = tokio::sync::Mutex<Option<(Instant, TurnError)>>;

#[derive(Default)]
struct User {
    entries: VecDeque<Arc<Entry>>,
    storing: Arc<Storing>,
}

/// Turns and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) turns: u64,
    pub(super) bytes: u64,
}

impl Waiting {
    /// How many turns wait.
    pub(in crate::context) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Whether a turn of this session waits.
    pub(in crate::context) fn has(&self, key: &SessionKey) -> bool {
        self.len() > 0 && self.users().get(key.user()).is_some_and(|user| user.entries.iter().any(|e| e.key == *key))
    }

    /// The waiting turns of a user, oldest first.
    pub(in crate::context) fn of(&self, user: &UserKey) -> Vec<Arc<Entry>> {
        if self.len() == 0 {
            return Vec::new();
        }
        self.users().get(user).map(|user| user.entries.iter().cloned().collect()).unwrap_or_default()
    }

    /// All of them, oldest first for each user.
    pub(super) fn all(&self) -> Vec<Arc<Entry>> {
        self.users().values().flat_map(|user| user.entries.iter().cloned()).collect()
    }

    /// Those whose turns wait.
    pub(super) fn who(&self) -> Vec<UserKey> {
        self.users().keys().cloned().collect()
    }

    pub(super) fn push(&self, entry: Arc<Entry>) {
        self.users().entry(entry.key.user().clone()).or_default().entries.push_back(entry);
        self.count.fetch_add(1, Ordering::AcqRel);
        self.arrived.notify_one();
    }

    /// Resolves when some turn waits.
    pub(super) async fn some(&self) {
        while self.len() == 0 {
            self.arrived.notified().await;
        }
    }

    /// Takes an entry out. False if it is gone already.
    pub(super) fn remove(&self, entry: &Entry) -> bool {
        let mut users = self.users();
        let Some(user) = users.get_mut(entry.key.user()) else { return false };
        let Some(at) = user.entries.iter().position(|e| e.number == entry.number) else { return false };
        user.entries.remove(at);
        if user.entries.is_empty() {
            users.remove(entry.key.user());
        }
        self.count.fetch_sub(1, Ordering::AcqRel);
        true
    }

    /// The user's oldest entry that `wanted` wants.
    pub(super) fn next(&self, user: &UserKey, wanted: impl Fn(&Entry) -> bool) -> Option<Arc<Entry>> {
        self.users().get(user)?.entries.iter().find(|e| wanted(e)).cloned()
    }

    /// To be held while a user's entries are stored.
    pub(super) fn storing(&self, user: &UserKey) -> Option<Arc<Storing>> {
        self.users().get(user).map(|user| user.storing.clone())
    }

    /// What waits, by tenant.
    pub(super) fn loads(&self) -> BTreeMap<String, Load> {
        let mut loads = BTreeMap::<String, Load>::new();
        for user in self.users().values() {
            for entry in &user.entries {
                let tenant = entry.key.tenant().name();
                let load = match loads.get_mut(tenant) {
                    Some(load) => load,
                    None => loads.entry(tenant.to_owned()).or_default(),
                };
                load.turns += 1;
                load.bytes += entry.size;
            }
        }
        loads
    }

    fn users(&self) -> MutexGuard<'_, HashMap<UserKey, User>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
