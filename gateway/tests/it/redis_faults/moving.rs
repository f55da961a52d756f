//! Slots of a cluster move while people talk, without a break, to whichever gateway is next.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fengda_plugins::redis::server::{Cluster, Server};
use tokio::{
    runtime::Handle,
    task::{JoinSet, block_in_place},
};

use super::{
    RECOVERY,
    rig::{Rig, Talker},
    servers, warm,
};

/// Users whose slots move, and users whose slots stay.
const MOVING: usize = 4;
const SETTLED: usize = 2;
/// Other keys beside those of a user whose slot moves: with a pause after each they take some hundred milliseconds.
const BESIDE: usize = 30;
const PAUSE: Duration = Duration::from_millis(5);
/// How long a call waits for keys that move, at least.
const WAITED: Duration = Duration::from_millis(700);
/// How often each slot moves, on a machine that is quick enough to have that done in so long; and how long they move at most until every
/// kind of redirection was met.
const ROUNDS: usize = 5;
const ENOUGH: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(60);
/// Before the next thing is said, at most, and what a user says at most: a conversation keeps 1000 turns.
const BREATH: Duration = Duration::from_millis(20);
const TURNS: usize = 900;

/// What a user noticed.
struct Noticed {
    talker: Talker,
    /// Turns that had to wait on a gateway's disk.
    aside: usize,
    /// Answers that were the tenant's busy text.
    busy: usize,
    slowest: Duration,
}

/// Says one thing after the other, each to another gateway, until it is told to stop; one whose turn waits on a gateway's disk stays there.
async fn talks(mut talker: Talker, places: [SocketAddr; 2], stop: Arc<AtomicBool>) -> Noticed {
    let (mut place, mut stored) = (0, true);
    let (mut aside, mut busy, mut slowest) = (0, 0, Duration::ZERO);
    while !stored || talker.turns() < TURNS && !stop.load(Ordering::Acquire) {
        place = (place + usize::from(stored)) % places.len();
        talker.goes_to(places[place]);
        let heard = talker.tries().await;
        match &heard {
            Ok(heard) => stored = heard.stored(),
            Err(_) => busy += 1,
        }
        aside += usize::from(!stored);
        slowest = slowest.max(heard.unwrap_or_else(|busy| busy).took);
        tokio::time::sleep(BREATH.mul_f64(fastrand::f64())).await;
    }
    Noticed { talker, aside, busy, slowest }
}

/// How often the servers sent a client on in each way.
fn redirections(cluster: &Cluster) -> [(&'static str, u64); 3] {
    let told = |node: &Server, name: &str| {
        let stats = node.info("errorstats");
        let count = stats.lines().find_map(|line| line.strip_prefix(&format!("errorstat_{name}:count="))?.trim().parse().ok());
        count.unwrap_or(0)
    };
    ["MOVED", "ASK", "TRYAGAIN"].map(|name| (name, cluster.nodes.iter().map(|node| told(node, name)).sum()))
}

/// Moves a user's slot to another primary, key by key with `between` after each, and says how long that took.
fn moves(cluster: &Cluster, user: &str, between: impl FnMut()) -> Duration {
    let slot = cluster.slot(&format!("{{alpha/{user}}}"));
    let from = cluster.primary_of_slot(slot).port();
    let mut others = (0..16_384).step_by(1000).map(|slot| cluster.primary_of_slot(slot)).filter(|primary| primary.port() != from);
    let (to, began) = (others.next().unwrap(), Instant::now());
    block_in_place(|| cluster.migrate(slot, to, between));
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "it is another thread that moves the slots")]
async fn slots_move_under_chats_that_do_not_stop() {
    let cluster = Cluster::start();
    let one = Rig::start(&format!("{}, cluster: true", servers(&cluster.ports()))).await;
    let two = one.another().await;
    let stop = Arc::new(AtomicBool::new(false));
    let (names, mut talking) = (Vec::from_iter((0..MOVING + SETTLED).map(|n| format!("user{n}"))), JoinSet::new());
    for name in &names {
        let talker = warm(&one, name).await;
        for n in 0..BESIDE {
            let key = format!("{{alpha/{name}}}:{n}");
            cluster.primary_of(&key).cli::<()>(&["SET", &key, "beside"]).unwrap();
        }
        talking.spawn(talks(talker, [&one, &two].map(|rig| rig.gateway.public), stop.clone()));
    }
    let (began, mut rounds, mut longest) = (Instant::now(), 0, Duration::ZERO);
    while rounds < ROUNDS && began.elapsed() < ENOUGH || redirections(&cluster).iter().any(|(_, count)| *count == 0) {
        for user in &names[..MOVING] {
            longest = longest.max(moves(&cluster, user, || std::thread::sleep(PAUSE)));
        }
        rounds += 1;
        assert!(began.elapsed() < PATIENCE, "{:?}", redirections(&cluster));
    }
    stop.store(true, Ordering::Release);
    let (mut turns, mut aside, mut busy, mut slowest) = (0, 0, 0, Duration::ZERO);
    for mut noticed in talking.join_all().await {
        for rig in [&one, &two] {
            noticed.talker.goes_to(rig.gateway.public);
            noticed.talker.finds_everything().await;
        }
        (turns, aside, busy) = (turns + noticed.talker.turns(), aside + noticed.aside, busy + noticed.busy);
        slowest = slowest.max(noticed.slowest);
    }
    let (moved, told) = (rounds * MOVING, redirections(&cluster));
    println!(
        "| {moved} slots moved, each in up to {longest:?} | {turns} turns, {aside} aside, {busy} busy | slowest {slowest:?} | {told:?} |"
    );
    assert!((aside, busy) == (0, 0) || longest > WAITED, "{aside} aside, {busy} busy");
    assert_eq!(one.clerk.foreign(), [""; 0]);
    one.the_log_is_calm();
    two.the_log_is_calm();
}

/// As one does whose move was begun and forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_stays_half_moved() {
    let cluster = Cluster::start();
    let rig = Rig::start(&format!("{}, cluster: true", servers(&cluster.ports()))).await;
    let (mut talker, mut other) = (warm(&rig, "warm").await, warm(&rig, "other").await);
    let (mut aside, mut slowest, mut moved) = (0, Duration::ZERO, 0);
    let mut talk = async || {
        while aside < 4 {
            let heard = talker.goes_on().await;
            aside += usize::from(!heard.stored());
            slowest = slowest.max(heard.took);
            assert!(other.goes_on().await.stored(), "of another slot");
            rig.nobody_is_starved().await;
        }
    };
    moves(&cluster, "warm", || {
        moved += 1;
        Handle::current().block_on(talk()); // which has heard enough after the first key
    });
    assert!(moved > 1, "its keys were on both servers");
    assert!(!rig.logged("store_away").is_empty(), "operators are told");
    let ended = Instant::now();
    while !talker.goes_on().await.stored() {
        assert!(ended.elapsed() < RECOVERY, "not back after {:?}", ended.elapsed());
    }
    println!("| slot half moved | {aside} turns aside | slowest {slowest:?} | back after {:?} |", ended.elapsed());
    talker.finds_everything().await;
    other.finds_everything().await;
    rig.the_log_is_calm();
}
