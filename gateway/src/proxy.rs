//! The public listener's side of Pingora: takes a request off a connection, routes it through its chain to its target.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use fengda_plugins::api::{Code, Reject, RequestCtx, RequestId, Summary, TraceParent};
use http::StatusCode;
use pingora_core::{
    ErrorType,
    apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp},
    protocols::{Stream, http::ServerSession},
    server::ShutdownWatch,
};

use crate::{
    chat,
    config::Limits,
    downstream::Downstream,
    gateway::Gateway,
    history, respond,
    snapshot::{Snapshot, Target},
    telemetry::{Event, logger, series::Observed},
    try_page,
};

/// How long connections without a request are kept when the gateway drains. Clients' requests that crossed the signal are still served.
pub(crate) const LAST_CALL: Duration = Duration::from_millis(100);
/// How long an HTTP/2 connection without a stream is kept.
const H2_IDLE: Duration = Duration::from_secs(60);

/// Takes connections of the public listener and tells HTTP/1.1 from HTTP/2 by their first bytes.
///
/// Pingora would do that too, but waits for the 24 bytes of the HTTP/2 preface: a whole HTTP/1.0 request can be shorter.
pub struct Public {
    http1: Arc<Proxy>,
    http2: Arc<Proxy>,
}

impl Public {
    /// For one listener; all of a gateway's share the gateway.
    pub fn new(gateway: &Arc<Gateway>) -> Self {
        Self { http1: Arc::new(Proxy::new(gateway.clone(), false)), http2: Arc::new(Proxy::new(gateway.clone(), true)) }
    }
}

#[async_trait]
impl ServerApp for Public {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let _open = self.http1.gateway.connections.token();
        let silent = self.http1.gateway.metrics.silent_connection();
        let (keepalive, header_deadline) = {
            let limits = &self.http1.gateway.snapshot.load().config.limits;
            (limits.keepalive, limits.header_deadline)
        };
        // No method of HTTP/1.1 is called PRI (RFC 9113, section 3.4), and no request of it is shorter.
        let mut first = [0; 3];
        let read = tokio::select! {
            biased;
            read = tokio::time::timeout(keepalive, stream.try_peek(&mut first)) => read,
            // A connection that was opened ahead of time is closed when the gateway drains.
            () = last_call(shutdown) => return None,
        };
        read.ok()?.ok()?;
        let http2 = &first == b"PRI";
        drop(silent);
        let _counted = self.http1.gateway.metrics.connection(if http2 { "http2" } else { "http1" });
        if !http2 {
            return self.http1.process_new(stream, shutdown).await;
        }
        // Pingora looks at the whole preface again, and would wait for it for ever.
        tokio::time::timeout(header_deadline, stream.try_peek(&mut [0; 24])).await.ok()?.ok()?;
        self.http2.process_new(stream, shutdown).await
    }
}

/// Returns when a connection without a request is to be closed because the gateway drains: not at once, for a request may be on its way.
async fn last_call(shutdown: &ShutdownWatch) {
    // The sender lives as long as the gateway; without it there is nothing left to wait for.
    let _ = shutdown.clone().wait_for(|s| *s).await;
    tokio::time::sleep(LAST_CALL).await;
}

/// Serves the requests of connections of one protocol.
struct Proxy {
    gateway: Arc<Gateway>,
    options: HttpServerOptions,
}

impl Proxy {
    fn new(gateway: Arc<Gateway>, h2c: bool) -> Self {
        let mut options = HttpServerOptions::default();
        options.h2c = h2c;
        options.h2_idle_timeout = Some(H2_IDLE);
        Self { gateway, options }
    }

    async fn serve(&self, down: &mut Downstream, snapshot: &Arc<Snapshot>) {
        let result = match self.admit(down, snapshot).await {
            Ok(Target::Flow { upstream }) => chat::serve(&self.gateway, snapshot, upstream, down).await,
            Ok(Target::History) => history::serve(&self.gateway.metrics, snapshot, down).await,
            Ok(Target::TryPage) => try_page::serve(&self.gateway, snapshot, down).await,
            Err(reject) => Err(reject),
        };
        if let Err(reject) = result {
            // A client that is gone cannot be told.
            let _ = down.reject(&reject).await;
        }
    }

    async fn admit<'a>(&self, down: &mut Downstream, snapshot: &'a Snapshot) -> Result<&'a Target, Reject> {
        check_head(down, &snapshot.config.limits)?;
        let path = down.head().uri.path();
        let route = snapshot.route(path).ok_or_else(|| {
            Reject::new(Code::NotFound, "no route has this path; the gateway's routes are in its configuration under `routes`")
        })?;
        down.route = Some(route.clone());
        down.ctx.route = route.path.clone();
        down.admit(route, &self.gateway.metrics).await?;
        Ok(&route.target)
    }

    fn context_of(&self, session: &ServerSession) -> RequestCtx {
        let id = RequestId::parse(session.get_header_bytes("x-request-id")).unwrap_or_else(RequestId::random);
        let trace = TraceParent::parse(session.get_header_bytes("traceparent"));
        let peer = session.client_addr().and_then(|a| a.as_inet()).map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |a| a.ip());
        RequestCtx::new(id, trace, self.gateway.no_route.label().clone(), peer)
    }

    /// The `log` phase, metrics and the access log.
    fn note(&self, down: &Downstream, snapshot: &Snapshot) {
        // 499 as nginx has it: the client went away before there was an answer.
        let status = down.status.unwrap_or_else(|| StatusCode::from_u16(499).expect("a valid status number"));
        let summary = Summary { status, duration: down.timing.elapsed() };
        if let Some(chain) = down.chain() {
            chain.log(&down.ctx, &summary);
        }
        let tenant = down.ctx.tenant().map(|t| t.name());
        let observed = Observed {
            status,
            duration: summary.duration,
            own: down.timing.own(),
            received: down.session.body_bytes_read(),
            sent: down.session.body_bytes_sent(),
        };
        down.route.as_ref().map_or(&self.gateway.no_route, |route| &route.metrics).count(tenant.unwrap_or("-"), &observed);
        if snapshot.config.log.access {
            logger::emit(&Event::Request {
                request_id: down.ctx.request_id.as_str(),
                trace_id: down.ctx.trace.as_ref().map(TraceParent::trace_id),
                route: &down.ctx.route,
                tenant,
                method: method_label(down),
                status: status.as_u16(),
                ms: summary.duration,
                code: down.code.map(Code::as_str),
            });
        }
    }
}

/// A method is the client's word: only the known ones are printed.
fn method_label(down: &Downstream) -> &'static str {
    match down.head().method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        _ => "other",
    }
}

fn check_head(down: &mut Downstream, limits: &Limits) -> Result<(), Reject> {
    let headers = &down.head().headers;
    let problem = if headers.len() > limits.headers {
        Some(format!("the request has {} header fields, at most {} are taken (`limits.headers`)", headers.len(), limits.headers))
    } else {
        headers
            .iter()
            .find(|(name, value)| name.as_str().len() + value.len() > limits.header_field)
            .map(|_| format!("a header field is over {} bytes, name and value together (`limits.header_field`)", limits.header_field))
    };
    problem.map_or(Ok(()), |p| Err(Reject::new(Code::HeadersTooLarge, p)))
}

#[async_trait]
impl HttpServerApp for Proxy {
    async fn process_new_http(self: &Arc<Self>, mut session: ServerSession, shutdown: &ShutdownWatch) -> Option<ReusedHttpStream> {
        let gateway = &self.gateway;
        let limits = gateway.snapshot.load().config.limits.clone();
        session.set_read_timeout(Some(limits.read_timeout));
        session.set_pipelining_enabled(true);
        session.set_keepalive(Some(limits.keepalive.as_secs().max(1)));
        // The first bytes of a connection's first request are there already.
        let reused = session.take_connection_user_context().is_some();
        let idle = if reused { limits.keepalive } else { Duration::ZERO };
        let read = tokio::select! {
            biased;
            read = tokio::time::timeout(idle + limits.header_deadline, session.read_request()) => read,
            () = last_call(shutdown) => return None,
        };
        match read {
            Ok(Ok(true)) => {}
            Ok(Err(e)) if *e.etype() == ErrorType::InvalidHTTPHeader => {
                let status = respond::refuse_unparsable(&mut session, &RequestId::random(), limits.read_timeout).await;
                gateway.metrics.requests.with_label_values(&["-", "-", status.as_str()]).inc();
                return None;
            }
            // Gone, or too slow to be waited for.
            _ => return None,
        }
        let _in_flight = gateway.work.token();
        let snapshot = gateway.snapshot.load_full();
        let ctx = self.context_of(&session);
        let mut down = Downstream::new(session, ctx, &limits, shutdown.clone());
        self.serve(&mut down, &snapshot).await;
        self.note(&down, &snapshot);
        down.finish().await
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}
