//! What is wrong with a configuration, and where.

use super::*;
use crate::api::{Problem, Scope};

#[test]
fn problems_name_the_value() {
    let bad = [
        ("{failures: 1001}", "failures", "must be at most 1000"),
        ("{failures: 0}", "failures", "nothing opens the circuit: set this, `failure_rate` or `slow_rate`"),
        ("{failure_rate: 0%}", "failure_rate", "must be 1% to 100%"),
        (
            "{failure_rate: 101%}",
            "failure_rate",
            "invalid value: string \"101%\", expected a percentage from `0%` to `100%`, in whole numbers",
        ),
        ("{slow_rate: 0%}", "slow_rate", "must be 1% to 100%"),
        ("{slow_rate: 50%, slow: 1500ms}", "slow", "must be shorter than `timeout`, or no call but a timed-out one is slow"),
        ("{window: 0}", "window", "must be 1 to 1000 calls, or 1s to 1h"),
        ("{window: 999ms}", "window", "must be 1 to 1000 calls, or 1s to 1h"),
        (
            "{window: 1x}",
            "window",
            "invalid value: string \"1x\", expected a number of calls, as `100`, or a duration with its unit, as `30s`",
        ),
        (
            "{window: -1}",
            "window",
            "invalid type: integer `-1`, expected a number of calls, as `100`, or a duration with its unit, as `30s`",
        ),
        ("{minimum: 0}", "minimum", "must be 1 to 1000"),
        ("{failure_rate: 50%, window: 10}", "minimum", "there are never so many calls in `window`"),
        ("{max_recovery: 29s}", "max_recovery", "`max_recovery` (5m if not set) must not be shorter than `recovery`"),
        ("{probes: 1001}", "probes", "must be 1 to 1000"),
        ("{recovery: 0s}", "recovery", "must be longer than nothing"),
        ("{timeout: 0ms}", "timeout", "must be longer than nothing"),
        ("{retries: 11}", "retries", "must be at most 10"),
        (
            "{retry_budget: 1.5%}",
            "retry_budget",
            "invalid value: string \"1.5%\", expected a percentage from `0%` to `100%`, in whole numbers",
        ),
        (
            "{backoff: 2s..1s}",
            "backoff",
            "invalid value: string \"2s..1s\", expected the first and the longest pause before a retry, as `25ms..250ms`",
        ),
    ];
    for (config, path, message) in bad {
        let tenants = [tenant("acme-shop", config, "[]")];
        let built = Place { config: "{}", tenants: &tenants, clock: &Clock::manual(NOW), previous: None }.try_build(&spec());
        let scope = Scope::Tenant(tenants[0].tenant.clone());
        assert_eq!(built.err().unwrap(), [Problem { scope, path: path.into(), message: message.into() }]);
    }
}

#[test]
fn all_problems_are_named_at_once() {
    let tenants = [tenant("acme-shop", "{probes: x, retry: 1}", "[]"), tenant("harbor-bank", "{timeout: 0s, probes: 0}", "[]")];
    let config = "{failures: -1, slow: 5}";
    let built = Place { config, tenants: &tenants, clock: &Clock::manual(NOW), previous: None }.try_build(&spec());
    let found: Vec<_> = built.err().unwrap().into_iter().map(|p| p.path).collect();
    assert_eq!(found, ["failures", "slow", "probes", "retry", "probes", "timeout"]);
}
