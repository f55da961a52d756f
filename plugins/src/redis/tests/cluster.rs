//! A cluster whose slots move and whose primaries die.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use redis::Value;
use tokio::task::JoinHandle;

use super::{
    ADD, Fault, Health, PATIENCE, SOON, TIMEOUT, add, config,
    guarded::{past, strict},
    health, open, up,
};
use crate::redis::{
    Mode, Redis,
    server::{Cluster, Guard, wait_until},
};

async fn connect(cluster: &Cluster, guard: &Guard) -> Arc<Redis> {
    open(past(guard, config(Mode::Cluster, cluster.ports()))).await
}

/// Keys of as many primaries as there are.
fn keys(cluster: &Cluster) -> [String; 3] {
    let mut keys: Vec<String> = Vec::new();
    for i in 0.. {
        let key = format!("fengda:{{{i}}}");
        if keys.iter().all(|other| cluster.primary_of(other).port() != cluster.primary_of(&key).port()) {
            keys.push(key);
        }
        if keys.len() == 3 {
            break;
        }
    }
    keys.try_into().unwrap()
}

/// Adds to keys again and again, and asserts that nothing fails, which it does if it is late.
struct Load {
    stop: Arc<AtomicBool>,
    sum: Arc<AtomicI64>,
    task: JoinHandle<()>,
}

impl Load {
    fn on(redis: &Arc<Redis>, keys: Vec<String>) -> Self {
        let redis = redis.clone();
        let (stop, sum) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
        let (stopped, added) = (stop.clone(), sum.clone());
        let task = tokio::spawn(async move {
            let keys: Vec<_> = keys.iter().map(String::as_bytes).collect();
            while !stopped.load(Ordering::Acquire) {
                redis.run(&ADD, &keys, &[b"1"]).await.unwrap();
                added.fetch_add(1, Ordering::AcqRel);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        Self { stop, sum, task }
    }

    async fn done(&self, more: i64) {
        let goal = self.sum.load(Ordering::Acquire) + more;
        let reached = async {
            while self.sum.load(Ordering::Acquire) < goal {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("the load goes on");
    }

    async fn end(self) -> i64 {
        self.stop.store(true, Ordering::Release);
        self.task.await.unwrap();
        self.sum.load(Ordering::Acquire)
    }
}

#[tokio::test]
async fn a_key_is_asked_for_where_it_is() {
    let cluster = Cluster::shared();
    let redis = connect(cluster, &Guard::default()).await;
    for i in 0..50 {
        let key = format!("fengda:{{everywhere/{i}}}");
        assert_eq!(add(&redis, &key, i).await, Ok(i));
        assert_eq!(cluster.primary_of(&key).cli::<i64>(&["GET", &key]), Ok(i));
    }
    let waited = redis.run_and_wait(&ADD, &[b"fengda:{everywhere/0}"], &[b"1"], 1, Duration::from_secs(1)).await;
    assert_eq!(waited, Ok((Value::Int(1), 1)));
    assert_eq!(redis.probe().await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "it is another thread that moves the slots")]
async fn slots_move_under_load_and_no_call_fails() {
    let [guard, _] = strict();
    let cluster = Cluster::guarded(&guard, &[]);
    let redis = connect(&cluster, &guard).await;
    let [key, other, _] = keys(&cluster);
    let second = format!("{key}:2");
    let load = [vec![key.clone()], vec![second.clone()], vec![key.clone(), second.clone()]].map(|keys| Load::on(&redis, keys));
    load[0].done(20).await;
    let ports = [&other, &key].map(|key| cluster.primary_of(key).port());
    for port in [ports[0], ports[1], ports[0]] {
        let to = cluster.nodes.iter().find(|node| node.port() == port).unwrap();
        // So many that it takes longer than sending calls on again and again would.
        for i in 0..60 {
            cluster.primary_of(&key).cli::<()>(&["SET", &format!("{key}:fill:{i}"), "x"]).unwrap();
        }
        tokio::task::block_in_place(|| cluster.migrate(cluster.slot(&key), to, || std::thread::sleep(Duration::from_millis(5))));
        for load in &load {
            load.done(20).await;
        }
    }
    let [one, other, both] = load;
    let (one, other, both) = (one.end().await, other.end().await, both.end().await);
    assert_eq!((add(&redis, &key, 0).await, add(&redis, &second, 0).await), (Ok(one + both), Ok(other + both)));
}

/// Ends a primary with `end`: its users are without for a while, and never wait long; others notice nothing.
async fn loses_a_primary(guard: &Guard, end: impl FnOnce(&Cluster, &str)) {
    let cluster = Cluster::guarded(guard, &[]);
    let redis = connect(&cluster, guard).await;
    let [lost, first, second] = keys(&cluster);
    let load = [first, second].map(|key| Load::on(&redis, vec![key]));
    add(&redis, &lost, 1).await.unwrap();
    let replica = cluster.replica_of(&lost);
    end(&cluster, &lost);
    let partly = health(&redis, "partly up", SOON, |health| matches!(health, Health::Partly { .. })).await;
    assert!(partly.is_up());
    let begun = Instant::now();
    let fault = add(&redis, &lost, 1).await.unwrap_err();
    assert!(matches!(fault, Fault::Down(_)) && begun.elapsed() < TIMEOUT / 2, "{fault:?} after {:?}", begun.elapsed());
    tokio::task::block_in_place(|| wait_until("the replica is primary", || replica.info("replication").contains("role:master")));
    up(&redis).await;
    add(&redis, &lost, 1).await.unwrap();
    for load in load {
        load.done(20).await;
        load.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_is_replaced_and_others_notice_nothing() {
    let [guard, _] = strict();
    loses_a_primary(&guard, |cluster, key| cluster.primary_of(key).kill()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_stands_still_is_replaced_and_others_notice_nothing() {
    loses_a_primary(&Guard::default(), |cluster, key| cluster.primary_of(key).pause()).await;
}
