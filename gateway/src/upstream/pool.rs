//! Keep-alive connections to upstreams, kept by the thread that opened them so that a call never crosses threads.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::Semaphore};

use super::ModelError;
use crate::config::Endpoint;

/// An idle connection older than this is not used: most servers close theirs after 60 s or later.
const MAX_IDLE: Duration = Duration::from_secs(30);
/// How long the addresses of a name are used without asking again.
const REMEMBER: Duration = Duration::from_secs(10);
/// Every so many returned connections, those idle for too long are closed.
const SWEEP_EVERY: u32 = 1024;

struct Idle {
    sender: SendRequest<Full<Bytes>>,
    since: Instant,
}

#[derive(Default)]
struct Idles {
    by_endpoint: HashMap<u64, Vec<Idle>>,
    returned: u32,
}

thread_local! {
    static IDLE: RefCell<Idles> = RefCell::default();
}

/// One endpoint's connections, on whatever thread asks.
pub(super) struct Pool {
    id: u64,
    endpoint: Endpoint,
    addresses: Arc<Addresses>,
    connect_timeout: Duration,
    max_idle: usize,
}

/// Where an endpoint's name leads.
struct Addresses {
    host: String,
    port: u16,
    found: Mutex<Option<(Arc<[SocketAddr]>, Instant)>>,
    /// One look-up at a time: a name server that hangs holds one blocking thread for each name, however many calls give up waiting.
    looking: Arc<Semaphore>,
}

impl Addresses {
    async fn get(self: &Arc<Self>) -> io::Result<Arc<[SocketAddr]>> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok([SocketAddr::new(ip, self.port)].into());
        }
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let turn = self.looking.clone().acquire_owned().await.expect("the semaphore is never closed");
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let this = self.clone();
        let looked = tokio::spawn(async move {
            let _turn = turn;
            let found: Arc<[SocketAddr]> = tokio::net::lookup_host((this.host.as_str(), this.port)).await?.collect();
            *this.found.lock().unwrap_or_else(PoisonError::into_inner) = Some((found.clone(), Instant::now()));
            Ok(found)
        });
        looked.await.map_err(io::Error::other)?
    }

    fn known(&self) -> Option<Arc<[SocketAddr]>> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.as_ref().filter(|(_, at)| at.elapsed() < REMEMBER).map(|(found, _)| found.clone())
    }
}

impl Pool {
    pub(super) fn new(endpoint: Endpoint, connect_timeout: Duration, max_idle: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let addresses =
            Addresses { host: endpoint.host.clone(), port: endpoint.port, found: Mutex::default(), looking: Arc::new(Semaphore::new(1)) };
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), endpoint, addresses: Arc::new(addresses), connect_timeout, max_idle }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends what `request` makes over an idle connection or a new one.
    ///
    /// A server may close a kept connection at the moment we use it. A request that such a close left without an answer is made
    /// again on a new connection, since our calls may be repeated; that is not an attempt that failed.
    pub(super) async fn send(
        &self,
        request: impl Fn() -> Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Connection<'_>), ModelError> {
        if let Some(mut sender) = self.take_idle() {
            match sender.send_request(request()).await {
                Ok(response) => return Ok((response, Connection { pool: self, sender })),
                // A garbled answer is one; everything else is how a closed connection shows.
                Err(e) if e.is_parse() => return Err(ModelError::Broken(e.to_string())),
                Err(_) => {}
            }
        }
        let mut sender = self.connect().await?;
        match sender.send_request(request()).await {
            Ok(response) => Ok((response, Connection { pool: self, sender })),
            Err(e) => Err(ModelError::Broken(e.to_string())),
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ModelError> {
        let connect = async {
            let stream = TcpStream::connect(&*self.addresses.get().await?).await?;
            stream.set_nodelay(true)?;
            Ok::<_, io::Error>(stream)
        };
        let stream = match tokio::time::timeout(self.connect_timeout, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return Err(ModelError::Connect(e.to_string())),
            Err(_) => return Err(ModelError::Connect("no connection within the connect timeout".into())),
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| ModelError::Connect(e.to_string()))?;
        // Ends when the sender is dropped or the server hangs up; what goes wrong on it shows at the request that uses it.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    fn take_idle(&self) -> Option<SendRequest<Full<Bytes>>> {
        IDLE.with_borrow_mut(|idle| {
            let stack = idle.by_endpoint.get_mut(&self.id)?;
            while let Some(Idle { sender, since }) = stack.pop() {
                if !sender.is_closed() && since.elapsed() < MAX_IDLE {
                    return Some(sender);
                }
            }
            None
        })
    }

    fn put_idle(&self, sender: SendRequest<Full<Bytes>>) {
        if sender.is_closed() {
            return;
        }
        IDLE.with_borrow_mut(|idle| {
            let now = Instant::now();
            idle.returned = idle.returned.wrapping_add(1);
            if idle.returned.is_multiple_of(SWEEP_EVERY) {
                idle.by_endpoint.retain(|_, stack| {
                    stack.retain(|i| !i.sender.is_closed() && now - i.since < MAX_IDLE);
                    !stack.is_empty()
                });
            }
            let stack = idle.by_endpoint.entry(self.id).or_default();
            if stack.len() < self.max_idle {
                stack.push(Idle { sender, since: now });
            }
        });
    }
}

/// A connection in use. It is closed when dropped, unless its answer was read to the end and it was kept.
pub(super) struct Connection<'a> {
    pool: &'a Pool,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection<'_> {
    /// Gives the connection back for the next request. Call it only after the whole answer was read.
    pub(super) fn keep(self) {
        self.pool.put_idle(self.sender);
    }
}
