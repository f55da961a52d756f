//! A primary, its replicas, and the sentinels that put one of them into its place.

use std::time::Duration;

use redis::RedisResult;

use super::{Guard, Process, Server, free_port, wait_until, wait_within};

/// How many sentinels, and how many of them must agree.
const SENTINELS: usize = 3;
const QUORUM: usize = 2;
/// How long a failover may take: sentinels that were held up by other work stand back for 30 s.
const FAILOVER: Duration = Duration::from_secs(60);

/// One primary, two replicas and three sentinels that notice within half a second that the primary is gone.
pub struct Sentinels {
    /// All servers; the first was the primary in the beginning.
    pub servers: Vec<Server>,
    sentinels: Vec<Server>,
}

impl Sentinels {
    /// The name that they know the primary by.
    pub const MASTER: &'static str = "main";

    /// Starts them.
    pub fn start() -> Self {
        Self::guarded(&Guard::default(), &Guard::default())
    }

    /// The same for those whom the servers' guard and the sentinels' let in.
    pub fn guarded(servers: &Guard, sentinels: &Guard) -> Self {
        let primary = Server::guarded(servers, &[]);
        let replicas = [primary.begin_replica(), primary.begin_replica()];
        let sentinels: Vec<_> = (0..SENTINELS).map(|_| sentinel(sentinels, &primary)).collect();
        let servers: Vec<_> = [primary].into_iter().chain(replicas).collect();
        servers[1..].iter().for_each(Server::wait_for_link);
        let counted = |one: &Server| {
            let state: Vec<String> = one.cli(&["SENTINEL", "MASTER", Self::MASTER]).unwrap();
            let field = |name: &str| state.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone());
            field("num-slaves") == Some("2".into()) && field("num-other-sentinels") == Some("2".into())
        };
        wait_until("the sentinels know each other and the replicas", || sentinels.iter().all(counted));
        // A sentinel that hears nothing new for four such periods takes a failover back.
        sentinels.iter().for_each(|one| hurry(one, &["publish-period"], "1000"));
        Self { servers, sentinels }
    }

    /// Where the sentinels listen.
    pub fn ports(&self) -> Vec<u16> {
        self.sentinels.iter().map(Server::port).collect()
    }

    /// The sentinels themselves.
    pub fn sentinels(&self) -> &[Server] {
        &self.sentinels
    }

    /// The primary, as most sentinels know it.
    pub fn primary(&self) -> &Server {
        let told = |one: &Server| -> RedisResult<(String, u16)> { one.cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::MASTER]) };
        let ports: Vec<u16> = self.sentinels.iter().filter_map(|one| Some(told(one).ok()?.1)).collect();
        let most = ports.iter().max_by_key(|port| ports.iter().filter(|other| other == port).count()).unwrap();
        self.servers.iter().find(|server| server.port() == *most).unwrap()
    }

    /// Has the sentinels take another server for the primary from now on, as an operator may who has lost the first.
    pub fn watch(&self, primary: &Server) {
        let (port, quorum) = (primary.port().to_string(), QUORUM.to_string());
        for one in &self.sentinels {
            one.cli::<()>(&["SENTINEL", "REMOVE", Self::MASTER]).unwrap();
            one.cli::<()>(&["SENTINEL", "MONITOR", Self::MASTER, "127.0.0.1", &port, &quorum]).unwrap();
        }
    }

    /// Has a replica take over in an orderly way, and waits until it has: the old primary refuses writes from then on.
    pub fn fail_over(&self) {
        let old = self.primary().port();
        let begun = || self.sentinels[0].cli::<()>(&["SENTINEL", "FAILOVER", Self::MASTER]).is_ok();
        wait_within(FAILOVER, "a failover begins", begun);
        self.wait_for_another_than(old);
    }

    /// Waits until most sentinels know another primary than the one on this port.
    pub fn wait_for_another_than(&self, old: u16) {
        wait_within(FAILOVER, "another server is the primary", || self.primary().port() != old);
    }
}

fn sentinel(guard: &Guard, primary: &Server) -> Server {
    let master = Sentinels::MASTER;
    loop {
        let port = free_port();
        let lines = [
            "bind 127.0.0.1".into(),
            format!("sentinel monitor {master} 127.0.0.1 {} {QUORUM}", primary.port),
            format!("sentinel down-after-milliseconds {master} 500"),
            format!("sentinel failover-timeout {master} 2000"),
        ];
        let lines = guard.lines(port).into_iter().chain(lines).chain(guard.lines_of_sentinel(master, &primary.guard));
        let server = Server { process: Process::new(&lines.collect::<Vec<_>>(), &["--sentinel"]), port, guard: guard.clone() };
        if server.is_ready() {
            hurry(&server, &["info-period", "ping-period", "ask-period", "publish-period"], "100");
            return server;
        }
    }
}

/// Sets periods that are seconds otherwise, in milliseconds.
fn hurry(sentinel: &Server, periods: &[&str], ms: &str) {
    let words = ["SENTINEL", "DEBUG"].into_iter().chain(periods.iter().flat_map(|name| [*name, ms]));
    sentinel.cli::<()>(&words.collect::<Vec<_>>()).unwrap();
}
