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

mod buckets;
mod config;
mod limit;
#[cfg(test)]
mod tests;

use std::{cmp::Reverse, collections::HashMap, io::Write as _, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::RETRY_AFTER, request::Parts};
use serde_json::json;

use self::{
    config::MAX_NAME,
    limit::{Left, Limit},
};
use crate::api::{BuildCtx, Code, Decision, Plugin, PluginSpec, Problem, Reject, RequestCtx, Scope, Step, Tenant};

pub use self::config::{By, LimitConfig, Rate, RateError, RateLimitConfig};

const NAME: &str = "rate_limit";
/// <https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/> (version 10): `"user";r=199;t=1`.
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// The same draft: `"user";q=200;w=4, "tenant";q=1000;w=2`.
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The plugin.
pub struct RateLimit {
    common: LimitList,
    /// Of tenants that have a list of their own.
    own: HashMap<Tenant, LimitList>,
    /// Every limit there is, for the next instance to take over.
    pool: Pool,
}

/// Limits by what they are. Those by address and route are also told apart by the tenant that has them in its own list; the
/// keys of the others hold their tenant, so all lists with the same limit share one.
type Pool = HashMap<(Option<Tenant>, LimitConfig), Arc<Limit>>;

/// The limits that a request must pass, the narrowest first.
struct LimitList {
    limits: Vec<Arc<Limit>>,
    /// `RateLimit-Policy` for requests with an identity, and without.
    policy: [Option<HeaderValue>; 2],
}

/// How the gateway makes one.
pub fn spec() -> PluginSpec {
    let build = |ctx: &BuildCtx<'_>| Ok(Arc::new(RateLimit::build(ctx)?) as Arc<dyn Plugin>);
    PluginSpec { name: NAME, after: &[], authenticates: false, schema: |g| g.subschema_for::<RateLimitConfig>(), build: Box::new(build) }
}

impl RateLimit {
    fn build(ctx: &BuildCtx<'_>) -> Result<Self, Vec<Problem>> {
        let previous = ctx.previous::<Self>();
        let mut pool = Pool::new();
        let mut list = |owner: Option<&Tenant>, configs: &[LimitConfig]| {
            let limits = configs.iter().map(|config| {
                let apart = matches!(config.by, By::Ip | By::Route);
                let key = (owner.filter(|_| apart).cloned(), config.clone());
                let kept = previous.as_ref().and_then(|p| p.pool.get(&key));
                let limit = kept.map_or_else(|| Arc::new(Limit::new(config.clone(), ctx.clock)), Arc::clone);
                Arc::clone(pool.entry(key).or_insert(limit))
            });
            LimitList::new(limits.collect())
        };
        let base = config::read(&Scope::Plugin, ctx.config)?;
        let common = list(None, &base);
        let (mut own, mut problems) = (HashMap::new(), Vec::new());
        for build in ctx.tenants {
            match config::read(&Scope::Tenant(build.tenant.clone()), &build.config) {
                Ok(limits) if limits == base => {}
                Ok(limits) => _ = own.insert(build.tenant.clone(), list(Some(&build.tenant), &limits)),
                Err(p) => problems.extend(p),
            }
        }
        if problems.is_empty() { Ok(Self { common, own, pool }) } else { Err(problems) }
    }

    fn list(&self, ctx: &RequestCtx) -> &LimitList {
        ctx.tenant().and_then(|t| self.own.get(t)).unwrap_or(&self.common)
    }
}

impl LimitList {
    fn new(limits: Vec<Arc<Limit>>) -> Self {
        let anonymous = |limit: &&Arc<Limit>| matches!(limit.config.by, By::Ip | By::Route);
        let policy = [policy(limits.iter()), policy(limits.iter().filter(anonymous))];
        Self { limits, policy }
    }

    /// The limit that holds this request's sender back the most: the longest wait, then the fewest requests left.
    fn tightest(&self, ctx: &RequestCtx) -> Option<(&Limit, Left)> {
        let left = self.limits.iter().filter_map(|l| Some((&**l, l.left(ctx)?)));
        left.min_by_key(|(_, left)| (Reverse(left.wait), left.remaining))
    }

    /// The two headers of the draft, for the tightest limit; `seconds` says when that one has something to give.
    fn headers(&self, ctx: &RequestCtx, limit: &Limit, left: Left, seconds: u64) -> [Option<(HeaderName, HeaderValue)>; 2] {
        let policy = self.policy[usize::from(ctx.identity().is_none())].clone();
        [Some((RATELIMIT, quota(&limit.config.name, left.remaining, seconds))), policy.map(|p| (RATELIMIT_POLICY, p))]
    }

    fn refuse(&self, ctx: &RequestCtx) -> Reject {
        let mut reject = Reject::new(Code::RateLimited, "too many requests: try again when `Retry-After` is over");
        if let Some((limit, left)) = self.tightest(ctx) {
            let seconds = whole_seconds(left.wait).max(1);
            reject = reject.with(RETRY_AFTER, HeaderValue::from(seconds));
            reject.headers.extend(self.headers(ctx, limit, left, seconds).into_iter().flatten());
        }
        reject
    }
}

/// What clients may plan with, `q` requests in `w` seconds: the burst in the time it takes to come back, or, if that is less
/// than a second, the rate itself.
fn policy<'a>(limits: impl Iterator<Item = &'a Arc<Limit>>) -> Option<HeaderValue> {
    let item = |config: &LimitConfig| {
        let (name, burst) = (&config.name, config.burst().get());
        match config.cell() * burst {
            whole if whole < Duration::from_secs(1) => format!(r#""{name}";q={};w={}"#, config.rate.count, config.rate.per.as_secs()),
            whole => format!(r#""{name}";q={burst};w={}"#, whole_seconds(whole)),
        }
    };
    let items: Vec<String> = limits.map(|l| item(&l.config)).collect();
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
        let passes = list.limits.iter().all(|l| l.take(ctx));
        Step::Ready(if passes { Decision::Continue } else { Decision::Reject(list.refuse(ctx)) })
    }

    fn response(&self, ctx: &RequestCtx, _status: StatusCode, headers: &mut HeaderMap) {
        if headers.contains_key(RATELIMIT) {
            return; // our own refusal, or an upstream that limits more narrowly
        }
        let list = self.list(ctx);
        if let Some((limit, left)) = list.tightest(ctx) {
            headers.extend(list.headers(ctx, limit, left, whole_seconds(left.full_in)).into_iter().flatten());
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
