//! Real Redis servers for tests, on free ports of this machine, ended with the test.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests, although another crate's tests cannot see a `cfg(test)`")]

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::context::conformance::TempDir;

/// A running `redis-server`.
pub struct Server {
    port: u16,
    child: Child,
    _dir: TempDir,
}

impl Server {
    /// Starts an empty one that keeps everything in memory.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// The same with more options, as `--name`, `value`, ….
    pub fn with(options: &[&str]) -> Self {
        let (dir, port) = (TempDir::new(), free_port());
        let mut command = Command::new(program("redis-server"));
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no", "--dir"]);
        command.arg(dir.path()).args(options).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self { port, child: command.spawn().unwrap(), _dir: dir };
        server.wait();
        server
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Until it accepts connections.
    fn wait(&self) {
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            assert!(Instant::now() < end, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }
}

/// A port that nobody listened on a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Where a program is: in `PATH`, or where `make tools` unpacks it.
pub fn program(name: &str) -> PathBuf {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/usr/bin").join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).map(|folder| folder.join(name));
    places.chain([unpacked]).find(|at| at.is_file()).unwrap_or_else(|| panic!("`{name}` is not installed: run `make tools`"))
}
