//! One limit: an account for each of its keys, of this process alone (a GCRA, by governor) or kept together with other gateways.

use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use super::{
    alone::Alone,
    config::{By, Fallback, LimitConfig},
    leases::Leases,
    lessor::Lessor,
    table::Key,
};
use crate::{
    api::{Clock, RequestCtx, Tenant},
    redis::put_id,
};

/// The longest that clients are told to wait for a share, in seconds.
const LONGEST: f64 = 10.0;

/// A limit and the state of its keys.
pub(super) struct Limit {
    pub(super) config: LimitConfig,
    /// How many keys it keeps at most.
    pub(super) max_keys: u32,
    /// Tells it from other tenants' limits in names, if it is one tenant's own.
    owner: Option<Tenant>,
    hasher: RandomState,
    accounts: Accounts,
}

/// Where its keys are counted.
enum Accounts {
    Alone(Alone),
    Together(Arc<Leases>),
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

impl Left {
    /// Of so many tokens, with so many more in a nanosecond.
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    pub(super) fn of(level: f64, rate: f64) -> Self {
        let remaining = level.max(0.0).floor();
        // A share may be nothing for a while.
        let time = |tokens: f64| Duration::from_secs_f64((tokens / rate / 1e9).min(LONGEST));
        let wait = if level < 1.0 { time(1.0 - level) } else { Duration::ZERO };
        Self { remaining: remaining as u32, wait, window: wait.max(time(remaining)) }
    }
}

impl Limit {
    /// `lessor` is there if this gateway is one of several.
    pub(super) fn new(config: LimitConfig, owner: Option<Tenant>, max_keys: u32, clock: &Clock, lessor: Option<&Arc<Lessor>>) -> Self {
        let accounts = match lessor.filter(|_| config.is_leased()) {
            Some(lessor) => Accounts::Together(Leases::new(&config, max_keys, clock.clone(), lessor.clone())),
            None => Accounts::Alone(Alone::new(&config, max_keys, clock.clone())),
        };
        Self { config, max_keys, owner, hasher: RandomState::new(), accounts }
    }

    /// Counts a request; whether it may pass. `None` if the limit is by something that is not known of the request.
    pub(super) fn take(&self, ctx: &RequestCtx, fallback: Fallback) -> Option<bool> {
        let key = self.key(ctx)?;
        Some(match &self.accounts {
            Accounts::Alone(alone) => alone.take(key),
            Accounts::Together(leases) => leases.take(key, fallback, || self.name(ctx).into()),
        })
    }

    /// What is left for the key of this request, if the limit applies to it. Counts nothing.
    pub(super) fn left(&self, ctx: &RequestCtx, fallback: Fallback) -> Option<Left> {
        let key = self.key(ctx)?;
        Some(match &self.accounts {
            Accounts::Alone(alone) => alone.left(key),
            Accounts::Together(leases) => leases.left(key, fallback),
        })
    }

    /// How many keys it keeps.
    pub(super) fn keys(&self) -> usize {
        match &self.accounts {
            Accounts::Alone(alone) => alone.keys(),
            Accounts::Together(leases) => leases.keys(),
        }
    }

    /// Gives back what of it was leased.
    pub(super) async fn give_back(&self) {
        if let Accounts::Together(leases) = &self.accounts {
            leases.give_back().await;
        }
    }

    fn key(&self, ctx: &RequestCtx) -> Option<Key> {
        Some(match self.config.by {
            By::User => Key(self.hasher.hash_one(ctx.identity()?.user.as_bytes())),
            By::Ip => Key(self.hasher.hash_one(subscriber(ctx.peer))),
            By::Tenant => Key(self.hasher.hash_one(ctx.tenant()?)),
            By::Route => Key(self.hasher.hash_one(&*ctx.route)),
        })
    }

    /// What the key of a request is called in Redis: the limit as configured, whose it is, and what it counts by.
    fn name(&self, ctx: &RequestCtx) -> Vec<u8> {
        let LimitConfig { name, rate, .. } = &self.config;
        let (per, burst) = (rate.per.as_secs(), self.config.burst());
        let owner = self.owner.as_ref().map_or("-", Tenant::name);
        let mut key = format!("fengda:{{limit/{name}/{}/{per}/{burst}/{owner}/", rate.count).into_bytes();
        match (self.config.by, ctx.identity()) {
            (By::User, Some(identity)) => {
                key.extend_from_slice(b"user/");
                put_id(&mut key, identity.user.tenant().name());
                key.push(b'/');
                put_id(&mut key, identity.user.id());
            }
            (By::Tenant, Some(identity)) => key.extend([b"tenant/", identity.user.tenant().name().as_bytes()].concat()),
            (By::Route, _) => {
                key.extend_from_slice(b"route/");
                put_id(&mut key, &ctx.route);
            }
            _ => key.extend(format!("ip/{}", subscriber(ctx.peer)).into_bytes()),
        }
        key.push(b'}');
        key
    }
}

/// An address as a limit counts it: one subscriber has 2^64 IPv6 addresses to choose from.
fn subscriber(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// A time in nanoseconds; the longest that fits if it is longer.
pub(super) fn nanos(d: Duration) -> u64 {
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
