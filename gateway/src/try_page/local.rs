//! Who sits at this machine: the listener, the client and the page that asks all have to be local.

use std::net::{IpAddr, SocketAddr};

use fengda_plugins::api::{Code, Reject};
use http::{HeaderMap, header, request::Parts, uri::Authority};

/// Names of this machine that nobody else can point somewhere. A page of another site whose own name was made to point here
/// (DNS rebinding) comes with that name.
const NAMES: &[&str] = &["localhost", "127.0.0.1", "[::1]"];

/// What proxies add: one on this machine speaks for somebody who may be anywhere.
const FORWARDED: &[&str] = &["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];

/// Refuses everybody else.
///
/// # Errors
/// Which condition does not hold.
pub(super) fn check(listen: SocketAddr, peer: IpAddr, head: &Parts) -> Result<(), Reject> {
    let refused = |why| Err(Reject::new(Code::Forbidden, why));
    if !listen.ip().is_loopback() {
        return refused("demo tokens are made only while `listen` is a loopback address such as 127.0.0.1; use a token of your own");
    }
    if !peer.to_canonical().is_loopback() || FORWARDED.iter().any(|field| head.headers.contains_key(*field)) {
        return refused("demo tokens are made only for clients on the gateway's own machine");
    }
    let Some(host) = host(head).filter(|host| NAMES.iter().any(|name| host.host().eq_ignore_ascii_case(name))) else {
        return refused("demo tokens are made only under the names localhost, 127.0.0.1 and [::1]");
    };
    if !same_origin(&head.headers, &host) {
        return refused("demo tokens are made only for the gateway's own page");
    }
    Ok(())
}

/// The host that the request names, as `:authority` or `Host` or both.
fn host(head: &Parts) -> Option<Authority> {
    let fields = head.headers.get_all(header::HOST).iter().map(|host| Authority::try_from(host.as_bytes()).ok());
    let mut named = head.uri.authority().cloned().map(Some).into_iter().chain(fields);
    let first = named.next()??;
    named.all(|other| other.as_ref() == Some(&first)).then_some(first)
}

/// Whether no page, or only a page of this host, is asking. Browsers say with every POST whose page sends it.
fn same_origin(headers: &HeaderMap, host: &Authority) -> bool {
    headers.get_all(header::ORIGIN).iter().all(|origin| {
        let authority = origin.to_str().ok().and_then(|o| o.strip_prefix("http://").or_else(|| o.strip_prefix("https://")));
        authority.and_then(|a| Authority::try_from(a).ok()).is_some_and(|a| a == *host)
    })
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    /// Why a request is refused, if it is.
    fn refusal(listen: &str, peer: &str, uri: &str, headers: &[(&str, &str)]) -> Option<String> {
        let request = headers.iter().fold(Request::get(uri), |r, (name, value)| r.header(*name, *value));
        let (head, ()) = request.body(()).unwrap().into_parts();
        let refused = check(listen.parse().unwrap(), peer.parse().unwrap(), &head).err()?;
        assert_eq!(refused.code, Code::Forbidden);
        Some(refused.message.into_owned())
    }

    fn here(uri: &str, headers: &[(&str, &str)]) -> Option<String> {
        refusal("127.0.0.1:8080", "127.0.0.1", uri, headers)
    }

    #[test]
    fn whoever_sits_at_this_machine_is_let_in() {
        for (uri, headers) in [
            ("/", &[("host", "localhost:8080")][..]),
            ("/", &[("host", "LocalHost")]),
            ("/", &[("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:8080")]),
            ("/", &[("host", "[::1]:8080"), ("origin", "https://[::1]:8080")]),
            ("http://localhost:1/", &[]),
            ("http://localhost:1/", &[("host", "localhost:1")]),
        ] {
            assert_eq!(here(uri, headers), None, "{uri} {headers:?}");
        }
        assert_eq!(refusal("[::1]:8080", "::1", "/", &[("host", "[::1]:8080")]), None);
        assert_eq!(refusal("127.0.0.1:8080", "::ffff:127.0.0.1", "/", &[("host", "localhost")]), None);
    }

    #[test]
    fn a_listener_or_a_client_beyond_this_machine_is_refused() {
        let host = [("host", "localhost:8080")];
        for listen in ["0.0.0.0:8080", "[::]:8080", "192.168.1.5:8080"] {
            assert!(refusal(listen, "127.0.0.1", "/", &host).unwrap().contains("`listen`"), "{listen}");
        }
        for peer in ["192.168.1.5", "::ffff:10.0.0.1", "fe80::1"] {
            assert!(refusal("127.0.0.1:8080", peer, "/", &host).unwrap().contains("own machine"), "{peer}");
        }
    }

    #[test]
    fn another_name_for_this_machine_is_refused() {
        for (uri, headers) in [
            ("/", &[][..]),
            ("/", &[("host", "evil.example:8080")]),
            ("/", &[("host", "localhost.evil.example")]),
            ("/", &[("host", "127.0.0.2")]),
            ("/", &[("host", "a b")]),
            ("/", &[("host", "localhost"), ("host", "evil.example")]),
            ("http://localhost/", &[("host", "evil.example")]),
            ("http://evil.example/", &[("host", "localhost")]),
        ] {
            assert!(here(uri, headers).unwrap().contains("names"), "{uri} {headers:?}");
        }
    }

    #[test]
    fn a_page_of_another_origin_is_refused() {
        for origin in ["null", "", "http://localhost", "http://localhost:8081", "http://evil.example", "http://localhost:8080.evil.example"]
        {
            let refused = here("/", &[("host", "localhost:8080"), ("origin", origin)]);
            assert!(refused.unwrap().contains("own page"), "{origin}");
        }
        let two = [("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://evil.example")];
        assert!(here("/", &two).is_some());
    }
}
