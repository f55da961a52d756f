//! Connections of clients: how many there may be, TLS, and which version of HTTP they speak.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use pingora_core::{
    apps::ServerApp,
    protocols::{ALPN, Stream},
    server::ShutdownWatch,
};

use super::tls::Acceptor;
use crate::{
    config::Limits,
    gateway::Gateway,
    proxy::Proxy,
    telemetry::{Event, Throttle, logger},
};

/// How long connections without a request are kept when the gateway drains. Clients' requests that crossed the signal are still served.
pub(crate) const LAST_CALL: Duration = Duration::from_millis(100);
/// How HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Takes the connections of the public listener.
pub struct Public {
    gateway: Arc<Gateway>,
    /// Most connections that the process may open files for.
    room: usize,
    refusals: Throttle,
}

impl Public {
    /// For one thread; all of a gateway's share the gateway. `room` is how many connections there are files for.
    pub fn new(gateway: Arc<Gateway>, room: usize) -> Self {
        Self { gateway, room, refusals: Throttle::default() }
    }

    async fn serve(&self, stream: Stream, shutdown: &ShutdownWatch) -> Option<()> {
        let _open = self.gateway.connections.token();
        // Not the snapshot itself: a connection outlives many of them.
        let (limits, tls) = {
            let snapshot = self.gateway.snapshot.load();
            (snapshot.config.limits.clone(), snapshot.config.tls.clone())
        };
        let most = limits.connections.min(self.room);
        if self.gateway.connections.len() > most {
            self.refuse(most);
            return None;
        }
        let silent = self.gateway.metrics.silent_connection();
        let (stream, http2) = tokio::select! {
            biased;
            greeted = self.greet(stream, tls.as_ref(), &limits) => greeted?,
            // A connection that was opened ahead of time is closed when the gateway drains.
            () = last_call(shutdown) => return None,
        };
        drop(silent);
        let _counted = self.gateway.metrics.connection(if http2 { "http2" } else { "http1" });
        Arc::new(Proxy::new(self.gateway.clone(), &limits, http2)).process_new(stream, shutdown).await.map(drop)
    }

    /// Waits for the client's first words and tells from them whether it speaks HTTP/2.
    ///
    /// Pingora would tell that too, but waits for the 24 bytes of the preface, and for ever: a whole HTTP/1.0 request can be shorter.
    async fn greet(&self, stream: Stream, tls: Option<&Acceptor>, limits: &Limits) -> Option<(Stream, bool)> {
        let mut stream = match tls {
            None => stream,
            Some(acceptor) => {
                let accepted = tokio::time::timeout(limits.header_deadline, acceptor.accept(stream)).await;
                accepted.ok().and_then(Result::ok).or_else(|| {
                    self.gateway.metrics.tls_failures.inc();
                    None
                })?
            }
        };
        // No method of HTTP/1.1 is called PRI (RFC 9113, section 3.4), and no request of it is shorter.
        let mut first = [0; 3];
        tokio::time::timeout(limits.keepalive, stream.try_peek(&mut first)).await.ok()?.ok()?;
        let mut http2 = first == PREFACE[..3];
        if http2 {
            let mut preface = [0; 24];
            tokio::time::timeout(limits.header_deadline, stream.try_peek(&mut preface)).await.ok()?.ok()?;
            http2 = preface == *PREFACE;
        }
        // Over TLS the client has said before what it would speak.
        let promised = stream.selected_alpn_proto() == Some(ALPN::H2);
        (http2 || !promised).then_some((stream, http2))
    }

    fn refuse(&self, most: usize) {
        self.gateway.metrics.connections_refused.inc();
        if let Some(left_out) = self.refusals.pass() {
            logger::emit(&Event::ConnectionRefused { most, left_out });
        }
    }
}

#[async_trait]
impl ServerApp for Public {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        self.serve(stream, shutdown).await;
        None
    }
}

/// Returns when a connection without a request is to be closed because the gateway drains: not at once, for a request may be on its way.
pub(crate) async fn last_call(shutdown: &ShutdownWatch) {
    // The sender lives as long as the gateway; without it there is nothing left to wait for.
    let _ = shutdown.clone().wait_for(|s| *s).await;
    tokio::time::sleep(LAST_CALL).await;
}
