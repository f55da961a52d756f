//! What circuit_breaker can be told: when a circuit opens and closes again, and how calls are retried.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::{
    api::{Problem, Scope, parse_config},
    units,
};

/// Highest count of any kind.
const MAX_COUNT: u32 = 1000;
/// Most retries of a call.
const MAX_RETRIES: u32 = 10;

/// The plugin's configuration, for all tenants or for one.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerConfig {
    /// So many failures in a row open the circuit.
    pub failures: u32,
    /// How long it stays open.
    #[serde(with = "units::DurationText")]
    pub recovery: Duration,
    /// So many calls are let through to try it out after that, and must all succeed.
    pub probes: u32,
    /// How long a call may take, all attempts together: until the answer, or its first token if it streams.
    #[serde(with = "units::DurationText")]
    pub timeout: Duration,
    /// Most attempts after the first.
    pub retries: u32,
    /// The pause before a retry.
    pub backoff: Backoff,
    /// Retries allowed for each first attempt, in the long run: with 0.2, an upstream that always fails gets 20 % more calls.
    pub retry_budget: f64,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: 5,
            recovery: Duration::from_secs(30),
            probes: 3,
            timeout: Duration::from_millis(1500),
            retries: 2,
            backoff: Backoff { base: Duration::from_millis(25), cap: Duration::from_millis(250) },
            retry_budget: 0.2,
        }
    }
}

/// Bounds of the pause before a retry: `25ms..250ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(rename = "backoff", extend("pattern" = r"^[0-9]+(ms|s|m|h|d)\.\.[0-9]+(ms|s|m|h|d)$"))]
pub struct Backoff {
    /// Upper bound of the first pause; it doubles with each retry …
    pub base: Duration,
    /// … up to this.
    pub cap: Duration,
}

impl Serialize for Backoff {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{}ms..{}ms", self.base.as_millis(), self.cap.as_millis()))
    }
}

/// A text that is no backoff.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a backoff: write the first and the longest pause, as `25ms..250ms`")]
pub struct BackoffError(String);

impl TryFrom<String> for Backoff {
    type Error = BackoffError;

    fn try_from(text: String) -> Result<Self, BackoffError> {
        let read = || {
            let (base, cap) = text.split_once("..")?;
            let (base, cap) = (units::parse_duration(base).ok()?, units::parse_duration(cap).ok()?);
            (base <= cap).then_some(Self { base, cap })
        };
        read().ok_or_else(|| BackoffError(text.chars().take(32).collect()))
    }
}

impl Backoff {
    /// The pause before retry number `attempt` (from 0): anything from nothing to the bound, so that callers that failed
    /// together do not come back together ("full jitter").
    pub(super) fn pause(&self, attempt: u32) -> Duration {
        let bound = self.base.saturating_mul(2_u32.saturating_pow(attempt)).min(self.cap);
        bound.mul_f64(fastrand::f64())
    }
}

/// Reads and checks one configuration.
pub(super) fn read(scope: &Scope, value: &serde_yaml::Value) -> Result<BreakerConfig, Vec<Problem>> {
    let config: BreakerConfig = parse_config(scope.clone(), value).map_err(|p| vec![p])?;
    let count = format!("must be 1 to {MAX_COUNT}");
    let checks = [
        ("failures", (1..=MAX_COUNT).contains(&config.failures), count.as_str()),
        ("probes", (1..=MAX_COUNT).contains(&config.probes), &count),
        ("recovery", !config.recovery.is_zero(), "must be longer than nothing"),
        ("timeout", !config.timeout.is_zero(), "must be longer than nothing"),
        ("retries", config.retries <= MAX_RETRIES, &format!("must be at most {MAX_RETRIES}")),
        ("retry_budget", (0.0..=1.0).contains(&config.retry_budget), "must be 0 to 1"),
    ];
    let problems = checks.into_iter().filter(|(_, holds, _)| !holds);
    let problems: Vec<Problem> =
        problems.map(|(path, _, message)| Problem { scope: scope.clone(), path: path.into(), message: message.into() }).collect();
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}
