//! After `101 Switching Protocols`: raw bytes both ways, until one side ends, nothing moves for too long, or the gateway stops.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use pingora_core::protocols::http::HttpTask;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
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
    let mut moved = Instant::now();
    while !upstream_ended || down.is_writing() {
        let writing = down.is_writing();
        let want = if client_ended || up.has_remaining() { Want::Nothing } else { Want::Body };
        tokio::select! {
            side = down.duplex(want) => match side {
                Ok(Moved::Written) => {}
                Ok(Moved::Read(data, last)) => {
                    up = data;
                    client_ended = last;
                    if last && up.is_empty() && to.shutdown().await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            },
            sent = to.write_buf(&mut up), if up.has_remaining() => {
                if sent.is_err() || (!up.has_remaining() && to.flush().await.is_err()) {
                    return;
                }
            }
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
