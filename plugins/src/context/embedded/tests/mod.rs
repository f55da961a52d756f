//! The embedded store under the common suite, a random model, damage, crashes and a failing disk.

mod crash;
mod damage;
mod erase;
mod model;
mod parallel;
mod queue;

use std::{path::Path, sync::Arc, time::Duration};

use super::{
    Embedded,
    table::{Asked, Table, Term},
};
use crate::{
    api::{Clock, Timestamp, TurnError},
    context::{
        Durability, OpenError,
        codec::Kind,
        conformance::{LIMITS, Subject, TempDir, clock, commit, session},
    },
};

fn open(dir: &Path, durability: Durability, clock: &Clock) -> Embedded {
    Embedded::open(dir, durability, LIMITS, clock.clone()).unwrap()
}

/// How many records of a kind the disk has.
fn records(store: &Embedded, kind: Kind) -> usize {
    let all = [kind as u8];
    store.disk.with(|engine| Ok(engine.places(&all, &all).count())).unwrap()
}

fn subject(durability: Durability) -> Subject {
    let (dir, clock) = (TempDir::new(), clock());
    Subject::new(Arc::new(open(dir.path(), durability, &clock)), clock, dir)
}

mod os {
    store_conformance!(super::subject(super::Durability::Os));
}
mod disk {
    store_conformance!(super::subject(super::Durability::Disk));
}

#[tokio::test]
async fn a_second_opening_of_the_directory_is_refused() {
    let (dir, clock) = (TempDir::new(), clock());
    let _first = open(dir.path(), Durability::Os, &clock);
    let second = Embedded::open(dir.path(), Durability::Os, LIMITS, clock).err().unwrap();
    assert!(matches!(second, OpenError::InUse(_)));
    assert!(second.to_string().ends_with("is in use by another fengda"), "{second}");
}

#[cfg(unix)]
#[test]
fn others_cannot_look_into_a_new_directory_and_the_mode_given_to_one_stays() {
    use std::{fs, os::unix::fs::PermissionsExt};
    let (dir, clock) = (TempDir::new(), clock());
    let data = dir.path().join("new/data");
    let context = data.join("context");
    let mode = || fs::metadata(&context).unwrap().permissions().mode() & 0o777;
    drop(open(&data, Durability::Os, &clock));
    assert_eq!(mode(), 0o700);
    fs::set_permissions(&context, fs::Permissions::from_mode(0o750)).unwrap();
    drop(open(&data, Durability::Os, &clock));
    assert_eq!(mode(), 0o750);
}

#[tokio::test]
async fn a_claim_from_before_a_restart_is_worth_nothing_after_it() {
    let (dir, clock) = (TempDir::new(), clock());
    let reopen = || Subject::new(Arc::new(open(dir.path(), Durability::Os, &clock)), clock.clone(), ());
    let before = reopen();
    let (old, base) = before.claim(&session("a"), "m1").await;
    drop(before);
    let after = reopen();
    let (new, _) = after.claim(&session("a"), "m2").await;
    assert!(new.fence > old.fence);
    let refused = after.store().commit(&old, &base, commit("m1")).await;
    assert_eq!(refused.unwrap_err(), TurnError::ClaimLost);
}

#[test]
fn a_step_of_the_machines_clock_ends_no_claim() {
    let clock = clock();
    let table = Table::new(1, clock.clone());
    let stepped = Timestamp(1); // `until` long past: as after a step forward
    let lapses = clock.monotonic() + Duration::from_secs(1);
    let (Asked::Held(held), _) = table.ask(&session("a"), Term { until: stepped, lapses }) else { panic!() };
    let claim = held.into_claim();
    assert!(matches!(table.ask(&session("a"), Term { until: stepped, lapses }).0, Asked::Queued(_)));
    clock.advance(Duration::from_millis(999));
    assert!(table.is_claimed(session("a").as_bytes()));
    assert!(table.spend(&claim).is_some());
    table.unspend(&claim.key);
    clock.advance(Duration::from_millis(1));
    assert!(table.spend(&claim).is_none());
}

#[tokio::test]
async fn turns_that_fall_out_leave_the_disk() {
    let (dir, clock) = (TempDir::new(), clock());
    let store = Arc::new(open(dir.path(), Durability::Os, &clock));
    let s = Subject::new(store.clone(), clock.clone(), ());
    let turns = || records(&store, Kind::Turn);
    for i in 0..10 {
        s.turn(&session("a"), &format!("m{i}")).await;
    }
    assert_eq!(turns(), LIMITS.turns);
    clock.advance(LIMITS.keep);
    s.turn(&session("a"), "m1").await;
    assert_eq!(turns(), 1, "a session that begins anew leaves nothing of the expired one");
    s.store().erase_session(&session("a"), None).await.unwrap();
    assert_eq!(turns(), 0);
}

#[tokio::test]
async fn expired_records_are_removed_from_the_disk() {
    let (dir, clock) = (TempDir::new(), clock());
    let store = Arc::new(open(dir.path(), Durability::Os, &clock));
    let s = Subject::new(store.clone(), clock.clone(), ());
    for i in 0..30 {
        s.turn(&session(&format!("old{i}")), "m1").await;
    }
    clock.advance(LIMITS.keep / 2);
    s.turn(&session("new"), "m1").await;
    let records = || store.disk.with(|engine| Ok(engine.places(&[], &[]).count())).unwrap();
    store.sweep().await.unwrap();
    assert_eq!(records(), 31 * 2 + 1, "a head and a turn of each, and the count of openings");
    clock.advance(LIMITS.keep / 2);
    store.sweep().await.unwrap();
    assert_eq!(records(), 2 + 1);
    assert_eq!(s.state(&session("new")).await.seq, 1);
}

#[tokio::test]
async fn a_session_that_expires_during_a_turn_is_not_removed_under_it() {
    let (dir, clock) = (TempDir::new(), clock());
    let store = Arc::new(open(dir.path(), Durability::Os, &clock));
    let s = Subject::new(store.clone(), clock.clone(), ());
    let key = session("a");
    s.turn(&key, "m1").await;
    clock.advance(LIMITS.keep - Duration::from_secs(1));
    let (claim, base) = s.claim(&key, "m2").await;
    clock.advance(Duration::from_secs(1));
    store.sweep().await.unwrap();
    assert_eq!(s.store().commit(&claim, &base, commit("m2")).await.unwrap().turn.seq, 2);
}
