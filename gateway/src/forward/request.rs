//! What the upstream gets of a request's head: the path rewritten, the fields of our connection left out, ours put in.

use std::{borrow::Cow, fmt::Write as _};

use fengda_plugins::api::{Code, Reject, RequestCtx};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version, header, request::Parts, uri::PathAndQuery};

use super::fields::{self, Dashed, has_token, remove_where};
use crate::{
    config::{Balance, Endpoint, Forward},
    downstream::Downstream,
    upstream::{Outgoing, hash},
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const TENANT: HeaderName = HeaderName::from_static("x-fengda-tenant");
const USER: HeaderName = HeaderName::from_static("x-fengda-user");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const SESSION: HeaderName = HeaderName::from_static("x-session-id");

/// What body a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// None, or none to be sent.
    Empty,
    /// So many bytes.
    Known(u64),
    /// Nobody knows before it ends.
    Unknown,
}

/// A request's head, ready to be sent as often as it takes.
pub(super) struct Plan {
    method: Method,
    target: PathAndQuery,
    headers: HeaderMap,
    pub(super) length: Length,
    /// Whether it asks to speak another protocol on this connection.
    pub(super) upgrade: bool,
    /// Whether the client waits for leave to send its body.
    pub(super) expects: bool,
}

impl Plan {
    /// # Errors
    /// It cannot be passed on as it is.
    pub(super) fn of(down: &mut Downstream, rules: &Forward) -> Result<Self, Reject> {
        let empty = down.session.is_body_done();
        let head: &Parts = down.session.req_header();
        let declared = head.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        let length = match declared {
            _ if empty => Length::Empty,
            Some(n) => Length::Known(n),
            None => Length::Unknown,
        };
        let asked = head.headers.get(header::UPGRADE).filter(|_| {
            let possible = head.version == Version::HTTP_11 && has_token(&head.headers, &header::CONNECTION, "upgrade");
            possible && empty && !has_token(&head.headers, &header::UPGRADE, "h2c")
        });
        let upgrade = asked.cloned();
        // An HTTP/1.0 client would take the leave for the answer.
        let expects = head.version != Version::HTTP_10 && !empty && has_token(&head.headers, &header::EXPECT, "100-continue");
        let trailers = has_token(&head.headers, &header::TE, "trailers");
        if !down.session.req_header().raw_path_is_utf8() {
            return Err(Reject::new(Code::BadRequest, "the request's target is not UTF-8; send it percent-encoded"));
        }
        let target = target(head, rules)?;
        let mut headers = head.headers.clone();
        fields::remove_hop_by_hop(&mut headers);
        headers.remove(header::EXPECT);
        if length == Length::Unknown {
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
        let upgrading = upgrade.is_some();
        if let Some(protocol) = upgrade {
            headers.insert(header::UPGRADE, protocol);
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
        if let Some(authority) = head.uri.authority().filter(|_| !headers.contains_key(header::HOST)) {
            headers.insert(header::HOST, HeaderValue::from_str(authority.as_str()).expect("an authority is plain ASCII"));
        }
        let method = head.method.clone();
        let https = down.is_secure();
        forwarded(&mut headers, &down.ctx, if https { "https" } else { "http" }, rules.trust_forwarded);
        unframe(&mut headers);
        say_who(&mut headers, &down.ctx);
        fields::apply(&rules.request, &mut headers);
        if rules.own_host {
            headers.remove(header::HOST);
        }
        Ok(Self { method, target, headers, length, upgrade: upgrading, expects })
    }

    /// Whether sending it twice does no harm (RFC 9110, section 9.2.2) and is possible.
    pub(super) fn repeatable(&self) -> bool {
        self.length == Length::Empty && !self.upgrade && self.method.is_idempotent()
    }

    /// The request for one endpoint.
    pub(super) fn request(&self, endpoint: &Endpoint, body: Outgoing) -> Request<Outgoing> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone().into();
        *request.headers_mut() = self.headers.clone();
        if !self.headers.contains_key(header::HOST) {
            let host = HeaderValue::from_str(&endpoint.authority).expect("an endpoint's authority is plain ASCII");
            request.headers_mut().insert(header::HOST, host);
        }
        request
    }
}

/// The path for the upstream, with the query. It is plain: see [`RequestPath`](crate::edge::path::RequestPath).
fn target(head: &Parts, rules: &Forward) -> Result<PathAndQuery, Reject> {
    let whole = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    if rules.strip.is_empty() && rules.add.is_empty() {
        return whole.parse().map_err(|_| Reject::new(Code::BadRequest, "the request's target is no path of a URL"));
    }
    let rest = whole.strip_prefix(rules.strip.as_str()).unwrap_or(whole);
    let slash = if rest.starts_with('/') || (!rules.add.is_empty() && (rest.is_empty() || rest.starts_with('?'))) { "" } else { "/" };
    let rewritten = [rules.add.as_str(), slash, rest].concat();
    rewritten.parse().map_err(|_| Reject::new(Code::BadRequest, "the request's target is no path of a URL"))
}

/// Says whom the request came from, over what and for which host: added to what is there if that is trusted, else in its place.
fn forwarded(headers: &mut HeaderMap, ctx: &RequestCtx, scheme: &'static str, trust: bool) {
    // A proxy of one's own may let through what its clients spell differently.
    let doubtful = |name: &Dashed<'_>| !trust || !name.is_exact();
    remove_where(headers, |name| doubtful(name) && (name.begins("x-forwarded-") || name.is("forwarded") || name.is("x-real-ip")));
    let mut path = String::with_capacity(40);
    for value in headers.get_all(&FORWARDED_FOR).iter().filter_map(|v| v.to_str().ok()) {
        path.push_str(value);
        path.push_str(", ");
    }
    let _ = write!(path, "{}", ctx.peer.to_canonical());
    headers.insert(FORWARDED_FOR, HeaderValue::try_from(path).expect("fields and addresses are visible ASCII"));
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static(scheme));
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.entry(FORWARDED_HOST).or_insert(host);
    }
}

/// Takes out what an application that reads `_` as `-` could take for the message's framing.
fn unframe(headers: &mut HeaderMap) {
    remove_where(headers, |name| !name.is_exact() && (name.is("content-length") || name.is("transfer-encoding")));
}

/// Puts in what only we can know. Nothing like it comes through from outside.
fn say_who(headers: &mut HeaderMap, ctx: &RequestCtx) {
    remove_where(headers, |name| name.begins("x-fengda-") || name.is("x-request-id") || name.is("traceparent"));
    headers.insert(REQUEST_ID, HeaderValue::from_str(ctx.request_id.as_str()).expect("a request id is plain ASCII"));
    if let Some(trace) = &ctx.trace {
        headers.insert(TRACEPARENT, HeaderValue::from_str(trace.child().as_str()).expect("hex and dashes"));
    }
    if let Some(identity) = ctx.identity() {
        headers.insert(TENANT, HeaderValue::from_str(identity.user.tenant().name()).expect("a tenant's name is plain ASCII"));
        let user = HeaderValue::from_str(&percent_encoded(identity.user.id())).expect("percent-encoding leaves visible ASCII");
        headers.insert(USER, user);
    }
}

/// All but visible ASCII, and `%` itself, as `%XX` (RFC 3986, section 2.1).
fn percent_encoded(text: &str) -> Cow<'_, str> {
    let plain = |b: u8| b.is_ascii_graphic() && b != b'%';
    if text.bytes().all(plain) {
        return text.into();
    }
    text.bytes()
        .fold(String::with_capacity(text.len() * 3), |mut encoded, b| {
            if plain(b) {
                encoded.push(char::from(b));
            } else {
                let _ = write!(encoded, "%{b:02X}");
            }
            encoded
        })
        .into()
}

/// What the choice of an endpoint sticks to. What is missing of a session, a field or a cookie is made up for by the user, and a
/// user who is not known by the client's address.
pub(super) fn key(balance: &Balance, headers: &HeaderMap, ctx: &RequestCtx) -> Option<u64> {
    let user = |more: &[u8]| match ctx.identity() {
        Some(identity) => hash(&[identity.user.tenant().name().as_bytes(), identity.user.id().as_bytes(), more]),
        None => hash(&[ctx.peer.to_canonical().to_string().as_bytes(), more]),
    };
    let field = |name: &HeaderName| headers.get(name).map(HeaderValue::as_bytes);
    match balance {
        Balance::RoundRobin => None,
        Balance::User => Some(user(b"")),
        Balance::Session => Some(field(&SESSION).map_or_else(|| user(b""), user)),
        Balance::Header(name) => Some(field(name).map_or_else(|| user(b""), |value| hash(&[value]))),
        Balance::Cookie(name) => Some(cookie(headers, name).map_or_else(|| user(b""), |value| hash(&[value]))),
    }
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let pairs = headers.get_all(header::COOKIE).into_iter().flat_map(|value| value.as_bytes().split(|b| *b == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(strip: &str, add: &str) -> Forward {
        Forward {
            upstream: "app".into(),
            strip: strip.into(),
            add: add.into(),
            own_host: false,
            body: 0,
            body_deadline: <_>::default(),
            trust_forwarded: false,
            request: <_>::default(),
            response: <_>::default(),
        }
    }

    fn rewritten(path: &str, strip: &str, add: &str) -> Option<String> {
        let head = Request::get(path).body(()).unwrap().into_parts().0;
        target(&head, &rules(strip, add)).ok().map(|t| t.to_string())
    }

    #[test]
    fn paths_are_rewritten_and_queries_kept() {
        for (path, strip, add, expected) in [
            ("/a/b?q=1", "", "", "/a/b?q=1"),
            ("/app/x%20y?q=%2F", "/app", "", "/x%20y?q=%2F"),
            ("/app", "/app", "", "/"),
            ("/app?q", "/app", "", "/?q"),
            ("/app", "/app", "/v2", "/v2"),
            ("/app?q", "/app", "/v2", "/v2?q"),
            ("/app/x", "/app", "/v2", "/v2/x"),
            ("/x", "", "/v2", "/v2/x"),
        ] {
            assert_eq!(rewritten(path, strip, add).as_deref(), Some(expected), "{path} {strip} {add}");
        }
    }

    #[test]
    fn users_are_written_in_plain_ascii() {
        assert_eq!(percent_encoded("u-1@x"), "u-1@x");
        assert_eq!(percent_encoded("用 %\n"), "%E7%94%A8%20%25%0A");
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_static("xsid=no; sid=yes; sid2=no"));
        assert_eq!(cookie(&headers, "sid"), Some(&b"yes"[..]));
        assert_eq!(cookie(&headers, "none"), None);
    }
}
