//! Many at once, on real threads.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::open;
use crate::context::{
    Durability,
    conformance::{Subject, TempDir, clock, commit, session, user},
};

/// Runs `work` on so many threads, each with a runtime of its own, as the gateway's are.
fn on_threads(n: usize, work: impl AsyncFn(usize) + Sync) {
    std::thread::scope(|scope| {
        for i in 0..n {
            let work = &work;
            scope.spawn(move || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work(i)));
        }
    });
}

#[test]
fn a_session_has_one_holder_at_any_time() {
    let (dir, clock) = (TempDir::new(), clock());
    let s = Subject::new(Arc::new(open(dir.path(), Durability::Os, &clock)), clock, dir);
    let (held, committed) = (AtomicBool::new(false), AtomicU64::new(0));
    on_threads(8, async |thread| {
        for i in 0..50 {
            let id = format!("m{thread}-{i}");
            let (claim, state) = s.claim(&session("a"), &id).await;
            assert!(!held.swap(true, Ordering::AcqRel), "two holders");
            assert_eq!(state.seq, committed.load(Ordering::Acquire), "not the present state");
            let gives_up = (thread + i) % 5 == 0;
            committed.fetch_add(u64::from(!gives_up), Ordering::AcqRel);
            held.store(false, Ordering::Release);
            if gives_up {
                s.store().release(&claim);
            } else {
                s.store().commit(&claim, &state, commit(&id)).await.unwrap();
            }
        }
    });
    assert_eq!(committed.into_inner(), 8 * 40);
}

#[test]
fn commits_that_arrive_together_are_written_together() {
    let (dir, clock) = (TempDir::new(), clock());
    let store = Arc::new(open(dir.path(), Durability::Disk, &clock));
    let s = Subject::new(store.clone(), clock, dir);
    let before = store.disk.batches();
    on_threads(64, async |thread| {
        let key = user("bank", &format!("u{thread}")).session("s").unwrap();
        for i in 0..10 {
            assert_eq!(s.turn(&key, &format!("m{i}")).await.turn.seq, i + 1);
        }
    });
    let batches = store.disk.batches() - before;
    assert!(batches < 640 / 2, "{batches} batches for 640 commits");
}
