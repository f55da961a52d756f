//! Upstreams: what they speak and where they are.

use std::{collections::BTreeMap, sync::Arc};

use http::{
    Uri,
    uri::{PathAndQuery, Scheme},
};

use super::{super::types::AnswerUpstream, HOUR, MIB, MILLISECOND, MINUTE, plain_name, within};
use crate::config::{Endpoint, Upstream, diagnostic::Report, path::Path, raw};

const PROTOCOLS: &[&str] = &["demo", "answer"];
/// Reserved, so that a file written for a later version gets a better answer than "unknown".
const LATER: &[&str] = &["openai", "grpc", "http"];

pub(super) fn check(raw: BTreeMap<String, Option<raw::Upstream>>, report: &mut Report) -> BTreeMap<Arc<str>, Upstream> {
    let mut checked = BTreeMap::new();
    for (name, upstream) in raw {
        let path = Path::parse("upstreams").at(name.as_str());
        if !plain_name(&name) {
            report.add(&path, "the name of an upstream is 1 to 63 of a-z, A-Z, 0-9, `-`, `_`, `.`", None);
        }
        checked.insert(name.into(), one(upstream.unwrap_or_default(), &path, report));
    }
    checked
}

fn one(raw: raw::Upstream, path: &Path, report: &mut Report) -> Upstream {
    let at = path.at("protocol");
    match raw.protocol.as_deref() {
        Some("answer") => return Upstream::Answer(answer(raw, path, report)),
        Some("demo") if !raw.endpoints.is_empty() => {
            report.add(
                &path.at("endpoints"),
                "a `demo` upstream is built in and has no endpoints",
                "remove them, or say `protocol: answer`".to_owned(),
            );
        }
        Some("demo") => {}
        Some(later) if LATER.contains(&later) => {
            report.add(&at, format!("protocol `{later}` is not available yet"), "use `answer`, or `demo` to try things out".to_owned());
        }
        Some(other) => report.unknown(&at, "protocol", other, PROTOCOLS),
        None => report.add(path, "an upstream needs a `protocol`", "`protocol: demo` or `protocol: answer`".to_owned()),
    }
    Upstream::Demo
}

fn answer(raw: raw::Upstream, path: &Path, report: &mut Report) -> AnswerUpstream {
    let timeouts = path.at("timeouts");
    within(report, timeouts.at("connect"), raw.timeouts.connect, MILLISECOND..=MINUTE, "1ms to 1m");
    within(report, timeouts.at("first_token"), raw.timeouts.first_token, MILLISECOND..=10 * MINUTE, "1ms to 10m");
    within(report, timeouts.at("idle"), raw.timeouts.idle, MILLISECOND..=10 * MINUTE, "1ms to 10m");
    within(report, timeouts.at("total"), raw.timeouts.total, MILLISECOND..=HOUR, "1ms to 1h");
    within(report, path.at("idle_connections"), raw.idle_connections, 0..=4096, "0 to 4096");
    within(report, path.at("max_answer"), raw.max_answer, 1024..=64 * MIB, "1KiB to 64MiB");
    if !raw.path.starts_with('/') || raw.path.parse::<PathAndQuery>().is_err() {
        let at = path.at("path");
        report.add(&at, format!("{} is no path of a URL", report.shown(&at, &raw.path)), "such as `/v1/answer`".to_owned());
    }
    let at = path.at("endpoints");
    if raw.endpoints.is_empty() {
        report.add(&at, "an `answer` upstream needs at least one endpoint", "`endpoints: [\"http://127.0.0.1:9000\"]`".to_owned());
    }
    let endpoints = raw.endpoints.iter().enumerate().filter_map(|(i, url)| endpoint(url.as_deref().unwrap_or(""), &at.at(i), report));
    AnswerUpstream {
        endpoints: endpoints.collect(),
        path: raw.path,
        connect_timeout: raw.timeouts.connect,
        first_token_timeout: raw.timeouts.first_token,
        idle_timeout: raw.timeouts.idle,
        total_timeout: raw.timeouts.total,
        idle_connections: raw.idle_connections,
        max_answer: raw.max_answer,
    }
}

fn endpoint(url: &str, path: &Path, report: &mut Report) -> Option<Endpoint> {
    let uri = url.parse::<Uri>().ok();
    let (Some(scheme), Some(authority)) = (uri.as_ref().and_then(Uri::scheme), uri.as_ref().and_then(Uri::authority)) else {
        let shown = report.shown(path, url);
        report.add(path, format!("{shown} is no URL"), "such as `http://127.0.0.1:9000`".to_owned());
        return None;
    };
    if *scheme == Scheme::HTTPS {
        report.add(path, "https to an upstream is not available yet", "use http:// inside a private network".to_owned());
        return None;
    }
    let bare = uri.as_ref().and_then(Uri::path_and_query).is_none_or(|p| p == "/");
    let wrong = match () {
        () if *scheme != Scheme::HTTP => Some("an endpoint begins with `http://`"),
        () if authority.as_str().contains('@') => Some("an endpoint holds no user and password"),
        () if !bare => Some("an endpoint is a scheme, host and port; the path goes into `path`"),
        () if authority.port().is_some() && authority.port_u16().is_none_or(|port| port == 0) => Some("an endpoint's port is 1 to 65535"),
        () => None,
    };
    if let Some(wrong) = wrong {
        report.add(path, wrong, "such as `http://127.0.0.1:9000`".to_owned());
        return None;
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    Some(Endpoint { host, port: authority.port_u16().unwrap_or(80), authority: authority.as_str().to_owned() })
}
