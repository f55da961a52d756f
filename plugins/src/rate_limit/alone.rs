//! A limit that this process keeps by itself: a GCRA (by governor) for each of its keys.

use std::time::Duration;

use governor::{Quota, RateLimiter, clock::Clock as _, middleware::NoOpMiddleware};

use super::{
    buckets::Buckets,
    config::LimitConfig,
    limit::{Left, nanos},
    table::Key,
};
use crate::api::Clock;

/// The accounts of one limit.
pub(super) struct Alone {
    limiter: RateLimiter<Key, Buckets, Ticks, NoOpMiddleware<Duration>>,
    /// The limiter's own state, which it does not show.
    buckets: Buckets,
    /// What the times in `buckets` count from.
    start: Duration,
    /// [`LimitConfig::cell`] in nanoseconds.
    cell: u64,
    /// The burst, in nanoseconds.
    whole: u64,
}

impl Alone {
    pub(super) fn new(config: &LimitConfig, max_keys: u32, clock: Clock) -> Self {
        let cell = nanos(config.cell());
        let quota = Quota::with_period(config.cell()).expect("a rate is at most 100,000,000 a second").allow_burst(config.burst());
        let buckets = Buckets::new(cell, max_keys);
        let ticks = Ticks(clock);
        let start = ticks.now();
        let limiter = RateLimiter::new(quota, buckets.clone(), ticks);
        Self { limiter, buckets, start, cell, whole: cell * u64::from(config.burst().get()) }
    }

    /// Counts a request; whether it may pass.
    pub(super) fn take(&self, key: Key) -> bool {
        self.limiter.check_key(&key).is_ok()
    }

    /// What is left for a key. Counts nothing.
    pub(super) fn left(&self, key: Key) -> Left {
        let now = nanos(self.limiter.clock().now().saturating_sub(self.start));
        let used = self.buckets.arrival(key).map_or(0, |arrival| arrival.saturating_sub(now));
        let remaining = self.whole.saturating_sub(used) / self.cell;
        let wait = (used + self.cell).saturating_sub(self.whole);
        Left {
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            wait: Duration::from_nanos(wait),
            window: Duration::from_nanos(wait.max(remaining * self.cell)),
        }
    }

    /// How many keys it keeps.
    pub(super) fn keys(&self) -> usize {
        self.buckets.len()
    }
}

/// Our clock as governor reads it.
struct Ticks(Clock);

impl governor::clock::Clock for Ticks {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.monotonic()
    }
}
