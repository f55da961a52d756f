//! Many who want one session at a time: how often the store is asked, and that nobody gets what is older than the question.

use tokio::task::{JoinSet, yield_now};

use super::*;

/// A session of one turn that is only in the store.
async fn cold() -> (Arc<Opened>, SessionKey) {
    let (o, key) = (opened(), session("a"));
    o.turn(&key, "m1").await;
    (Arc::new(o.cold()), key)
}

/// Starts tasks on this thread and lets each run until it waits.
async fn start<T, F>(tasks: &mut JoinSet<T>, count: usize, task: impl Fn(usize) -> F)
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let started = Arc::new(AtomicUsize::new(0));
    for i in 0..count {
        let (started, task) = (started.clone(), task(i));
        tasks.spawn(async move {
            started.fetch_add(1, Ordering::AcqRel);
            task.await
        });
    }
    while started.load(Ordering::Acquire) < count {
        yield_now().await;
    }
}

async fn readers(tasks: &mut JoinSet<Result<Vec<u64>, TurnError>>, count: usize, o: &Arc<Opened>, key: &SessionKey) {
    let read = |_| {
        let (o, key) = (o.clone(), key.clone());
        async move { Ok(o.context.history(&key).await?.turns.iter().map(|turn| turn.seq).collect()) }
    };
    start(tasks, count, read).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_readers_of_a_cold_session_cause_one_load() {
    let (o, key) = cold().await;
    let mut tasks = JoinSet::new();
    readers(&mut tasks, 1000, &o, &key).await;
    assert!(tasks.join_all().await.into_iter().all(|turns| turns.unwrap() == [1]));
    assert_eq!(o.store.moved(), 1);
    assert_eq!(counted(&o.meters, "fengda_context_loads_total", None), 2, "one to begin the session with, one for the readers");
}

#[tokio::test]
async fn turns_that_begin_beside_a_thousand_readers_share_their_load() {
    let (o, key) = cold().await;
    let closed = o.store.gate.lock().await;
    let (mut tasks, mut turns) = (JoinSet::new(), JoinSet::new());
    readers(&mut tasks, 1000, &o, &key).await;
    let begin = |i| {
        let (o, key) = (o.clone(), key.clone());
        async move {
            let begun = o.begin(&key, &format!("m{}", i + 2), None).await;
            o.context.release(begun.claim.as_ref().unwrap());
            begun.state.seq
        }
    };
    start(&mut turns, 20, begin).await;
    drop(closed);
    assert!(tasks.join_all().await.into_iter().all(|turns| turns.unwrap() == [1]));
    assert!(turns.join_all().await.into_iter().all(|seq| seq == 1));
    assert_eq!(o.store.moved(), 1);
    assert_eq!(o.store.asked(), 2, "those who came when the load was under way asked once together whether it is current");
}

#[tokio::test]
async fn a_load_that_is_given_up_is_taken_over() {
    let (o, key) = cold().await;
    let closed = o.store.gate.lock().await;
    let (mut first, mut others) = (JoinSet::new(), JoinSet::new());
    readers(&mut first, 1, &o, &key).await;
    readers(&mut others, 10, &o, &key).await;
    first.shutdown().await;
    drop(closed);
    assert!(others.join_all().await.into_iter().all(|turns| turns.unwrap() == [1]));
    assert_eq!(o.store.moved(), 1);
    assert!(o.context.loads.is_empty());
}

#[tokio::test]
async fn a_load_that_everybody_gave_up_is_forgotten() {
    let (o, key) = cold().await;
    let closed = o.store.gate.lock().await;
    let mut tasks = JoinSet::new();
    readers(&mut tasks, 10, &o, &key).await;
    assert!(!o.context.loads.is_empty());
    tasks.shutdown().await;
    assert!(o.context.loads.is_empty());
    drop(closed);
    assert_eq!(o.context.history(&key).await.unwrap().seq, 1);
}

#[tokio::test]
async fn a_failed_load_fails_those_who_wait_and_is_not_kept() {
    let (o, key) = cold().await;
    let closed = o.store.gate.lock().await;
    o.store.failing.store(true, Ordering::Release);
    let mut tasks = JoinSet::new();
    readers(&mut tasks, 100, &o, &key).await;
    drop(closed);
    assert!(tasks.join_all().await.into_iter().all(|turns| matches!(turns, Err(TurnError::Unavailable(_)))));
    assert_eq!(o.store.asked(), 1);
    o.store.failing.store(false, Ordering::Release);
    assert_eq!(o.context.history(&key).await.unwrap().seq, 1);
    assert!(o.context.loads.is_empty());
}

#[tokio::test]
async fn an_erasure_is_not_undone_by_a_load_under_way() {
    let (o, key) = cold().await;
    let closed = o.store.gate.lock().await;
    let (mut before, mut after) = (JoinSet::new(), JoinSet::new());
    readers(&mut before, 1, &o, &key).await;
    let read = async {
        while o.store.asked.load(Ordering::Acquire) == 0 {
            yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), read).await.expect("the load has read the disk");
    o.context.erase_session(&key, None).await.unwrap();
    readers(&mut after, 10, &o, &key).await;
    drop(closed);
    before.join_all().await.into_iter().for_each(|turns| assert!(turns.is_ok()));
    assert!(after.join_all().await.into_iter().all(|turns| turns.unwrap().is_empty()), "they came when it was erased");
    assert!(o.context.cache.get(&key).is_none_or(|copy| copy.turns.is_empty()));
}
