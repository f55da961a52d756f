//! The error codes clients see, and what a rejection carries.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, StatusCode};

use super::Text;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:ident;)*) => {
        /// The machine-readable reason of an error answer: `error.code` in its JSON. Clients may rely on these words.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// The word in the JSON.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status that goes with it.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// All of them, for documents and tests.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

codes! {
    /// The request is not what the endpoint takes.
    BadRequest = "bad_request", BAD_REQUEST;
    /// No credential, or one that does not hold.
    Unauthorized = "unauthorized", UNAUTHORIZED;
    /// The credential holds, but not for this.
    Forbidden = "forbidden", FORBIDDEN;
    /// No route, or no such thing.
    NotFound = "not_found", NOT_FOUND;
    /// The route does not take this method; `Allow` names those it takes.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED;
    /// The client sent too slowly.
    RequestTimeout = "request_timeout", REQUEST_TIMEOUT;
    /// Another turn of this session is running and the wait for it is over.
    TurnInProgress = "turn_in_progress", CONFLICT;
    /// This `message_id` was used before with another query.
    MessageIdReused = "message_id_reused", CONFLICT;
    /// The body is over `limits.body`, or over its route's `body`.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE;
    /// The body is not JSON by its content type.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE;
    /// The request expects what cannot be met.
    ExpectationFailed = "expectation_failed", EXPECTATION_FAILED;
    /// A limit is used up; `Retry-After` says for how long.
    RateLimited = "rate_limited", TOO_MANY_REQUESTS;
    /// A header field is over `limits.header_field`, or there are more than `limits.headers`.
    HeadersTooLarge = "headers_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE;
    /// A fault of ours.
    Internal = "internal", INTERNAL_SERVER_ERROR;
    /// No connection to the upstream.
    UpstreamUnreachable = "upstream_unreachable", BAD_GATEWAY;
    /// The upstream is not called for a while, because it kept failing; `Retry-After` says for how long.
    UpstreamUnavailable = "upstream_unavailable", SERVICE_UNAVAILABLE;
    /// The upstream failed.
    UpstreamFailed = "upstream_failed", BAD_GATEWAY;
    /// Too many requests are in flight, of all tenants or of this one; `Retry-After` says when to try again.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE;
    /// The stored conversation cannot be read or written now.
    ContextUnavailable = "context_unavailable", SERVICE_UNAVAILABLE;
    /// Not done within the deadline.
    DeadlineExceeded = "deadline_exceeded", GATEWAY_TIMEOUT;
}

/// An answer that ends a request early. `message` goes to the client: plain English, no tenant text, nothing internal.
#[derive(Debug, Clone)]
pub struct Reject {
    /// The reason, which also decides the status.
    pub code: Code,
    /// For the client's developer: what is wrong and what to do.
    pub message: Cow<'static, str>,
    /// Sent along, such as `Retry-After`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The tenant's own words for its customer, for chats that can show no error.
    pub answer: Option<Text>,
}

impl Reject {
    /// A rejection without extra headers.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), headers: Vec::new(), answer: None }
    }

    /// The same with a header added.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The same with something to show to the customer.
    #[must_use]
    pub fn answering(self, answer: Text) -> Self {
        Self { answer: Some(answer), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_snake_case_words() {
        let words: std::collections::HashSet<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(words.len(), Code::ALL.len());
        assert!(words.iter().all(|w| w.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
        assert!(Code::ALL.iter().all(|c| c.status().is_client_error() || c.status().is_server_error()));
    }
}
