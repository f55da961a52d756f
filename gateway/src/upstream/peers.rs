//! The endpoints of one upstream: which of them gets a call, and which are left alone for a while because they keep failing.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use fengda_plugins::api::{CallOutcome, Clock};
use serde_json::json;

use super::{
    ModelError,
    connect::{self, Connector},
    pool::{Connection, Pool},
};
use crate::config::{Balance, Eject, Endpoint, PeersConfig};

/// An endpoint is left out for at most this many times the configured time, however often it fails.
const MOST_TIMES: u32 = 16;

/// All endpoints of an upstream.
pub(crate) struct Peers {
    peers: Vec<Peer>,
    balance: Balance,
    eject: Eject,
    next: AtomicUsize,
    clock: Clock,
}

/// One endpoint: its connections and how it has been doing.
struct Peer {
    endpoint: Endpoint,
    pool: Pool,
    /// Tells endpoints apart in the choice by hash: the same on every replica and after every restart.
    seed: u64,
    /// Failures in a row.
    failures: AtomicU32,
    /// How often in a row it was ejected.
    ejections: AtomicU32,
    /// Milliseconds of [`Clock::monotonic`] until which it is left out; 0 if it is not.
    out_until: AtomicU64,
}

/// Which endpoints a call has been to, so that a retry goes elsewhere: a bit for each, of which there are at most
/// [`MAX_PEERS`](crate::config::MAX_PEERS).
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tried {
    seen: u64,
    last: Option<usize>,
}

impl Peers {
    pub(super) fn new(config: &PeersConfig, clock: Clock) -> Self {
        let tls = connect::tls(config);
        let peer = |endpoint: &Endpoint| Peer {
            pool: Pool::new(Connector::new(endpoint, tls.as_ref(), config.connect_timeout), config.idle_connections),
            seed: hash(&[endpoint.authority.as_bytes()]),
            endpoint: endpoint.clone(),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            out_until: AtomicU64::new(0),
        };
        let peers = config.endpoints.iter().map(peer).collect();
        Self { peers, balance: config.balance.clone(), eject: config.eject, next: AtomicUsize::new(0), clock }
    }

    /// How calls are spread.
    pub(crate) fn balance(&self) -> &Balance {
        &self.balance
    }

    /// A connection to one of the endpoints. `key` is what the choice sticks to; without one they take turns. An endpoint that
    /// cannot be reached is a failure of that endpoint, and the next one is tried at once, each of them once in a call.
    pub(crate) async fn connect(&self, key: Option<u64>, tried: &mut Tried) -> Result<(Connection<'_>, &Endpoint), ModelError> {
        loop {
            let at = self.choose(key, *tried);
            let peer = &self.peers[at];
            tried.seen |= 1 << at;
            tried.last = Some(at);
            let error = match peer.pool.connection().await {
                Ok(connection) => return Ok((connection, &peer.endpoint)),
                Err(error) => error,
            };
            self.report(tried.last.take(), CallOutcome::Failed);
            if tried.seen.count_ones() as usize >= self.peers.len() {
                return Err(error);
            }
        }
    }

    /// The best of: in and not tried, in, not tried, any. Never nobody.
    fn choose(&self, key: Option<u64>, tried: Tried) -> usize {
        if self.peers.len() == 1 {
            return 0;
        }
        let turn = if key.is_none() { self.next.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let rank = |at: usize| (!self.is_out(&self.peers[at]), tried.seen & (1 << at) == 0);
        let order = |at: usize| match key {
            // Rendezvous: an endpoint that comes or goes moves only the keys that it wins.
            Some(key) => mix(key ^ self.peers[at].seed),
            None => (self.peers.len() - (at + self.peers.len() - turn % self.peers.len()) % self.peers.len()) as u64,
        };
        (0..self.peers.len()).max_by_key(|at| (rank(*at), order(*at))).expect("an upstream has at least one endpoint")
    }

    /// Takes note of how a call of an endpoint went.
    pub(crate) fn report(&self, at: Option<usize>, outcome: CallOutcome) {
        let Some(peer) = at.map(|at| &self.peers[at]) else { return };
        match outcome {
            CallOutcome::Answered { .. } => {
                // Written only when there is something to write: all threads read this line.
                if peer.failures.load(Ordering::Relaxed) != 0 {
                    peer.failures.store(0, Ordering::Relaxed);
                    peer.ejections.store(0, Ordering::Relaxed);
                    peer.out_until.store(0, Ordering::Relaxed);
                }
            }
            CallOutcome::Failed | CallOutcome::TimedOut => {
                let failures = peer.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
                if failures >= self.eject.failures && !self.is_out(peer) {
                    self.leave_out(peer);
                }
            }
            CallOutcome::Cancelled => {}
        }
    }

    /// For longer each time, and not all replicas for equally long.
    fn leave_out(&self, peer: &Peer) {
        let times = 1_u32.checked_shl(peer.ejections.fetch_add(1, Ordering::Relaxed).min(31)).unwrap_or(MOST_TIMES).min(MOST_TIMES);
        let time = (self.eject.time * times).mul_f64(1.0 + fastrand::f64() / 4.0);
        peer.out_until.store(millis(self.clock.monotonic() + time).max(1), Ordering::Relaxed);
    }

    fn is_out(&self, peer: &Peer) -> bool {
        let until = peer.out_until.load(Ordering::Relaxed);
        until != 0 && millis(self.clock.monotonic()) < until
    }

    /// How many endpoints are in use, and how many are left out.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let out = self.peers.iter().filter(|peer| self.is_out(peer)).count();
        (self.peers.len() - out, out)
    }

    /// For `/status`.
    pub(crate) fn status(&self) -> serde_json::Value {
        let one = |peer: &Peer| {
            let state = if self.is_out(peer) { "ejected" } else { "in" };
            json!({ "endpoint": peer.endpoint.authority, "state": state, "failures": peer.failures.load(Ordering::Relaxed) })
        };
        self.peers.iter().map(one).collect()
    }
}

impl Tried {
    /// The endpoint that has the call now.
    pub(crate) fn last(&self) -> Option<usize> {
        self.last
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// What a call sticks to, as a number (FNV-1a, 64 bits, with an end after each part): the same in every build.
pub(crate) fn hash(parts: &[&[u8]]) -> u64 {
    let add = |hash: u64, n: u64| (hash ^ n).wrapping_mul(0x0100_0000_01b3);
    parts.iter().fold(0xcbf2_9ce4_8422_2325, |hash, part| add(part.iter().fold(hash, |hash, b| add(hash, u64::from(*b))), 256))
}

/// Spreads a number over all 64 bits (the finalizer of SplitMix64).
fn mix(mut n: u64) -> u64 {
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use fengda_plugins::api::Timestamp;

    use super::*;

    fn peers(count: u16, clock: &Clock) -> Peers {
        let endpoint = |i| Endpoint { host: "127.0.0.1".into(), port: i, authority: format!("127.0.0.1:{i}"), tls: false };
        let config = PeersConfig {
            endpoints: (1..=count).map(endpoint).collect(),
            ca: None,
            balance: Balance::RoundRobin,
            eject: Eject { failures: 3, time: Duration::from_secs(10) },
            connect_timeout: Duration::from_secs(1),
            idle_connections: 1,
        };
        Peers::new(&config, clock.clone())
    }

    fn fail(peers: &Peers, at: usize, times: usize) {
        for _ in 0..times {
            peers.report(Some(at), CallOutcome::Failed);
        }
    }

    fn turns(peers: &Peers, count: usize) -> Vec<usize> {
        (0..count).map(|_| peers.choose(None, Tried::default())).collect()
    }

    #[test]
    fn endpoints_take_turns_and_a_retry_goes_elsewhere() {
        let peers = peers(3, &Clock::manual(Timestamp(0)));
        assert_eq!(turns(&peers, 6), [0, 1, 2, 0, 1, 2]);
        for _ in 0..9 {
            assert_eq!(peers.choose(None, Tried { seen: 0b101, last: None }), 1);
        }
    }

    #[test]
    fn an_endpoint_that_moves_moves_only_its_share() {
        let clock = Clock::manual(Timestamp(0));
        let (five, four) = (peers(5, &clock), peers(4, &clock));
        let keys = (0..10_000_u32).map(|k| hash(&[&k.to_le_bytes()]));
        let mut shares = [0; 5];
        for key in keys {
            let (before, after) = (five.choose(Some(key), Tried::default()), four.choose(Some(key), Tried::default()));
            shares[before] += 1;
            assert!(before == after || before == 4);
        }
        assert!(shares.iter().all(|share| (1800..2200).contains(share)), "{shares:?}");
    }

    #[test]
    fn failures_in_a_row_eject_for_longer_each_time() {
        let clock = Clock::manual(Timestamp(0));
        let peers = peers(2, &clock);
        fail(&peers, 0, 2);
        peers.report(Some(0), CallOutcome::Answered { after: Duration::ZERO });
        fail(&peers, 0, 2);
        assert_eq!(peers.counts(), (2, 0));
        fail(&peers, 0, 1);
        assert_eq!((peers.counts(), turns(&peers, 3)), ((1, 1), vec![1, 1, 1]));
        clock.advance(Duration::from_millis(12_501));
        assert_eq!(peers.counts(), (2, 0));
        // One more failure is enough now, and it costs twice the time.
        fail(&peers, 0, 1);
        clock.advance(Duration::from_millis(19_000));
        assert_eq!(peers.counts(), (1, 1));
        clock.advance(Duration::from_millis(6_001));
        assert_eq!(peers.counts(), (2, 0));
    }

    #[test]
    fn when_all_are_ejected_all_are_used() {
        let peers = peers(2, &Clock::manual(Timestamp(0)));
        fail(&peers, 0, 3);
        fail(&peers, 1, 3);
        assert_eq!(peers.counts(), (0, 2));
        let mut used = turns(&peers, 4);
        used.sort_unstable();
        assert_eq!(used, [0, 0, 1, 1]);
    }
}
