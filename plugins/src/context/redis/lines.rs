//! Who waits for which session in this process: only the first in line asks Redis, which knows of one line of gateways.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

/// Most messages of this process that wait for one session.
pub(super) const MAX_WAITERS: usize = 128;
/// Independent parts of the table.
const SHARDS: usize = 64;

/// The lines before the sessions, by the key that gateways wait by.
pub(super) struct Lines {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
}

type Shard = HashMap<Box<[u8]>, Line>;

/// One that is in use.
#[derive(Default)]
struct Line {
    waiting: VecDeque<Arc<Notify>>,
    /// The session was said to be free, and nobody here has asked for it since.
    woken: bool,
    /// A claim is being given up: closed when that is done.
    releasing: Option<watch::Receiver<()>>,
}

/// A place in a line.
pub(super) struct Place {
    key: Box<[u8]>,
    turn: Arc<Notify>,
}

/// What one who asks has to know.
pub(super) struct Ahead {
    /// Nobody here is before them.
    pub(super) first: bool,
    /// They ask because the session was said to be free.
    pub(super) woken: bool,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self { shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(), hasher: RandomState::new() }
    }

    /// Goes to the end of a line; `None` if it is too long already.
    pub(super) fn enter(&self, key: &[u8]) -> Option<Place> {
        let mut shard = self.shard(key);
        if !shard.contains_key(key) {
            shard.insert(key.into(), Line::default());
        }
        let line = shard.get_mut(key).expect("just inserted");
        if line.waiting.len() >= MAX_WAITERS {
            return None;
        }
        let turn = Arc::new(Notify::new());
        line.waiting.push_back(turn.clone());
        Some(Place { key: key.into(), turn })
    }

    /// Whether it is one's turn to ask Redis. If so, the news that the session is free is taken.
    pub(super) fn ahead(&self, place: &Place) -> Ahead {
        let mut shard = self.shard(&place.key);
        let line = shard.get_mut(&place.key).expect("there as long as somebody is in it");
        let first = line.waiting.front().is_some_and(|front| Arc::ptr_eq(front, &place.turn));
        Ahead { first, woken: first && std::mem::take(&mut line.woken) }
    }

    /// Leaves a line and lets the next ask. Says whether that leaves nobody to hear that the session is free.
    #[must_use]
    pub(super) fn leave(&self, place: &Place) -> bool {
        let mut shard = self.shard(&place.key);
        let Some(line) = shard.get_mut(&place.key) else { return false };
        let first = line.waiting.front().is_some_and(|front| Arc::ptr_eq(front, &place.turn));
        line.waiting.retain(|turn| !Arc::ptr_eq(turn, &place.turn));
        match line.waiting.front() {
            Some(next) if first => {
                next.notify_one();
                false
            }
            Some(_) => false,
            None => {
                let unheard = std::mem::take(&mut line.woken);
                if line.releasing.is_none() {
                    shard.remove(&place.key);
                }
                unheard
            }
        }
    }

    /// The session is free: the first in line may ask. Says whether there is one.
    pub(super) fn wake(&self, key: &[u8]) -> bool {
        let mut shard = self.shard(key);
        let Some((line, first)) = shard.get_mut(key).and_then(|line| line.waiting.front().cloned().map(|first| (line, first))) else {
            return false;
        };
        line.woken = true;
        first.notify_one();
        true
    }

    /// News may have been missed: the first of every line asks again.
    pub(super) fn wake_all(&self) {
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.values().filter_map(|line| line.waiting.front()).for_each(|first| first.notify_one());
        }
    }

    /// Marks a claim as being given up until what is returned is [ended](Self::released).
    pub(super) fn releasing(&self, key: &[u8]) -> watch::Sender<()> {
        let (sender, releasing) = watch::channel(());
        self.shard(key).entry(key.into()).or_default().releasing = Some(releasing);
        sender
    }

    pub(super) fn released(&self, key: &[u8], releasing: watch::Sender<()>) {
        let mut shard = self.shard(key);
        if let Some(line) = shard.get_mut(key)
            && line.releasing.as_ref().is_some_and(|latest| latest.same_channel(&releasing.subscribe()))
        {
            line.releasing = None;
            if line.waiting.is_empty() {
                shard.remove(key);
            }
        }
        drop(releasing);
    }

    /// Resolves when every claim on a session that was given up here is.
    pub(super) async fn settled(&self, key: &[u8]) {
        let releasing = self.shard(key).get(key).and_then(|line| line.releasing.clone());
        if let Some(mut releasing) = releasing {
            let _ = releasing.changed().await; // it closes, which is what is waited for
        }
    }

    fn shard(&self, key: &[u8]) -> MutexGuard<'_, Shard> {
        let hash = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).expect("below the number of shards");
        self.shards[hash].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// What is waited by.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Waits until it is one's turn to ask or it is too late.
    pub(super) async fn wait(&self, until: Instant) {
        let _ = timeout_at(until, self.turn.notified()).await; // who is not called looks by themselves
    }
}
