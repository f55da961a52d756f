//! Where governor keeps the state of each key, with a bound on how many keys there are.
//!
//! governor's own stores grow until somebody sweeps them from outside. This one sweeps a shard by itself when an insert
//! finds it full, so that no timer is needed and no request pays for more than one shard.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use governor::{nanos::Nanos, state::StateStore};

const SHARDS: usize = 32;
/// Most keys in a shard: 262,144 keys for each limit.
pub(super) const MAX_KEYS: usize = 8192;
const FIRST_SWEEP: usize = 64;

/// The theoretical arrival time of each key's next request, as GCRA calls it: nanoseconds since the limit began. A key whose
/// time has passed is as good as absent. A handle: clones share the state.
pub(super) struct Buckets<K>(Arc<Inner<K>>);

struct Inner<K> {
    shards: [Mutex<Shard<K>>; SHARDS],
    hasher: RandomState,
    cell: u64,
}

struct Shard<K> {
    arrivals: HashMap<K, u64>,
    sweep_at: usize,
}

impl<K> Clone for Buckets<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    /// For a limit in which one request's worth comes back in `cell` nanoseconds.
    pub(super) fn new(cell: u64) -> Self {
        let shard = |_| Mutex::new(Shard { arrivals: HashMap::new(), sweep_at: FIRST_SWEEP });
        Self(Arc::new(Inner { shards: std::array::from_fn(shard), hasher: RandomState::new(), cell }))
    }

    /// A key's theoretical arrival time, if it is known.
    pub(super) fn arrival(&self, key: &K) -> Option<u64> {
        self.shard(key).arrivals.get(key).copied()
    }

    /// How many keys are known.
    pub(super) fn len(&self) -> usize {
        self.0.shards.iter().map(|s| lock(s).arrivals.len()).sum()
    }

    #[expect(clippy::cast_possible_truncation, reason = "any bits of the hash will do")]
    fn shard(&self, key: &K) -> MutexGuard<'_, Shard<K>> {
        lock(&self.0.shards[self.0.hasher.hash_one(key) as usize % SHARDS])
    }
}

/// A panic in between leaves a map of plain numbers, which is still one.
fn lock<K>(shard: &Mutex<Shard<K>>) -> MutexGuard<'_, Shard<K>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Hash + Eq + Clone> StateStore for Buckets<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.shard(key);
        if let Some(arrival) = shard.arrivals.get_mut(key) {
            let (outcome, next) = f(Some(Nanos::new(*arrival)))?;
            *arrival = next.as_u64();
            return Ok(outcome);
        }
        let (outcome, next) = f(None)?;
        // The first request of a key moves its time one cell ahead of now.
        let now = next.as_u64().saturating_sub(self.0.cell);
        shard.make_room(now);
        shard.arrivals.insert(key.clone(), next.as_u64());
        Ok(outcome)
    }
}

impl<K: Hash + Eq> Shard<K> {
    /// Drops keys that are full again once there are twice as many as the last sweep left. If so many keys are in use that
    /// the shard stays full, the half that is nearest to full is forgotten: those lose the least.
    fn make_room(&mut self, now: u64) {
        if self.arrivals.len() < self.sweep_at {
            return;
        }
        self.arrivals.retain(|_, arrival| *arrival > now);
        if self.arrivals.len() >= MAX_KEYS {
            let mut arrivals: Vec<u64> = self.arrivals.values().copied().collect();
            let median = *arrivals.select_nth_unstable(MAX_KEYS / 2).1;
            self.arrivals.retain(|_, arrival| *arrival > median);
        }
        self.sweep_at = (2 * self.arrivals.len()).clamp(FIRST_SWEEP, MAX_KEYS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes one request of `key` at `now`, as GCRA does it for a burst without end.
    fn take(buckets: &Buckets<u32>, key: u32, now: u64) {
        let next = |arrival: Option<Nanos>| Ok::<_, ()>(((), Nanos::new(arrival.map_or(now, |a| a.as_u64().max(now)) + buckets.0.cell)));
        buckets.measure_and_replace(&key, next).unwrap();
    }

    #[test]
    fn keys_that_are_full_again_make_room_for_new_ones() {
        let buckets = Buckets::new(10);
        for key in 0..100_000 {
            take(&buckets, key, u64::from(key));
        }
        assert!(buckets.len() <= SHARDS * FIRST_SWEEP, "{} keys are kept", buckets.len());
        assert_eq!(buckets.arrival(&99_999), Some(100_009));
    }

    #[test]
    fn keys_in_use_are_bounded_and_the_busiest_are_kept() {
        let buckets = Buckets::new(1_000_000_000);
        let busy: Vec<u32> = (0..100).collect();
        for key in &busy {
            for _ in 0..10 {
                take(&buckets, *key, 0);
            }
        }
        let many = u32::try_from(SHARDS * MAX_KEYS + 20_000).unwrap();
        for key in 1000..many {
            take(&buckets, key, 0);
        }
        assert!(buckets.len() <= SHARDS * MAX_KEYS);
        assert!(busy.iter().all(|key| buckets.arrival(key) == Some(10_000_000_000)));
    }
}
