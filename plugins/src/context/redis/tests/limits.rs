//! A user's limits, counted where the user's conversations are.

use std::{sync::Arc, time::Duration};

use super::{all_expire, send, shared, standalone, store, subject};
use crate::{
    api::{SessionKey, TurnError, UserLimit},
    context::{
        BeginRequest, StoreBegin,
        conformance::{LIMITS, Subject, clock, commit},
        redis::keys,
        settle,
    },
};

fn limit(name: &str, period: Duration, burst: u32) -> UserLimit {
    UserLimit { name: name.into(), period, burst, shadow: false }
}

const SECOND: Duration = Duration::from_secs(1);

async fn begin(s: &Subject, key: &SessionKey, id: &str, limits: &[UserLimit]) -> Result<StoreBegin, TurnError> {
    let (message_id, q, until) = (id.into(), format!("q {id}").into(), s.clock().now().after(SECOND * 60));
    settle(s.store().begin(BeginRequest { key, message_id: &message_id, q: &q, until, wait: Duration::ZERO, known: None, limits })).await
}

/// Begins a turn of a session of its own; how long it has to wait if it is refused, and by which limit.
async fn take(s: &Subject, id: &str, limits: &[UserLimit]) -> Option<(usize, Duration)> {
    match begin(s, &s.session(id), id, limits).await.unwrap() {
        StoreBegin::Limited(limited) => Some((limited.index, limited.wait)),
        begun => {
            assert!(matches!(begun, StoreBegin::Claimed { .. }));
            None
        }
    }
}

#[tokio::test]
async fn a_user_begins_a_burst_at_once_and_one_more_in_each_period() {
    let s = standalone().await;
    let limits = [limit("per user", SECOND * 10, 3)];
    for i in 0..3 {
        assert_eq!(take(&s, &format!("s{i}"), &limits).await, None);
    }
    assert_eq!(take(&s, "s3", &limits).await, Some((0, SECOND * 10)));
    s.clock().advance(SECOND * 4);
    assert_eq!(take(&s, "s3", &limits).await, Some((0, SECOND * 6)), "being refused costs nothing");
    s.clock().advance(SECOND * 6);
    assert_eq!(take(&s, "s3", &limits).await, None);
    assert!(take(&s, "s4", &limits).await.is_some());
    s.clock().advance(SECOND * 1000);
    for i in 5..8 {
        assert_eq!(take(&s, &format!("s{i}"), &limits).await, None, "no more than a burst comes back");
    }
    assert!(take(&s, "s8", &limits).await.is_some());
    all_expire(shared(), s.session("s0").user());
}

#[tokio::test]
async fn a_turn_that_one_limit_refuses_is_counted_by_none() {
    let s = standalone().await;
    let limits = [limit("wide", SECOND, 5), limit("narrow", SECOND * 60, 1)];
    assert_eq!(take(&s, "a", &limits).await, None);
    for _ in 0..10 {
        assert_eq!(take(&s, "b", &limits).await, Some((1, SECOND * 60)));
    }
    for id in ["c", "d", "e", "f"] {
        assert_eq!(take(&s, id, &limits[..1]).await, None);
    }
    assert!(take(&s, "g", &limits[..1]).await.is_some());
}

#[tokio::test]
async fn a_shadow_limit_refuses_nothing() {
    let s = standalone().await;
    let shadow = [UserLimit { shadow: true, ..limit("shadow", SECOND * 60, 1) }];
    for id in ["a", "b", "c"] {
        assert_eq!(take(&s, id, &shadow).await, None);
    }
    assert!(take(&s, "d", &[limit("shadow", SECOND * 60, 1)]).await.is_some(), "but it was counted");
}

#[tokio::test]
async fn an_answered_message_and_one_that_waits_on_are_not_counted_again() {
    let s = standalone().await;
    let (key, limits) = (s.session("a"), [limit("l", SECOND * 60, 2)]);
    let StoreBegin::Claimed { claim, state } = begin(&s, &key, "m1", &limits).await.unwrap() else { panic!() };
    s.store().commit(&claim, &state.unwrap(), commit("m1")).await.unwrap();
    for _ in 0..5 {
        assert!(matches!(begin(&s, &key, "m1", &limits).await.unwrap(), StoreBegin::Answered(_)));
    }
    let (held, _) = s.claim(&key, "m2").await;
    let (message_id, q, until) = ("m3".into(), "q m3".into(), s.clock().now().after(SECOND * 60));
    let waits = BeginRequest { key: &key, message_id: &message_id, q: &q, until, wait: SECOND * 5, known: None, limits: &limits };
    let mut waiting = Box::pin(settle(s.store().begin(waits)));
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut waiting).await.is_err());
    s.store().release(&held);
    assert!(matches!(waiting.await.unwrap(), StoreBegin::Claimed { .. }), "asked twice, counted once");
    assert!(matches!(begin(&s, &key, "m4", &limits).await.unwrap(), StoreBegin::Limited(_)));
}

#[tokio::test]
async fn all_gateways_count_together_and_each_user_apart() {
    let clock = clock();
    let first = standalone().await;
    let second = first.beside(Arc::new(store(shared(), LIMITS, &clock).await));
    let limits = [limit("l", SECOND * 60, 2)];
    assert_eq!((take(&first, "a", &limits).await, take(&second, "b", &limits).await), (None, None));
    assert!(take(&first, "c", &limits).await.is_some() && take(&second, "d", &limits).await.is_some());
    let other = first.user("bank", "other").session("a").unwrap();
    assert!(matches!(begin(&first, &other, "m1", &limits).await.unwrap(), StoreBegin::Claimed { .. }));
}

#[tokio::test]
async fn a_limits_value_that_is_none_is_replaced() {
    let s = subject(shared()).await;
    let user = s.session("a").user().clone();
    let mut named = keys::user(&user);
    keys::add_limit(&mut named, &user, "l");
    let (key, limits) = (named.get(2).to_vec(), [limit("l", SECOND * 60, 1)]);
    for (i, value) in [&b"x"[..], b"", b"nan", b"-1", b"99999999999999999999"].into_iter().enumerate() {
        send::<()>(shared(), "SET", &[&key, value]);
        let wait = take(&s, &format!("s{i}"), &limits).await.map(|(_, wait)| wait);
        assert!(wait.is_none_or(|wait| wait <= SECOND * 60), "{wait:?}");
    }
    send::<()>(shared(), "DEL", &[&key]);
    send::<()>(shared(), "RPUSH", &[&key, b"x"]);
    assert_eq!(take(&s, "t", &limits).await, None);
    assert!(take(&s, "u", &limits).await.is_some());
    all_expire(shared(), &user);
}
