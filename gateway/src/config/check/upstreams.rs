//! Upstreams: what they speak and where they are.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::{
    HeaderName, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};

use super::{DAY, HOUR, MIB, MILLISECOND, MINUTE, plain_name, within};
use crate::config::{
    AnswerUpstream, Balance, Endpoint, HttpTimeouts, HttpUpstream, MAX_PEERS, PeersConfig, Upstream, diagnostic::Report, path::Path, raw,
};

const PROTOCOLS: &[&str] = &["demo", "answer", "http"];
/// Reserved, so that a file written for a later version gets a better answer than "unknown".
const LATER: &[&str] = &["openai", "grpc"];
const EXAMPLE: &str = "such as `http://127.0.0.1:9000`";

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

fn one(mut raw: raw::Upstream, path: &Path, report: &mut Report) -> Upstream {
    let at = path.at("protocol");
    match raw.protocol.as_deref() {
        Some("answer") => return answer(raw, path, report),
        Some("http") => return http(&mut raw, path, report),
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
        None => report.add(path, "an upstream needs a `protocol`", "`protocol: demo`, `protocol: answer` or `protocol: http`".to_owned()),
    }
    Upstream::Demo
}

/// Reports keys that mean something, but not to this protocol.
fn not_for(protocol: &str, given: &[(&str, bool)], path: &Path, report: &mut Report) {
    for (key, _) in given.iter().filter(|(_, given)| *given) {
        let at = path.join(&Path::parse(key));
        report.add(&at, format!("`{key}` says nothing to an `{protocol}` upstream"), "remove it".to_owned());
    }
}

fn answer(mut raw: raw::Upstream, path: &Path, report: &mut Report) -> Upstream {
    not_for("answer", &[("timeouts.first_byte", raw.timeouts.first_byte.is_some())], path, report);
    if matches!(raw.balance, raw::Balance::Header(_) | raw::Balance::Cookie(_)) {
        let hint = "`round_robin`, `user` or `session`: what a flow asks has no header of the client's";
        report.add(&path.at("balance"), "an `answer` upstream is not asked with a client's header or cookie", hint.to_owned());
    }
    let timeouts = path.at("timeouts");
    let seconds = Duration::from_secs;
    let first_token_timeout = raw.timeouts.first_token.unwrap_or(Duration::from_millis(1500));
    let idle_timeout = raw.timeouts.idle.unwrap_or(seconds(5));
    let total_timeout = raw.timeouts.total.unwrap_or(MINUTE);
    let max_answer = raw.max_answer.unwrap_or(MIB);
    within(report, timeouts.at("first_token"), first_token_timeout, MILLISECOND..=10 * MINUTE, "1ms to 10m");
    within(report, timeouts.at("idle"), idle_timeout, MILLISECOND..=10 * MINUTE, "1ms to 10m");
    within(report, timeouts.at("total"), total_timeout, MILLISECOND..=HOUR, "1ms to 1h");
    within(report, path.at("max_answer"), max_answer, 1024..=64 * MIB, "1KiB to 64MiB");
    let at_path = raw.path.take().unwrap_or_else(|| "/v1/answer".to_owned());
    if !at_path.starts_with('/') || at_path.parse::<PathAndQuery>().is_err() {
        let at = path.at("path");
        report.add(&at, format!("{} is no path of a URL", report.shown(&at, &at_path)), "such as `/v1/answer`".to_owned());
    }
    let peers = peers("answer", &mut raw, path, report);
    Upstream::Answer(AnswerUpstream { peers, path: at_path, first_token_timeout, idle_timeout, total_timeout, max_answer })
}

fn http(raw: &mut raw::Upstream, path: &Path, report: &mut Report) -> Upstream {
    let given = [
        ("timeouts.first_token", raw.timeouts.first_token.is_some()),
        ("timeouts.total", raw.timeouts.total.is_some()),
        ("path", raw.path.is_some()),
        ("max_answer", raw.max_answer.is_some()),
    ];
    not_for("http", &given, path, report);
    let at = path.at("timeouts");
    let timeouts =
        HttpTimeouts { first_byte: raw.timeouts.first_byte.unwrap_or(Duration::from_secs(30)), idle: raw.timeouts.idle.unwrap_or(MINUTE) };
    within(report, at.at("first_byte"), timeouts.first_byte, MILLISECOND..=HOUR, "1ms to 1h");
    within(report, at.at("idle"), timeouts.idle, MILLISECOND..=DAY, "1ms to 1d");
    Upstream::Http(HttpUpstream { peers: peers("http", raw, path, report), timeouts })
}

fn peers(protocol: &str, raw: &mut raw::Upstream, path: &Path, report: &mut Report) -> PeersConfig {
    within(report, path.at("timeouts").at("connect"), raw.timeouts.connect, MILLISECOND..=MINUTE, "1ms to 1m");
    within(report, path.at("idle_connections"), raw.idle_connections, 0..=4096, "0 to 4096");
    within(report, path.at("eject").at("failures"), raw.eject.failures, 1..=1000, "1 to 1000");
    within(report, path.at("eject").at("for"), raw.eject.time, 100 * MILLISECOND..=HOUR, "100ms to 1h");
    let at = path.at("endpoints");
    match raw.endpoints.len() {
        0 => report.add(
            &at,
            format!("an `{protocol}` upstream needs at least one endpoint"),
            "`endpoints: [\"http://127.0.0.1:9000\"]`".to_owned(),
        ),
        n if n > MAX_PEERS => {
            report.add(&at, format!("{n} endpoints, and at most {MAX_PEERS} are taken"), "put a balancer before them".to_owned());
        }
        _ => {}
    }
    let endpoints = raw.endpoints.iter().enumerate().filter_map(|(i, url)| endpoint(url.as_deref().unwrap_or(""), &at.at(i), report));
    PeersConfig {
        endpoints: endpoints.collect(),
        ca: raw.ca.take().filter(|text| !text.is_empty()).map(|text| authority(&text, &path.at("ca"), report)),
        balance: balance(&raw.balance, &path.at("balance"), report),
        eject: raw.eject,
        connect_timeout: raw.timeouts.connect,
        idle_connections: raw.idle_connections,
    }
}

/// The certificates to trust, at least one.
pub(super) fn authority(pem: &str, path: &Path, report: &mut Report) -> Arc<str> {
    if !CertificateDer::pem_slice_iter(pem.as_bytes()).any(|found| found.is_ok()) {
        report.add(path, "the file holds no certificate", "a certificate in PEM form begins with `-----BEGIN CERTIFICATE-----`".to_owned());
    }
    pem.into()
}

fn balance(raw: &raw::Balance, path: &Path, report: &mut Report) -> Balance {
    match raw {
        raw::Balance::RoundRobin => Balance::RoundRobin,
        raw::Balance::User => Balance::User,
        raw::Balance::Session => Balance::Session,
        raw::Balance::Header(name) => match HeaderName::try_from(name.as_str()) {
            Ok(name) => Balance::Header(name),
            Err(_) => {
                let at = path.at("header");
                report.add(&at, format!("{} is no name of a header field", report.shown(&at, name)), "such as `x-session`".to_owned());
                Balance::RoundRobin
            }
        },
        raw::Balance::Cookie(name) => {
            // A cookie's name is of the same characters as a field's (RFC 6265, section 4.1.1).
            if HeaderName::try_from(name.as_str()).is_err() {
                let at = path.at("cookie");
                report.add(&at, format!("{} is no name of a cookie", report.shown(&at, name)), "such as `sid`".to_owned());
            }
            Balance::Cookie(name.clone())
        }
    }
}

fn endpoint(url: &str, path: &Path, report: &mut Report) -> Option<Endpoint> {
    let uri = url.parse::<Uri>().ok();
    let (Some(scheme), Some(authority)) = (uri.as_ref().and_then(Uri::scheme), uri.as_ref().and_then(Uri::authority)) else {
        let shown = report.shown(path, url);
        report.add(path, format!("{shown} is no URL"), EXAMPLE.to_owned());
        return None;
    };
    let tls = *scheme == Scheme::HTTPS;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let bare = uri.as_ref().and_then(Uri::path_and_query).is_none_or(|p| p == "/");
    let wrong = match () {
        () if !tls && *scheme != Scheme::HTTP => Some("an endpoint begins with `http://` or `https://`"),
        () if authority.as_str().contains('@') => Some("an endpoint holds no user and password"),
        () if !bare => Some("an endpoint is a scheme, host and port, without a path"),
        () if !has_port_or_none(authority) => Some("an endpoint's port is 1 to 65535"),
        () if url.contains('#') => Some("an endpoint is a scheme, host and port, without a fragment"),
        () if tls && ServerName::try_from(host.as_str()).is_err() => Some("no certificate can be for this host"),
        () => None,
    };
    if let Some(wrong) = wrong {
        report.add(path, wrong, EXAMPLE.to_owned());
        return None;
    }
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
    Some(Endpoint { host, port, authority: authority.as_str().to_owned(), tls })
}

/// Whether what follows the host, if anything, is a port that can be connected to. `Authority::port` has none where it is too large.
fn has_port_or_none(authority: &Authority) -> bool {
    let after_host = authority.as_str().rsplit('@').next().and_then(|rest| rest.strip_prefix(authority.host()));
    after_host.is_some_and(|rest| rest.is_empty() || authority.port_u16().is_some_and(|port| port != 0))
}
