//! A user's erasure: one moment for whoever reads, many steps on the disk.

use std::sync::Arc;

use super::{
    open,
    queue::{begun, gate},
    records,
};
use crate::{
    api::{TurnError, UserKey},
    context::{
        Durability, Store,
        codec::Kind,
        conformance::{LIMITS, Subject, TempDir, clock, commit, session, user},
        embedded::Embedded,
    },
};

/// What is left of an erasure when the process ends right after its first record: that record.
pub(super) async fn cut_short(store: &Embedded, user: &UserKey) {
    let user = user.clone();
    let job = store.alone(move |writer| {
        writer.erase_user(&user, tokio::sync::oneshot::channel().0);
        writer.erasures.clear();
        Ok(())
    });
    job.await.unwrap();
}

#[tokio::test]
async fn a_commit_waits_for_one_step_of_an_erasure_at_most() {
    const SESSIONS: usize = 3000;
    let (dir, clock) = (TempDir::new(), clock());
    let store = Arc::new(open(dir.path(), Durability::Os, &clock));
    let s = Subject::new(store.clone(), clock, dir);
    for i in 0..SESSIONS {
        s.turn(&session(&i.to_string()), "m1").await;
    }
    let other = user("bank", "other").session("a").unwrap();
    let (old, old_base) = s.claim(&session("7"), "m2").await;

    let mut held = gate(&store);
    let mut batches = held.reached().await;
    let mut erasure = store.erase_user(old.key.user(), None);
    begun(&mut erasure).await;
    let mut steps = 0;
    loop {
        let id = format!("m{steps}");
        let (claim, base) = s.claim(&other, &id).await;
        let mut turn = store.commit(&claim, &base, commit(&id));
        begun(&mut turn).await;
        drop(std::mem::replace(&mut held, gate(&store)));
        let before = std::mem::replace(&mut batches, held.reached().await);
        turn.await.unwrap();
        if batches == before + 1 {
            break; // the turn's own
        }
        assert_eq!(batches, before + 2, "the turn's own and one of the erasure");
        steps += 1;
        let read = s.state(&session(&(SESSIONS - steps).to_string())).await;
        assert_eq!((read.seq, read.turns.len()), (1, 0), "gone from the first record on");
    }
    drop(held);
    assert_eq!(steps, 1 + 2 * SESSIONS / 1000, "the first record, then a thousand heads or turns at a time");
    erasure.await.unwrap();
    assert_eq!(store.commit(&old, &old_base, commit("m2")).await.unwrap_err(), TurnError::ClaimLost);
    assert_eq!((records(&store, Kind::Turn), records(&store, Kind::Erasure)), (LIMITS.turns, 0), "the other user's");
    assert_eq!(s.turn(&session("7"), "m1").await.turn.seq, 2);
}

#[tokio::test]
async fn an_erasure_cut_short_stays_in_force_and_is_completed_later() {
    let (dir, clock) = (TempDir::new(), clock());
    let before = Arc::new(open(dir.path(), Durability::Os, &clock));
    let s = Subject::new(before.clone(), clock.clone(), ());
    for id in ["a", "b"] {
        s.turn(&session(id), "m1").await;
        s.turn(&session(id), "m2").await;
    }
    cut_short(&before, session("a").user()).await;
    drop((s, before));

    let store = Arc::new(open(dir.path(), Durability::Os, &clock));
    let s = Subject::new(store.clone(), clock, dir);
    let read = s.state(&session("a")).await;
    assert_eq!((read.seq, read.turns.len()), (2, 0));
    let stored = s.turn(&session("b"), "m1").await;
    assert_eq!((stored.turn.seq, stored.state.turns.len()), (3, 1));
    store.sweep().await.unwrap();
    assert_eq!((records(&store, Kind::Turn), records(&store, Kind::Session), records(&store, Kind::Erasure)), (1, 2, 0));
    assert_eq!(s.state(&session("a")).await.version, read.version, "removing changes nothing that can be read");
    let kept = s.state(&session("b")).await;
    assert_eq!((kept.version, kept.turns.len()), (stored.state.version, 1));
}

#[tokio::test]
async fn a_second_erasure_of_a_user_erases_what_came_after_the_first() {
    let (dir, clock) = (TempDir::new(), clock());
    let store = Arc::new(open(dir.path(), Durability::Os, &clock));
    let s = Subject::new(store.clone(), clock, dir);
    let key = session("a");
    s.turn(&key, "m1").await;
    let mut held = gate(&store);
    held.reached().await;
    let (mut first, mut second) = (store.erase_user(key.user(), None), store.erase_user(key.user(), None));
    begun(&mut first).await;
    let mut between = gate(&store);
    drop(held);
    between.reached().await;
    let (claim, base) = s.claim(&key, "m2").await;
    let mut turn = store.commit(&claim, &base, commit("m2"));
    begun(&mut turn).await;
    begun(&mut second).await;
    drop(between);
    assert_eq!(turn.await.unwrap().turn.seq, 2);
    first.await.unwrap();
    second.await.unwrap();
    let read = s.state(&key).await;
    assert_eq!((read.seq, read.turns.len()), (2, 0));
    assert_eq!((records(&store, Kind::Turn), records(&store, Kind::Erasure)), (0, 0));
}

#[tokio::test]
async fn marks_of_erasure_go_when_they_say_nothing_any_more_and_survive_a_restart_until_then() {
    let (dir, clock) = (TempDir::new(), clock());
    let before = Arc::new(open(dir.path(), Durability::Os, &clock));
    let s = Subject::new(before.clone(), clock.clone(), ());
    s.turn(&session("a"), "m1").await;
    before.erase_user(session("a").user(), None).await.unwrap();
    before.erase_session(&user("bank", "other").session("a").unwrap(), None).await.unwrap();
    drop((s, before));

    let store = open(dir.path(), Durability::Os, &clock);
    store.sweep().await.unwrap();
    assert_eq!((records(&store, Kind::Erased), store.is_new(&session("b")).await.unwrap()), (2, false));
    clock.advance(LIMITS.keep);
    assert!(store.is_new(&session("b")).await.unwrap());
    store.sweep().await.unwrap();
    assert_eq!(records(&store, Kind::Erased), 0);
}
