//! What circuit_breaker can be told: when a circuit opens and closes again, and how calls are retried.

use std::{borrow::Cow, fmt, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Unexpected},
};

use crate::{
    api::{Problem, Scope, parse_config},
    units::{self, Percent},
};

/// Highest count of any kind.
const MAX_COUNT: u32 = 1000;
/// Most retries of a call.
const MAX_RETRIES: u32 = 10;
/// Shortest and longest window of time.
const WINDOW: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);

/// The plugin's configuration, for all tenants or for one.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerConfig {
    /// So many failures in a row open the circuit; 0: failures in a row do not.
    pub failures: u32,
    /// So many per cent of failures among the calls of `window` open it.
    pub failure_rate: Option<Percent>,
    /// So many per cent of slow calls, timed-out ones included, among the calls of `window` open it.
    pub slow_rate: Option<Percent>,
    /// What a call has to take longer than to be slow; until the answer, or its first token if it streams.
    #[serde(with = "units::DurationText")]
    pub slow: Duration,
    /// The calls that the rates are of: the last so many, or those of the last while.
    pub window: Span,
    /// With fewer calls than this in `window` the rates say nothing.
    pub minimum: u32,
    /// How long it stays open the first time, less up to a fifth; each time after that twice as long,
    #[serde(with = "units::DurationText")]
    pub recovery: Duration,
    /// up to this long. After as long in good order it begins with `recovery` again.
    #[serde(with = "units::DurationText")]
    pub max_recovery: Duration,
    /// So many calls are let through to try it out after that, and must all succeed.
    pub probes: u32,
    /// How long a call may take, all attempts together: until the answer, or its first token if it streams.
    #[serde(with = "units::DurationText")]
    pub timeout: Duration,
    /// Most attempts after the first.
    pub retries: u32,
    /// The pause before a retry.
    pub backoff: Backoff,
    /// Retries allowed for the first attempts, in the long run: with 20%, an upstream that always fails gets a fifth more calls.
    pub retry_budget: Percent,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: 5,
            failure_rate: None,
            slow_rate: None,
            slow: Duration::from_secs(1),
            window: Span::Calls(100),
            minimum: 20,
            recovery: Duration::from_secs(30),
            max_recovery: Duration::from_mins(5),
            probes: 3,
            timeout: Duration::from_millis(1500),
            retries: 2,
            backoff: Backoff { base: Duration::from_millis(25), cap: Duration::from_millis(250) },
            retry_budget: Percent(20),
        }
    }
}

impl BreakerConfig {
    /// Whether the calls of a window have to be counted.
    pub(super) fn has_rate(&self) -> bool {
        self.failure_rate.is_some() || self.slow_rate.is_some()
    }
}

/// How far a window reaches back: `100` (calls) or `30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// The last so many calls.
    Calls(u32),
    /// The calls of the last while.
    Time(Duration),
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of calls, as `100`, or a duration with its unit, as `30s`")
            }

            fn visit_u64<E: de::Error>(self, calls: u64) -> Result<Span, E> {
                Ok(Span::Calls(u32::try_from(calls).unwrap_or(u32::MAX)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                units::parse_duration(text).map(Span::Time).map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        d.deserialize_any(Visitor)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Calls(calls) => s.serialize_u32(*calls),
            Self::Time(time) => units::DurationText::serialize(time, s),
        }
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "span".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let calls = json_schema!({ "type": "integer", "minimum": 1, "maximum": MAX_COUNT });
        json_schema!({
            "anyOf": [calls, generator.subschema_for::<units::DurationText>()],
            "description": "A number of calls, as `100`, or a duration, as `30s`.",
        })
    }
}

/// Bounds of the pause before a retry: `25ms..250ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String", rename = "backoff", extend("pattern" = r"^[0-9]+(ms|s|m|h|d)\.\.[0-9]+(ms|s|m|h|d)$"))]
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

impl<'de> Deserialize<'de> for Backoff {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let parse = |text: &str| {
            let (base, cap) = text.split_once("..")?;
            let (base, cap) = (units::parse_duration(base).ok()?, units::parse_duration(cap).ok()?);
            (base <= cap).then_some(Self { base, cap })
        };
        d.deserialize_str(units::Reader { expected: "the first and the longest pause before a retry, as `25ms..250ms`", parse })
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
    let config: BreakerConfig = parse_config(scope, value)?;
    let BreakerConfig { failures, failure_rate, slow_rate, slow, window, minimum, recovery, max_recovery, timeout, .. } = config;
    let (count, some_time) = (&*format!("must be 1 to {MAX_COUNT}"), "must be longer than nothing");
    let counts = 1..=MAX_COUNT;
    let rate = |rate: Option<Percent>| rate.is_none_or(|Percent(rate)| rate > 0);
    let (span_fits, minimum_fits) = match window {
        Span::Calls(calls) => (counts.contains(&calls), minimum <= calls),
        Span::Time(time) => (WINDOW.contains(&time), true),
    };
    let checks = [
        ("failures", failures <= MAX_COUNT, &*format!("must be at most {MAX_COUNT}")),
        ("failures", failures > 0 || config.has_rate(), "nothing opens the circuit: set this, `failure_rate` or `slow_rate`"),
        ("failure_rate", rate(failure_rate), "must be 1% to 100%"),
        ("slow_rate", rate(slow_rate), "must be 1% to 100%"),
        ("slow", slow_rate.is_none() || slow < timeout, "must be shorter than `timeout`, or no call but a timed-out one is slow"),
        ("window", span_fits, &*format!("must be 1 to {MAX_COUNT} calls, or 1s to 1h")),
        ("minimum", counts.contains(&minimum), count),
        ("minimum", !config.has_rate() || !span_fits || minimum_fits, "there are never so many calls in `window`"),
        ("recovery", !recovery.is_zero(), some_time),
        ("max_recovery", max_recovery >= recovery, "`max_recovery` (5m if not set) must not be shorter than `recovery`"),
        ("probes", counts.contains(&config.probes), count),
        ("timeout", !timeout.is_zero(), some_time),
        ("retries", config.retries <= MAX_RETRIES, &format!("must be at most {MAX_RETRIES}")),
    ];
    let problems = checks.into_iter().filter(|(_, holds, _)| !holds);
    let problems: Vec<Problem> =
        problems.map(|(path, _, message)| Problem { scope: scope.clone(), path: path.into(), message: message.into() }).collect();
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}
