//! One request of a client and the connection it came on: reading its body and noticing that it went away.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use fengda_plugins::api::{Code, Reject, RequestCtx};
use http::{StatusCode, header, request::Parts};
use pingora_core::{
    ErrorType,
    apps::{HttpPersistentSettings, ReusedHttpStream},
    protocols::http::ServerSession,
};

use crate::snapshot::Route;

/// What a client may still send after an early answer before its connection is closed: closing at once would make its
/// kernel drop the answer unread.
const LINGER: Duration = Duration::from_secs(1);
/// The same in bytes.
const LINGER_BYTES: usize = 4 << 20;

/// A request being served.
pub struct Downstream {
    pub(crate) session: ServerSession,
    /// What plugins know of it.
    pub ctx: RequestCtx,
    /// The route it matched, once known.
    pub route: Option<Arc<Route>>,
    /// The status sent.
    pub status: Option<StatusCode>,
    /// The code of the error answer, if it was one.
    pub code: Option<Code>,
}

impl Downstream {
    /// A request whose head was read.
    pub fn new(session: ServerSession, ctx: RequestCtx) -> Self {
        Self { session, ctx, route: None, status: None, code: None }
    }

    /// The request's head.
    pub fn head(&self) -> &Parts {
        self.session.req_header()
    }

    /// The chain of its route, once known.
    pub fn chain(&self) -> Option<&crate::chain::Chain> {
        self.route.as_ref().map(|r| &*r.chain)
    }

    /// Runs the chain's `request` phase.
    ///
    /// # Errors
    /// A plugin's rejection.
    pub async fn admit(&mut self, route: &Route, metrics: &crate::telemetry::Metrics) -> Result<(), Reject> {
        let head: &Parts = self.session.req_header();
        route.chain.request(head, &mut self.ctx, metrics).await
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// It is over `limit` bytes, by its own word or in fact; it is cut off or malformed; it comes too slowly.
    pub async fn read_body(&mut self, limit: usize) -> Result<Bytes, Reject> {
        let declared = self.session.get_header(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|n| n > limit as u64) {
            return Err(too_large(limit));
        }
        if self.session.get_header_bytes(header::EXPECT).eq_ignore_ascii_case(b"100-continue") {
            self.session.write_continue_response().await.map_err(|_| cut_off())?;
        }
        let mut first = Bytes::new();
        let mut more = BytesMut::new();
        loop {
            let chunk = self.session.read_request_body().await.map_err(|e| match e.etype() {
                ErrorType::ReadTimedout => Reject::new(Code::RequestTimeout, "the body did not arrive in time; send it without pauses"),
                _ => cut_off(),
            })?;
            let Some(chunk) = chunk else { break };
            if first.len() + more.len() + chunk.len() > limit {
                return Err(too_large(limit));
            }
            if first.is_empty() {
                first = chunk;
            } else {
                more.extend_from_slice(&chunk);
            }
        }
        Ok(if more.is_empty() { first } else { [first, more.freeze()].concat().into() })
    }

    /// Returns when the client has gone, or broken the protocol by sending more than its request; never if it just waits.
    pub async fn gone(&mut self) -> Gone {
        match self.session.read_body_or_idle(true).await {
            Err(e) if *e.etype() == ErrorType::ConnectError => Gone::SentMore,
            _ => Gone::Closed,
        }
    }

    /// Closes the connection after the answer instead of keeping it for another request.
    pub fn close_after(&mut self) {
        self.session.set_keepalive(None);
    }

    /// Ends the request and gives the connection back if another may follow on it.
    pub async fn finish(mut self) -> Option<ReusedHttpStream> {
        if !self.session.is_body_done() {
            let linger = async {
                let mut read = 0;
                while let Ok(Some(chunk)) = self.session.read_request_body().await {
                    read += chunk.len();
                    if read > LINGER_BYTES {
                        self.session.set_keepalive(None);
                        break;
                    }
                }
            };
            if tokio::time::timeout(LINGER, linger).await.is_err() || !self.session.is_body_done() {
                self.session.shutdown().await;
                return None;
            }
        }
        let settings = HttpPersistentSettings::for_session(&self.session);
        let reusable = self.session.finish().await.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(reusable, settings))
    }
}

/// Why nobody may read an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// The connection was closed or reset.
    Closed,
    /// Bytes came after the request: the answer is still owed, but the connection cannot be used again.
    SentMore,
}

fn too_large(limit: usize) -> Reject {
    Reject::new(Code::BodyTooLarge, format!("the body is over {limit} bytes, the most this gateway takes (`limits.body`)"))
}

fn cut_off() -> Reject {
    Reject::new(Code::BadRequest, "the body ended early or its framing is broken")
}
