//! Several gateways and one limit: what all of them let through, by the real script on a real Redis, in a time of our own.
#![allow(clippy::cast_possible_truncation, reason = "seconds and nanoseconds of a test")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::super::{
    lease::{Ask, Grant, Lease, Whole},
    lessor::{Lessor, Subject},
};
use crate::{
    api::Meters,
    redis::{
        Mode, Redis, RedisConfig,
        server::{Cluster, Server},
    },
    testing::redis_config,
};

pub(super) const SECOND: u64 = 1_000_000_000;
/// How long an answer of Redis is on its way.
const WAY: u64 = SECOND / 1000;
/// Width of the bins in which requests are counted.
const BIN: u64 = SECOND / 10;

pub(super) async fn lessor(server: &Server) -> Arc<Lessor> {
    // A busy machine is late in its own time, which is not theirs.
    lessor_of(RedisConfig { timeout: Duration::from_secs(20), ..redis_config(server.port()) }).await
}

async fn lessor_of(config: RedisConfig) -> Arc<Lessor> {
    let redis = Redis::open(config, &Meters::default()).unwrap();
    while !redis.is_up() {
        tokio::task::yield_now().await;
    }
    Lessor::new(redis)
}

struct Gateway {
    name: String,
    lease: Lease,
    /// Requests a second.
    load: f64,
    next: u64,
    /// An account of the exact share for the same requests.
    exact: Lease,
    answer: Option<(u64, Ask, Grant)>,
}

pub(super) struct Fleet {
    lessor: Arc<Lessor>,
    key: String,
    whole: Whole,
    gateways: Vec<Gateway>,
    /// One account of the whole limit for the same requests, to compare with.
    ideal: Lease,
    random: fastrand::Rng,
    now: u64,
    /// Seconds on Redis' clock when `now` was 0.
    epoch: f64,
    pub(super) admitted: Vec<f64>,
    /// What the ideal account let through, and what accounts of exact shares would that never heard of each other.
    pub(super) ideally: [Vec<f64>; 2],
    pub(super) offered: u64,
    pub(super) asked: u64,
}

impl Fleet {
    pub(super) fn new(lessor: &Arc<Lessor>, rate: f64, burst: f64, loads: &[f64], seed: u64) -> Self {
        let whole = Whole { rate: rate / 1e9, burst };
        let mut random = fastrand::Rng::with_seed(seed);
        let gateway = |(n, load): (usize, &f64)| Gateway {
            name: format!("g{n}"),
            lease: Lease::new(0, &whole),
            load: *load,
            next: (random.f64() / load * 1e9) as u64,
            exact: Lease::new(0, &whole),
            answer: None,
        };
        let gateways = loads.iter().enumerate().map(gateway).collect();
        let key = format!("test:{{{rate}/{burst}/{loads:?}/{seed}}}");
        let (lessor, ideal) = (lessor.clone(), Lease::new(0, &whole));
        let (now, epoch, admitted, ideally, offered, asked) = (0, 1e9, vec![], [vec![], vec![]], 0, 0);
        Self { lessor, key, whole, gateways, ideal, random, now, epoch, admitted, ideally, offered, asked }
    }

    /// Lets this many seconds pass.
    pub(super) async fn run(&mut self, seconds: u64) {
        let end = self.now + seconds * SECOND;
        for bins in [&mut self.admitted].into_iter().chain(&mut self.ideally) {
            bins.resize((end / BIN) as usize, 0.0);
        }
        loop {
            let (index, at) = self.gateways.iter().map(|g| g.next).enumerate().min_by_key(|(_, at)| *at).unwrap();
            if at >= end {
                self.now = end;
                return;
            }
            self.now = at;
            self.request(index).await;
        }
    }

    async fn request(&mut self, index: usize) {
        let (now, whole, bin) = (self.now, self.whole, (self.now / BIN) as usize);
        let part = self.gateways[index].load / self.gateways.iter().map(|g| g.load).sum::<f64>();
        let part = Whole { rate: whole.rate * part, burst: (whole.burst * part).max(1.0) };
        let g = &mut self.gateways[index];
        g.next = now + (-(1.0 - self.random.f64()).ln() / g.load * 1e9) as u64 + 1;
        if let Some((at, ask, grant)) = g.answer.take_if(|(at, ..)| *at <= now) {
            g.lease.granted(&ask, &grant, at, &whole);
        }
        self.offered += 1;
        if g.lease.take(now, &whole) {
            self.admitted[bin] += 1.0;
        }
        for (ideally, passes) in self.ideally.iter_mut().zip([self.ideal.take_alone(now, &whole), g.exact.take_alone(now, &part)]) {
            ideally[bin] += f64::from(u8::from(passes));
        }
        if let Some(ask) = g.lease.ask(now, &whole) {
            self.asked += 1;
            let name = g.name.clone();
            let grant = self.exchange(&name, &ask).await;
            self.gateways[index].answer = Some((now + WAY, ask, grant));
        }
    }

    async fn exchange(&self, holder: &str, ask: &Ask) -> Grant {
        let time = format!("{:.6}", self.now as f64 / 1e9 + self.epoch);
        let subject = Subject { key: self.key.as_bytes(), holder, whole: &self.whole, time: &time };
        self.lessor.exchange(&subject, ask).await.unwrap()
    }

    /// Moves the loads.
    pub(super) fn load(&mut self, loads: &[f64]) {
        for (gateway, load) in self.gateways.iter_mut().zip(loads) {
            gateway.load = *load;
        }
    }

    /// What was let through in each ten seconds from `from` seconds on, as a part of the limit: the least and the most.
    pub(super) fn windows(&self, admitted: &[f64], from: u64) -> [f64; 2] {
        let bins = &admitted[(from * SECOND / BIN) as usize..];
        let sums = bins.windows((10 * SECOND / BIN) as usize).map(|bins| bins.iter().sum::<f64>() / (self.whole.rate * 1e10));
        sums.fold([f64::MAX, 0.0], |[low, high], sum| [low.min(sum), high.max(sum)])
    }

    /// How much more than the rate was let through in a time of any length, at most.
    fn excess(&self) -> f64 {
        let each = self.whole.rate * BIN as f64;
        let (mut excess, mut most) = (0.0f64, 0.0f64);
        for admitted in &self.admitted {
            excess = (excess + admitted - each).max(0.0);
            most = most.max(excess);
        }
        most
    }
}

/// Four loads that add up to `sum` requests a second, one of them small.
pub(super) fn uneven(sum: f64, random: &mut fastrand::Rng) -> Vec<f64> {
    let parts: Vec<f64> = (0..4).map(|_| random.f64().powi(3) + 0.02).collect();
    let all: f64 = parts.iter().sum();
    parts.iter().map(|part| part / all * sum).collect()
}

#[tokio::test]
async fn changing_loads_never_get_more_than_the_limit_its_burst_and_a_slice_for_each_gateway() {
    let server = Server::start();
    let lessor = lessor(&server).await;
    for (rate, burst) in [(100.0, 100.0), (200.0, 1000.0), (400.0, 3.0)] {
        for seed in 0..4 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut fleet = Fleet::new(&lessor, rate, burst, &[rate; 4], seed);
            for _ in 0..25 {
                for gateway in &mut fleet.gateways {
                    gateway.load = if random.u8(..4) == 0 { 0.1 } else { random.f64().powi(4) * 4.0 * rate + 1.0 };
                }
                fleet.run(random.u64(1..15)).await;
            }
            let most = burst + 8.0 * fleet.whole.stock() + rate * BIN as f64 / 1e9;
            assert!(fleet.excess() <= most, "{} above the rate of {rate}/s, seed {seed}; {most} are allowed", fleet.excess());
        }
    }
}

#[tokio::test]
async fn below_the_limit_everything_passes_wherever_it_comes_in() {
    let server = Server::start();
    let lessor = lessor(&server).await;
    for (rate, part) in [(100.0, 0.5), (100.0, 0.8), (1000.0, 0.9)] {
        let loads = uneven(part * rate, &mut fastrand::Rng::with_seed(1));
        let mut fleet = Fleet::new(&lessor, rate, rate, &loads, 1);
        fleet.run(20).await;
        (fleet.offered, fleet.asked) = (0, 0);
        fleet.run(60).await;
        let admitted: f64 = fleet.admitted[(20 * SECOND / BIN) as usize..].iter().sum();
        let refused = fleet.offered - admitted as u64;
        assert!(refused * 1000 <= fleet.offered, "{refused} of {} were refused at {part} of {rate}/s", fleet.offered);
        assert!(fleet.asked * 100 <= fleet.offered, "{} commands for {} requests", fleet.asked, fleet.offered);
    }
}

#[tokio::test]
async fn the_share_of_a_gateway_that_died_or_stopped_goes_to_the_others() {
    let server = Server::start();
    let lessor = lessor(&server).await;
    for (stopped, settled) in [(false, 33), (true, 31)] {
        let mut fleet = Fleet::new(&lessor, 1000.0, 1000.0, &[900.0, 400.0, 400.0, 400.0], u64::from(stopped));
        fleet.run(30).await;
        let (mut gone, now) = (fleet.gateways.remove(0), fleet.now);
        if stopped {
            let rest = gone.lease.leave(now, &fleet.whole).unwrap();
            fleet.exchange(&gone.name, &rest).await;
        }
        fleet.run(30).await;
        let (second, settled) = ((SECOND / BIN) as usize, settled * (SECOND / BIN) as usize);
        let before: f64 = fleet.admitted[20 * second..30 * second].iter().sum();
        let after: f64 = fleet.admitted[settled..settled + 10 * second].iter().sum();
        assert!((9800.0..10200.0).contains(&before) && (9800.0..10200.0).contains(&after), "{before}, then {after}; stopped: {stopped}");
    }
}

#[test]
fn a_gateway_that_was_not_answered_owes_what_it_owed_and_what_it_may_have_given_back() {
    let whole = Whole { rate: 1e-7, burst: 100.0 };
    let mut lease = Lease::new(0, &whole);
    (0..15).for_each(|_| assert!(lease.take(0, &whole)));
    let lost = lease.ask(SECOND, &whole).unwrap();
    // Redis may have taken back what is spent meanwhile, too.
    (0..4).for_each(|_| assert!(lease.take(0, &whole)));
    lease.failed(&lost);
    let again = lease.ask(2 * SECOND, &whole).unwrap();
    assert_eq!([lost.balance, lost.level, again.balance, again.level], [-25.0, 10.0, -35.0, 6.0]);
}

#[tokio::test]
async fn gateways_are_as_many_as_share_any_limit_whichever_was_talked_over_last() {
    let server = Server::start();
    let lessor = lessor(&server).await;
    let mut shared = Fleet::new(&lessor, 100.0, 100.0, &[100.0; 3], 1);
    shared.run(10).await;
    let mut own = Fleet::new(&lessor, 100.0, 100.0, &[100.0], 2);
    own.run(10).await;
    assert_eq!(lessor.gateways(), 3);
}

#[tokio::test]
async fn while_a_part_of_a_cluster_is_gone_limits_are_kept_alone_without_a_break() {
    let cluster = Cluster::start();
    let (there, ports) = (cluster.primary_of("fengda:{limit}").port(), cluster.ports());
    let lost = (0..).map(|n| format!("{{{n}}}")).find(|key| cluster.primary_of(key).port() != there).unwrap();
    let servers = ports.into_iter().map(|port| ("127.0.0.1".into(), port)).collect();
    let lessor = lessor_of(RedisConfig { servers, mode: Mode::Cluster, ..redis_config(there) }).await;
    let ask = async || {
        let whole = Whole { rate: 1e-6, burst: 1000.0 };
        let ask = Lease::new(0, &whole).ask(SECOND, &whole).unwrap_or(Ask::NOTHING);
        lessor.exchange(&Subject { key: lost.as_bytes(), holder: "g0", whole: &whole, time: "" }, &ask).await
    };
    ask().await.unwrap();
    let primary = cluster.primary_of(&lost);
    cluster.replica_of(&lost).kill();
    primary.kill();
    while ask().await.is_ok() {}
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert!(lessor.is_gone(), "after {:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_clock_that_goes_back_an_hour_leaves_nothing_to_a_gateway_that_died() {
    let server = Server::start();
    let lessor = lessor(&server).await;
    let mut fleet = Fleet::new(&lessor, 1000.0, 1000.0, &[900.0, 1500.0], 1);
    fleet.run(20).await;
    fleet.gateways.remove(0);
    fleet.epoch -= 3600.0;
    fleet.run(30).await;
    let [low, high] = fleet.windows(&fleet.admitted, 35);
    assert!(low > 0.98 && high < 1.02, "{low:.3} to {high:.3}");
}

#[tokio::test]
async fn many_gateways_that_get_a_few_requests_each_add_nothing_to_the_limit() {
    let server = Server::start();
    let lessor = lessor(&server).await;
    let mut loads = vec![0.4; 40];
    loads[0] = 300.0;
    let mut fleet = Fleet::new(&lessor, 200.0, 200.0, &loads, 1);
    fleet.run(900).await;
    let passed = fleet.admitted[(600 * SECOND / BIN) as usize..].iter().sum::<f64>() / (300.0 * 200.0);
    assert!((0.98..1.02).contains(&passed), "{passed:.3}");
    assert!(fleet.asked * 100 <= fleet.offered, "{} commands for {} requests", fleet.asked, fleet.offered);
    let most = fleet.whole.burst + 40.0 * 2.0 * fleet.whole.stock() + fleet.whole.rate * BIN as f64;
    assert!(fleet.excess() <= most, "{} above the rate; {most} are allowed", fleet.excess());
}

#[tokio::test]
async fn what_stands_under_a_key_by_mistake_is_counted_anew() {
    let server = Server::start();
    let lessor = lessor(&server).await;
    let mut fleet = Fleet::new(&lessor, 100.0, 100.0, &[100.0; 4], 1);
    for wrong in ["SET {} x", "HSET {} pool x g0 1 g1 a"] {
        _ = server.cli::<()>(&wrong.replace("{}", &fleet.key).split(' ').collect::<Vec<_>>());
        fleet.run(10).await;
        assert!((1..3_600_000).contains(&server.cli::<i64>(&["PTTL", &fleet.key]).unwrap()), "nothing stays for ever");
    }
}
