//! After `101 Switching Protocols`: raw bytes both ways, until one side ends, nothing moves for too long, or the gateway stops.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use pingora_core::protocols::http::HttpTask;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep_until},
};

use super::duplex::{Moved, Want};
use crate::downstream::Downstream;

/// Most bytes on their way in one direction.
const BUFFER: usize = 16 << 10;

/// Runs until the connection's end. It cannot be used for another request after that.
pub(super) async fn run(down: &mut Downstream, upgrade: OnUpgrade, idle: Duration) {
    // The body's end is the connection's: there is no next request to find.
    down.give_up_body();
    let mut stopping = down.draining();
    tokio::select! {
        biased;
        () = pass(down, upgrade, idle) => {}
        // What speaks on such a connection knows how to begin anew, and does so elsewhere.
        _ = stopping.wait_for(|stop| *stop) => {}
    }
}

async fn pass(down: &mut Downstream, upgrade: OnUpgrade, idle: Duration) {
    // Sends the head, which the client waits for.
    while down.is_writing() {
        if down.duplex(Want::Nothing).await.is_err() {
            return;
        }
    }
    let Ok(upgraded) = upgrade.await else { return };
    let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
    let (mut up, mut buffer) = (Bytes::new(), BytesMut::with_capacity(BUFFER));
    let (mut client_ended, mut upstream_ended) = (false, false);
    let mut sending = false;
    let mut moved = Instant::now();
    while !upstream_ended || down.is_writing() {
        let writing = down.is_writing();
        let want = if client_ended || sending { Want::Nothing } else { Want::Body };
        tokio::select! {
            side = down.duplex(want) => match side {
                Ok(Moved::Written) => {}
                Ok(Moved::Read(data, last)) => (up, client_ended, sending) = (data, last, true),
                Err(_) => return,
            },
            sent = send(&mut to, &mut up, client_ended), if sending => match sent {
                Ok(()) => sending = false,
                Err(_) => return,
            },
            read = from.read_buf(&mut buffer), if !writing && !upstream_ended => match read {
                Ok(0) | Err(_) => upstream_ended = true,
                Ok(_) => {
                    if down.queue(HttpTask::UpgradedBody(Some(buffer.split().freeze()), false)).await.is_err() {
                        return;
                    }
                    buffer.reserve(BUFFER);
                }
            },
            () = sleep_until(moved + idle) => return,
        }
        moved = Instant::now();
    }
}

/// Returns when the upstream's connection has taken all of it. May be dropped at any time: it goes on where it was.
async fn send(to: &mut (impl AsyncWrite + Unpin), piece: &mut Bytes, last: bool) -> io::Result<()> {
    to.write_all_buf(piece).await?;
    if last { to.shutdown().await } else { to.flush().await }
}
