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

mod buckets;
mod config;
mod limit;
#[cfg(test)]
mod tests;

use std::{cmp::Reverse, collections::HashMap, io::Write as _, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::RETRY_AFTER, request::Parts};
use prometheus::IntCounter;
use serde_json::json;

use self::{
    config::MAX_NAME,
    limit::{Left, Limit},
};
use crate::api::{BuildCtx, Code, Decision, Family, Plugin, PluginSpec, Problem, Readings, Reject, RequestCtx, Scope, Step, Tenant};
use crate::redis;

pub use self::config::{By, LimitConfig, Rate, RateLimitConfig};

const NAME: &str = "rate_limit";
/// <https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/> (version 10): `"user";r=199;t=4`. The tightest
/// limit only. No partition key (`pk`): whoever sends a request knows whose it is, and a key would give users' ids away.
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// The same draft: `"user";q=200;w=4, "tenant";q=1000;w=2`.
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

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

/// The plugin.
pub struct RateLimit {
    tenants: HashMap<Tenant, LimitList>,
    /// For requests that nobody has authenticated.
    strangers: LimitList,
    /// Every limit there is, for the next instance to take over.
    pool: Pool,
}

/// Limits by what they are, whether they are in shadow mode or not. Those by address and route are also told apart by the
/// tenant that has them in its own list; the keys of the others differ between tenants, so all lists with the same limit share one.
type Pool = HashMap<(Option<Tenant>, LimitConfig), Arc<Limit>>;

/// The limits that a request must pass, the narrowest first.
struct LimitList {
    entries: Vec<Entry>,
    /// `RateLimit-Policy`.
    policy: Option<HeaderValue>,
}

/// A limit as one tenant's requests meet it.
struct Entry {
    limit: Arc<Limit>,
    shadow: bool,
    allowed: IntCounter,
    refused: IntCounter,
}

/// How the gateway makes one. What several gateways count together they count in the Redis of `slot`.
pub fn spec(_slot: redis::Slot) -> PluginSpec {
    let build = |ctx: &BuildCtx<'_>| Ok(Arc::new(RateLimit::build(ctx)?) as Arc<dyn Plugin>);
    PluginSpec { name: NAME, after: &[], authenticates: false, schema: |g| g.subschema_for::<RateLimitConfig>(), build: Box::new(build) }
}

impl RateLimit {
    fn build(ctx: &BuildCtx<'_>) -> Result<Self, Vec<Problem>> {
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
                Ok(config) => own.push((&build.tenant, config.limits)),
                Err(p) => problems.extend(p),
            }
        }
        match base {
            Some(base) if problems.is_empty() => Ok(Self::of(ctx, &base, own)),
            _ => Err(problems),
        }
    }

    fn of(ctx: &BuildCtx<'_>, base: &RateLimitConfig, own: Vec<(&Tenant, Vec<LimitConfig>)>) -> Self {
        ctx.meters.gauge(KEYS);
        let (previous, decisions) = (ctx.previous::<Self>(), ctx.meters.counter(DECISIONS));
        let mut pool = Pool::new();
        let mut limit = |owner: Option<&Tenant>, config: &LimitConfig| {
            let key = (owner.filter(|_| !config.by.is_of_tenant()).cloned(), LimitConfig { shadow: false, ..config.clone() });
            let kept = previous.as_ref().and_then(|p| p.pool.get(&key)).filter(|kept| kept.max_keys == base.max_keys);
            let limit = kept.map_or_else(|| Arc::new(Limit::new(key.1.clone(), base.max_keys, ctx.clock)), Arc::clone);
            Arc::clone(pool.entry(key).or_insert(limit))
        };
        let mut entry = |tenant: &str, owner, config: &LimitConfig| {
            let counter = |decision| decisions.with_label_values(&[tenant, &*config.name, decision]);
            let refused = counter(if config.shadow { "shadow_limited" } else { "limited" });
            Entry { limit: limit(owner, config), shadow: config.shadow, allowed: counter("allowed"), refused }
        };
        let strangers = base.limits.iter().filter(|l| !l.by.is_of_tenant()).map(|config| entry("-", None, config)).collect();
        let tenants = own.into_iter().map(|(tenant, limits)| {
            let owner = Some(tenant).filter(|_| limits != base.limits);
            let entries = limits.iter().map(|config| entry(tenant.name(), owner, config)).collect();
            (tenant.clone(), LimitList::new(entries))
        });
        Self { tenants: tenants.collect(), strangers: LimitList::new(strangers), pool }
    }

    fn list(&self, ctx: &RequestCtx) -> &LimitList {
        ctx.tenant().and_then(|t| self.tenants.get(t)).unwrap_or(&self.strangers)
    }
}

impl Entry {
    /// Counts a request; whether it may go on. A limit by what is not known of it lets it pass.
    fn admits(&self, ctx: &RequestCtx) -> bool {
        match self.limit.take(ctx) {
            None => true,
            Some(true) => {
                self.allowed.inc();
                true
            }
            Some(false) => {
                self.refused.inc();
                self.shadow
            }
        }
    }
}

impl LimitList {
    fn new(entries: Vec<Entry>) -> Self {
        let policy = policy(entries.iter().filter(|e| !e.shadow).map(|e| &e.limit.config));
        Self { entries, policy }
    }

    /// The limit that holds this request's sender back the most: the longest wait, then the fewest requests left.
    fn tightest(&self, ctx: &RequestCtx) -> Option<(&Limit, Left)> {
        let left = self.entries.iter().filter(|e| !e.shadow).filter_map(|e| Some((&*e.limit, e.limit.left(ctx)?)));
        left.min_by_key(|(_, left)| (Reverse(left.wait), left.remaining))
    }

    /// The two headers of the draft, for the tightest limit; `seconds` is that one's effective window.
    fn headers(&self, limit: &Limit, left: Left, seconds: u64) -> [Option<(HeaderName, HeaderValue)>; 2] {
        let policy = self.policy.clone();
        [Some((RATELIMIT, quota(&limit.config.name, left.remaining, seconds))), policy.map(|p| (RATELIMIT_POLICY, p))]
    }

    fn refuse(&self, ctx: &RequestCtx) -> Reject {
        let mut reject = Reject::new(Code::RateLimited, "too many requests: try again when `Retry-After` is over");
        if let Some((limit, left)) = self.tightest(ctx) {
            let seconds = whole_seconds(left.wait).max(1);
            reject = reject.with(RETRY_AFTER, HeaderValue::from(seconds));
            reject.headers.extend(self.headers(limit, left, seconds).into_iter().flatten());
        }
        reject
    }
}

/// What clients may plan with, `q` requests in `w` seconds: the burst in the time it takes to come back, or, if that is less
/// than a second, the rate itself.
fn policy<'a>(limits: impl Iterator<Item = &'a LimitConfig>) -> Option<HeaderValue> {
    let item = |config: &LimitConfig| {
        let (name, burst) = (&config.name, config.burst().get());
        match config.cell() * burst {
            whole if whole < Duration::from_secs(1) => format!(r#""{name}";q={};w={}"#, config.rate.count, config.rate.per.as_secs()),
            whole => format!(r#""{name}";q={burst};w={}"#, whole_seconds(whole)),
        }
    };
    let items: Vec<String> = limits.map(item).collect();
    let value = HeaderValue::try_from(items.join(", ")).expect("plain ASCII");
    (!items.is_empty()).then_some(value)
}

fn quota(name: &str, remaining: u32, seconds: u64) -> HeaderValue {
    let mut text = [0; MAX_NAME + 48];
    let mut rest = &mut text[..];
    write!(rest, r#""{name}";r={remaining};t={seconds}"#).expect("a name and two numbers of at most 20 digits");
    let unused = rest.len();
    HeaderValue::from_bytes(&text[..text.len() - unused]).expect("plain ASCII")
}

fn whole_seconds(d: Duration) -> u64 {
    d.as_secs() + u64::from(d.subsec_nanos() > 0)
}

impl Plugin for RateLimit {
    fn name(&self) -> &'static str {
        NAME
    }

    fn request<'a>(&'a self, _head: &'a Parts, ctx: &'a mut RequestCtx) -> Step<'a, Decision> {
        let list = self.list(ctx);
        let passes = list.entries.iter().all(|entry| entry.admits(ctx));
        Step::Ready(if passes { Decision::Continue } else { Decision::Reject(list.refuse(ctx)) })
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

    fn gauges(&self, readings: &Readings<'_>) {
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
