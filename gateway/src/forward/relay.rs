//! The response on its way to the client, while the rest of the request may still be on its way to the upstream.

use fengda_plugins::api::{Code, Reject};
use http::{HeaderValue, Response, StatusCode, header, response::Parts};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use pingora_core::protocols::http::HttpTask;
use tokio::time::{Instant, sleep_until};

use super::{
    Answer, Forwarding,
    duplex::{Lost, Moved, Want},
    fields, line, reject, tunnel,
    upload::{Stopped, Upload},
};
use crate::{
    downstream::{Cut, Downstream},
    upstream::{Attempt, Caller, ModelError},
};

/// Why a response was not passed on to its end.
enum Broken {
    /// The client is gone, or does not take it, or its body is no good.
    Client,
    /// The upstream broke off.
    Upstream(ModelError),
}

impl From<Lost> for Broken {
    fn from(_: Lost) -> Self {
        Self::Client
    }
}

impl Forwarding<'_> {
    /// Passes a response on. An attempt that is not settled yet is settled by how this goes.
    pub(super) async fn relay(
        &self,
        caller: &Caller,
        answer: Answer<'_>,
        mut attempt: Attempt,
        down: &mut Downstream,
    ) -> Result<(), Reject> {
        let Answer { mut response, connection, mut upload } = answer;
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let unreadable = match () {
            () if switched && !self.plan.upgrade => Some("it switched protocols unasked"),
            () if !fields::is_plainly_framed(response.headers()) => Some("its body has a transfer coding besides `chunked`"),
            () => None,
        };
        if let Some(unreadable) = unreadable {
            let error = ModelError::Unreadable(unreadable);
            caller.note_failure(down.ctx.request_id.as_str(), &error);
            attempt.settle_once(attempt.outcome_of(&error));
            return Err(reject(&error.into()));
        }
        // What may go on for hours has answered with its head.
        if switched || is_event_stream(&response) {
            attempt.settle_once(attempt.answered());
        }
        let upgraded = switched.then(|| hyper::upgrade::on(&mut response));
        let (head, body) = response.into_parts();
        let head = self.head(head, switched, down);
        if down.queue(HttpTask::Header(head, false)).await.is_err() {
            return Ok(());
        }
        if let Some(upgraded) = upgraded {
            tunnel::run(down, upgraded, self.timeouts.idle).await;
            return Ok(());
        }
        match self.body(body, &mut upload, down).await {
            Ok(()) => {
                attempt.settle_once(attempt.answered());
                if upload.is_complete() {
                    connection.keep();
                }
            }
            // What it has of the response must not look like all of it, and what else it sent is no request.
            Err(Broken::Client) => down.cut = Some(Cut::Client),
            Err(Broken::Upstream(error)) => {
                caller.note_failure(down.ctx.request_id.as_str(), &error);
                attempt.settle_once(attempt.outcome_of(&error));
                // All that can still be said to the client is that this is not the end.
                down.code = Some(Code::UpstreamFailed);
                down.cut = Some(Cut::Upstream);
            }
        }
        Ok(())
    }

    fn head(&self, head: Parts, switched: bool, down: &mut Downstream) -> Box<pingora_http::ResponseHeader> {
        let mut headers = head.headers;
        let protocol = headers.get(header::UPGRADE).cloned().filter(|_| switched);
        // It is not the length, or there is none to have (RFC 9112, section 6.3; RFC 9110, section 8.6).
        if switched || head.status == StatusCode::NO_CONTENT || headers.contains_key(header::TRANSFER_ENCODING) {
            headers.remove(header::CONTENT_LENGTH);
        }
        fields::remove_hop_by_hop(&mut headers);
        if let Some(protocol) = protocol {
            headers.insert(header::UPGRADE, protocol);
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
        down.passed_on(head.status, headers, |headers| fields::apply(&self.rules.response, headers))
    }

    /// Each piece is written before the next is read: what is on its way is a few pieces, whatever the body's size.
    async fn body(&self, mut body: Incoming, upload: &mut Upload, down: &mut Downstream) -> Result<(), Broken> {
        let mut moved = Instant::now();
        let mut ended = false;
        loop {
            let writing = down.is_writing();
            if ended && !writing {
                return Ok(());
            }
            let until = upload.in_time(if writing { moved + down.io_timeout } else { moved.max(upload.moved()) + self.timeouts.idle });
            tokio::select! {
                biased;
                side = down.duplex(if ended { Want::Nothing } else { upload.want() }) => match side? {
                    Moved::Written => moved = Instant::now(),
                    Moved::Read(data, last) => match upload.take(data, last, line(down)) {
                        Ok(()) => {}
                        Err(Stopped::Lost(_) | Stopped::TooLarge) => return Err(Broken::Client),
                    },
                },
                () = upload.proceed() => {}
                frame = body.frame(), if !writing && !ended => {
                    moved = Instant::now();
                    let frame = frame.transpose().map_err(|e| Broken::Upstream(ModelError::Broken(e.to_string())))?;
                    let part = match frame.map(|frame| frame.into_data().map_err(|frame| frame.into_trailers())) {
                        Some(Ok(data)) => HttpTask::Body(Some(data), false),
                        Some(Err(Ok(mut trailers))) => {
                            fields::remove_hop_by_hop(&mut trailers);
                            HttpTask::Trailer(Some(Box::new(trailers)))
                        }
                        Some(Err(Err(_))) => continue,
                        None => HttpTask::Body(None, true),
                    };
                    ended = part.is_end();
                    down.queue(part).await?;
                }
                () = sleep_until(until) => {
                    // An upstream that may be waiting for the client's body is not to be blamed.
                    let client_s_turn = writing || upload.want() == Want::Body || upload.is_in_line() || upload.is_late();
                    return Err(if client_s_turn { Broken::Client } else { Broken::Upstream(ModelError::TimedOut) });
                }
            }
        }
    }
}

fn is_event_stream(response: &Response<Incoming>) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    kind.get(..17).is_some_and(|k| k.eq_ignore_ascii_case(b"text/event-stream"))
}
