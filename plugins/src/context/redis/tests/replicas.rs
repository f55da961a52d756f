//! What is to be on replicas before it counts as stored, or as erased.

use std::{sync::Arc, time::Duration};

use super::{LIMITS, Meters, Mode, RedisStore, Subject, redis, send};
use crate::{
    api::{Begin, BeginTurn, Clock, Commit, Committed, SessionKey, TurnPhase, WaitFor},
    context::{
        Context, ContextConfig, SpoolConfig, Stored,
        conformance::{TempDir, commit, session},
        redis::keys,
        tests::config,
    },
    redis::server::{Server, wait_until},
    testing::metric,
};

async fn turn(s: &Subject, key: &SessionKey, id: &str, wait: Option<WaitFor>) -> Stored {
    let (claim, base) = s.claim(key, id).await;
    s.store().commit(&claim, &base, Commit { wait, ..commit(id) }).await.unwrap()
}

async fn subject(server: &Server, meters: &Meters) -> Subject {
    let opened = redis(&[server.port()], Mode::Standalone).await;
    Subject::new(Arc::new(RedisStore::new(opened, LIMITS, Clock::system(), meters)), Clock::system(), ())
}

fn short(meters: &Meters) -> f64 {
    metric(meters, "fengda_redis_wait_short_total", &["bank"]).unwrap_or_default()
}

#[tokio::test]
async fn a_turn_is_on_so_many_replicas_when_it_counts_as_stored() {
    let (server, meters) = (Server::start(), Meters::default());
    let replica = server.replica();
    let s = subject(&server, &meters).await;
    let key = s.session("a");
    for i in 1..20 {
        turn(&s, &key, &format!("m{i}"), Some(WaitFor { replicas: 1, timeout: Duration::from_secs(5) })).await;
        let seen: String = send(&replica, "LINDEX", &[keys::session(&key).get(3), b"-2"]);
        assert_eq!(seen, format!("m{i}"), "no sooner");
    }
    assert_eq!(short(&meters), 0.0);
}

#[tokio::test]
async fn a_turn_that_too_few_replicas_have_in_time_is_stored_and_counted() {
    let (server, meters) = (Server::start(), Meters::default());
    let replica = server.replica();
    let s = subject(&server, &meters).await;
    let (key, one) = (s.session("a"), WaitFor { replicas: 1, timeout: Duration::from_millis(50) });
    replica.pause();
    assert_eq!(turn(&s, &key, "m1", Some(one)).await.turn.seq, 1);
    assert_eq!(short(&meters), 1.0);
    turn(&s, &key, "m2", None).await;
    assert_eq!(short(&meters), 1.0, "nobody asked for it");
    replica.resume();
    wait_until("the replica goes on", || send::<u64>(&replica, "LLEN", &[keys::session(&key).get(3)]) == 4);
    assert_eq!(turn(&s, &key, "m3", Some(WaitFor { replicas: 2, ..one })).await.turn.seq, 3);
    assert_eq!(short(&meters), 2.0, "there is only one");
}

#[tokio::test]
async fn a_turn_that_waits_for_replicas_for_as_long_as_it_may_is_stored_and_not_put_aside() {
    let (server, meters, dir) = (Server::start(), Meters::default(), TempDir::new());
    let store = RedisStore::new(redis(&[server.port()], Mode::Standalone).await, LIMITS, Clock::system(), &meters);
    let spool = Some(SpoolConfig { size: 1 << 20, tenants: Vec::new() });
    let context = Context::new(Arc::new(store), &ContextConfig { spool, ..config(dir.path()) }, Clock::system(), &meters).unwrap();
    let (key, message_id, q) = (session("a"), "m1".into(), "q m1".into());
    let until = Clock::system().now().after(Duration::from_secs(60));
    let turn = BeginTurn { key: &key, message_id: &message_id, q: &q, until, wait: Duration::ZERO, seen: None, limits: &[] };
    let Begin::Run(begun) = context.begin(turn).await.unwrap() else { panic!("not begun") };
    let wait = Some(WaitFor { replicas: 1, timeout: Duration::from_millis(500) });
    let committed = context.commit(&begun, Commit { wait, ..commit("m1") }).await.unwrap();
    assert!(matches!(committed, Committed::Stored(_)), "{committed:?}");
    assert_eq!(short(&meters), 1.0);
}

#[tokio::test]
async fn an_erasure_is_on_so_many_replicas_when_it_is_done() {
    let (server, meters) = (Server::start(), Meters::default());
    let replica = server.replica();
    let s = subject(&server, &meters).await;
    let one = Some(WaitFor { replicas: 1, timeout: Duration::from_secs(5) });
    let has_words = |key: &SessionKey| send::<u64>(&replica, "EXISTS", &[keys::session(key).get(3)]) == 1;
    for _ in 0..10 {
        let sessions = ["a", "b", "c"].map(|id| s.session(id));
        for key in &sessions {
            turn(&s, key, "m", one).await;
        }
        s.store().erase_session(&sessions[0], one).await.unwrap();
        assert_eq!(sessions.each_ref().map(has_words), [false, true, true], "no sooner");
        s.store().erase_user(sessions[0].user(), one).await.unwrap();
        assert_eq!(sessions.each_ref().map(has_words), [false; 3], "no sooner");
    }
    assert_eq!(short(&meters), 0.0);
}

#[tokio::test]
async fn an_erasure_that_too_few_replicas_have_in_time_is_done_and_counted_once() {
    let (server, meters) = (Server::start(), Meters::default());
    let replica = server.replica();
    let s = subject(&server, &meters).await;
    let (key, other) = (s.session("a"), s.session("b"));
    for key in [&key, &other] {
        turn(&s, key, "m", None).await;
    }
    replica.pause();
    let one = Some(WaitFor { replicas: 1, timeout: Duration::from_millis(50) });
    s.store().erase_session(&key, one).await.unwrap();
    assert_eq!(short(&meters), 1.0);
    s.store().erase_user(key.user(), one).await.unwrap();
    assert_eq!(short(&meters), 2.0, "however many steps it takes");
    s.store().erase_user(key.user(), None).await.unwrap();
    assert_eq!(short(&meters), 2.0, "nobody asked for it");
    for key in [&key, &other] {
        assert_eq!(s.claim(key, "next").await.1.turns.len(), 0);
    }
    replica.resume();
}
