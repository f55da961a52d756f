//! Several gateways on one Redis: users that hop, and what a failover takes away.

use std::{sync::Arc, time::Duration};

use super::{all_expire, send, shared, standalone, store, subject};
use crate::{
    api::{Change, Clock, Commit, SlotDelta, SlotValue, TurnError, UserKey},
    context::{
        BeginRequest, Limits, StoreBegin,
        conformance::{LIMITS, Subject, commit},
        redis::{keys, put_known, reply::Reply, scripts::BEGIN},
        settle,
    },
    redis::server::Server,
};

/// Which of a session's keys.
const USER: usize = 0;
const SESSION: usize = 2;

/// Two gateways on a server.
pub(super) async fn two(server: &Server) -> (Subject, Subject) {
    let first = subject(server).await;
    let second = first.beside(Arc::new(store(server, LIMITS, &Clock::system()).await));
    (first, second)
}

#[tokio::test]
async fn a_user_goes_on_at_another_gateway() {
    let (first, second) = two(shared()).await;
    let key = first.session("a");
    let mut copies = [None, None];
    for i in 0..20 {
        let (s, copy) = if i % 3 == 0 { (&second, &mut copies[1]) } else { (&first, &mut copies[0]) };
        let StoreBegin::Claimed { claim, state } = s.begin(&key, &format!("m{i}"), copy.as_ref()).await.unwrap() else { panic!() };
        let base = state.or(copy.take()).unwrap();
        assert_eq!(base.seq, i);
        let add = SlotDelta { name: "n".into(), change: Change::Add(0.1) };
        let commit = Commit { slots: vec![add.clone()], user_slots: vec![add], ..commit(&format!("m{i}")) };
        let stored = s.store().commit(&claim, &base, commit).await.unwrap();
        let read = first.state(&key).await;
        assert_eq!((read.version, &read.turns, &read.flow.slots), (stored.state.version, &stored.state.turns, &stored.state.flow.slots));
        assert_eq!(read.user_slots, stored.state.user_slots, "added here and there to the last bit");
        *copy = Some(stored.state);
        all_expire(shared(), key.user());
    }
}

#[tokio::test]
async fn a_claim_lapses_by_the_servers_clock_and_the_next_gateway_has_it() {
    let (first, second) = two(shared()).await;
    let key = first.session("a");
    let (message_id, q, until) = ("m1".into(), "q m1".into(), first.clock().now().after(Duration::from_millis(50)));
    let short = BeginRequest { key: &key, message_id: &message_id, q: &q, until, wait: Duration::ZERO, known: None, limits: &[] };
    let StoreBegin::Claimed { claim: held, state: Some(base) } = settle(first.store().begin(short)).await.unwrap() else { panic!() };
    let (claim, _) = second.claim(&key, "m2").await;
    assert!(claim.fence > held.fence);
    assert_eq!(first.store().commit(&held, &base, commit("m1")).await.unwrap_err(), TurnError::ClaimLost);
    second.store().release(&claim);
}

#[tokio::test]
async fn a_turn_whose_claim_a_failover_lost_is_taken_if_nothing_came_between() {
    let (first, second) = two(shared()).await;
    for (i, between) in ["nothing", "claim", "turn", "erasure", "user's erasure", "lapse"].into_iter().enumerate() {
        let key = first.session(&format!("s{i}"));
        first.turn(&key, "m0").await;
        let soon = first.clock().now().after(if between == "lapse" { Duration::ZERO } else { Duration::from_secs(60) });
        let (mut held, base) = first.claim(&key, "m1").await;
        send::<()>(shared(), "DEL", &[keys::session(&key).get(4)]);
        match between {
            "claim" => drop(second.claim(&key, "m2").await),
            "turn" => drop(second.turn(&key, "m2").await),
            "erasure" => second.store().erase_session(&key, None).await.unwrap(),
            "user's erasure" => second.store().erase_user(key.user(), None).await.unwrap(),
            _ => held.until = soon,
        }
        let done = first.store().commit(&held, &base, commit("m1")).await;
        match between {
            "nothing" => assert_eq!(done.unwrap().turn.seq, 2),
            _ => assert_eq!(done.unwrap_err(), TurnError::ClaimLost, "{between}"),
        }
    }
}

#[tokio::test]
async fn a_turn_that_a_failover_lost_shows_in_the_number() {
    let server = Server::start();
    let s = subject(&server).await;
    let key = s.session("a");
    s.turn(&key, "m1").await;
    let names = keys::session(&key);
    let before: Vec<Vec<u8>> = [2, 3].iter().map(|i| send(&server, "DUMP", &[names.get(*i)])).collect();
    let acknowledged = s.turn(&key, "m2").await;
    for (i, dump) in [2, 3].into_iter().zip(&before) {
        send::<()>(&server, "RESTORE", &[names.get(i), b"60000", dump, b"REPLACE"]);
    }
    let StoreBegin::Claimed { claim, state: Some(state) } = s.begin(&key, "m3", Some(&acknowledged.state)).await.unwrap() else {
        panic!("the copy of what was lost is not current")
    };
    assert_eq!((state.seq, acknowledged.turn.seq), (1, 2));
    let stored = s.store().commit(&claim, &state, commit("m3")).await.unwrap();
    assert_ne!(stored.state.version, acknowledged.state.version, "a number repeats, a version does not");
}

#[tokio::test]
async fn what_was_begun_before_an_erasure_is_told_by_the_epoch() {
    let (first, second) = two(shared()).await;
    let (a, b, absent) = (first.session("a"), first.session("b"), first.session("absent"));
    let epochs = async || [second.state(&a).await.epoch, second.state(&b).await.epoch, second.state(&absent).await.epoch];
    for key in [&a, &b] {
        first.turn(key, "m1").await;
    }
    assert_eq!(epochs().await, [0; 3]);
    first.store().erase_session(&a, None).await.unwrap();
    first.store().erase_session(&absent, None).await.unwrap();
    let [of_a, of_b, of_absent] = epochs().await;
    assert!(of_a != 0 && of_b == 0 && of_absent != 0);
    assert_eq!(first.turn(&a, "m2").await.state.epoch, of_a);
    assert_eq!(epochs().await, [of_a, 0, of_absent], "a turn changes none");
    first.store().erase_user(a.user(), None).await.unwrap();
    let [after_a, after_b, after_absent] = epochs().await;
    assert!(after_a != of_a && after_b != 0 && after_absent != of_absent);
    first.turn(&b, "m2").await;
    assert_eq!(epochs().await, [after_a, after_b, after_absent]);
}

#[tokio::test]
async fn a_server_that_forgot_the_scripts_is_sent_them_again() {
    let server = Server::start();
    let s = subject(&server).await;
    for i in 0..3 {
        send::<()>(&server, "SCRIPT", &[b"FLUSH"]);
        let (claim, base) = s.claim(&s.session("a"), &format!("m{i}")).await;
        send::<()>(&server, "SCRIPT", &[b"FLUSH"]);
        s.store().commit(&claim, &base, commit(&format!("m{i}"))).await.unwrap();
    }
    assert_eq!(s.state(&s.session("a")).await.seq, 3);
}

#[tokio::test]
async fn what_expires_during_a_turn_is_there_until_its_end() {
    let (server, keep) = (shared(), Duration::from_millis(1000));
    let limits = Limits { keep, ..LIMITS };
    let s = Subject::new(Arc::new(store(server, limits, &Clock::system()).await), Clock::system(), ()).apart();
    let key = s.session("a");
    let begun = s.clock().now();
    s.store().erase_user(key.user(), None).await.unwrap(); // so that the turn is of an epoch
    s.turn(&key, "m1").await;
    let (claim, base) = s.claim(&key, "m2").await;
    assert_eq!(base.seq, 1);
    while s.clock().now() <= begun.after(keep + Duration::from_millis(200)) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(s.state(&key).await.seq, 0, "expired for who reads");
    assert_eq!(s.store().commit(&claim, &base, commit("m2")).await.unwrap().turn.seq, 2);
    assert_eq!(s.state(&key).await.turns.len(), 2);
}

#[tokio::test]
async fn an_erased_user_leaves_no_words() {
    let server = Server::start();
    let (s, other) = two(&server).await;
    let user: UserKey = s.session("a").user().clone();
    for i in 0..200 {
        let slot = SlotDelta { name: "n".into(), change: Change::Set(SlotValue::Text("words".into())) };
        let key = user.session(&i.to_string()).unwrap();
        let (claim, base) = s.claim(&key, "m1").await;
        s.store().commit(&claim, &base, Commit { user_slots: vec![slot], ..commit("m1") }).await.unwrap();
    }
    let (held, base) = other.claim(&user.session("7").unwrap(), "m2").await;
    s.store().erase_user(&user, None).await.unwrap();
    let left = present_words(&server, &user);
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(other.store().commit(&held, &base, commit("m2")).await.unwrap_err(), TurnError::ClaimLost);
    assert_eq!(other.turn(&user.session("7").unwrap(), "m1").await.turn.seq, 2);
    all_expire(&server, &user);
}

/// Keys of a user other than heads, and heads with more than a head.
fn present_words(server: &Server, user: &UserKey) -> Vec<String> {
    let keys = super::present(server, user).into_iter().map(|key| String::from_utf8(key).unwrap());
    let is_head = |key: &str| key.contains("}:s:") || key.ends_with("}:u");
    keys.filter(|key| !key.ends_with("}:i") && (!is_head(key) || send::<u64>(server, "HLEN", &[key.as_bytes()]) != 1)).collect()
}

#[tokio::test]
async fn a_claim_that_is_asked_for_twice_under_one_name_is_one_claim() {
    let store = store(shared(), LIMITS, &Clock::system()).await;
    let s = subject(shared()).await;
    let ask = async |name: u64| {
        let mut args = store.0.args_with_turns();
        args.bytes(b"m1");
        put_known(&mut args, None);
        args.number(60_000).stamp(name).bytes(b"gateway").bytes(b"claim").bytes(b"").number(0);
        let reply = store.0.run(&BEGIN, &keys::session(&s.session("a")), &args).await.unwrap();
        let mut reply = Reply::of(reply).unwrap();
        (reply.bytes().unwrap(), reply.number().unwrap())
    };
    let first = ask(1).await;
    assert_eq!(first.0, b"claimed");
    assert_eq!(ask(1).await, first, "as when a connection broke before the first answer and the call was sent again");
    assert_eq!(ask(2).await.0, b"busy");
}

#[tokio::test]
async fn a_session_that_was_erased_is_known_as_that_for_as_long_as_a_turn_from_before_may_wait() {
    let s = standalone().await;
    let key = s.session("a");
    let left = |which| send::<i64>(shared(), "PTTL", &[keys::session(&key).get(which)]);
    s.turn(&key, "m1").await;
    s.clock().advance(LIMITS.keep - Duration::from_secs(1));
    s.store().erase_session(&key, None).await.unwrap();
    let epoch = s.state(&key).await.epoch;
    let (claim, base) = s.claim(&key, "m2").await;
    s.clock().advance(Duration::from_secs(2));
    let expired = s.state(&key).await;
    assert_eq!((expired.seq, expired.epoch, epoch != 0), (0, epoch, true));
    assert!(left(SESSION) > 3_500_000, "{}", left(SESSION));
    assert_eq!(s.store().commit(&claim, &base, commit("m2")).await.unwrap().turn.seq, 2, "it began before");
    s.store().erase_session(&key, None).await.unwrap();
    s.clock().advance(LIMITS.keep);
    assert_eq!(s.turn(&key, "m3").await.turn.seq, 1);
}

#[tokio::test]
async fn a_session_that_is_erased_long_after_its_user_does_not_outlive_it() {
    let s = standalone().await;
    let key = s.session("a");
    let names = keys::session(&key);
    s.store().erase_user(key.user(), None).await.unwrap();
    send::<()>(shared(), "PEXPIRE", &[names.get(USER), b"5000"]); // as much later
    s.store().erase_session(&key, None).await.unwrap();
    let [user, session] = [USER, SESSION].map(|which| send::<i64>(shared(), "PTTL", &[names.get(which)]));
    assert!(user >= session, "{user} {session}");
}
