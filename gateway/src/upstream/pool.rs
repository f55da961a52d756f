//! Keep-alive connections to upstreams, kept by the thread that opened them so that a call never crosses threads.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1::SendRequest},
};

use super::{ModelError, Outgoing, connect::Connector};

/// An idle connection older than this is not used: most servers close theirs after 60 s or later.
const MAX_IDLE: Duration = Duration::from_secs(30);
/// Every so many returned connections, those idle for too long are closed.
const SWEEP_EVERY: u32 = 1024;

struct Idle {
    sender: SendRequest<Outgoing>,
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
    connector: Connector,
    max_idle: usize,
}

impl Pool {
    pub(super) fn new(connector: Connector, max_idle: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), connector, max_idle }
    }

    /// An idle connection, or a new one.
    pub(super) async fn connection(&self) -> Result<Connection<'_>, ModelError> {
        if let Some(sender) = self.take_idle() {
            return Ok(Connection { pool: self, sender, used: true });
        }
        Ok(Connection { pool: self, sender: self.connector.connect().await?, used: false })
    }

    fn take_idle(&self) -> Option<SendRequest<Outgoing>> {
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

    fn put_idle(&self, sender: SendRequest<Outgoing>) {
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
pub(crate) struct Connection<'a> {
    pool: &'a Pool,
    sender: SendRequest<Outgoing>,
    used: bool,
}

impl Connection<'_> {
    /// Sends a request and waits for the head of its answer.
    ///
    /// A server may close a kept connection at the moment we use it. A request that such a close left without an answer is sent
    /// again on a new connection, and that is no attempt that failed: always if nothing of it was written yet, else only if
    /// `again` makes it anew, which says that it may be repeated.
    pub(crate) async fn send(
        &mut self,
        request: Request<Outgoing>,
        again: impl Fn() -> Option<Request<Outgoing>>,
    ) -> Result<Response<Incoming>, ModelError> {
        let failed = match self.sender.try_send_request(request).await {
            Ok(response) => return Ok(response),
            Err(failed) => failed,
        };
        let request = match self.to_repeat(failed) {
            Ok(Some(unsent)) => Some(unsent),
            Ok(None) => again(),
            Err(error) => return Err(error),
        };
        let Some(request) = request else { return Err(ModelError::Broken("the kept connection was closed under the request".into())) };
        self.sender = self.pool.connector.connect().await?;
        self.used = false;
        self.sender.send_request(request).await.map_err(broken)
    }

    /// Whether a failure is only that of a kept connection that went; with the request, if nothing of it was written.
    fn to_repeat(&self, mut failed: TrySendError<Request<Outgoing>>) -> Result<Option<Request<Outgoing>>, ModelError> {
        let unsent = failed.take_message();
        let error = failed.into_error();
        // A garbled answer is one, and a body that its client did not send whole is not for anybody; everything else is how a
        // closed connection shows.
        if !self.used || error.is_parse() || error.is_user() { Err(broken(error)) } else { Ok(unsent) }
    }

    /// Gives the connection back for the next request. Call it only after the whole answer was read.
    pub(crate) fn keep(self) {
        self.pool.put_idle(self.sender);
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn broken(error: hyper::Error) -> ModelError {
    ModelError::Broken(error.to_string())
}
