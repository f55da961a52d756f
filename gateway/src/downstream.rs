//! One request of a client and the connection it came on: what is known of it, noticing that it went away, and its end.

mod body;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fengda_plugins::api::{Code, Reject, RequestCtx};
use http::{StatusCode, request::Parts};
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
    /// By whom the answer was cut off: what the client has of it is anybody's guess.
    pub(crate) cut: Option<Cut>,
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
            cut: None,
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

    /// The status of the answer, as it is counted and logged: 499 if the client did not wait for all of it. Where protocols were
    /// switched there is no saying what all of it is.
    pub(crate) fn outcome(&self) -> StatusCode {
        let whole = |status: &StatusCode| self.cut != Some(Cut::Client) || *status == StatusCode::SWITCHING_PROTOCOLS;
        self.status.filter(whole).unwrap_or_else(|| StatusCode::from_u16(499).expect("a valid status number"))
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
        if self.cut.is_some() {
            return None;
        }
        if !self.broken && !self.session.is_body_done() {
            self.linger().await;
        }
        if self.broken {
            // Sends what is left and a FIN; a client that does not take it is left alone.
            let _ = tokio::time::timeout(body::LINGER, self.session.shutdown()).await;
            return None;
        }
        let mut settings = HttpPersistentSettings::for_session(&self.session);
        settings.set_user_context(Box::new(Reused));
        let reusable = tokio::time::timeout(self.io_timeout, self.session.finish()).await.ok()?.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(reusable, settings))
    }
}

/// Who cut an answer off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The client: it went away, or is not fit to be served on.
    Client,
    /// The upstream that it was passed on from.
    Upstream,
}

/// Marks a connection that has served a request before.
pub(crate) struct Reused;
