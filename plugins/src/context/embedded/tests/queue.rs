//! What happens in the writer's queue, with the writer held up where the test wants it.

use std::sync::{Arc, mpsc as std_mpsc};

use tokio::sync::oneshot;

use super::open;
use crate::{
    api::TurnError,
    context::{
        Durability, Store,
        conformance::{Subject, TempDir, clock, commit, session},
        embedded::{Embedded, writer::Job},
    },
};

/// The writer, held up. Dropping it lets the writer go on.
pub(super) struct Gate {
    /// How many batches were written before the writer came here.
    batches: oneshot::Receiver<u64>,
    _open: std_mpsc::Sender<()>,
}

/// Queues a job that holds the writer up.
pub(super) fn gate(store: &Embedded) -> Gate {
    let (reached, batches) = oneshot::channel();
    let (open, opened) = std_mpsc::channel::<()>();
    let job = Job::Alone(Box::new(move |writer| {
        let _ = reached.send(writer.disk.batches());
        let _ = opened.recv(); // an error once the gate is dropped
    }));
    assert!(store.jobs.as_ref().unwrap().try_send(job).is_ok());
    Gate { batches, _open: open }
}

impl Gate {
    /// Waits until the writer is here.
    pub(super) async fn reached(&mut self) -> u64 {
        (&mut self.batches).await.unwrap()
    }
}

/// Polls a future once: it has queued its job then, and the writer is held up.
pub(super) async fn begun<T>(future: &mut (impl Future<Output = T> + Unpin)) {
    let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_pending()));
    assert!(polled.await, "the writer is held up");
}

fn opened() -> (Arc<Embedded>, Subject) {
    let (dir, clock) = (TempDir::new(), clock());
    let store = Arc::new(open(dir.path(), Durability::Disk, &clock));
    (store.clone(), Subject::new(store, clock, dir))
}

#[tokio::test]
async fn a_commit_repeated_while_it_is_queued_is_one_turn() {
    let (store, s) = opened();
    let key = session("a");
    for apart in [false, true] {
        let (claim, base) = s.claim(&key, &format!("m{apart}")).await;
        let turn = || commit(&format!("m{apart}"));
        let mut held = gate(&store);
        held.reached().await;
        let mut first = store.commit(&claim, &base, turn());
        begun(&mut first).await;
        drop(first);
        let between = apart.then(|| gate(&store)); // puts the two into different groups
        let mut again = store.commit(&claim, &base, turn());
        begun(&mut again).await;
        drop((held, between));
        let again = again.await.unwrap();
        assert_eq!((again.turn.seq, s.state(&key).await.seq), (base.seq + 1, base.seq + 1));
    }
}

#[tokio::test]
async fn a_commit_whose_claim_is_given_up_while_it_is_queued_makes_no_turn() {
    let (store, s) = opened();
    let key = session("a");
    let (claim, base) = s.claim(&key, "m1").await;
    let mut held = gate(&store);
    held.reached().await;
    let mut first = store.commit(&claim, &base, commit("m1"));
    begun(&mut first).await;
    store.release(&claim);
    drop(held);
    assert_eq!(first.await.unwrap_err(), TurnError::ClaimLost);
    assert_eq!(store.commit(&claim, &base, commit("m1")).await.unwrap_err(), TurnError::ClaimLost);
    assert_eq!(s.turn(&key, "m1").await.turn.seq, 1);
}
