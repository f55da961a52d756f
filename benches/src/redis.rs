//! A `redis-server` of a run's own, in memory, killed on drop.

use std::{
    io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// How long it may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A running server that keeps nothing on the disk.
pub(crate) struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    /// Starts one on a free port and waits until it listens.
    ///
    /// # Errors
    /// It is not installed, or does not listen within 10 s.
    pub(crate) async fn start() -> io::Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()];
        let child = Command::new("redis-server").args(options).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let missing =
            |e: io::Error| io::Error::new(e.kind(), format!("cannot start `redis-server`: {e}; install it, or name one with --redis URL"));
        let redis = Self { child: child.map_err(missing)?, port };
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if Instant::now() > deadline {
                return Err(io::Error::other("`redis-server` does not listen"));
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(redis)
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }
}
