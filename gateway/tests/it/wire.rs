//! A wire to Redis that a test can slow down, hold up or cut.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// What the wire does with what goes over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Passes everything on.
    Whole,
    /// Passes replies on so much later.
    Slow(Duration),
    /// Passes scripts on to the server, and cuts the connection instead of bringing their replies back.
    KeepReplies,
    /// Cuts all connections, and takes no new ones.
    Cut,
}

/// A port on which a Redis server is reached over a [`Wire`].
pub struct Proxy {
    pub port: u16,
    wire: watch::Sender<Wire>,
    /// Changes when all connections are to end.
    cuts: watch::Sender<()>,
    /// Where new connections lead.
    server: watch::Sender<u16>,
    /// Replies that were not brought back.
    kept: Arc<AtomicUsize>,
}

impl Proxy {
    /// Until the test's runtime ends.
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Self {
            port,
            wire: watch::Sender::new(Wire::Whole),
            cuts: watch::Sender::new(()),
            server: watch::Sender::new(server),
            kept: Arc::default(),
        };
        let (wire, cuts, server, kept) = (proxy.wire.subscribe(), proxy.cuts.subscribe(), proxy.server.subscribe(), proxy.kept.clone());
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if *wire.borrow() == Wire::Cut {
                    continue;
                }
                let (mut cuts, server, wire, kept) = (cuts.clone(), *server.borrow(), wire.clone(), kept.clone());
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! {
                        () = connection(client, server, wire, &kept) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        proxy
    }

    pub fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
        if wire == Wire::Cut {
            self.cuts.send_replace(());
        }
    }

    /// Leads to another server from now on, as the address of a primary does after a failover.
    pub fn lead_to(&self, server: u16) {
        self.server.send_replace(server);
        self.cuts.send_replace(());
    }

    /// How many replies were not brought back.
    pub fn kept(&self) -> usize {
        self.kept.load(Ordering::Relaxed)
    }
}

async fn connection(client: TcpStream, server: u16, wire: watch::Receiver<Wire>, kept: &AtomicUsize) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let script_sent = AtomicBool::new(false);
    tokio::select! {
        () = there(from_client, to_server, &script_sent) => {}
        () = back(from_server, to_client, &script_sent, wire, kept) => {}
    }
}

async fn there(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, script_sent: &AtomicBool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        script_sent.fetch_or(buffer[..n].windows(7).any(|word| word == b"EVALSHA"), Ordering::SeqCst);
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

async fn back(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, script_sent: &AtomicBool, wire: watch::Receiver<Wire>, kept: &AtomicUsize) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let (wire, script) = (*wire.borrow(), script_sent.swap(false, Ordering::SeqCst));
        match wire {
            Wire::KeepReplies if script => {
                kept.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Wire::Slow(by) => tokio::time::sleep(by).await,
            _ => {}
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
