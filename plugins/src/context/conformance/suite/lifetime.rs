//! What ends a conversation, erasure or time, and that it ends no other one.

use crate::{
    api::{Commit, TurnError},
    context::{
        StoreBegin,
        conformance::{
            LIMITS, Subject, TURN, commit,
            parts::{add, ids, number},
        },
    },
};

behaviours! { ($) lifetime
    async fn an_erased_session_is_empty_and_its_numbers_go_on(s) {
        let (key, other) = (s.session("a"), s.session("b"));
        let with = Commit { slots: vec![add("s", 1.0)], user_slots: vec![add("u", 1.0)], ..commit("m1") };
        let before = s.turn_with(&key, with).await.state;
        s.turn(&other, "m1").await;
        s.store.erase_session(&key, None).await.unwrap();
        let state = s.state(&key).await;
        assert_eq!((state.seq, state.turns.len(), state.flow.slots.0.len(), number(&state, "u")), (1, 0, 0, Some(1.0)));
        assert_ne!(state.version, before.version);
        assert_eq!(s.turn(&key, "m1").await.turn.seq, 2);
        assert_eq!(ids(&s.state(&other).await), ["m1"]);
    }

    async fn a_turn_begun_before_an_erasure_is_not_committed(s) {
        let key = s.session("a");
        for erase_user in [false, true] {
            let (claim, base) = s.claim(&key, "m1").await;
            if erase_user {
                s.store.erase_user(key.user(), None).await.unwrap();
            } else {
                s.store.erase_session(&key, None).await.unwrap();
            }
            assert_eq!(s.store.commit(&claim, &base, commit("m1")).await.unwrap_err(), TurnError::ClaimLost);
            assert_eq!(s.state(&key).await.seq, 0);
        }
    }

    async fn an_erased_user_has_no_turns_and_no_slots(s) {
        let (a, b) = (s.session("a"), s.session("b"));
        let other = s.user("bank", "u2").session("a").unwrap();
        for key in [&a, &b, &other] {
            s.turn_with(key, Commit { user_slots: vec![add("n", 1.0)], ..commit("m1") }).await;
        }
        s.store.erase_user(a.user(), None).await.unwrap();
        for key in [&a, &b] {
            let state = s.state(key).await;
            assert_eq!((state.seq, state.turns.len(), number(&state, "n")), (1, 0, None));
        }
        let untouched = s.state(&other).await;
        assert_eq!((ids(&untouched), number(&untouched, "n")), (vec!["m1"], Some(1.0)));
    }

    async fn an_expired_session_is_as_if_it_had_never_been(s) {
        let key = s.session("a");
        for i in 1..=3 {
            s.turn_with(&key, Commit { user_slots: vec![add("n", 1.0)], slots: vec![add("s", 1.0)], ..commit(&format!("m{i}")) }).await;
        }
        let copy = s.state(&key).await;
        s.clock.advance(LIMITS.keep);
        let state = s.state(&key).await;
        assert_eq!((state.seq, state.turns.len(), state.flow.slots.0.len(), state.user_slots.0.len()), (0, 0, 0, 0));
        let StoreBegin::Claimed { claim, state: Some(base) } = s.begin(&key, "m1", Some(&copy)).await.unwrap() else { panic!() };
        let stored = s.store.commit(&claim, &base, commit("m1")).await.unwrap();
        assert_eq!((stored.turn.seq, ids(&s.state(&key).await)), (1, vec!["m1"]));
    }

    async fn each_commit_renews_the_expiry(s) {
        let key = s.session("a");
        s.turn_with(&key, Commit { user_slots: vec![add("n", 1.0)], ..commit("m1") }).await;
        for id in ["m2", "m3"] {
            s.clock.advance(LIMITS.keep - TURN);
            s.turn(&key, id).await;
        }
        let state = s.state(&key).await;
        assert_eq!((ids(&state), number(&state, "n")), (vec!["m1", "m2", "m3"], Some(1.0)));
    }

    async fn a_session_that_expires_during_a_turn_goes_on(s) {
        let key = s.session("a");
        s.turn(&key, "m1").await;
        s.clock.advance(LIMITS.keep - TURN / 2);
        let (claim, base) = s.claim(&key, "m2").await;
        s.clock.advance(TURN / 2);
        assert_eq!(s.store.commit(&claim, &base, commit("m2")).await.unwrap().turn.seq, 2);
        assert_eq!(ids(&s.state(&key).await), ["m1", "m2"]);
    }

    async fn equal_ids_of_two_tenants_are_two_conversations(s) {
        let (a, b) = (s.user("bank-a", "u").session("s").unwrap(), s.user("bank-b", "u").session("s").unwrap());
        s.turn_with(&a, Commit { user_slots: vec![add("n", 1.0)], ..commit("m1") }).await;
        assert_eq!((s.state(&b).await.seq, s.state(&b).await.user_slots.0.len()), (0, 0));
        s.store.erase_user(b.user(), None).await.unwrap();
        assert_eq!(ids(&s.state(&a).await), ["m1"]);
    }
}
