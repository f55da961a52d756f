//! One request of a client and the connection it came on: reading its body and noticing that it went away.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use fengda_plugins::api::{Code, Reject, RequestCtx};
use http::{StatusCode, Version, header, request::Parts};
use pingora_core::{
    ErrorType,
    apps::{HttpPersistentSettings, ReusedHttpStream},
    protocols::http::ServerSession,
    server::ShutdownWatch,
};

use crate::{
    chain::Chain,
    config::Limits,
    edge::{
        head::{self, BadHead},
        tls,
    },
    flow,
    snapshot::Route,
    telemetry::{Metrics, Timing},
    turnstile::Line,
};

/// What a client may still send after an early answer before its connection is closed: closing at once would make its
/// kernel drop the answer unread.
const LINGER: Duration = Duration::from_secs(1);
/// The same in bytes.
const LINGER_BYTES: usize = 4 << 20;

/// A body is long from so many bytes on: what is read of it beyond them, and what is done with it, waits for its turn.
const LONG_BODY: usize = 64 << 10;
/// And from so many pieces on, however short they are.
const MANY_PIECES: u32 = 64;

/// A client that closes its sending side so soon after its request waits for the answer, as `nc -N` and old clients do; one that
/// closes it later has gone. On HTTP/1.1 the two look alike.
const HALF_CLOSE: Duration = Duration::from_millis(250);

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
    /// Where its time goes.
    pub timing: Timing,
    /// How long a single read or write may take.
    pub(crate) io_timeout: Duration,
    /// How many percent of the thread's time long bodies may take, with all else of the tenant that takes long.
    pub(crate) share: u32,
    /// Pieces of the body that were asked for.
    pieces: u32,
    /// Where the rest of a long body waits for its turn, once it has proven long.
    pub(crate) line: Option<Line>,
    /// A write failed: what the client has of the answer is anybody's guess.
    pub(crate) lost: bool,
    /// Where the request ends, and so where the next one would begin, is not known.
    broken: bool,
    /// Since when it is looked whether the client is still there.
    watched: Option<Instant>,
    /// The client sends nothing any more, and waits.
    half_closed: bool,
    draining: ShutdownWatch,
}

impl Downstream {
    /// A request whose head was read. `draining` turns true when the gateway stops.
    pub fn new(session: ServerSession, ctx: RequestCtx, limits: &Limits, draining: ShutdownWatch) -> Self {
        let io_timeout = limits.read_timeout;
        let timing = Timing::begin();
        Self {
            session,
            ctx,
            route: None,
            status: None,
            code: None,
            timing,
            io_timeout,
            share: flow::Limits::default().share,
            pieces: 0,
            line: None,
            lost: false,
            broken: false,
            watched: None,
            half_closed: false,
            draining,
        }
    }

    /// Whether the client's connection is encrypted.
    pub fn is_secure(&self) -> bool {
        tls::is_secure(self.session.digest())
    }

    /// Checks the head and makes its path plain: everything after this reads that one.
    ///
    /// # Errors
    /// The request cannot be served as it is, and ends its connection.
    pub fn check_head(&mut self, limits: &Limits) -> Result<(), Reject> {
        head::check(&mut self.session, limits).map_err(|BadHead { reject, unframed }| {
            self.broken |= unframed;
            self.close_after();
            reject
        })
    }

    /// The request's head.
    pub fn head(&self) -> &Parts {
        self.session.req_header()
    }

    /// The chain of its route, once known.
    pub fn chain(&self) -> Option<&Chain> {
        self.route.as_ref().map(|r| &*r.chain)
    }

    /// Runs the chain's `request` phase.
    ///
    /// # Errors
    /// A plugin's rejection.
    pub async fn admit(&mut self, route: &Route, metrics: &Metrics) -> Result<(), Reject> {
        let head: &Parts = self.session.req_header();
        route.chain.request(head, &mut self.ctx, metrics).await
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// It is over `limits.body`, by its own word or in fact; it is cut off or malformed; it comes too slowly.
    pub async fn read_body(&mut self, limits: &Limits) -> Result<Bytes, Reject> {
        let declared = self.session.get_header(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|n| n > limits.body as u64) {
            return Err(too_large(limits.body));
        }
        let before = self.timing.elapsed();
        let reading = self.read_whole(declared.and_then(|n| n.try_into().ok()), limits.body);
        let read = tokio::time::timeout(limits.body_deadline, reading).await.unwrap_or(Err(BodyError::TooSlow));
        self.timing.waits().add(self.timing.elapsed() - before);
        read.map_err(|error| {
            self.broken |= matches!(error, BodyError::Broken);
            if !matches!(error, BodyError::TooLarge) {
                self.close_after();
            }
            match error {
                BodyError::TooLarge => too_large(limits.body),
                BodyError::TooSlow => {
                    let message = "the body did not arrive in time; send it without pauses, and not many long ones at a time";
                    Reject::new(Code::RequestTimeout, message)
                }
                BodyError::Broken => Reject::new(Code::BadRequest, "the body ended early or its framing is broken"),
            }
        })
    }

    async fn read_whole(&mut self, declared: Option<usize>, most: usize) -> Result<Bytes, BodyError> {
        // An HTTP/1.0 client would take it for the answer.
        let head = self.head();
        if head.version != Version::HTTP_10 && head.headers.contains_key(header::EXPECT) {
            self.session.write_continue_response().await.map_err(|_| BodyError::Broken)?;
        }
        let Some(first) = self.read_piece().await? else { return Ok(Bytes::new()) };
        if first.len() > most {
            return Err(BodyError::TooLarge);
        }
        let Some(second) = self.read_piece().await? else { return Ok(first) };
        let mut whole = BytesMut::with_capacity(declared.unwrap_or(4 * first.len()));
        whole.extend_from_slice(&first);
        let mut next = Some(second);
        while let Some(piece) = next {
            if whole.len() + piece.len() > most {
                return Err(BodyError::TooLarge);
            }
            whole.extend_from_slice(&piece);
            next = self.read_piece().await?;
        }
        Ok(whole.freeze())
    }

    /// Reads the next piece of the body, of a long one when it is its turn.
    async fn read_piece(&mut self) -> Result<Option<Bytes>, BodyError> {
        let read = match self.line_of_next().cloned() {
            None => self.session.read_request_body().await,
            Some(line) => {
                line.pass().await;
                line.wait_for(self.session.read_request_body()).await
            }
        };
        read.map_err(|e| match e.etype() {
            ErrorType::ReadTimedout => BodyError::TooSlow,
            _ => BodyError::Broken,
        })
    }

    /// Counts the next piece of the body, and says where it waits for its turn: nowhere while the body is short.
    pub(crate) fn line_of_next(&mut self) -> Option<&Line> {
        self.pieces = self.pieces.saturating_add(1);
        if self.line.is_none() && (self.session.body_bytes_read() >= LONG_BODY || self.pieces >= MANY_PIECES) {
            self.line = Some(Line::of(self.ctx.tenant(), self.share));
        }
        self.line.as_ref()
    }

    /// Does what takes the longer the longer the body is that was read: for a long one when it is its turn, and on another thread.
    pub(crate) async fn work_on<R: Send + 'static>(&self, body: Bytes, work: impl FnOnce(&[u8]) -> R + Send + 'static) -> R {
        match &self.line {
            None => work(&body),
            Some(line) => line.aside(move || work(&body)).await,
        }
    }

    /// Returns when the client has gone; never if it waits, or sends its next request ahead. See `HALF_CLOSE`.
    pub async fn gone(&mut self) {
        if self.half_closed {
            return std::future::pending().await;
        }
        let since = *self.watched.get_or_insert_with(Instant::now);
        let error = loop {
            // What it returns before that is not for this request.
            if let Err(error) = self.session.read_body_or_idle(true).await {
                break error;
            }
        };
        let closed = *error.etype() == ErrorType::ConnectionClosed && self.session.as_http1().is_some();
        self.half_closed = closed && since.elapsed() < HALF_CLOSE;
        if self.half_closed {
            // Should it have gone after all, writing to it fails.
            std::future::pending::<()>().await;
        }
    }

    /// Gives up reading the body: where the next request would begin is not known then.
    pub(crate) fn give_up_body(&mut self) {
        self.broken = true;
        self.close_after();
    }

    /// Turns true when the gateway stops.
    pub(crate) fn draining(&self) -> ShutdownWatch {
        self.draining.clone()
    }

    /// Closes the connection after the answer instead of keeping it for another request.
    pub fn close_after(&mut self) {
        self.session.set_keepalive(None);
    }

    /// Says with the answer that the connection ends, if the gateway does.
    pub(crate) fn close_if_draining(&mut self) {
        if *self.draining.borrow() {
            self.close_after();
        }
    }

    /// Ends the request and gives the connection back if another may follow on it.
    ///
    /// It may not where the framing is in doubt: what comes next could be the rest of this request, read as one of its own.
    pub async fn finish(mut self) -> Option<ReusedHttpStream> {
        if self.lost {
            return None;
        }
        if !self.broken && !self.session.is_body_done() {
            let lingered = tokio::time::timeout(LINGER, self.linger()).await;
            self.broken |= !matches!(lingered, Ok(Ok(()))) || !self.session.is_body_done();
        }
        if self.broken {
            // Sends what is left and a FIN; a client that does not take it is left alone.
            let _ = tokio::time::timeout(LINGER, self.session.shutdown()).await;
            return None;
        }
        let mut settings = HttpPersistentSettings::for_session(&self.session);
        settings.set_user_context(Box::new(Reused));
        let reusable = tokio::time::timeout(self.io_timeout, self.session.finish()).await.ok()?.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(reusable, settings))
    }

    /// Reads on after an early answer, so that the client finds it before the connection is closed.
    async fn linger(&mut self) -> Result<(), BodyError> {
        let mut read = 0;
        while let Some(piece) = self.read_piece().await? {
            read += piece.len();
            if read > LINGER_BYTES {
                return Err(BodyError::TooLarge);
            }
        }
        Ok(())
    }
}

/// Marks a connection that has served a request before.
pub(crate) struct Reused;

/// Why a body cannot be had.
enum BodyError {
    TooLarge,
    TooSlow,
    Broken,
}

fn too_large(limit: usize) -> Reject {
    Reject::new(Code::BodyTooLarge, format!("the body is over {limit} bytes, the most this gateway takes (`limits.body`)"))
}
