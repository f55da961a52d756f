//! rate_limit: lets each user, address, tenant and route have so many requests, and tells clients how many are left.
//!
//! ```yaml
//! rate_limit: { limits: [ { name: tenant, by: tenant, rate: 500/s, burst: 1000 }, { name: user, by: user, rate: 50/s, burst: 200 } ] }
//! ```
//!
//! A request must pass every limit that applies to it. They are asked from the narrowest to the broadest (user, address,
//! tenant, route) whatever their order in the file, and asking stops at the first that refuses: what a broad limit has is
//! spent only on requests that pass all narrower ones, so a user over the user's limit does not use up the tenant's.
//! A request that a broad limit refuses has been counted by the narrower ones.
//!
//! Limits by user and tenant do not apply to requests that nobody has authenticated.
//!
//! A limit with `shadow: true` counts and refuses nobody.

mod alone;
mod buckets;
mod config;
mod demand;
mod lease;
mod leases;
mod lessor;
mod limit;
mod list;
mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use http::{HeaderMap, StatusCode, request::Parts};
use serde_json::json;

use self::{
    lessor::Lessor,
    limit::Limit,
    list::{Entry, LimitList, RATELIMIT, whole_seconds},
};
use crate::{
    api::{BuildCtx, Decision, Family, Limited, Plugin, PluginSpec, Problem, Readings, Reject, RequestCtx, Scope, Step, Tenant},
    redis,
};

pub use self::config::{By, LimitConfig, Rate, RateLimitConfig, Without};

const NAME: &str = "rate_limit";
const DECISIONS: Family = Family {
    name: "fengda_rate_limit_decisions_total",
    help: "What a limit said of a request: allowed, limited, or shadow_limited if it only counts.",
    labels: &["tenant", "limit", "decision"],
};
const KEYS: Family = Family {
    name: "fengda_rate_limit_keys",
    help: "Users, addresses, tenants or routes that a limit keeps count of; of limits with one name, the most.",
    labels: &["limit"],
};
const WITHOUT_STORE: Family = Family {
    name: "fengda_rate_limit_without_store",
    help: "1 while limits that gateways keep together are kept as `without_store` says, because Redis does not answer.",
    labels: &[],
};

/// The plugin.
pub struct RateLimit {
    tenants: HashMap<Tenant, LimitList>,
    /// For requests that nobody has authenticated.
    strangers: LimitList,
    /// Every limit there is, for the next instance to take over.
    pool: Pool,
    /// There if other gateways keep the limits too.
    lessor: Option<Arc<Lessor>>,
}

/// Limits by what they are, whether they are in shadow mode or not. Those by address and route are also told apart by the
/// tenant that has them in its own list; the keys of the others differ between tenants, so all lists with the same limit share one.
type Pool = HashMap<(Option<Tenant>, LimitConfig), Arc<Limit>>;

/// How the gateway makes one. What several gateways count together they count in the Redis of `slot`.
pub fn spec(slot: redis::Slot) -> PluginSpec {
    let lessor = OnceLock::new();
    let build = move |ctx: &BuildCtx<'_>| {
        let lessor = slot.get().map(|redis| lessor.get_or_init(|| Lessor::new(redis.clone())));
        Ok(Arc::new(RateLimit::build(ctx, lessor)?) as Arc<dyn Plugin>)
    };
    PluginSpec { name: NAME, after: &[], authenticates: false, schema: |g| g.subschema_for::<RateLimitConfig>(), build: Box::new(build) }
}

impl RateLimit {
    fn build(ctx: &BuildCtx<'_>, lessor: Option<&Arc<Lessor>>) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let base = config::read(&Scope::Plugin, ctx.config).map_err(|p| problems.extend(p)).ok();
        let mut own = Vec::new();
        for build in ctx.tenants {
            let scope = Scope::Tenant(build.tenant.clone());
            match config::read(&scope, &build.config) {
                Ok(config) if base.as_ref().is_some_and(|base| base.max_keys != config.max_keys) => {
                    let message = "the same for all tenants: they share the tables".into();
                    problems.push(Problem { scope, path: "max_keys".into(), message });
                }
                Ok(config) => own.push((&build.tenant, config)),
                Err(p) => problems.extend(p),
            }
        }
        match base {
            Some(base) if problems.is_empty() => Ok(Self::of(ctx, lessor, &base, own)),
            _ => Err(problems),
        }
    }

    fn of(ctx: &BuildCtx<'_>, lessor: Option<&Arc<Lessor>>, base: &RateLimitConfig, own: Vec<(&Tenant, RateLimitConfig)>) -> Self {
        [KEYS, WITHOUT_STORE].into_iter().for_each(|family| drop(ctx.meters.gauge(family)));
        let (previous, decisions) = (ctx.previous::<Self>(), ctx.meters.counter(DECISIONS));
        let mut pool = Pool::new();
        let mut limit = |owner: Option<&Tenant>, config: &LimitConfig| {
            let key = (owner.filter(|_| !config.by.is_of_tenant()).cloned(), LimitConfig { shadow: false, ..config.clone() });
            let kept = previous.as_ref().and_then(|p| p.pool.get(&key)).filter(|kept| kept.max_keys == base.max_keys);
            let make = || Arc::new(Limit::new(key.1.clone(), key.0.clone(), base.max_keys, ctx.clock, lessor));
            let limit = kept.map_or_else(make, Arc::clone);
            Arc::clone(pool.entry(key).or_insert(limit))
        };
        let mut entry = |tenant: &str, owner, config: &LimitConfig| {
            let counter = |decision| decisions.with_label_values(&[tenant, &*config.name, decision]);
            let refused = counter(if config.shadow { "shadow_limited" } else { "limited" });
            Entry { limit: limit(owner, config), shadow: config.shadow, allowed: counter("allowed"), refused }
        };
        let strangers = base.limits.iter().filter(|l| !l.by.is_of_tenant()).map(|config| entry("-", None, config)).collect();
        let strangers = LimitList::new(strangers, base.fallback(), lessor.is_some());
        let tenants = own.into_iter().map(|(tenant, own)| {
            let owner = Some(tenant).filter(|_| own.limits != base.limits);
            let entries = own.limits.iter().map(|config| entry(tenant.name(), owner, config)).collect();
            (tenant.clone(), LimitList::new(entries, own.fallback(), lessor.is_some()))
        });
        Self { tenants: tenants.collect(), strangers, pool, lessor: lessor.cloned() }
    }

    fn list(&self, ctx: &RequestCtx) -> &LimitList {
        ctx.tenant().and_then(|t| self.tenants.get(t)).unwrap_or(&self.strangers)
    }
}

impl Plugin for RateLimit {
    fn name(&self) -> &'static str {
        NAME
    }

    fn request<'a>(&'a self, _head: &'a Parts, ctx: &'a mut RequestCtx) -> Step<'a, Decision> {
        let list = self.list(ctx);
        if !list.admits(ctx) {
            return Step::Ready(Decision::Reject(list.refuse(ctx)));
        }
        ctx.turn_limits = list.turns();
        Step::Ready(Decision::Continue)
    }

    fn limited(&self, ctx: &RequestCtx, limited: Limited) -> Option<Reject> {
        self.list(ctx).refuse_turn(limited)
    }

    fn response(&self, ctx: &RequestCtx, _status: StatusCode, headers: &mut HeaderMap) {
        if headers.contains_key(RATELIMIT) {
            return; // our own refusal, or an upstream that limits more narrowly
        }
        let list = self.list(ctx);
        if let Some((limit, left)) = list.tightest(ctx) {
            headers.extend(list.headers(limit, left, whole_seconds(left.window)).into_iter().flatten());
        }
    }

    fn leave(&self) -> Step<'_, ()> {
        Step::Pending(Box::pin(async {
            for limit in self.pool.values() {
                limit.give_back().await;
            }
        }))
    }

    fn gauges(&self, readings: &Readings<'_>) {
        if let Some(lessor) = &self.lessor {
            readings.set(WITHOUT_STORE, &[], lessor.is_gone().into());
        }
        for ((_, config), limit) in &self.pool {
            readings.set(KEYS, &[&*config.name], i64::try_from(limit.keys()).unwrap_or(i64::MAX));
        }
    }

    fn status(&self) -> serde_json::Value {
        let limits = self.pool.iter().map(|((owner, config), limit)| {
            let LimitConfig { name, rate, .. } = config;
            let rate = format!("{} per {}s", rate.count, rate.per.as_secs());
            json!({ "name": name, "tenant": owner.as_ref().map(Tenant::name), "rate": rate, "burst": config.burst(), "keys": limit.keys() })
        });
        limits.collect()
    }
}
