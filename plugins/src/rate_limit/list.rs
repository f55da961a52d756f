//! The limits that one tenant's requests meet, and what clients are told of them.

use std::{cmp::Reverse, io::Write as _, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, header::RETRY_AFTER};
use prometheus::IntCounter;

use super::{
    config::{By, Fallback, LimitConfig, MAX_NAME},
    limit::{Left, Limit},
};
use crate::api::{Code, Limited, Reject, RequestCtx, UserLimit};

/// <https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/> (version 10): `"user";r=199;t=4`. The tightest
/// limit only. No partition key (`pk`): whoever sends a request knows whose it is, and a key would give users' ids away.
pub(super) const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// The same draft: `"user";q=200;w=4, "tenant";q=1000;w=2`.
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The limits that a request must pass, the narrowest first.
pub(super) struct LimitList {
    entries: Vec<Entry>,
    fallback: Fallback,
    /// `RateLimit-Policy`.
    policy: Option<HeaderValue>,
    /// Those by user that are too narrow for leases, for the store of conversations to keep.
    turns: Arc<[UserLimit]>,
}

/// A limit as one tenant's requests meet it.
pub(super) struct Entry {
    pub(super) limit: Arc<Limit>,
    pub(super) shadow: bool,
    pub(super) allowed: IntCounter,
    pub(super) refused: IntCounter,
}

impl Entry {
    /// Whether gateways keep it together where conversations are.
    fn is_of_turns(&self) -> bool {
        self.limit.config.by == By::User && !self.limit.config.is_leased()
    }

    /// As the store of conversations keeps it. One that changes is another one.
    fn of_turns(&self) -> UserLimit {
        let LimitConfig { name, rate, .. } = &self.limit.config;
        let burst = self.limit.config.burst().get();
        let name = format!("{name}/{}/{}/{burst}", rate.count, rate.per.as_secs()).into();
        UserLimit { name, period: self.limit.config.cell(), burst, shadow: self.shadow }
    }

    /// Counts a request; whether it may go on. A limit by what is not known of it lets it pass.
    fn admits(&self, ctx: &RequestCtx, fallback: Fallback) -> bool {
        match self.limit.take(ctx, fallback) {
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
    /// Of these, the narrowest first. `shared` says that other gateways keep them too.
    pub(super) fn new(entries: Vec<Entry>, fallback: Fallback, shared: bool) -> Self {
        let policy = policy(entries.iter().filter(|e| !e.shadow).map(|e| &e.limit.config));
        let turns = entries.iter().filter(|entry| shared && entry.is_of_turns()).map(Entry::of_turns).collect();
        Self { entries, fallback, policy, turns }
    }

    /// Counts a request; whether it may go on.
    pub(super) fn admits(&self, ctx: &RequestCtx) -> bool {
        self.entries.iter().all(|entry| entry.admits(ctx, self.fallback))
    }

    /// See [`RequestCtx::turn_limits`].
    pub(super) fn turns(&self) -> Arc<[UserLimit]> {
        self.turns.clone()
    }

    /// The limit that holds this request's sender back the most: the longest wait, then the fewest requests left.
    pub(super) fn tightest(&self, ctx: &RequestCtx) -> Option<(&Limit, Left)> {
        let left = self.entries.iter().filter(|e| !e.shadow).filter_map(|e| Some((&*e.limit, e.limit.left(ctx, self.fallback)?)));
        left.min_by_key(|(_, left)| (Reverse(left.wait), left.remaining))
    }

    /// The two headers of the draft, for the tightest limit; `seconds` is that one's effective window.
    pub(super) fn headers(&self, limit: &Limit, left: Left, seconds: u64) -> [Option<(HeaderName, HeaderValue)>; 2] {
        let policy = self.policy.clone();
        [Some((RATELIMIT, quota(&limit.config.name, left.remaining, seconds))), policy.map(|p| (RATELIMIT_POLICY, p))]
    }

    pub(super) fn refuse(&self, ctx: &RequestCtx) -> Reject {
        self.reject(self.tightest(ctx))
    }

    /// The refusal of a turn by the store of conversations.
    pub(super) fn refuse_turn(&self, limited: Limited) -> Option<Reject> {
        let entry = self.entries.iter().filter(|entry| entry.is_of_turns()).nth(limited.index)?;
        entry.refused.inc();
        Some(self.reject(Some((&entry.limit, Left { remaining: 0, wait: limited.wait, window: limited.wait }))))
    }

    fn reject(&self, by: Option<(&Limit, Left)>) -> Reject {
        let mut reject = Reject::new(Code::RateLimited, "too many requests: try again when `Retry-After` is over");
        if let Some((limit, left)) = by {
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

pub(super) fn whole_seconds(d: Duration) -> u64 {
    d.as_secs() + u64::from(d.subsec_nanos() > 0)
}
