//! A table of keys with a bound on how many there are.
//!
//! It sweeps a shard by itself when an insert finds it full, so that no timer is needed and no request pays for more than one shard.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
};

pub(super) const SHARDS: usize = 32;
pub(super) const FIRST_SWEEP: usize = 64;

/// A keyed hash of what a limit counts by: a user's id need not be kept to count its requests. That any two of 200,000 keys are
/// the same, and share a budget, has a chance of one in a billion, and nobody can bring it about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(pub(super) u64);

/// Takes a [`Key`], which is a hash already, as it is.
#[derive(Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a key is one u64")
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// What is kept of each key.
pub(super) struct Table<V>([Mutex<Shard<V>>; SHARDS]);

/// A part of a table.
pub(super) struct Shard<V> {
    entries: HashMap<Key, V, BuildHasherDefault<AsItIs>>,
    sweep_at: usize,
    most: usize,
}

impl<V> Table<V> {
    /// For at most about `most` keys.
    pub(super) fn new(most: u32) -> Self {
        let most = (usize::try_from(most).unwrap_or(usize::MAX) / SHARDS).max(1);
        let shard = |_| Mutex::new(Shard { entries: HashMap::default(), sweep_at: FIRST_SWEEP.min(most), most });
        Self(std::array::from_fn(shard))
    }

    /// How many keys are known.
    pub(super) fn len(&self) -> usize {
        self.shards().map(|shard| shard.entries.len()).sum()
    }

    /// The part that a key is in, by bits of it that its place in a map does not depend on.
    pub(super) fn shard(&self, key: Key) -> MutexGuard<'_, Shard<V>> {
        self.nth((key.0 >> 40) as usize % SHARDS)
    }

    /// One of the parts, of which there are [`SHARDS`].
    pub(super) fn nth(&self, shard: usize) -> MutexGuard<'_, Shard<V>> {
        lock(&self.0[shard])
    }

    /// All parts, one after the other.
    pub(super) fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, Shard<V>>> {
        self.0.iter().map(lock)
    }
}

/// A panic in between leaves a map of plain numbers, which is still one.
fn lock<V>(shard: &Mutex<Shard<V>>) -> MutexGuard<'_, Shard<V>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<V> Shard<V> {
    /// What is kept of a key.
    pub(super) fn get(&self, key: Key) -> Option<&V> {
        self.entries.get(&key)
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut V> {
        self.entries.get_mut(&key)
    }

    /// Adds a key. `used` tells how much would be lost with an entry; nothing at 0.
    pub(super) fn insert(&mut self, key: Key, value: V, used: impl Fn(&V) -> u64) -> &mut V {
        self.make_room(used);
        self.entries.entry(key).or_insert(value)
    }

    /// Every entry.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.values_mut()
    }

    /// Places there are, taken or not.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    /// Drops keys that are full again once there are twice as many as the last sweep left. If so many keys are in use that
    /// the shard stays full, the half that is nearest to full is forgotten: those lose the least, and whoever comes with ever
    /// new names only pushes out such names, not somebody who is over a limit.
    fn make_room(&mut self, used: impl Fn(&V) -> u64) {
        if self.entries.len() < self.sweep_at {
            return;
        }
        self.entries.retain(|_, value| used(value) > 0);
        if self.entries.len() >= self.most {
            let mut uses: Vec<u64> = self.entries.values().map(&used).collect();
            let median = *uses.select_nth_unstable(self.most / 2).1;
            self.entries.retain(|_, value| used(value) > median);
        }
        self.sweep_at = (2 * self.entries.len()).clamp(FIRST_SWEEP.min(self.most), self.most);
    }
}
