//! What rate_limit can be told: a list of limits, each with a name, what it counts by, a rate and a burst.

use std::{num::NonZeroU32, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use serde_yaml::Value;

use super::lease::Whole;
use crate::{
    api::{Problem, Scope, parse_config, parse_items},
    units::Reader,
};

/// Most limits in one list: a request may have to pass all of them.
const MAX_LIMITS: usize = 16;
/// Longest name of a limit in bytes.
pub(super) const MAX_NAME: usize = 32;
/// Highest rate per unit, and largest burst.
const MAX_COUNT: u32 = 100_000_000;
/// Fewest and most keys that a limit may keep: 16 million take a GiB.
const KEYS: std::ops::RangeInclusive<u32> = 1024..=1 << 24;
/// Fewest and most gateways that may share a limit.
const GATEWAYS: std::ops::RangeInclusive<u32> = 1..=1000;
/// Longest time in which a burst may come back.
const MAX_REFILL: Duration = Duration::from_secs(30 * 24 * 3600);

/// The plugin's configuration, for all tenants or for one: a tenant's list replaces the common one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimitConfig {
    /// The limits, in any order.
    pub limits: Vec<LimitConfig>,
    /// How many users, addresses, tenants or routes each limit keeps count of at most; 45 bytes each, 78 at worst, and up to 350 in
    /// limits that gateways keep together. When they are more,
    /// those nearest to their full burst are forgotten first. Not per tenant.
    pub max_keys: u32,
    /// What becomes of limits that gateways keep together on `store.redis` while it does not answer.
    pub without_store: Without,
    /// How many gateways there are, by which `share` divides if no more were heard of lately: after a start without Redis, none were.
    pub gateways: u32,
}

/// What becomes of a limit whose other gateways cannot be heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Without {
    /// Each gateway goes on with an equal part of it, by the number of gateways there were.
    #[default]
    Share,
    /// Each gateway goes on with all of it.
    Open,
    /// It counts as used up.
    Closed,
}

/// What a gateway does about a limit while Redis does not answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fallback {
    without: Without,
    gateways: u32,
}

impl Fallback {
    /// The part of `whole` that is this gateway's, if it has any. `heard`: how many gateways there were when Redis was last heard.
    pub(super) fn part(self, whole: &Whole, heard: u32) -> Option<Whole> {
        match self.without {
            Without::Share => Some(whole.part(heard.max(self.gateways))),
            Without::Open => Some(*whole),
            Without::Closed => None,
        }
    }
}

impl RateLimitConfig {
    /// What it says of the time without Redis.
    pub(super) fn fallback(&self) -> Fallback {
        Fallback { without: self.without_store, gateways: self.gateways }
    }
}

impl Default for RateLimitConfig {
    fn default() -> Self {
        let limit = |name: &str, by, count, burst| LimitConfig {
            name: name.into(),
            by,
            rate: Rate { count, per: Duration::from_secs(1) },
            burst: NonZeroU32::new(burst),
            shadow: false,
        };
        Self {
            limits: vec![limit("tenant", By::Tenant, 500, 1000), limit("user", By::User, 50, 200)],
            max_keys: 200_000,
            without_store: Without::Share,
            gateways: 1,
        }
    }
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitConfig {
    /// Names it in responses: 1 to 32 bytes of `a-z`, `0-9`, `_` and `-`.
    pub name: String,
    /// Whose requests are counted together.
    pub by: By,
    /// How many requests it lets through in the long run.
    pub rate: Rate,
    /// How many it lets through at once after a pause; without it, the number of `rate`.
    pub burst: Option<NonZeroU32>,
    /// Counts and refuses nobody, to try a limit out: `shadow_limited` in the metrics says whom it would have refused. Clients
    /// are not told of it.
    #[serde(default)]
    pub shadow: bool,
}

/// What a limit counts by, the narrowest first: the order in which limits are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Each user of each tenant.
    User,
    /// Each address; of an IPv6 address the first 64 bits, which is what one subscriber gets.
    Ip,
    /// Each tenant.
    Tenant,
    /// Each route.
    Route,
}

impl By {
    /// Whether it counts each tenant's requests apart, and none that nobody has authenticated.
    pub(super) fn is_of_tenant(self) -> bool {
        matches!(self, Self::User | Self::Tenant)
    }
}

/// A number of requests per second, minute or hour: `50/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(into = "String")]
#[schemars(with = "String", rename = "rate", extend("pattern" = "^[0-9]+/[smh]$"))]
pub struct Rate {
    /// How many requests, from 1.
    pub count: u32,
    /// In what time.
    pub per: Duration,
}

impl From<Rate> for String {
    fn from(Rate { count, per }: Rate) -> Self {
        let unit = match per.as_secs() {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        format!("{count}/{unit}")
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let parse = |text: &str| {
            let (count, unit) = text.split_once('/')?;
            let seconds = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                _ => return None,
            };
            let digits = count.bytes().all(|b| b.is_ascii_digit());
            let count = count.parse().ok().filter(|n| digits && (1..=MAX_COUNT).contains(n))?;
            Some(Self { count, per: Duration::from_secs(seconds) })
        };
        d.deserialize_str(Reader { expected: "a whole number from 1 to 100000000 and `/s`, `/m` or `/h`, as `50/s`", parse })
    }
}

impl LimitConfig {
    /// The burst in force.
    pub fn burst(&self) -> NonZeroU32 {
        self.burst.or(NonZeroU32::new(self.rate.count)).unwrap_or(NonZeroU32::MIN)
    }

    /// Whether gateways on one Redis keep it together by leases: from 100 requests a second on. Below that a lease would be of a request
    /// or two.
    pub(super) fn is_leased(&self) -> bool {
        self.cell() <= Duration::from_millis(10)
    }

    /// The time in which one request's worth comes back.
    pub fn cell(&self) -> Duration {
        self.rate.per / self.rate.count.max(1)
    }
}

/// Reads and checks one configuration; the narrowest limits first in the result.
pub(super) fn read(scope: &Scope, value: &Value) -> Result<RateLimitConfig, Vec<Problem>> {
    let (mut rest, mut problems, mut limits) = (value.clone(), Vec::new(), None);
    if let Some(Value::Sequence(items)) = rest.get_mut("limits") {
        let (read, found) = parse_items(scope, "limits", &std::mem::take(items));
        problems.extend(check(scope, &read));
        problems.extend(found);
        limits = Some(read);
    }
    let config = parse_config::<RateLimitConfig>(scope, &rest).map_err(|found| problems.extend(found)).ok();
    let numbers = config.iter().flat_map(|config| [("max_keys", config.max_keys, KEYS), ("gateways", config.gateways, GATEWAYS)]);
    for (path, _, range) in numbers.filter(|(_, number, range)| !range.contains(number)) {
        let message = format!("must be {} to {}", range.start(), range.end());
        problems.push(Problem { scope: scope.clone(), path: path.into(), message });
    }
    match config {
        Some(mut config) if problems.is_empty() => {
            if let Some(limits) = limits {
                config.limits = limits.into_iter().flatten().collect();
            }
            config.limits.sort_by_key(|l| l.by);
            Ok(config)
        }
        _ => Err(problems),
    }
}

fn check(scope: &Scope, limits: &[Option<LimitConfig>]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut problem = |path: String, message: String| problems.push(Problem { scope: scope.clone(), path, message });
    if limits.len() > MAX_LIMITS {
        problem("limits".into(), format!("{} limits, at most {MAX_LIMITS} are allowed", limits.len()));
    }
    for (i, limit) in limits.iter().enumerate().filter_map(|(i, limit)| Some((i, limit.as_ref()?))) {
        let plain = limit.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'));
        if !plain || !(1..=MAX_NAME).contains(&limit.name.len()) {
            problem(format!("limits[{i}].name"), format!("a name has 1 to {MAX_NAME} bytes of a-z, 0-9, _ and -"));
        }
        if limits[..i].iter().flatten().any(|other| other.name == limit.name) {
            problem(format!("limits[{i}].name"), "another limit has this name".into());
        }
        if limit.burst().get() > MAX_COUNT {
            problem(format!("limits[{i}].burst"), format!("at most {MAX_COUNT} are allowed"));
        } else if limit.cell() * limit.burst().get() > MAX_REFILL {
            problem(format!("limits[{i}].burst"), "at this rate it would take more than 30 days to come back".into());
        }
    }
    problems
}
