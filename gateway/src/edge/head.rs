//! What a request's head must be like before anything routes on it: read by us as every other server reads it, or not at all.

use std::net::Ipv6Addr;

use fengda_plugins::api::{Code, Reject};
use http::{Method, Uri, Version, header, request::Parts, uri::PathAndQuery};
use memchr::memchr_iter;
use pingora_core::protocols::http::ServerSession;

use super::path::RequestPath;
use crate::config::Limits;

/// What is wrong with a head.
pub(crate) struct BadHead {
    /// What the client is told.
    pub(crate) reject: Reject,
    /// Where the request ends is anybody's guess, and so where the next one begins.
    pub(crate) unframed: bool,
}

impl BadHead {
    fn unframed(message: &'static str) -> Self {
        Self { reject: Reject::new(Code::BadRequest, message), unframed: true }
    }
}

impl From<Reject> for BadHead {
    fn from(reject: Reject) -> Self {
        Self { reject, unframed: false }
    }
}

/// Checks a head that was read, and puts its path into the plain form that everything after this reads.
///
/// # Errors
/// What is wrong with it. Pingora has refused some of it before (see `refuse_unparsable`): here is what it lets through.
pub(crate) fn check(session: &mut ServerSession, limits: &Limits) -> Result<(), BadHead> {
    let head: &Parts = session.req_header();
    if let Some(http1) = session.as_http1() {
        framing(head, &http1.get_headers_raw_bytes()).map_err(BadHead::unframed)?;
    }
    size(head, limits)?;
    expectation(head)?;
    if let Some(uri) = plain_target(session)? {
        session.req_header_mut().set_uri(uri);
    }
    Ok(())
}

/// The rules whose breach lets two servers see different requests in the same bytes (RFC 9112, sections 2.2, 3.2, 5 and 6.3).
fn framing(head: &Parts, raw: &[u8]) -> Result<(), &'static str> {
    if memchr_iter(b'\n', raw).any(|at| at == 0 || raw[at - 1] != b'\r') {
        return Err("a line of the request's head ends in a bare LF; lines end in CR LF");
    }
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err("the only Transfer-Encoding that is taken is `chunked`, once");
        }
        // Pingora has taken it out of the parsed head.
        if has_length(raw) {
            return Err("the request has both Content-Length and Transfer-Encoding; send one of them");
        }
    }
    let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).iter();
    if lengths.next().is_some_and(|length| !length.as_bytes().iter().all(u8::is_ascii_digit)) || lengths.next().is_some() {
        return Err("the request has more than one Content-Length; send one, in digits");
    }
    match head.headers.get(header::HOST) {
        None if head.version == Version::HTTP_11 => Err("an HTTP/1.1 request needs a Host field"),
        Some(host) if !is_host_and_port(host.as_bytes()) => Err("the Host field is not a host and port"),
        _ => Ok(()),
    }
}

fn has_length(raw: &[u8]) -> bool {
    const NAME: &[u8] = b"content-length:";
    memchr_iter(b'\n', raw).any(|at| raw[at + 1..].get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)))
}

/// Whether it is a host, maybe with a port (RFC 3986, section 3.2.2), that everybody takes for the same: so not an empty one, and
/// none with a comma, which some split at.
fn is_host_and_port(host: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(host) else { return false };
    let after_host = match text.strip_prefix('[') {
        Some(literal) => {
            let Some((address, rest)) = literal.split_once(']') else { return false };
            address.parse::<Ipv6Addr>().ok().map(|_| rest)
        }
        None => {
            let name = text.bytes().take_while(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%".contains(b)).count();
            (name > 0).then(|| &text[name..])
        }
    };
    let is_port = |port: &str| port.is_empty() || (port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok());
    after_host.is_some_and(|rest| rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
}

fn size(head: &Parts, limits: &Limits) -> Result<(), Reject> {
    let headers = &head.headers;
    let problem = if headers.len() > limits.headers {
        format!("the request has {} header fields, at most {} are taken (`limits.headers`)", headers.len(), limits.headers)
    } else if headers.iter().any(|(name, value)| name.as_str().len() + value.len() > limits.header_field) {
        format!("a header field is over {} bytes, name and value together (`limits.header_field`)", limits.header_field)
    } else {
        return Ok(());
    };
    Err(Reject::new(Code::HeadersTooLarge, problem))
}

/// RFC 9110, section 10.1.1; HTTP/1.0 knows no expectations.
fn expectation(head: &Parts) -> Result<(), Reject> {
    let mut expected = head.headers.get_all(header::EXPECT).iter();
    if head.version == Version::HTTP_10 || expected.all(|e| e.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Ok(());
    }
    Err(Reject::new(Code::ExpectationFailed, "the only expectation that can be met is `Expect: 100-continue`"))
}

/// The request's target as a path in its plain form and the query as it is, if that is not what it is already.
fn plain_target(session: &ServerSession) -> Result<Option<Uri>, Reject> {
    let bad = |message: String| Reject::new(Code::BadRequest, message);
    let request = session.req_header();
    // Any other target, such as `*` or a host, would turn up as the path `/`.
    let absolute = request.uri.authority().is_some() || request.raw_path().starts_with(b"/") || is_http_uri(request.raw_path());
    if !absolute || request.method == Method::CONNECT {
        return Err(bad("the request's target is neither a path nor an http URI".to_owned()));
    }
    if !request.raw_path_is_utf8() {
        return Err(bad("the request's target is not UTF-8; escape its bytes as %XX".to_owned()));
    }
    let path = RequestPath::parse(request.uri.path().as_bytes()).map_err(|e| bad(e.to_string()))?;
    let Some(plain) = path.changed() else { return Ok(None) };
    let target = request.uri.query().map_or_else(|| plain.to_owned(), |query| format!("{plain}?{query}"));
    let target = PathAndQuery::try_from(target).map_err(|_| bad("the request's query cannot be read".to_owned()))?;
    let mut parts = request.uri.clone().into_parts();
    parts.path_and_query = Some(target);
    Uri::from_parts(parts).map(Some).map_err(|_| bad("the request's target cannot be read".to_owned()))
}

fn is_http_uri(target: &[u8]) -> bool {
    [&b"http://"[..], b"https://"].iter().any(|scheme| target.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme)))
}
