//! Header fields on their way through: what belongs to one connection stays on it, what only we may say is taken out.

use http::{HeaderMap, HeaderName, header};

use crate::config::HeaderRules;

/// Fields of one connection (RFC 9110, section 7.6.1), and the credentials meant for a proxy such as us (section 11.7.2).
static HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Takes out what belongs to the connection it came on: the known fields and those that `Connection` names.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        // Nobody may make us forget whom a message is for or where it ends.
        .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Whether a body is as it was made once its chunks are put together: no other coding was put around it for the connection.
pub(super) fn is_plainly_framed(headers: &HeaderMap) -> bool {
    tokens(headers, &header::TRANSFER_ENCODING).all(|coding| coding.eq_ignore_ascii_case(b"chunked"))
}

/// Whether a field's list has this word.
pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(word.as_bytes()))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).into_iter().flat_map(|value| value.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii)
}

/// Takes out the fields whose name, with `-` for each `_`, is unwanted: to many applications the two are the same.
pub(super) fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&Dashed<'_>) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(&Dashed(name.as_str()))).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// The name of a field, read as if each `_` in it were a `-`. Names have no capitals here.
pub(super) struct Dashed<'a>(&'a str);

impl Dashed<'_> {
    fn bytes(&self) -> impl Iterator<Item = u8> {
        self.0.bytes().map(|b| if b == b'_' { b'-' } else { b })
    }

    /// Whether it has no `_`.
    pub(super) fn is_exact(&self) -> bool {
        !self.0.contains('_')
    }

    /// Whether it is this name.
    pub(super) fn is(&self, name: &str) -> bool {
        self.0.len() == name.len() && self.bytes().eq(name.bytes())
    }

    /// Whether it begins like this.
    pub(super) fn begins(&self, with: &str) -> bool {
        self.0.len() >= with.len() && self.bytes().take(with.len()).eq(with.bytes())
    }
}

/// Makes the operator's changes.
pub(super) fn apply(rules: &HeaderRules, headers: &mut HeaderMap) {
    if rules.set.is_empty() && rules.remove.is_empty() {
        return;
    }
    let changed = |name: &Dashed<'_>| {
        rules.remove.iter().chain(rules.set.iter().map(|(name, _)| name)).any(|rule| {
            // A rule may itself be written with `_`.
            Dashed(rule.as_str()).bytes().eq(name.bytes())
        })
    };
    remove_where(headers, changed);
    for (name, value) in &rules.set {
        headers.insert(name.clone(), value.clone());
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_belongs_to_the_connection_stays_on_it() {
        let mut headers = map(&[
            ("connection", "close, X-Once"),
            ("connection", "host,content-length , x-twice"),
            ("host", "a"),
            ("content-length", "3"),
            ("x-once", "1"),
            ("x-twice", "2"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "Basic x"),
            ("accept", "*/*"),
        ]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(names(&headers), ["accept", "content-length", "host"]);
    }

    #[test]
    fn a_rule_takes_every_spelling_of_its_name() {
        let mut headers = map(&[("x-role", "a"), ("x_role", "b"), ("x-other", "c"), ("x-gone", "d"), ("x_gone", "e")]);
        let set = vec![(HeaderName::from_static("x_role"), HeaderValue::from_static("set"))];
        apply(&HeaderRules { set, remove: vec![HeaderName::from_static("x-gone")] }, &mut headers);
        assert_eq!((names(&headers), headers["x_role"].as_bytes()), (vec!["x-other", "x_role"], &b"set"[..]));
    }
}
