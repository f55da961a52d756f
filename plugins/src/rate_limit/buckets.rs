//! Where governor keeps the state of each key: in a [`Table`], for governor's own stores grow until somebody sweeps them from outside.
//!
//! A key takes 16 bytes whatever it was made of. With the places that a hash table leaves empty, a full one takes 34 to 78 for
//! each of its keys: 9 MB for 200,000.

use std::sync::Arc;

use governor::{nanos::Nanos, state::StateStore};

use super::table::{Key, Table};

/// The theoretical arrival time of each key's next request, as GCRA calls it: nanoseconds since the limit began. A key whose
/// time has passed is as good as absent. A handle: clones share the state.
#[derive(Clone)]
pub(super) struct Buckets(Arc<Inner>);

struct Inner {
    arrivals: Table<u64>,
    cell: u64,
}

impl Buckets {
    /// For a limit in which one request's worth comes back in `cell` nanoseconds; of at most about `most` keys.
    pub(super) fn new(cell: u64, most: u32) -> Self {
        Self(Arc::new(Inner { arrivals: Table::new(most), cell }))
    }

    /// A key's theoretical arrival time, if it is known.
    pub(super) fn arrival(&self, key: Key) -> Option<u64> {
        self.0.arrivals.shard(key).get(key).copied()
    }

    /// How many keys are known.
    pub(super) fn len(&self) -> usize {
        self.0.arrivals.len()
    }
}

impl StateStore for Buckets {
    type Key = Key;

    fn measure_and_replace<T, F, E>(&self, key: &Key, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.0.arrivals.shard(*key);
        if let Some(arrival) = shard.get_mut(*key) {
            let (outcome, next) = f(Some(Nanos::new(*arrival)))?;
            *arrival = next.as_u64();
            return Ok(outcome);
        }
        let (outcome, next) = f(None)?;
        // The first request of a key moves its time one cell ahead of now.
        let now = next.as_u64().saturating_sub(self.0.cell);
        shard.insert(*key, next.as_u64(), |arrival| arrival.saturating_sub(now));
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::table::{FIRST_SWEEP, SHARDS},
        *,
    };

    const MOST: u32 = 200_000;

    impl Buckets {
        /// What the tables take: 16 bytes for an entry and one of hashbrown's own for each place, an eighth of which stay empty.
        fn bytes(&self) -> usize {
            self.0.arrivals.shards().map(|shard| (shard.capacity() * 8).div_ceil(7).next_power_of_two() * 17).sum()
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
            assert!(n % 10_000 != 0 || buckets.len() <= MOST as usize, "{}", buckets.len());
        }
        assert!(buckets.len() > MOST as usize / 4, "{}", buckets.len());
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
