//! Redis fails in every way that it can, under a chat: what users see, what operators see, and how long until it is as before.
//! `docs/redis.md` has the table.

#![allow(clippy::print_stdout, reason = "what was measured is for whoever runs the test")]

mod moving;
mod rig;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use fengda_plugins::redis::server::{Cluster, Guard, Sentinels, Server};
use serde_json::json;

use self::rig::{Rig, Talker};
use super::{
    client::until,
    redis_guarded::past,
    wire::{Proxy, Wire},
};

/// How long servers may take to put a replica in the place of a dead primary; sentinels that were held up by other work stand back for 30 s.
const FAILOVER: Duration = Duration::from_secs(60);
/// Until it is as before, from the moment that the fault is over.
const RECOVERY: Duration = Duration::from_secs(5);

fn at(port: u16) -> String {
    format!("url: \"redis://127.0.0.1:{port}\"")
}

fn servers(ports: &[u16]) -> String {
    format!("servers: [{}]", ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect::<Vec<_>>().join(", "))
}

/// A server that loses nothing when it is killed.
fn durable() -> Server {
    Server::with(&["appendonly yes", "appendfsync always"])
}

/// A conversation with some turns.
async fn warm(rig: &Rig, name: &str) -> Talker {
    let mut talker = rig.talker(name);
    for _ in 0..3 {
        assert!(talker.goes_on().await.stored());
    }
    talker
}

/// A fault that takes Redis out of reach: conversations at hand go on and are put aside, new ones get the tenant's busy text, and
/// everything is where it belongs within seconds of its end.
async fn out_of_reach(name: &str, rig: &Rig, begin: impl AsyncFnOnce(), lasts: Duration, end: impl AsyncFnOnce()) {
    let mut talker = warm(rig, "warm").await;
    let began = Instant::now();
    begin().await;
    let (mut aside, mut slowest, mut strangers) = (0, Duration::ZERO, 0);
    while began.elapsed() < lasts || aside < 5 {
        let heard = talker.goes_on().await;
        slowest = slowest.max(heard.took);
        if heard.stored() {
            continue;
        }
        aside += 1;
        let mut stranger = rig.talker(&format!("stranger{strangers}"));
        strangers += 1;
        let cold = stranger.says().await;
        assert_eq!(cold.body["answer"], "alpha is busy", "{}", cold.body);
        assert_eq!((&cold.body["fallback"], &cold.body["stored"]), (&json!(true), &json!(false)), "{}", cold.body);
        assert_eq!(rig.clerk.calls(&format!("stranger{} 1", strangers - 1)), 0, "the flow did not run");
        slowest = slowest.max(cold.took);
        rig.nobody_is_starved().await;
    }
    assert_eq!(rig.metric("fengda_redis_up").await, 0.0);
    let ready = rig.admin("/readyz").await;
    assert!(ready.status == 200 && ready.text().starts_with("turns wait on this gateway's disk: "), "{}", ready.text());
    end().await;
    let ended = Instant::now();
    while !talker.goes_on().await.stored() {
        assert!(ended.elapsed() < RECOVERY, "{name}: not back after {:?}", ended.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("| {name} | {aside} turns aside | slowest {slowest:?} | back after {:?} |", ended.elapsed());
    talker.finds_everything().await;
    until("it is up", async || rig.metric("fengda_redis_up").await == 1.0).await;
    assert!(rig.talker("newcomer").goes_on().await.stored());
    rig.the_log_is_calm();
}

/// Goes on talking from the death of a primary until a replica that took over stores what is said; `beside` what else goes on.
async fn failed_over(name: &str, talker: &mut Talker, mut beside: impl AsyncFnMut()) {
    let died = Instant::now();
    let mut aside = 0;
    loop {
        let stored = talker.goes_on().await.stored();
        beside().await;
        if stored && aside > 0 {
            break println!("| {name} | {aside} turns aside | back after {:?} |", died.elapsed());
        }
        aside += u32::from(!stored);
        assert!(died.elapsed() < FAILOVER, "no failover");
        // A conversation keeps 1000 turns: fewer than this can be in so long.
        tokio::time::sleep(FAILOVER / 900).await;
    }
}

#[tokio::test]
async fn redis_is_killed_and_restarted() {
    let redis = durable();
    let rig = Rig::start(&at(redis.port())).await;
    out_of_reach("killed, restarted", &rig, async || redis.kill(), Duration::from_secs(2), async || redis.restart()).await;
}

#[tokio::test]
async fn redis_stands_still_for_ten_seconds() {
    let redis = Server::start();
    let rig = Rig::start(&at(redis.port())).await;
    out_of_reach("paused for 10 s", &rig, async || redis.pause(), Duration::from_secs(10), async || redis.resume()).await;
}

#[tokio::test]
async fn redis_answers_later_than_its_timeout() {
    let redis = Server::start();
    let proxy = Proxy::to(redis.port()).await;
    let rig = Rig::start(&at(proxy.port)).await;
    let slow = async || proxy.set(Wire::Slow(Duration::from_secs(2)));
    out_of_reach("replies 2 s late", &rig, slow, Duration::from_secs(3), async || proxy.set(Wire::Whole)).await;
}

#[tokio::test]
async fn redis_answers_late_but_in_time() {
    let redis = Server::start();
    let proxy = Proxy::to(redis.port()).await;
    let rig = Rig::start(&format!("{}, timeout: 2s", at(proxy.port))).await; // in time, however busy the machine is
    let mut talker = warm(&rig, "warm").await;
    proxy.set(Wire::Slow(Duration::from_millis(200)));
    for _ in 0..5 {
        assert!(talker.goes_on().await.stored());
        rig.nobody_is_starved().await;
    }
    assert!(rig.talker("cold").goes_on().await.stored());
    talker.finds_everything().await;
    rig.the_log_is_calm();
}

#[tokio::test]
async fn redis_may_take_as_long_as_its_timeout_says() {
    let redis = Server::start();
    let proxy = Proxy::to(redis.port()).await;
    let rig = Rig::start(&format!("{}, timeout: 2s", at(proxy.port))).await;
    let mut talker = warm(&rig, "warm").await;
    proxy.set(Wire::Slow(Duration::from_millis(700)));
    for _ in 0..2 {
        assert!(talker.goes_on().await.stored());
    }
    proxy.set(Wire::Whole);
    talker.finds_everything().await;
}

#[tokio::test]
async fn redis_becomes_a_replica() {
    let redis = Server::start();
    let rig = Rig::start(&at(redis.port())).await;
    let role = |words: &[&str]| redis.cli::<String>(words).unwrap();
    // Of nobody, so that it keeps what it has.
    let begin = async || drop(role(&["REPLICAOF", "127.0.0.1", "1"]));
    out_of_reach("READONLY", &rig, begin, Duration::from_secs(2), async || drop(role(&["REPLICAOF", "NO", "ONE"]))).await;
}

#[tokio::test]
async fn redis_is_out_of_memory() {
    let redis = Server::start();
    let rig = Rig::start(&at(redis.port())).await;
    let memory = |bytes: &str| redis.cli::<String>(&["CONFIG", "SET", "maxmemory", bytes]).unwrap();
    out_of_reach("OOM", &rig, async || drop(memory("1")), Duration::from_secs(2), async || drop(memory("0"))).await;
}

/// A connection of its own, which holds through a fault that lets nobody else in.
struct Operator(TcpStream);

impl Operator {
    fn of(redis: &Server) -> Self {
        Self(TcpStream::connect(("127.0.0.1", redis.port())).unwrap())
    }

    /// Gives an order, which is one line, and waits until it is taken.
    fn orders(&self, line: &str) {
        (&self.0).write_all(format!("{line}\r\n").as_bytes()).unwrap();
        let mut reply = [0; 256];
        let length = (&self.0).read(&mut reply).unwrap();
        assert!(length > 0 && reply[0] != b'-', "{line}: {}", String::from_utf8_lossy(&reply[..length]));
    }
}

/// Whoever connects from now on is turned away, and everybody has to.
async fn turned_away(name: &str, begin: &str, end: &str) {
    let redis = Server::start();
    let (rig, operator) = (Rig::start(&at(redis.port())).await, Operator::of(&redis));
    let begin = async || [begin, "CLIENT KILL TYPE normal", "CLIENT KILL TYPE pubsub"].iter().for_each(|line| operator.orders(line));
    out_of_reach(name, &rig, begin, Duration::from_secs(2), async || operator.orders(end)).await;
}

#[tokio::test]
async fn redis_has_all_the_clients_that_it_takes() {
    turned_away("maxclients", "CONFIG SET maxclients 1", "CONFIG SET maxclients 1000").await;
}

#[tokio::test]
async fn redis_has_a_new_password() {
    turned_away("NOAUTH", "CONFIG SET requirepass another", "CONFIG SET requirepass \"\"").await;
}

#[tokio::test]
async fn redis_cannot_save() {
    let redis = Server::with(&["save 3600 1", "stop-writes-on-bgsave-error yes", "enable-protected-configs yes"]);
    let rig = Rig::start(&at(redis.port())).await;
    let folder = redis.setting("dir");
    // Where nobody can make a file.
    let saves = async |folder: &str, status: &str| {
        redis.cli::<String>(&["CONFIG", "SET", "dir", folder]).unwrap();
        redis.cli::<String>(&["BGSAVE"]).unwrap();
        let status = format!("rdb_last_bgsave_status:{status}");
        until("the save has ended", async || redis.info("persistence").contains(&status)).await;
    };
    out_of_reach("MISCONF", &rig, async || saves("/proc", "err").await, Duration::from_secs(2), async || saves(&folder, "ok").await).await;
}

#[tokio::test]
async fn redis_is_loading_its_data() {
    // A millisecond for each key, so that it takes some seconds.
    let redis = Server::with(&["key-load-delay 1000", "loading-process-events-interval-bytes 1024"]);
    redis.cli::<String>(&["DEBUG", "POPULATE", "3000", "other", "64"]).unwrap();
    let rig = Rig::start(&at(redis.port())).await;
    let begin = async || {
        redis.cli::<String>(&["SAVE"]).unwrap();
        redis.restart_and_load();
    };
    let loaded = async || until("it has loaded", async || redis.cli::<String>(&["PING"]).is_ok()).await;
    out_of_reach("LOADING", &rig, begin, Duration::ZERO, loaded).await;
}

#[tokio::test]
async fn redis_forgets_its_scripts() {
    let redis = Server::start();
    let rig = Rig::start(&at(redis.port())).await;
    let mut talker = warm(&rig, "warm").await;
    for _ in 0..3 {
        redis.cli::<String>(&["SCRIPT", "FLUSH"]).unwrap();
        assert!(talker.goes_on().await.stored());
    }
    assert!(rig.talker("cold").goes_on().await.stored());
    talker.finds_everything().await;
    assert_eq!(rig.metric("fengda_redis_up").await, 1.0);
}

/// The server has done what it was asked to, and nobody is told.
#[tokio::test]
async fn the_wire_is_cut_between_a_script_and_its_reply() {
    let redis = Server::start();
    let proxy = Proxy::to(redis.port()).await;
    let rig = Rig::start(&at(proxy.port)).await;
    let mut talker = warm(&rig, "warm").await;
    for round in 1..=5 {
        proxy.set(Wire::KeepReplies);
        // Until at least one more reply was lost.
        while proxy.kept() < round {
            talker.goes_on().await;
        }
        proxy.set(Wire::Whole);
        let ended = Instant::now();
        while !talker.goes_on().await.stored() {
            assert!(ended.elapsed() < RECOVERY, "not back after {:?}", ended.elapsed());
        }
        println!("| reply cut off | back after {:?} |", ended.elapsed());
        talker.finds_everything().await;
    }
    rig.the_log_is_calm();
}

async fn a_primary_dies_under_sentinels(guards: [Guard; 2]) {
    let sentinels = Sentinels::guarded(&guards[0], &guards[1]);
    let rig = Rig::start(&format!("{}, sentinel: {}{}", servers(&sentinels.ports()), Sentinels::MASTER, past(&guards))).await;
    let mut talker = warm(&rig, "warm").await;
    // Any of them may be chosen.
    sentinels.primary().wait_for_replicas(2);
    sentinels.primary().kill();
    failed_over("primary killed, sentinels", &mut talker, async || ()).await;
    talker.finds_everything().await;
    rig.the_log_is_calm();
}

#[tokio::test]
async fn a_primary_dies_and_sentinels_put_a_replica_in_its_place() {
    a_primary_dies_under_sentinels(Default::default()).await;
}

#[tokio::test]
async fn a_primary_dies_and_sentinels_put_a_replica_in_its_place_with_tls_and_logins() {
    a_primary_dies_under_sentinels(Guard::documented(true)).await;
}

async fn a_primary_of_a_cluster_dies(guard: Guard) {
    let cluster = Cluster::guarded(&guard, &[]);
    let rig = Rig::start(&format!("{}, cluster: true{}", servers(&cluster.ports()), past(&[guard, Guard::default()]))).await;
    let slot_of = |user: &str| cluster.primary_of(&format!("{{alpha/{user}}}")).port();
    let other = (0..).map(|n| format!("other{n}")).find(|user| slot_of(user) != slot_of("warm")).unwrap();
    let (mut talker, mut other) = (warm(&rig, "warm").await, warm(&rig, &other).await);
    let primary = cluster.primary_of("{alpha/warm}");
    primary.wait_for_replicas(1);
    primary.kill();
    let others = async || assert!(other.goes_on().await.stored(), "of another primary");
    failed_over("primary of a cluster killed", &mut talker, others).await;
    talker.finds_everything().await;
    other.finds_everything().await;
    rig.the_log_is_calm();
}

#[tokio::test]
async fn a_primary_of_a_cluster_dies_and_users_of_the_others_notice_nothing() {
    a_primary_of_a_cluster_dies(Guard::default()).await;
}

#[tokio::test]
async fn a_primary_of_a_cluster_with_tls_and_logins_dies_and_users_of_the_others_notice_nothing() {
    let [guard, _] = Guard::documented(true);
    a_primary_of_a_cluster_dies(guard).await;
}

/// As Redis Cluster is configured where nobody says otherwise: without some of its slots it serves none.
#[tokio::test]
async fn a_cluster_without_some_of_its_slots_serves_none() {
    let cluster = Cluster::start();
    for node in &cluster.nodes {
        node.cli::<String>(&["CONFIG", "SET", "cluster-require-full-coverage", "yes"]).unwrap();
    }
    let rig = Rig::start(&format!("{}, cluster: true", servers(&cluster.ports()))).await;
    let of_others =
        (0..).map(|n| format!("{{{n}}}")).find(|key| cluster.primary_of(key).port() != cluster.primary_of("{alpha/warm}").port());
    let of_others = of_others.unwrap();
    let lost = [cluster.replica_of(&of_others), cluster.primary_of(&of_others)];
    let (kill, restart) = (async || lost.iter().for_each(|node| node.kill()), async || lost.iter().for_each(|node| node.restart()));
    out_of_reach("CLUSTERDOWN", &rig, kill, Duration::from_secs(2), restart).await;
}

/// What was done and not told of goes over to the replica, and is known there.
#[tokio::test]
async fn a_replica_takes_over_while_replies_are_lost() {
    let redis = Server::start();
    let proxy = Proxy::to(redis.port()).await;
    let rig = Rig::start(&at(proxy.port)).await;
    let mut talker = warm(&rig, "warm").await;
    let replica = redis.replica();
    proxy.set(Wire::KeepReplies);
    let mut aside = 0;
    while proxy.kept() < 5 || aside < 5 {
        aside += u32::from(!talker.goes_on().await.stored());
    }
    redis.wait_for_replicas(1);
    redis.kill();
    replica.cli::<String>(&["REPLICAOF", "NO", "ONE"]).unwrap();
    proxy.lead_to(replica.port());
    proxy.set(Wire::Whole);
    let ended = Instant::now();
    while !talker.goes_on().await.stored() {
        assert!(ended.elapsed() < RECOVERY, "not back after {:?}", ended.elapsed());
    }
    println!("| replica promoted, {} replies lost | {aside} turns aside | back after {:?} |", proxy.kept(), ended.elapsed());
    talker.finds_everything().await;
    rig.the_log_is_calm();
}

/// What a replica had not got yet when it took over is lost; the client's own number tells.
#[tokio::test]
async fn a_turn_that_a_failover_lost_shows_as_a_gap() {
    let redis = Server::start();
    let proxy = Proxy::to(redis.port()).await;
    let rig = Rig::start(&at(proxy.port)).await;
    let mut talker = warm(&rig, "warm").await;
    let replica = redis.replica();
    replica.cli::<String>(&["REPLICAOF", "NO", "ONE"]).unwrap();
    until("a turn is stored that the replica does not get", async || rig.metric("fengda_redis_up").await == 1.0).await;
    let lost = talker.goes_on().await;
    assert!(lost.stored(), "{}", lost.body);
    redis.kill();
    proxy.lead_to(replica.port());
    until("the replica takes turns", async || rig.admin("/readyz").await.text() == "ok\n").await;
    let heard = talker.says().await;
    assert_eq!((&heard.body["answer"], &heard.body["gap"]), (&json!("3 after warm 3"), &json!(true)), "{}", heard.body);
    assert_eq!(rig.metric("fengda_context_gaps_total{tenant=\"alpha\"}").await, 1.0);
    until("the log has it", async || rig.logged("gap").len() == 1).await;
}
