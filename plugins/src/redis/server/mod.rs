//! Real Redis for tests, on free ports of this machine: one server, replicas, sentinels, a cluster. None outlives the test process,
//! however that ends.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests, although another crate's tests cannot see a `cfg(test)`")]
#![allow(clippy::disallowed_methods, reason = "tests may block their own thread while they poll")]

mod cluster;
mod guard;
mod process;
mod proxy;
mod sentinels;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use redis::{FromRedisValue, RedisResult};

use self::process::Process;
pub use self::{cluster::Cluster, guard::Guard, proxy::Proxy, sentinels::Sentinels};

/// How long anything here may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A `redis-server`, ended when dropped.
pub struct Server {
    process: Process,
    port: u16,
    guard: Guard,
}

impl Server {
    /// Starts an empty one that keeps everything in memory: what is killed comes back empty.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// The same with more lines of `redis.conf`. `appendonly yes` keeps what is written, also when it is killed.
    pub fn with(lines: &[&str]) -> Self {
        Self::guarded(&Guard::default(), lines)
    }

    /// The same for those whom `guard` lets in.
    pub fn guarded(guard: &Guard, lines: &[&str]) -> Self {
        Self::of(guard, || lines.iter().copied().map(String::from).collect())
    }

    /// One that copies all of this one's data, and has done so when this returns.
    pub fn replica(&self) -> Self {
        let replica = self.begin_replica();
        replica.wait_for_link();
        let acknowledged = |line: &str| line.contains(&format!("port={},state=online", replica.port)) && !line.contains("offset=0,");
        wait_until("the primary hears of it", || self.info("replication").lines().any(acknowledged));
        replica
    }

    /// Waits until this many replicas have acknowledged all that was written so far, by anybody. (`WAIT` is about what its own
    /// connection wrote, and a replica whose link is up may be sent nothing until it has acknowledged its first copy.)
    pub fn wait_for_replicas(&self, count: usize) {
        let (written, _) = self.replication();
        wait_until("the replicas have everything", || self.replication().1.iter().filter(|has| **has >= written).count() >= count);
    }

    /// How far this primary's stream of writes is, and how far of it each replica that is being sent it has acknowledged.
    fn replication(&self) -> (u64, Vec<u64>) {
        let info = self.info("replication");
        let written = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:")?.trim().parse().ok()).unwrap();
        let of = |line: &str| line.split_once("state=online,offset=")?.1.split_once(',')?.0.parse().ok();
        (written, info.lines().filter_map(of).collect())
    }

    fn begin_replica(&self) -> Self {
        Self::guarded(&self.guard, &[&format!("replicaof 127.0.0.1 {}", self.port)])
    }

    fn wait_for_link(&self) {
        wait_until("a replica has its primary's data", || self.info("replication").contains("master_link_status:up"));
    }

    /// `lines` are made anew if somebody takes a port meanwhile.
    fn of(guard: &Guard, lines: impl Fn() -> Vec<String>) -> Self {
        const COMMON: [&str; 5] =
            ["bind 127.0.0.1", "save \"\"", "appendonly no", "repl-diskless-sync-delay 0", "enable-debug-command yes"];
        loop {
            let port = free_port();
            let common = COMMON.map(String::from).into_iter().chain(guard.lines(port)).chain(guard.lines_of_server());
            let server = Self { process: Process::new(&common.chain(lines()).collect::<Vec<_>>(), &[]), port, guard: guard.clone() };
            if server.is_ready() {
                return server;
            }
        }
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Kills it if it runs, and starts it again on the same port, with the data that it kept.
    pub fn restart(&self) {
        self.process.start();
        assert!(self.is_ready(), "port {} was taken", self.port);
    }

    /// Starts it again as [`restart`](Self::restart) does, but returns while it may be loading its data.
    pub fn restart_and_load(&self) {
        self.process.start();
    }

    /// Has it stand still, with its connections open, until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.process.signal("STOP");
    }

    /// See [`pause`](Self::pause).
    pub fn resume(&self) {
        self.process.signal("CONT");
    }

    /// Sends a command on a connection of its own: `server.cli::<u64>(&["LLEN", key])`.
    ///
    /// # Errors
    /// The connection's, or what the server says.
    pub fn cli<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let mut connection = self.guard.client(self.port)?.get_connection_with_timeout(PATIENCE)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        redis::Cmd::new().arg(words).query(&mut connection)
    }

    /// A section of what it tells about itself.
    pub fn info(&self, section: &str) -> String {
        self.cli(&["INFO", section]).unwrap()
    }

    /// What it is configured to.
    pub fn setting(&self, name: &str) -> String {
        self.cli::<(String, String)>(&["CONFIG", "GET", name]).unwrap().1
    }

    /// Whether it came up; if not, it has ended, as it does when a port is taken.
    fn is_ready(&self) -> bool {
        let end = Instant::now() + PATIENCE;
        while self.cli::<String>(&["PING"]).is_err() {
            if self.process.has_ended() {
                return false;
            }
            assert!(Instant::now() < end, "redis-server does not answer: {}", self.process.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

/// The tests' certificates and keys: `ca.pem`, `first.pem`, `first-key.pem`, `second.pem`, `second-key.pem`.
pub fn pki(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/tests/it/pki").join(name)
}

/// A port that nobody listened on a moment ago, below those that outgoing connections get: a server that is started again finds it
/// free, and nobody who asks for it meanwhile is connected to himself.
pub fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(10_000..32_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Blocks this thread until something holds.
///
/// # Panics
/// It does not for 20 s.
pub fn wait_until(what: &str, holds: impl FnMut() -> bool) {
    wait_within(PATIENCE, what, holds);
}

fn wait_within(patience: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + patience;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
