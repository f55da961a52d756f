//! One limit: a GCRA (by governor) for each of its keys, and what is left of it.

use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use governor::{Quota, RateLimiter, clock::Clock as _, middleware::NoOpMiddleware};

use super::{
    buckets::{Buckets, Key},
    config::{By, LimitConfig},
};
use crate::api::{Clock, RequestCtx};

/// A limit and the state of its keys.
pub(super) struct Limit {
    pub(super) config: LimitConfig,
    /// How many keys it keeps at most.
    pub(super) max_keys: u32,
    limiter: RateLimiter<Key, Buckets, Ticks, NoOpMiddleware<Duration>>,
    /// The limiter's own state, which it does not show.
    buckets: Buckets,
    hasher: RandomState,
    /// What the times in `buckets` count from.
    start: Duration,
    /// [`LimitConfig::cell`] in nanoseconds.
    cell: u64,
}

/// What one key has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    /// Requests that would pass now.
    pub(super) remaining: u32,
    /// Until one more would pass; zero if one would now.
    pub(super) wait: Duration,
    /// Who makes the remaining requests in this time, and goes on like that, is not refused: the time in which as many come
    /// back. If none remain, `wait`.
    pub(super) window: Duration,
}

impl Limit {
    pub(super) fn new(config: LimitConfig, max_keys: u32, clock: &Clock) -> Self {
        let cell = nanos(config.cell());
        let quota = Quota::with_period(config.cell()).expect("a rate is at most 100,000,000 a second").allow_burst(config.burst());
        let buckets = Buckets::new(cell, usize::try_from(max_keys).unwrap_or(usize::MAX));
        let ticks = Ticks(clock.clone());
        let start = ticks.now();
        let limiter = RateLimiter::new(quota, buckets.clone(), ticks);
        Self { config, max_keys, limiter, buckets, hasher: RandomState::new(), start, cell }
    }

    /// Counts a request; whether it may pass. `None` if the limit is by something that is not known of the request.
    pub(super) fn take(&self, ctx: &RequestCtx) -> Option<bool> {
        Some(self.limiter.check_key(&self.key(ctx)?).is_ok())
    }

    /// What is left for the key of this request, if the limit applies to it. Counts nothing.
    pub(super) fn left(&self, ctx: &RequestCtx) -> Option<Left> {
        let key = self.key(ctx)?;
        let now = nanos(self.limiter.clock().now().saturating_sub(self.start));
        let used = self.buckets.arrival(key).map_or(0, |arrival| arrival.saturating_sub(now));
        let whole = self.cell * u64::from(self.config.burst().get());
        let remaining = whole.saturating_sub(used) / self.cell;
        let wait = (used + self.cell).saturating_sub(whole);
        Some(Left {
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            wait: Duration::from_nanos(wait),
            window: Duration::from_nanos(wait.max(remaining * self.cell)),
        })
    }

    /// How many keys it keeps.
    pub(super) fn keys(&self) -> usize {
        self.buckets.len()
    }

    fn key(&self, ctx: &RequestCtx) -> Option<Key> {
        Some(match self.config.by {
            By::User => Key(self.hasher.hash_one(ctx.identity()?.user.as_bytes())),
            By::Ip => Key(self.hasher.hash_one(subscriber(ctx.peer))),
            By::Tenant => Key(self.hasher.hash_one(ctx.tenant()?)),
            By::Route => Key(self.hasher.hash_one(&*ctx.route)),
        })
    }
}

/// An address as a limit counts it: one subscriber has 2^64 IPv6 addresses to choose from.
fn subscriber(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 @ IpAddr::V4(_) => v4,
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

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_stands_for_its_subscriber() {
        let same = |a: &str, b: &str| subscriber(a.parse().unwrap()) == subscriber(b.parse().unwrap());
        assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff::9"));
        assert!(!same("2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert!(same("::ffff:192.0.2.1", "192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
    }
}
