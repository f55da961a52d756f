//! What the context plugin costs: a hot begin, a cold begin of a hundred turns, commits alone and many at once.

use std::{
    hint::black_box,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use fengda_plugins::{
    api::{Begin, BeginTurn, Begun, Clock, Commit, Meters, SessionKey, Tenant, Text, TurnPhase},
    context::{Backend, CacheConfig, Context, ContextConfig, Durability},
    units::Percent,
};
use tokio::runtime::Runtime;

/// A directory that goes with the benchmark.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("fengda-bench-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("the temporary directory is writable");
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // a leftover does no harm
    }
}

fn open(dir: &Scratch, durability: Durability, cache_size: u64) -> Arc<Context> {
    let config = ContextConfig {
        backend: Backend::Embedded(durability),
        cache: CacheConfig { size: cache_size, share: Percent(100), idle: Duration::from_secs(1800) },
        history_turns: 100,
        history_keep: Duration::from_secs(7 * 86400),
        dir: dir.0.clone(),
        spool: None,
        import: None,
    };
    Context::open(&config, Clock::system(), &Meters::default()).expect("a fresh directory opens")
}

fn session(user: usize) -> SessionKey {
    let tenant = Tenant::from_config("acme-shop").expect("a plain name");
    tenant.user(&format!("user-{user}")).and_then(|u| u.session("default")).expect("short ids")
}

/// A question of 60 and an answer of 300 bytes.
fn words() -> (Text, Text) {
    ("退货".repeat(10).into(), "好的，".repeat(33).into())
}

async fn begin(context: &Context, key: &SessionKey, message_id: &Text) -> Begun {
    let until = Clock::system().now().after(Duration::from_secs(10));
    let (q, _) = words();
    match context.begin(BeginTurn { key, message_id, q: &q, until, wait: Duration::ZERO, seen: None, limits: &[] }).await {
        Ok(Begin::Run(begun)) => begun,
        other => panic!("not begun: {other:?}"),
    }
}

async fn turn(context: &Context, key: &SessionKey, id: u64) {
    let message_id: Text = format!("message-{id}").into();
    let begun = begin(context, key, &message_id).await;
    let (q, a) = words();
    let commit = Commit {
        message_id,
        q,
        a,
        at: Clock::system().now(),
        fallback: false,
        handoff: false,
        awaits_past: begun.awaits_past,
        slots: Vec::new(),
        user_slots: Vec::new(),
        journal: None,
        wait: None,
    };
    context.commit(&begun, commit).await.expect("committed");
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

fn begins(c: &mut Criterion) {
    let (rt, dir) = (runtime(), Scratch::new("begin"));
    let key = session(0);
    let hot = open(&dir, Durability::Os, 64 << 20);
    rt.block_on(async {
        for id in 0..100 {
            turn(&hot, &key, id).await;
        }
    });
    let id: Text = "message-new".into();
    c.bench_function("begin and release, hot, 100 turns", |b| {
        b.iter(|| {
            let begun = rt.block_on(begin(&hot, &key, &id));
            hot.release(begun.claim.as_ref().expect("the store is there"));
            black_box(begun.state.seq)
        });
    });
    drop(hot);
    let cold = open(&dir, Durability::Os, 0); // a cache without room: every begin reads the disk
    c.bench_function("begin and release, cold, 100 turns", |b| {
        b.iter(|| {
            let begun = rt.block_on(begin(&cold, &key, &id));
            cold.release(begun.claim.as_ref().expect("the store is there"));
            black_box(begun.state.seq)
        });
    });
}

fn commits(c: &mut Criterion) {
    for (name, durability) in [("os", Durability::Os), ("disk", Durability::Disk)] {
        for at_once in [1_usize, 64] {
            let (rt, dir) = (runtime(), Scratch::new(&format!("{name}-{at_once}")));
            let context = open(&dir, durability, 64 << 20);
            let keys: Vec<SessionKey> = (0..at_once).map(session).collect();
            let mut next = 0;
            c.bench_function(&format!("begin and commit, {name}, {at_once} at once, each"), |b| {
                b.iter_custom(|turns| {
                    let rounds = turns.div_ceil(at_once as u64);
                    let from = next;
                    next += rounds;
                    let began = Instant::now();
                    rt.block_on(async {
                        let mut running = tokio::task::JoinSet::new();
                        for key in &keys {
                            let key = key.clone();
                            let context = context.clone();
                            running.spawn(async move {
                                for id in from..from + rounds {
                                    turn(&context, &key, id).await;
                                }
                            });
                        }
                        while running.join_next().await.is_some() {}
                    });
                    began.elapsed().mul_f64(turns as f64 / (rounds * at_once as u64) as f64)
                });
            });
        }
    }
}

criterion_group!(benches, begins, commits);
criterion_main!(benches);
