//! The body of a request to an upstream: there as a whole, or coming piece by piece from a client.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// A request's body.
pub enum Outgoing {
    /// All of it.
    Whole(Full<Bytes>),
    /// What comes out of a channel.
    Pieces(Pieces),
}

/// A body that comes piece by piece.
pub struct Pieces {
    /// Holds one piece: whoever sends the next waits until the upstream took this one.
    from: mpsc::Receiver<Piece>,
    /// Bytes in all, if the client said it.
    length: Option<u64>,
    ended: bool,
}

/// A part of a body that comes in pieces. A channel that closes without the last one means that the rest will not come.
pub struct Piece {
    /// Some bytes; empty only if it is the last.
    pub data: Bytes,
    /// Whether the body is complete with it.
    pub last: bool,
}

/// The client did not send all of the body, so the upstream must not take it for complete.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the body was cut off")]
pub struct Cut;

impl Outgoing {
    /// No body.
    pub fn empty() -> Self {
        Self::Whole(Full::default())
    }

    /// A body that comes in pieces, and where to put them.
    pub fn pieces(length: Option<u64>) -> (mpsc::Sender<Piece>, Self) {
        let (to, from) = mpsc::channel(1);
        (to, Self::Pieces(Pieces { from, length, ended: false }))
    }
}

impl Pieces {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Some(piece) = ready!(self.from.poll_recv(cx)) else { return Poll::Ready(Some(Err(Cut))) };
        self.ended = piece.last;
        Poll::Ready((!piece.data.is_empty()).then(|| Ok(Frame::data(piece.data))))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|e| match e {}),
            Self::Pieces(pieces) => pieces.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Pieces(pieces) => pieces.ended,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Pieces(pieces) => pieces.length.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
