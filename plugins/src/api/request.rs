//! What is known of one request besides its head.

use std::{fmt, net::IpAddr, sync::Arc};

use super::{Tenant, UserKey, UserLimit};

/// Who a request is from, as a credential proved it.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The user, and through it the tenant.
    pub user: UserKey,
    /// The newest turn the client says it saw (`seq_no` of the token).
    pub seen: Option<u64>,
}

/// The state of one request that plugins share. One request, one tenant: an identity is set once and never changes.
#[derive(Debug)]
pub struct RequestCtx {
    /// Its id: the client's if it sent a plain one, else ours.
    pub request_id: RequestId,
    /// The caller's trace, if it sent one.
    pub trace: Option<TraceParent>,
    /// The configured path of the route it matched: a bounded label.
    pub route: Arc<str>,
    /// The address of the connection's other end.
    pub peer: IpAddr,
    /// Limits on the user's turns, for the store of conversations to keep: see [`BeginTurn::limits`](super::BeginTurn::limits).
    pub turn_limits: Arc<[UserLimit]>,
    identity: Option<Identity>,
}

impl RequestCtx {
    /// A request that nobody has looked at yet.
    pub fn new(request_id: RequestId, trace: Option<TraceParent>, route: Arc<str>, peer: IpAddr) -> Self {
        Self { request_id, trace, route, peer, turn_limits: Arc::default(), identity: None }
    }

    /// Who it is from, once a plugin has proved that.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// The tenant it belongs to, once known.
    pub fn tenant(&self) -> Option<&Tenant> {
        self.identity.as_ref().map(|i| i.user.tenant())
    }

    /// Says who the request is from.
    ///
    /// # Panics
    /// An identity was set before: a chain authenticates once.
    pub fn identify(&mut self, identity: Identity) {
        assert!(self.identity.is_none(), "a request is authenticated once");
        self.identity = Some(identity);
    }
}

/// An id of up to 64 bytes of `A-Z a-z 0-9 - _ .`: safe in a header, a log line and a shell.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    bytes: [u8; 64],
    len: u8,
}

impl RequestId {
    /// 128 random bits in hex.
    pub fn random() -> Self {
        let mut bytes = [0; 64];
        write_hex(&mut bytes[..32], fastrand::u128(..));
        Self { bytes, len: 32 }
    }

    /// A client's own id, if it is plain enough to be passed on.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if value.is_empty() || value.len() > 64 || !value.iter().all(plain) {
            return None;
        }
        let mut bytes = [0; 64];
        bytes[..value.len()].copy_from_slice(value);
        Some(Self { bytes, len: u8::try_from(value.len()).expect("at most 64") })
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).expect("plain ASCII")
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A W3C trace context (<https://www.w3.org/TR/trace-context/>), version 00: `00-<trace>-<span>-<flags>`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceParent([u8; 55]);

impl TraceParent {
    /// Reads a `traceparent` header; anything malformed counts as absent, as the specification asks.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let bytes: [u8; 55] = value.try_into().ok()?;
        let hex = |r: std::ops::Range<usize>| bytes[r].iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let some = |r: std::ops::Range<usize>| bytes[r].iter().any(|b| *b != b'0');
        let dashes = [2, 35, 52].iter().all(|i| bytes[*i] == b'-');
        let ok = &bytes[..2] == b"00" && dashes && hex(3..35) && hex(36..52) && hex(53..55) && some(3..35) && some(36..52);
        ok.then_some(Self(bytes))
    }

    /// The same trace with a new random span id: what goes to an upstream.
    #[must_use]
    pub fn child(&self) -> Self {
        let mut bytes = self.0;
        let mut span = [0; 32];
        write_hex(&mut span, fastrand::u128(1..));
        bytes[36..52].copy_from_slice(&span[16..]);
        Self(bytes)
    }

    /// The header's value.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hex and dashes")
    }

    /// The trace id alone, for logs.
    pub fn trace_id(&self) -> &str {
        &self.as_str()[3..35]
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn write_hex(out: &mut [u8], value: u128) {
    for (i, b) in out.iter_mut().enumerate() {
        *b = b"0123456789abcdef"[usize::try_from((value >> (124 - 4 * i)) & 15).expect("four bits")];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_plain_or_refused() {
        assert_eq!(RequestId::parse(b"abc-1_2.Z").unwrap().as_str(), "abc-1_2.Z");
        for bad in [&b""[..], b"a b", b"a\nb", b"\xff", &[b'x'; 65]] {
            assert!(RequestId::parse(bad).is_none());
        }
        assert_eq!(RequestId::random().as_str().len(), 32);
        assert_ne!(RequestId::random(), RequestId::random());
    }

    #[test]
    fn traceparent_is_strict_and_a_child_keeps_the_trace() {
        let ok = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let t = TraceParent::parse(ok).unwrap();
        let c = t.child();
        assert_eq!(c.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_ne!(c, t);
        assert_eq!(TraceParent::parse(c.as_str().as_bytes()), Some(c));
        for bad in [
            &b"00-00000000000000000000000000000000-00f067aa0ba902b7-01"[..],
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            b"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            b"garbage",
        ] {
            assert_eq!(TraceParent::parse(bad), None);
        }
    }
}
