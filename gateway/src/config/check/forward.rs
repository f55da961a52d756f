//! How a route passes requests on: what it does to the path and the header fields.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, uri::PathAndQuery};

use super::{DAY, HOUR, MILLISECOND, within};
use crate::config::{Forward, HeaderRules, diagnostic::Report, path::Path, raw};

/// Fields that frame a message or belong to one connection (RFC 9110, section 7.6.1): whoever speaks on the connection sets them.
const OURS: &[&str] =
    &["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect"];

/// Largest request body if the route does not say.
const BODY: u64 = 1 << 30;
/// How long it may take if the route does not say: far more than any that moves needs, and not for ever.
const BODY_DEADLINE: Duration = HOUR;

pub(super) fn check(raw: &raw::Route, upstream: Arc<str>, path: &Path, report: &mut Report) -> Forward {
    let body = raw.body.unwrap_or(BODY);
    within(report, path.at("body"), body, 0..=1 << 40, "0B to 1024GiB");
    let body_deadline = raw.body_deadline.unwrap_or(BODY_DEADLINE);
    within(report, path.at("body_deadline"), body_deadline, 100 * MILLISECOND..=7 * DAY, "100ms to 7d");
    let (strip, add) = rewrite(raw, &path.at("rewrite"), report);
    Forward {
        upstream,
        strip,
        add,
        own_host: raw.host == Some(raw::Host::Upstream),
        body,
        body_deadline,
        trust_forwarded: raw.trust_forwarded.unwrap_or(false),
        request: headers(raw.request_headers.as_ref(), &path.at("request_headers"), report),
        response: headers(raw.response_headers.as_ref(), &path.at("response_headers"), report),
    }
}

/// Reports what says nothing on a route that passes nothing on.
pub(super) fn not_here(raw: &raw::Route, path: &Path, report: &mut Report) {
    let given = [
        ("rewrite", raw.rewrite.is_some()),
        ("host", raw.host.is_some()),
        ("body", raw.body.is_some()),
        ("body_deadline", raw.body_deadline.is_some()),
        ("trust_forwarded", raw.trust_forwarded.is_some()),
        ("request_headers", raw.request_headers.is_some()),
        ("response_headers", raw.response_headers.is_some()),
    ];
    for (key, _) in given.iter().filter(|(_, given)| *given) {
        report.add(&path.at(*key), format!("`{key}` is for a route with `upstream`"), "remove it".to_owned());
    }
}

fn rewrite(raw: &raw::Route, path: &Path, report: &mut Report) -> (String, String) {
    let Some(rewrite) = &raw.rewrite else { return <_>::default() };
    let strip = rewrite.strip.trim_end_matches('/').to_owned();
    let own = raw.path.as_deref().unwrap_or_default();
    if !own.strip_prefix(&strip).is_some_and(|rest| strip.is_empty() || rest.is_empty() || rest.starts_with('/')) {
        let at = path.at("strip");
        let hint = format!("the route takes `{own}`, so cut off that or a part of it up to a `/`");
        report.add(&at, format!("{} is not the beginning of the route's path", report.shown(&at, &rewrite.strip)), hint);
    }
    let add = rewrite.add.trim_end_matches('/').to_owned();
    let plain = add.is_empty() || (add.starts_with('/') && !add.contains(['?', '#']) && add.parse::<PathAndQuery>().is_ok());
    if !plain {
        let at = path.at("add");
        report.add(&at, format!("{} is no path of a URL", report.shown(&at, &rewrite.add)), "such as `/v2`".to_owned());
    }
    (strip, add)
}

fn headers(raw: Option<&raw::Headers>, path: &Path, report: &mut Report) -> HeaderRules {
    let mut rules = HeaderRules::default();
    let Some(raw) = raw else { return rules };
    for (name, value) in &raw.set {
        let at = path.at("set").at(name.as_str());
        let Some(name) = field(name, &at, report) else { continue };
        let Ok(mut value) = HeaderValue::from_str(value) else {
            report.add(&at, "the value of a header field holds no line breaks or control characters", None);
            continue;
        };
        // It may be a credential: nobody prints it, and HTTP/2 does not index it.
        value.set_sensitive(true);
        rules.set.push((name, value));
    }
    for (i, name) in raw.remove.iter().enumerate() {
        rules.remove.extend(field(name, &path.at("remove").at(i), report));
    }
    rules
}

fn field(name: &str, path: &Path, report: &mut Report) -> Option<HeaderName> {
    match HeaderName::try_from(name) {
        Ok(name) if OURS.contains(&name.as_str()) => {
            report.add(path, format!("`{name}` belongs to the connection, not to the message"), "the gateway sets it itself".to_owned());
            None
        }
        Ok(name) if name == http::header::HOST => {
            report.add(path, "`host` is not set as a field", "`host: client` (the default) or `host: upstream` on the route".to_owned());
            None
        }
        Ok(name) => Some(name),
        Err(_) => {
            report.add(path, format!("{} is no name of a header field", report.shown(path, name)), "such as `x-api-version`".to_owned());
            None
        }
    }
}
