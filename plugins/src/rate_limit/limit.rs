//! One limit: a GCRA (by governor) for each of its keys, and what is left of it.

use std::{
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use governor::{Quota, RateLimiter, clock::Clock as _, middleware::NoOpMiddleware};

use super::{
    buckets::Buckets,
    config::{By, LimitConfig},
};
use crate::api::{Clock, RequestCtx, Tenant, UserKey};

/// A limit and the state of its keys.
pub(super) struct Limit {
    pub(super) config: LimitConfig,
    keys: Keys,
}

enum Keys {
    User(Gcra<UserKey>),
    Ip(Gcra<IpAddr>),
    Tenant(Gcra<Tenant>),
    Route(Gcra<Arc<str>>),
}

/// What one key has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    /// Requests that would pass now.
    pub(super) remaining: u32,
    /// Until one more would pass; zero if one would now.
    pub(super) wait: Duration,
    /// Until the whole burst is there again.
    pub(super) full_in: Duration,
}

impl Limit {
    pub(super) fn new(config: LimitConfig, clock: &Clock) -> Self {
        let keys = match config.by {
            By::User => Keys::User(Gcra::new(&config, clock)),
            By::Ip => Keys::Ip(Gcra::new(&config, clock)),
            By::Tenant => Keys::Tenant(Gcra::new(&config, clock)),
            By::Route => Keys::Route(Gcra::new(&config, clock)),
        };
        Self { config, keys }
    }

    /// Counts a request; whether it may pass. A limit by what is not known of the request lets it pass.
    pub(super) fn take(&self, ctx: &RequestCtx) -> bool {
        match &self.keys {
            Keys::User(gcra) => ctx.identity().is_none_or(|i| gcra.take(&i.user)),
            Keys::Ip(gcra) => gcra.take(&subscriber(ctx.peer)),
            Keys::Tenant(gcra) => ctx.tenant().is_none_or(|t| gcra.take(t)),
            Keys::Route(gcra) => gcra.take(&ctx.route),
        }
    }

    /// What is left for the key of this request, if the limit applies to it. Counts nothing.
    pub(super) fn left(&self, ctx: &RequestCtx) -> Option<Left> {
        match &self.keys {
            Keys::User(gcra) => Some(gcra.left(&ctx.identity()?.user)),
            Keys::Ip(gcra) => Some(gcra.left(&subscriber(ctx.peer))),
            Keys::Tenant(gcra) => Some(gcra.left(ctx.tenant()?)),
            Keys::Route(gcra) => Some(gcra.left(&ctx.route)),
        }
    }

    /// How many keys it keeps.
    pub(super) fn keys(&self) -> usize {
        match &self.keys {
            Keys::User(gcra) => gcra.buckets.len(),
            Keys::Ip(gcra) => gcra.buckets.len(),
            Keys::Tenant(gcra) => gcra.buckets.len(),
            Keys::Route(gcra) => gcra.buckets.len(),
        }
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

struct Gcra<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, Buckets<K>, Ticks, NoOpMiddleware<Duration>>,
    /// The limiter's own state, which it does not show.
    buckets: Buckets<K>,
    /// What the times in it count from.
    start: Duration,
    cell: u64,
    burst: NonZeroU32,
}

impl<K: Hash + Eq + Clone> Gcra<K> {
    fn new(config: &LimitConfig, clock: &Clock) -> Self {
        let (cell, burst) = (config.cell(), config.burst());
        let quota = Quota::with_period(cell).expect("a rate is at most 100,000,000 a second").allow_burst(burst);
        let buckets = Buckets::new(nanos(cell));
        let ticks = Ticks(clock.clone());
        let start = ticks.now();
        Self { limiter: RateLimiter::new(quota, buckets.clone(), ticks), buckets, start, cell: nanos(cell), burst }
    }

    fn take(&self, key: &K) -> bool {
        self.limiter.check_key(key).is_ok()
    }

    fn left(&self, key: &K) -> Left {
        let now = nanos(self.limiter.clock().now().saturating_sub(self.start));
        let used = self.buckets.arrival(key).map_or(0, |arrival| arrival.saturating_sub(now));
        let whole = self.cell * u64::from(self.burst.get());
        Left {
            remaining: u32::try_from(whole.saturating_sub(used) / self.cell).unwrap_or(u32::MAX),
            wait: Duration::from_nanos((used + self.cell).saturating_sub(whole)),
            full_in: Duration::from_nanos(used),
        }
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
