//! A session has one turn at a time: how the others wait for it.

use std::time::Duration;

use crate::{
    api::TurnError,
    context::{
        StoreBegin,
        conformance::{Subject, commit, parts::join_all},
    },
};

behaviours! { ($) waiting
    async fn a_released_session_is_free_and_unchanged(s) {
        let key = s.session("a");
        let before = s.turn(&key, "m1").await.state;
        let (claim, _) = s.claim(&key, "m2").await;
        s.store.release(&claim);
        let (_, state) = s.claim(&key, "m2").await;
        assert_eq!(state.version, before.version);
    }

    async fn waiting_for_a_session_ends_before_its_claim_lapses_and_says_why(s) {
        let key = s.session("a");
        let known = s.turn(&key, "m1").await.state;
        let (held, base) = s.claim(&key, "m2").await;
        for (wait, known) in [(Duration::from_millis(5), None), (Duration::from_millis(5), Some(&known)), (Duration::ZERO, None)] {
            assert_eq!(s.begin_within(wait, &key, "m3", known).await.unwrap_err(), TurnError::InProgress);
        }
        assert_eq!(s.store.commit(&held, &base, commit("m2")).await.unwrap().turn.seq, 2);
    }

    async fn who_does_not_want_to_wait_gets_a_free_session(s) {
        let begun = s.begin_within(Duration::ZERO, &s.session("a"), "m1", None).await;
        assert!(matches!(begun.unwrap(), StoreBegin::Claimed { .. }));
    }

    async fn those_who_wait_are_served_in_order_one_at_a_time(s) {
        let key = s.session("a");
        let (held, base) = s.claim(&key, "m0").await;
        let served = std::sync::Mutex::new(Vec::new());
        let waiters = (1..100).map(|i| {
            let (s, key, served) = (&s, &key, &served);
            async move {
                let id = format!("m{i}");
                let (claim, state) = s.claim(key, &id).await;
                served.lock().unwrap().push(i);
                assert_eq!(state.seq, served.lock().unwrap().len() as u64, "each sees its predecessor's turn");
                s.store.commit(&claim, &state, commit(&id)).await.unwrap();
            }
        });
        let first = async {
            tokio::task::yield_now().await;
            s.store.commit(&held, &base, commit("m0")).await.unwrap();
        };
        tokio::join!(join_all(waiters), first);
        assert_eq!(*served.lock().unwrap(), (1..100).collect::<Vec<_>>());
    }

    async fn one_who_stops_waiting_lets_the_next_by(s) {
        let key = s.session("a");
        let (held, _) = s.claim(&key, "m1").await;
        let mut gone = Box::pin(s.begin(&key, "m2", None));
        let mut next = Box::pin(s.begin(&key, "m3", None));
        for _ in 0..2 {
            let both = async { tokio::join!(&mut gone, &mut next) };
            assert!(tokio::time::timeout(Duration::from_millis(5), both).await.is_err());
        }
        drop(gone);
        s.store.release(&held);
        assert!(matches!(next.await.unwrap(), StoreBegin::Claimed { .. }));
    }

    async fn sessions_do_not_wait_for_each_other(s) {
        let (_held, _) = s.claim(&s.session("a"), "m1").await;
        assert_eq!(s.turn(&s.session("b"), "m1").await.turn.seq, 1);
    }
}
