//! Both directions of a client's connection at once: while a piece of the response waits to be taken, the request is read on.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use bytes::Bytes;
use pingora_core::{ErrorType, protocols::http::HttpTask};

use crate::{
    downstream::{Cut, Downstream},
    turnstile::Line,
};

/// What is wanted from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// Its body.
    Body,
    /// Nothing but that it is still there.
    Presence,
    /// Nothing, not even that: what it sends stays where it is.
    Nothing,
}

/// What happened on the client's connection.
#[derive(Debug)]
pub(super) enum Moved {
    /// A piece of the body came, or nothing in particular; and whether that was all.
    Read(Bytes, bool),
    /// What was queued is written.
    Written,
}

/// Why a client is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// It went away.
    Gone,
    /// Its body cannot be read.
    Broken,
}

impl Downstream {
    /// Puts the next part of the response in line. On HTTP/1.1 [`Downstream::duplex`] writes it; Pingora's HTTP/2 cannot be
    /// interrupted while it writes, so there it is written here and nothing is read meanwhile.
    pub(super) async fn queue(&mut self, part: HttpTask) -> Result<(), Lost> {
        if !self.session.is_http2() {
            self.session.send_downstream_proxy_task(part);
            return Ok(());
        }
        let written = tokio::time::timeout(self.io_timeout, self.session.response_duplex_vec(vec![part])).await;
        self.written(matches!(written, Ok(Ok(_))))
    }

    /// Whether something queued is not written yet.
    pub(super) fn is_writing(&self) -> bool {
        self.session.has_pending_downstream_proxy_tasks()
    }

    /// Writes what is queued and reads what is wanted; returns when one of the two is done. May be dropped at any time: both go on
    /// where they were.
    ///
    /// Each poll makes the two futures anew. Pingora keeps their state in the session, as it must for its own proxy, and they
    /// could not both borrow it for longer.
    pub(super) async fn duplex(&mut self, want: Want) -> Result<Moved, Lost> {
        let moved = poll_fn(|cx| {
            if self.is_writing()
                && let Poll::Ready(written) = pin!(self.session.write_downstream_proxy_tasks()).poll(cx)
            {
                return Poll::Ready(Side::Write(written.is_ok()));
            }
            if want != Want::Nothing
                && let Poll::Ready(read) =
                    pin!(charged(self.line.as_ref(), self.session.read_body_or_idle(want == Want::Presence))).poll(cx)
            {
                return Poll::Ready(Side::Read(read));
            }
            Poll::Pending
        })
        .await;
        match moved {
            Side::Write(done) => self.written(done).map(|()| Moved::Written),
            Side::Read(Ok(data)) => {
                let end = data.is_none() || self.session.is_body_done();
                Ok(Moved::Read(data.unwrap_or_default(), end))
            }
            Side::Read(Err(e)) => match e.etype() {
                ErrorType::Custom(_) | ErrorType::InvalidHTTPHeader => Err(Lost::Broken),
                _ => Err(Lost::Gone),
            },
        }
    }

    fn written(&mut self, done: bool) -> Result<(), Lost> {
        if !done {
            self.cut.get_or_insert(Cut::Client);
        }
        if self.cut.is_some() { Err(Lost::Gone) } else { Ok(()) }
    }
}

/// Charges what of a long body is read.
async fn charged<R>(line: Option<&Line>, read: impl Future<Output = R>) -> R {
    match line {
        None => read.await,
        Some(line) => line.wait_for(read).await,
    }
}

enum Side {
    Write(bool),
    Read(pingora_core::Result<Option<Bytes>>),
}
