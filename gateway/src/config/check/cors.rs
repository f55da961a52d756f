//! CORS: which pages of other origins may use a route, in the words that browsers compare.

use http::{HeaderName, HeaderValue, Method, Uri, uri::Scheme};

use super::{DAY, Duration, within};
use crate::config::{Cors, Origins, Target, diagnostic::Report, path::Path, raw};

/// What an origin looks like.
const ORIGIN: &str = "such as `https://shop.example` or `http://localhost:3000`";

pub(super) fn check(raw: &raw::Cors, target: &Target, path: &Path, report: &mut Report) -> Option<Cors> {
    within(report, path.at("max_age"), raw.max_age, Duration::ZERO..=DAY, "0s to 1d");
    let methods = raw.methods.as_ref().map_or_else(|| Some(methods_of(target)), |named| methods(named, &path.at("methods"), report));
    let headers = list(&raw.headers, &path.at("headers"), "the name of a header field, such as `x-lang`", report, |text| {
        HeaderName::from_bytes(text.as_bytes()).ok()
    });
    let origins = origins(raw, path, report);
    Some(Cors { origins: origins?, methods: methods?, headers: headers?, credentials: raw.credentials, max_age: raw.max_age })
}

/// What a target answers.
fn methods_of(target: &Target) -> Vec<Method> {
    match target {
        Target::Flow { .. } => vec![Method::POST],
        Target::History => vec![Method::GET, Method::DELETE],
        Target::Forward { .. } => vec![Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE],
        // It is of this origin.
        Target::TryPage => vec![Method::GET, Method::HEAD],
    }
}

fn methods(named: &[Option<String>], path: &Path, report: &mut Report) -> Option<Vec<Method>> {
    if named.is_empty() {
        report.add(path, "no page could send anything", "remove `methods` to allow those of the route's target".to_owned());
        return None;
    }
    // Browsers compare methods as they are written.
    list(named, path, "a method in capitals, such as `POST`", report, |text| {
        text.bytes().all(|b| b.is_ascii_uppercase()).then(|| text.parse().ok()).flatten()
    })
}

fn origins(raw: &raw::Cors, path: &Path, report: &mut Report) -> Option<Origins> {
    let at = path.at("origins");
    let named: Vec<&str> = raw.origins.iter().map(|origin| origin.as_deref().unwrap_or_default()).collect();
    if named.is_empty() {
        report.add(&at, "`cors` needs `origins`", "such as [\"https://shop.example\"], or [\"*\"] for all".to_owned());
        return None;
    }
    if named.contains(&"*") {
        if named.len() > 1 {
            report.add(&at, "`*` stands for all origins, so it stands alone", "remove `*` or the others".to_owned());
        }
        if raw.credentials {
            let hint = "name the origins: browsers refuse `*` with credentials, and so would any page act for your users";
            report.add(&path.at("credentials"), "`credentials` and `*` do not go together", hint.to_owned());
        }
        return Some(Origins::Any);
    }
    let mut checked = Vec::with_capacity(named.len());
    for (i, text) in named.into_iter().enumerate() {
        match origin(text) {
            Ok(origin) => checked.push(origin),
            Err(hint) => {
                let at = at.at(i);
                let hint = if report.source.hides(&at) { ORIGIN.to_owned() } else { hint };
                report.add(&at, format!("{} is no origin as browsers write it", report.shown(&at, text)), hint);
            }
        }
    }
    Some(Origins::These(checked))
}

/// An origin exactly as browsers send it: scheme and host in small letters, a port only if it is not the scheme's own
/// (<https://html.spec.whatwg.org/#ascii-serialisation-of-an-origin>).
///
/// # Errors
/// What to write instead.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let example = || ORIGIN.to_owned();
    let uri: Uri = text.parse().map_err(|_| example())?;
    let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else { return Err(example()) };
    if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS || authority.as_str().contains(['@', '*']) {
        return Err(example());
    }
    let default = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    let port = authority.port_u16().filter(|port| *port != default).map(|port| format!(":{port}")).unwrap_or_default();
    let written = format!("{scheme}://{}{port}", authority.host().to_ascii_lowercase());
    if written != text {
        return Err(format!("write `{written}`: scheme, host and port, without a path or a slash at its end"));
    }
    HeaderValue::from_str(text).map_err(|_| example())
}

/// Reads each item of a list; `None` if one could not be read.
fn list<T>(named: &[Option<String>], path: &Path, expected: &str, report: &mut Report, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    let mut checked = Vec::with_capacity(named.len());
    for (i, text) in named.iter().enumerate() {
        let text = text.as_deref().unwrap_or_default();
        match read(text) {
            Some(item) => checked.push(item),
            None => {
                let at = path.at(i);
                report.add(&at, format!("{} is not what goes here", report.shown(&at, text)), expected.to_owned());
            }
        }
    }
    (checked.len() == named.len()).then_some(checked)
}
