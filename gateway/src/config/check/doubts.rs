//! What works, but most likely is not what was meant: said by `fengda check` and in the log, never a reason to refuse a file.

use fengda_plugins::circuit_breaker::BreakerConfig;

use crate::config::{Backend, Config, Forward, Route, Target, Upstream, diagnostic::Report, path::Path};

pub(super) fn raise<'a>(config: &Config, plugins: impl Iterator<Item = &'a String>, report: &mut Report) {
    if config.admin.is_some_and(|admin| !admin.ip().is_loopback()) {
        let hint = "whoever reaches it can read metrics and reload; let only operators in".to_owned();
        report.warn(&Path::parse("admin"), "`admin` is open to other machines", hint);
    }
    if config.keeps_conversations() || !config.tenants.is_empty() {
        data(config, report);
    }
    if config.limits.query > config.limits.body {
        let hint = "a message is in a body, so `limits.body` counts first".to_owned();
        report.warn(&Path::parse("limits.query"), "`limits.query` is more than `limits.body`", hint);
    }
    if config.shutdown_grace < config.turn_deadline {
        let hint = "turns in flight may be cut off at a stop".to_owned();
        report.warn(&Path::parse("shutdown.grace"), "`shutdown.grace` is shorter than `turn.deadline`", hint);
    }
    if let Backend::Redis(redis) = &config.store.backend
        && redis.link.timeout >= config.turn_deadline
    {
        let hint = "a turn may end before it is known that Redis does not answer, and it is not kept then".to_owned();
        report.warn(&Path::parse("store.redis.timeout"), "`store.redis.timeout` is not shorter than `turn.deadline`", hint);
    }
    breaker(config, report);
    let in_a_chain = |name: &str| config.routes.iter().flat_map(|route| &route.chain).any(|entry| entry.plugin == name);
    for name in plugins.filter(|name| !in_a_chain(name)) {
        let hint = format!("add `{name}` to the chain of a route, or remove this");
        report.warn(&Path::parse("plugins").at(name.as_str()), format!("`{name}` is in no route's chain"), hint);
    }
}

/// Whether this user may write to the data directory, or to the one that it will be made in.
fn data(config: &Config, report: &mut Report) {
    use rustix::fs::{Access, access};
    let there = config.data.ancestors().map(|path| if path.as_os_str().is_empty() { ".".as_ref() } else { path });
    if there.into_iter().find(|path| path.exists()).is_some_and(|path| access(path, Access::WRITE_OK).is_err()) {
        let hint = "the gateway keeps conversations and logs there; run it as a user that may, or name another".to_owned();
        report.warn(&Path::parse("data"), "`data` cannot be written by this user", hint);
    }
}

/// A turn that ends before its call of the model may never sees the breaker's timeout, nor a retry; and a breaker that gives up
/// before the application may have begun to answer never sees the end of that time.
fn breaker(config: &Config, report: &mut Report) {
    let named = |route: &Route| {
        let entry = route.chain.iter().find(|entry| entry.plugin == "circuit_breaker")?;
        serde_yaml::from_value::<BreakerConfig>(entry.config.clone()).ok()
    };
    let mut short_turns = false;
    for (route, breaker) in config.routes.iter().filter_map(|route| Some((route, named(route)?))) {
        match &route.target {
            Target::Flow { .. } => short_turns |= breaker.timeout > config.turn_deadline,
            Target::Forward(forward) => impatient(config, route, forward, &breaker, report),
            _ => {}
        }
    }
    if short_turns {
        let hint = "slow calls are cut off by the turn, and count for nothing: make the deadline the longer one".to_owned();
        report.warn(&Path::parse("turn.deadline"), "`turn.deadline` is shorter than the `timeout` of `circuit_breaker`", hint);
    }
}

fn impatient(config: &Config, route: &Route, forward: &Forward, breaker: &BreakerConfig, report: &mut Report) {
    let Some(Upstream::Http(http)) = config.upstreams.get(&forward.upstream) else { return };
    if breaker.timeout < http.timeouts.first_byte {
        let at = Path::parse("upstreams").at(&*forward.upstream).at("timeouts").at("first_byte");
        let message = format!("`first_byte` is longer than the `timeout` of `circuit_breaker` on route `{}`", route.path);
        let hint = "a response that begins after `timeout` is a 504 and a failure: `circuit_breaker: { timeout: … }` in the route's chain";
        report.warn(&at, message, hint.to_owned());
    }
}
