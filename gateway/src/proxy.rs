//! A request of the public listener, from its head to the log: off its connection, through its route's chain to its target.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use fengda_plugins::api::{Code, Reject, RequestCtx, RequestId, Summary, TraceParent};
use http::{HeaderValue, header::RETRY_AFTER};
use pingora_core::{
    ErrorType,
    apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream},
    protocols::http::{
        ServerSession,
        v2::server::{H2Options, default_h2_options},
    },
    server::ShutdownWatch,
};

use crate::{
    admission::{Entered, Place, Shed},
    chat,
    config::Limits,
    downstream::Downstream,
    edge::{cors::Cors, last_call, path::other_readings},
    forward,
    gateway::Gateway,
    history, respond,
    snapshot::{Snapshot, Target, TenantRuntime},
    telemetry::{Event, logger, series::Observed},
    try_page,
};

/// Serves the requests of one connection.
pub(crate) struct Proxy {
    gateway: Arc<Gateway>,
    options: HttpServerOptions,
    /// Most streams of HTTP/2 at a time.
    streams: u32,
}

impl Proxy {
    /// For a connection that speaks HTTP/2 or HTTP/1.1.
    pub(crate) fn new(gateway: Arc<Gateway>, limits: &Limits, http2: bool) -> Self {
        let mut options = HttpServerOptions::default();
        options.h2c = http2;
        options.h2_idle_timeout = Some(limits.h2_idle);
        Self { gateway, options, streams: limits.streams }
    }

    async fn serve(&self, down: &mut Downstream, snapshot: &Arc<Snapshot>) {
        if let Err(reject) = self.answer(down, snapshot).await {
            // A client that is gone cannot be told.
            let _ = down.reject(&reject).await;
        }
    }

    async fn answer(&self, down: &mut Downstream, snapshot: &Arc<Snapshot>) -> Result<(), Reject> {
        down.check_head(&snapshot.config.limits)?;
        let route = snapshot.route(down.head().uri.path()).ok_or_else(|| {
            Reject::new(Code::NotFound, "no route has this path; the gateway's routes are in its configuration under `routes`")
        })?;
        let leads_here = |path: &String| snapshot.route(path).is_some_and(|same| Arc::ptr_eq(same, route));
        if !other_readings(down.head().uri.path()).iter().all(leads_here) {
            let message = "the path leads to another route for a server that unescapes its slashes or leaves out what follows a `;`";
            return Err(Reject::new(Code::BadRequest, message));
        }
        down.route = Some(route.clone());
        down.ctx.route = route.path.clone();
        // Browsers ask without credentials, so no plugin is asked.
        if let Some(cors) = route.cors.as_ref().filter(|_| Cors::is_preflight(down.head())) {
            let leave = cors.leave(down.head());
            let _ = down.no_content(leave).await;
            return Ok(());
        }
        let bound = snapshot.config.limits.in_flight;
        let entered = self.gateway.admission.enter(bound).map_err(|shed| self.overloaded(shed, None))?;
        down.admit(route, &self.gateway.metrics).await?;
        // Held until the answer is out.
        let place = self.place(entered, down, snapshot, &route.target)?;
        match &route.target {
            Target::Flow { upstream } => chat::serve(&self.gateway, snapshot, upstream, &place, down).await,
            Target::History => history::serve(&self.gateway.metrics, snapshot, down).await,
            Target::TryPage => try_page::serve(&self.gateway, snapshot, down).await,
            Target::Forward { upstream, rules } => forward::serve(&self.gateway, upstream, rules, down).await,
        }
    }

    /// Takes a place of the tenant that the chain found the request to be from.
    fn place(&self, entered: Entered, down: &mut Downstream, snapshot: &Snapshot, target: &Target) -> Result<Arc<Place>, Reject> {
        let bound = snapshot.config.limits.in_flight;
        let tenant = down.ctx.tenant().map(|tenant| snapshot.tenant(tenant)).transpose()?;
        if let Some(tenant) = tenant {
            down.share = tenant.limits.share;
        }
        let (share, own) = tenant.map_or((&self.gateway.strangers, usize::MAX), |tenant| (&tenant.share, tenant.in_flight));
        entered.take(share, own, bound).map(Arc::new).map_err(|shed| {
            let reject = self.overloaded(shed, tenant.map(|t| &**t));
            match (target, tenant) {
                (Target::Flow { .. }, Some(tenant)) => reject.answering(tenant.busy.clone()),
                _ => reject,
            }
        })
    }

    #[cold]
    fn overloaded(&self, shed: Shed, tenant: Option<&TenantRuntime>) -> Reject {
        let tenant = tenant.map_or("-", |t| t.tenant.name());
        self.gateway.metrics.shed.with_label_values(&[tenant, shed.as_str()]).inc();
        Reject::new(Code::Overloaded, "too many requests are being answered; send this one again after `Retry-After` seconds")
            .with(RETRY_AFTER, HeaderValue::from_static("1"))
    }

    fn context_of(&self, session: &ServerSession) -> RequestCtx {
        let id = RequestId::parse(session.get_header_bytes("x-request-id")).unwrap_or_else(RequestId::random);
        let trace = TraceParent::parse(session.get_header_bytes("traceparent"));
        let peer = session.client_addr().and_then(|a| a.as_inet()).map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |a| a.ip());
        RequestCtx::new(id, trace, self.gateway.no_route.label().clone(), peer)
    }

    /// The `log` phase, metrics and the access log.
    fn note(&self, down: &Downstream, snapshot: &Snapshot) {
        let status = down.outcome();
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
                let status = respond::refuse_unparsable(&mut session, &e, &RequestId::random(), limits.read_timeout).await;
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

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        options.max_concurrent_streams(self.streams);
        Some(options)
    }
}
