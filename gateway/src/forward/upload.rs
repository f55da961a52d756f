//! A request's body on its way to the upstream, one piece at a time.

use std::{
    future::{Future, pending},
    pin::Pin,
};

use bytes::Bytes;
use tokio::{sync::mpsc, time::Instant};

use super::{
    duplex::{Lost, Want},
    request::Length,
};
use crate::{
    turnstile::Line,
    upstream::{Outgoing, Piece},
};

/// The body's state. What is held is at most one piece.
pub(super) struct Upload {
    /// Where pieces go; `None` once all have gone, or the upstream takes no more.
    to: Option<mpsc::Sender<Piece>>,
    /// Read from the client and not yet taken by the upstream.
    held: Option<Piece>,
    /// How many bytes may still come.
    left: u64,
    /// Whether the client has sent all of it.
    read: bool,
    /// When something last moved.
    moved: Instant,
    /// When all of it must have been read.
    deadline: Instant,
    /// The wait for its turn to be read, of a long one.
    turn: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// Why an upload ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The client is of no more use.
    Lost(Lost),
    /// The body is over the route's limit.
    TooLarge,
}

impl From<Lost> for Stopped {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl Upload {
    /// An upload of at most `limit` bytes until `deadline`, and the body for the request to the upstream.
    pub(super) fn begin(length: Length, limit: u64, deadline: Instant) -> (Self, Outgoing) {
        let (to, body) = match length {
            Length::Empty => (None, Outgoing::empty()),
            Length::Known(n) => pieces(Some(n)),
            Length::Unknown => pieces(None),
        };
        (Self { read: to.is_none(), to, held: None, left: limit, moved: Instant::now(), deadline, turn: None }, body)
    }

    /// What it wants from the client now.
    pub(super) fn want(&self) -> Want {
        match (&self.to, &self.held) {
            (_, None) if self.read => Want::Presence,
            (Some(_), None) if self.turn.is_none() => Want::Body,
            // What the client sends meanwhile stays in its socket: that is the back pressure.
            _ => Want::Nothing,
        }
    }

    /// When something last moved.
    pub(super) fn moved(&self) -> Instant {
        self.moved
    }

    /// Whether the upstream has all of it.
    pub(super) fn is_complete(&self) -> bool {
        self.read && self.held.is_none()
    }

    /// Whether it waits for its turn, and neither for the client nor for the upstream.
    pub(super) fn is_in_line(&self) -> bool {
        self.held.is_none() && self.turn.is_some()
    }

    /// Until when something that may take until `until` may take, as the rest of the body must have been read by its deadline.
    pub(super) fn in_time(&self, until: Instant) -> Instant {
        if self.read { until } else { until.min(self.deadline) }
    }

    /// Whether it should have been read by now.
    pub(super) fn is_late(&self) -> bool {
        !self.read && self.deadline <= Instant::now()
    }

    /// Takes what was read from the client; what follows it waits in `line`, if there is one.
    pub(super) fn take(&mut self, data: Bytes, last: bool, line: Option<&Line>) -> Result<(), Stopped> {
        self.moved = Instant::now();
        self.turn = line.filter(|_| !last).cloned().map(|line| Box::pin(async move { line.pass().await }) as _);
        self.read = last;
        self.left = self.left.checked_sub(data.len() as u64).ok_or(Stopped::TooLarge)?;
        self.held = (last || !data.is_empty()).then_some(Piece { data, last });
        Ok(())
    }

    /// Returns when the upstream took what is held, or said that it takes no more, or if nothing is held, when it is the body's turn
    /// to be read on; never if it is.
    pub(super) async fn proceed(&mut self) {
        let (Some(to), Some(_)) = (&self.to, &self.held) else {
            let Some(turn) = &mut self.turn else { return pending().await };
            turn.await;
            self.turn = None;
            self.moved = Instant::now();
            return;
        };
        let slot = to.reserve().await.ok();
        let piece = self.held.take().filter(|_| slot.is_some());
        let more = piece.as_ref().is_some_and(|piece| !piece.last);
        if let (Some(slot), Some(piece)) = (slot, piece) {
            slot.send(piece);
        }
        if !more {
            self.to = None;
        }
        self.moved = Instant::now();
    }
}

fn pieces(length: Option<u64>) -> (Option<mpsc::Sender<Piece>>, Outgoing) {
    let (to, body) = Outgoing::pieces(length);
    (Some(to), body)
}
