//! Where governor keeps the state of each key, with a bound on how many keys there are.
//!
//! governor's own stores grow until somebody sweeps them from outside. This one sweeps a shard by itself when an insert
//! finds it full, so that no timer is needed and no request pays for more than one shard.
//!
//! A key takes 16 bytes whatever it was made of. With the places that a hash table leaves empty, a full one takes 34 to 78 for
//! each of its keys: 9 MB for 200,000.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use governor::{nanos::Nanos, state::StateStore};

pub(super) const SHARDS: usize = 32;
const FIRST_SWEEP: usize = 64;

/// A keyed hash of what a limit counts by: a user's id need not be kept to count its requests. That any two of 200,000 keys are
/// the same, and share a budget, has a chance of one in a billion, and nobody can bring it about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(pub(super) u64);

/// Takes a [`Key`], which is a hash already, as it is.
#[derive(Default)]
struct AsItIs(u64);

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

/// The theoretical arrival time of each key's next request, as GCRA calls it: nanoseconds since the limit began. A key whose
/// time has passed is as good as absent. A handle: clones share the state.
#[derive(Clone)]
pub(super) struct Buckets(Arc<Inner>);

struct Inner {
    shards: [Mutex<Shard>; SHARDS],
    cell: u64,
}

struct Shard {
    arrivals: HashMap<Key, u64, BuildHasherDefault<AsItIs>>,
    sweep_at: usize,
    most: usize,
}

impl Buckets {
    /// For a limit in which one request's worth comes back in `cell` nanoseconds; of at most about `most` keys.
    pub(super) fn new(cell: u64, most: usize) -> Self {
        let most = (most / SHARDS).max(1);
        let shard = |_| Mutex::new(Shard { arrivals: HashMap::default(), sweep_at: FIRST_SWEEP.min(most), most });
        Self(Arc::new(Inner { shards: std::array::from_fn(shard), cell }))
    }

    /// A key's theoretical arrival time, if it is known.
    pub(super) fn arrival(&self, key: Key) -> Option<u64> {
        self.shard(key).arrivals.get(&key).copied()
    }

    /// How many keys are known.
    pub(super) fn len(&self) -> usize {
        self.0.shards.iter().map(|s| lock(s).arrivals.len()).sum()
    }

    /// By bits of the key that its place in a map does not depend on.
    fn shard(&self, key: Key) -> MutexGuard<'_, Shard> {
        lock(&self.0.shards[(key.0 >> 40) as usize % SHARDS])
    }
}

/// A panic in between leaves a map of plain numbers, which is still one.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StateStore for Buckets {
    type Key = Key;

    fn measure_and_replace<T, F, E>(&self, key: &Key, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.shard(*key);
        if let Some(arrival) = shard.arrivals.get_mut(key) {
            let (outcome, next) = f(Some(Nanos::new(*arrival)))?;
            *arrival = next.as_u64();
            return Ok(outcome);
        }
        let (outcome, next) = f(None)?;
        // The first request of a key moves its time one cell ahead of now.
        let now = next.as_u64().saturating_sub(self.0.cell);
        shard.make_room(now);
        shard.arrivals.insert(*key, next.as_u64());
        Ok(outcome)
    }
}

impl Shard {
    /// Drops keys that are full again once there are twice as many as the last sweep left. If so many keys are in use that
    /// the shard stays full, the half that is nearest to full is forgotten: those lose the least, and whoever comes with ever
    /// new names only pushes out such names, not somebody who is over a limit.
    fn make_room(&mut self, now: u64) {
        if self.arrivals.len() < self.sweep_at {
            return;
        }
        self.arrivals.retain(|_, arrival| *arrival > now);
        if self.arrivals.len() >= self.most {
            let mut arrivals: Vec<u64> = self.arrivals.values().copied().collect();
            let median = *arrivals.select_nth_unstable(self.most / 2).1;
            self.arrivals.retain(|_, arrival| *arrival > median);
        }
        self.sweep_at = (2 * self.arrivals.len()).clamp(FIRST_SWEEP.min(self.most), self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 200_000;

    impl Buckets {
        /// What the tables take: 16 bytes for an entry and one of hashbrown's own for each place, an eighth of which stay empty.
        fn bytes(&self) -> usize {
            self.0.shards.iter().map(|s| (lock(s).arrivals.capacity() * 8).div_ceil(7).next_power_of_two() * 17).sum()
        }
    }

    /// Keys as hashing makes them.
    fn key(n: u32) -> Key {
        Key(fastrand::Rng::with_seed(n.into()).u64(..))
    }

    /// Takes one request of `key` at `now`, as GCRA does it for a burst without end.
    fn take(buckets: &Buckets, n: u32, now: u64) {
        let next = |arrival: Option<Nanos>| Ok::<_, ()>(((), Nanos::new(arrival.map_or(now, |a| a.as_u64().max(now)) + buckets.0.cell)));
        buckets.measure_and_replace(&key(n), next).unwrap();
    }

    #[test]
    fn keys_that_are_full_again_make_room_for_new_ones() {
        let buckets = Buckets::new(10, MOST);
        for n in 0..100_000 {
            take(&buckets, n, u64::from(n));
        }
        assert!(buckets.len() <= SHARDS * FIRST_SWEEP, "{} keys are kept", buckets.len());
        assert_eq!(buckets.arrival(key(99_999)), Some(100_009));
    }

    #[test]
    fn a_million_users_are_bounded_and_the_busiest_are_kept() {
        let buckets = Buckets::new(1_000_000_000, MOST);
        for n in 0..100 {
            for _ in 0..10 {
                take(&buckets, n, 0);
            }
        }
        for n in 1000..1_000_000 {
            take(&buckets, n, u64::from(n));
            assert!(n % 10_000 != 0 || buckets.len() <= MOST, "{}", buckets.len());
        }
        assert!(buckets.len() > MOST / 4, "{}", buckets.len());
        assert!(buckets.bytes() < 9_000_000, "{} bytes", buckets.bytes());
        assert!((0..100).all(|n| buckets.arrival(key(n)) == Some(10_000_000_000)));
    }

    #[test]
    fn the_smallest_table_is_bounded_too() {
        let buckets = Buckets::new(1_000_000_000, 1024);
        for n in 0..10_000 {
            take(&buckets, n, 0);
            assert!(buckets.len() <= 1024);
        }
    }
}
