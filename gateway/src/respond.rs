//! The only writer of responses that are made here: one place that knows status, headers and the error format.

use std::time::Duration;

use bytes::Bytes;
use fengda_plugins::api::{Code, Reject, RequestId, Text};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;
use serde::Serialize;

use crate::downstream::{Cut, Downstream};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// What customers say is not for anybody's cache.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// How much of a body is written at a time, in bytes: a slow client has its time for each piece, not for the whole.
const PIECE: usize = 64 << 10;

/// The client cannot be written to any more. There is nobody to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unwritable;

/// `{"error":{"code","message","request_id"}}`, and before it `"answer"` where there is something to show to the customer.
#[derive(Serialize)]
struct ErrorBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<&'a str>,
    error: ErrorFields<'a>,
}

impl<'a> ErrorBody<'a> {
    fn of(reject: &'a Reject, request_id: &'a RequestId) -> Self {
        let error = ErrorFields { code: reject.code.as_str(), message: &reject.message, request_id: request_id.as_str() };
        Self { answer: reject.answer.as_ref().map(Text::expose), error }
    }
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    code: &'static str,
    message: &'a str,
    request_id: &'a str,
}

fn error_json(reject: &Reject, request_id: &RequestId) -> Bytes {
    serde_json::to_vec(&ErrorBody::of(reject, request_id)).expect("strings always serialize").into()
}

impl Downstream {
    /// Answers with JSON.
    pub async fn json(&mut self, status: StatusCode, body: &impl Serialize) -> Result<(), Unwritable> {
        let body = serde_json::to_vec(body).expect("answers are plain maps with string keys");
        self.whole(status, &[(header::CONTENT_TYPE, JSON), (header::CACHE_CONTROL, NO_STORE)], body.into()).await
    }

    /// Answers with a page of HTML that may do only what `policy`, a Content-Security-Policy, allows.
    pub async fn page(&mut self, html: &'static str, policy: &'static str) -> Result<(), Unwritable> {
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
            (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy)),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
            (header::CACHE_CONTROL, NO_STORE),
        ];
        self.whole(StatusCode::OK, &headers, Bytes::from_static(html.as_bytes())).await
    }

    /// Answers without a body.
    pub async fn no_content(&mut self, headers: &[(HeaderName, HeaderValue)]) -> Result<(), Unwritable> {
        self.whole(StatusCode::NO_CONTENT, headers, Bytes::new()).await
    }

    /// Answers with an error in the one format.
    pub async fn reject(&mut self, reject: &Reject) -> Result<(), Unwritable> {
        self.code = Some(reject.code);
        let body = error_json(reject, &self.ctx.request_id);
        let mut headers = reject.headers.clone();
        headers.push((header::CONTENT_TYPE, JSON));
        self.whole(reject.code.status(), &headers, body).await
    }

    async fn whole(&mut self, status: StatusCode, headers: &[(HeaderName, HeaderValue)], body: Bytes) -> Result<(), Unwritable> {
        let mut head = self.head_of(status, headers);
        self.timing.answer_begins();
        if status != StatusCode::NO_CONTENT {
            head.insert_header(header::CONTENT_LENGTH, HeaderValue::from(body.len())).map_err(|_| Unwritable)?;
        }
        // A short rest of the request is read after the answer, so that the connection can be used again.
        self.session.set_close_on_response_before_downstream_finish(false);
        self.write_head(head).await?;
        // HEAD is answered like GET, without the body.
        let body = if self.head().method == Method::HEAD { Bytes::new() } else { body };
        self.write(body, true).await
    }

    async fn write_head(&mut self, head: ResponseHeader) -> Result<(), Unwritable> {
        let written = tokio::time::timeout(self.io_timeout, self.session.write_response_header(Box::new(head))).await;
        self.note(&written)
    }

    async fn write(&mut self, mut body: Bytes, end: bool) -> Result<(), Unwritable> {
        while body.len() > PIECE {
            self.write_piece(body.split_to(PIECE), false).await?;
        }
        self.write_piece(body, end).await
    }

    async fn write_piece(&mut self, body: Bytes, end: bool) -> Result<(), Unwritable> {
        let written = tokio::time::timeout(self.io_timeout, self.session.write_response_body(body, end)).await;
        self.note(&written)
    }

    /// Takes note that the client does not get the rest of its answer, by its own doing.
    pub(crate) fn give_up(&mut self) -> Unwritable {
        self.cut.get_or_insert(Cut::Client);
        Unwritable
    }

    fn note<E>(&mut self, written: &Result<pingora_core::Result<()>, E>) -> Result<(), Unwritable> {
        match written {
            Ok(Ok(())) if self.cut.is_none() => Ok(()),
            _ => Err(self.give_up()),
        }
    }

    /// The response's head, with what the chain's plugins add.
    fn head_of(&mut self, status: StatusCode, headers: &[(HeaderName, HeaderValue)]) -> ResponseHeader {
        self.status = Some(status);
        self.close_if_draining();
        let mut all = HeaderMap::with_capacity(headers.len() + 8);
        all.insert(REQUEST_ID, HeaderValue::from_str(self.ctx.request_id.as_str()).expect("a request id is plain ASCII"));
        all.extend(headers.iter().cloned());
        if let Some(route) = &self.route {
            route.chain.response(&self.ctx, status, &mut all);
            if let Some(cors) = &route.cors {
                cors.mark(self.session.req_header(), &mut all);
            }
        }
        head_with(status, &all)
    }

    /// The head of an upstream's response: its own fields, what the chain's plugins add, then `change`; and its framing.
    pub(crate) fn passed_on(
        &mut self,
        status: StatusCode,
        mut headers: HeaderMap,
        change: impl FnOnce(&mut HeaderMap),
    ) -> Box<ResponseHeader> {
        self.timing.answer_begins();
        self.status = Some(status);
        self.close_if_draining();
        headers.insert(REQUEST_ID, HeaderValue::from_str(self.ctx.request_id.as_str()).expect("a request id is plain ASCII"));
        if let Some(route) = &self.route {
            route.chain.response(&self.ctx, status, &mut headers);
            if let Some(cors) = &route.cors {
                cors.mark(self.session.req_header(), &mut headers);
            }
        }
        change(&mut headers);
        let bodyless = self.head().method == Method::HEAD
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::SWITCHING_PROTOCOLS);
        if !bodyless
            && !headers.contains_key(header::CONTENT_LENGTH)
            && let Some(coding) = self.open_end()
        {
            headers.insert(header::TRANSFER_ENCODING, coding);
        }
        Box::new(head_with(status, &headers))
    }

    /// How a body ends whose length is not known: in chunks, or for an HTTP/1.0 client, which knows none, with its connection.
    fn open_end(&mut self) -> Option<HeaderValue> {
        match self.head().version {
            Version::HTTP_11 => return Some(HeaderValue::from_static("chunked")),
            Version::HTTP_10 => self.close_after(),
            _ => {}
        }
        None
    }

    /// Begins a stream of server-sent events.
    pub async fn begin_events(&mut self) -> Result<(), Unwritable> {
        let mut head = self.head_of(
            StatusCode::OK,
            &[
                (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
                (header::CACHE_CONTROL, NO_STORE),
                // Asks proxies such as nginx not to collect the events.
                (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
            ],
        );
        if let Some(coding) = self.open_end() {
            head.insert_header(header::TRANSFER_ENCODING, coding).expect("a constant is a valid value");
        }
        self.write_head(head).await
    }

    /// Sends a piece of the answer: `event: delta`, `{"text"}`.
    pub async fn delta(&mut self, text: &Text) -> Result<(), Unwritable> {
        #[derive(Serialize)]
        struct Delta<'a> {
            text: &'a str,
        }
        self.event("delta", &Delta { text: text.expose() }).await
    }

    /// Sends one event.
    pub async fn event(&mut self, name: &str, data: &impl Serialize) -> Result<(), Unwritable> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\ndata: ");
        serde_json::to_writer(&mut out, data).expect("events are plain maps with string keys, and a Vec takes all bytes");
        out.extend_from_slice(b"\n\n");
        self.timing.answer_begins();
        self.write(out.into(), false).await
    }

    /// Sends an error as the last event of a stream.
    pub async fn error_event(&mut self, reject: &Reject) -> Result<(), Unwritable> {
        self.code = Some(reject.code);
        let request_id = self.ctx.request_id;
        self.event("error", &ErrorBody::of(reject, &request_id)).await
    }

    /// Sends a comment, so that nobody on the way takes the stream for dead.
    pub async fn heartbeat(&mut self) -> Result<(), Unwritable> {
        self.write(Bytes::from_static(b": still here\n\n"), false).await
    }

    /// Ends a stream.
    pub async fn end_events(&mut self) -> Result<(), Unwritable> {
        self.write(Bytes::new(), true).await
    }
}

fn head_with(status: StatusCode, headers: &HeaderMap) -> ResponseHeader {
    let mut head = ResponseHeader::build_no_case(status, Some(headers.len() + 4)).expect("a StatusCode is a valid status");
    for (name, value) in headers {
        head.append_header(name.clone(), value.clone()).expect("names and values are valid by their types");
    }
    head
}

/// Answers what Pingora did not take for a request; the connection is closed after it. Returns the status.
pub async fn refuse_unparsable(
    session: &mut ServerSession,
    error: &pingora_core::Error,
    request_id: &RequestId,
    write_timeout: Duration,
) -> StatusCode {
    let reject = if is_too_large(error) {
        Reject::new(Code::HeadersTooLarge, "the request's head is over 256 fields or 1 MiB")
    } else {
        Reject::new(Code::BadRequest, "this is no HTTP request that can be read: its form, its Host or its Content-Length is wrong")
    };
    let body = error_json(&reject, request_id);
    let status = reject.code.status();
    let mut head = ResponseHeader::build(status, Some(5)).expect("a StatusCode is a valid status");
    let id = HeaderValue::from_str(request_id.as_str()).expect("a request id is plain ASCII");
    for (name, value) in [(REQUEST_ID, id), (header::CONTENT_TYPE, JSON), (header::CONTENT_LENGTH, HeaderValue::from(body.len()))] {
        head.insert_header(name, value).expect("constants, ids and numbers are valid values");
    }
    session.set_keepalive(None);
    // The client may be gone; then there is nobody to tell.
    let _ = tokio::time::timeout(write_timeout, session.write_error_response(head, body)).await;
    status
}

/// Whether a head was refused only for its size. Neither Pingora nor its parser has a type for that.
fn is_too_large(error: &pingora_core::Error) -> bool {
    let larger = error.context.as_ref().is_some_and(|context| context.as_str().starts_with("Request header larger"));
    larger || error.cause.as_ref().is_some_and(|cause| cause.to_string() == "too many headers")
}

/// Answers a client of the admin listener.
pub async fn plain(session: &mut ServerSession, status: StatusCode, content_type: &'static str, body: Bytes) -> Result<(), Unwritable> {
    let mut head = ResponseHeader::build(status, Some(4)).expect("a StatusCode is a valid status");
    for (name, value) in
        [(header::CONTENT_TYPE, HeaderValue::from_static(content_type)), (header::CONTENT_LENGTH, HeaderValue::from(body.len()))]
    {
        head.insert_header(name, value).expect("constants and numbers are valid values");
    }
    session.write_response_header(Box::new(head)).await.map_err(|_| Unwritable)?;
    session.write_response_body(body, true).await.map_err(|_| Unwritable)
}
