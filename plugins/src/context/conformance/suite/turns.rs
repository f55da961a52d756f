//! A turn: what is kept of it, and that it is kept once, however often it is asked for and whoever else writes.

use std::time::Duration;

use crate::{
    api::{Change, Commit, Journal, MAX_JOURNAL, SessionKey, SlotDelta, SlotValue, TurnError},
    context::{
        BeginRequest, StoreBegin,
        conformance::{
            ANSWERED, LIMITS, Subject, TURN, commit, journal,
            parts::{add, ids, number, set},
        },
        settle,
    },
};

behaviours! { ($) turns
    async fn a_session_begins_empty_and_its_first_turn_is_number_one(s) {
        let (claim, base) = s.claim(&s.session("a"), "m1").await;
        assert_eq!((base.seq, base.turns.len(), base.version), (0, 0, Default::default()));
        let stored = s.store.commit(&claim, &base, commit("m1")).await.unwrap();
        assert_eq!((stored.turn.seq, stored.turn.at, stored.state.seq), (1, ANSWERED, 1));
        assert_ne!(stored.state.version, base.version);
    }

    async fn what_was_committed_is_read_as_it_was(s) {
        let key = s.user("bank", "用户/1").session("web:\u{0}1").unwrap();
        let values = [
            set("bool", SlotValue::Bool(true)),
            set("number", SlotValue::Number(-0.25)),
            set("text", SlotValue::Text("订单".into())),
            set("json", SlotValue::Json("{\"a\":[1]}".into())),
            set("gone", SlotValue::Bool(false)),
            SlotDelta { name: "gone".into(), change: Change::Remove },
        ];
        let mut full = commit("消息");
        (full.a, full.fallback, full.handoff) = ("".into(), true, true);
        (full.slots, full.user_slots, full.journal) = (values.to_vec(), values.to_vec(), journal("{\"ask\":\"订单号\"}"));
        let stored = s.turn_with(&key, full).await;
        let read = s.state(&key).await;
        assert_eq!(*read.turns[0], *stored.turn);
        assert_eq!((&read.flow, &read.user_slots), (&stored.state.flow, &stored.state.user_slots));
        assert_eq!(read.flow.journal, journal("{\"ask\":\"订单号\"}"));
        assert_eq!((read.version, read.seq, read.flow.slots.0.len()), (stored.state.version, 1, 4));
        assert!(read.turns[0].fallback && read.turns[0].handoff && read.turns[0].a.is_empty());
    }

    async fn a_journal_is_what_the_last_turn_left_and_goes_with_its_session(s) {
        let (key, other) = (s.session("a"), s.session("b"));
        let left = async |key: &SessionKey| s.state(key).await.flow.journal.clone();
        let leave = async |key: &SessionKey, id: &str, journal: Option<Journal>| {
            let stored = s.turn_with(key, Commit { journal: journal.clone(), ..commit(id) }).await;
            assert_eq!((&stored.state.flow.journal, &left(key).await), (&journal, &journal), "{id}");
        };
        leave(&other, "m1", journal("other")).await;
        leave(&key, "m1", journal(&"x".repeat(MAX_JOURNAL))).await;
        leave(&key, "m2", journal("")).await;
        leave(&key, "m3", None).await;
        leave(&key, "m4", journal("4")).await;
        let (claim, _) = s.claim(&key, "m5").await;
        s.store.release(&claim);
        assert_eq!(left(&key).await, journal("4"), "a turn that came to nothing changes nothing");
        s.store.erase_session(&key, None).await.unwrap();
        assert_eq!((left(&key).await, left(&other).await), (None, journal("other")));
        s.store.erase_user(key.user(), None).await.unwrap();
        assert_eq!(left(&other).await, None);
        leave(&key, "m5", journal("5")).await;
        s.clock.advance(LIMITS.keep);
        assert_eq!(left(&key).await, None);
        let (_claim, base) = s.claim(&key, "m6").await;
        assert_eq!(base.flow.journal, None);
    }

    async fn a_current_copy_is_not_sent_again_and_an_old_one_is_replaced(s) {
        let key = s.session("a");
        let first = s.turn(&key, "m1").await.state;
        assert!(settle(s.store.load(&key, Some(&first))).await.unwrap().is_none());
        let StoreBegin::Claimed { claim, state: None } = s.begin(&key, "m2", Some(&first)).await.unwrap() else { panic!() };
        let second = s.store.commit(&claim, &first, commit("m2")).await.unwrap().state;
        let StoreBegin::Claimed { state: Some(sent), claim } = s.begin(&key, "m3", Some(&first)).await.unwrap() else { panic!() };
        assert_eq!((ids(&sent), sent.version), (vec!["m1", "m2"], second.version));
        s.store.release(&claim);
        assert_eq!(settle(s.store.load(&key, Some(&first))).await.unwrap().unwrap().version, second.version);
    }

    async fn a_message_is_answered_once_and_its_id_cannot_be_used_again(s) {
        let key = s.session("a");
        let first = s.turn(&key, "m1").await;
        for known in [None, Some(&first.state)] {
            let StoreBegin::Answered(turn) = s.begin(&key, "m1", known).await.unwrap() else { panic!() };
            assert_eq!(turn, first.turn);
            let (id, q, until) = ("m1".into(), "other".into(), s.clock.now().after(TURN));
            let reused = settle(s.store.begin(BeginRequest { key: &key, message_id: &id, q: &q, until, wait: TURN, known, limits: &[] })).await;
            assert_eq!(reused.unwrap_err(), TurnError::MessageIdReused);
        }
        s.claim(&key, "m2").await.0.fence.checked_sub(1).unwrap(); // none of these left a claim behind
    }

    async fn an_answered_message_does_not_wait_for_another(s) {
        let key = s.session("a");
        let first = s.turn(&key, "m1").await;
        let (_held, _) = s.claim(&key, "m2").await;
        for known in [None, Some(&first.state)] {
            assert!(matches!(s.begin(&key, "m1", known).await.unwrap(), StoreBegin::Answered(_)));
        }
    }

    async fn the_newest_turns_are_kept_and_numbers_go_on(s) {
        let key = s.session("a");
        for i in 1..=6 {
            assert_eq!(s.turn(&key, &format!("m{i}")).await.turn.seq, i);
        }
        let state = s.state(&key).await;
        assert_eq!((ids(&state), state.seq), (vec!["m3", "m4", "m5", "m6"], 6));
        let again = s.turn(&key, "m1").await; // no longer among the kept turns: a new message
        assert_eq!((again.turn.seq, ids(&again.state)), (7, vec!["m4", "m5", "m6", "m1"]));
    }

    async fn a_lapsed_claim_cannot_commit_and_a_newer_one_can(s) {
        let key = s.session("a");
        let (old, base) = s.claim(&key, "m1").await;
        s.clock.advance(TURN);
        assert_eq!(s.store.commit(&old, &base, commit("m1")).await.unwrap_err(), TurnError::ClaimLost);
        let (new, base) = s.claim(&key, "m2").await;
        assert!(new.fence > old.fence);
        assert_eq!(s.store.commit(&old, &base, commit("m1")).await.unwrap_err(), TurnError::ClaimLost);
        s.store.release(&old); // does not free what is not its own
        assert_eq!(s.begin_within(Duration::from_millis(5), &key, "m3", None).await.unwrap_err(), TurnError::InProgress);
        assert_eq!(s.store.commit(&new, &base, commit("m2")).await.unwrap().turn.seq, 1);
    }

    async fn a_repeated_commit_yields_the_turn_it_made(s) {
        let key = s.session("a");
        let (claim, base) = s.claim(&key, "m1").await;
        let first = s.store.commit(&claim, &base, commit("m1")).await.unwrap();
        let again = s.store.commit(&claim, &base, commit("m1")).await.unwrap();
        assert_eq!((again.turn, ids(&again.state)), (first.turn.clone(), vec!["m1"]));
        s.turn(&key, "m2").await;
        let later = s.store.commit(&claim, &base, commit("m1")).await.unwrap();
        assert_eq!((later.turn, ids(&later.state)), (first.turn, vec!["m1", "m2"]));
        let mut other = commit("m1");
        other.q = "other".into();
        assert_eq!(s.store.commit(&claim, &base, other).await.unwrap_err(), TurnError::MessageIdReused);
        assert_eq!(s.store.commit(&claim, &base, commit("m3")).await.unwrap_err(), TurnError::ClaimLost);
    }

    async fn the_same_commit_twice_at_once_is_one_turn(s) {
        let key = s.session("a");
        let (claim, base) = s.claim(&key, "m1").await;
        let (one, two) = tokio::join!(s.store.commit(&claim, &base, commit("m1")), s.store.commit(&claim, &base, commit("m1")));
        assert_eq!(one.unwrap().turn, two.unwrap().turn);
        assert_eq!(s.state(&key).await.seq, 1);
    }

    async fn a_commit_given_up_and_repeated_is_one_turn(s) {
        let key = s.session("a");
        let (claim, base) = s.claim(&key, "m1").await;
        let mut first = s.store.commit(&claim, &base, commit("m1"));
        let early = tokio::time::timeout(Duration::ZERO, &mut first).await; // begun, and mostly not done
        drop(first);
        let again = s.store.commit(&claim, &base, commit("m1")).await.unwrap();
        assert!(early.is_err() || early.unwrap().unwrap().turn == again.turn);
        assert_eq!((again.turn.seq, ids(&s.state(&key).await)), (1, vec!["m1"]));
        assert_eq!(s.turn(&key, "m2").await.turn.seq, 2);
    }

    async fn a_commit_repeated_after_its_claim_was_given_up_yields_the_turn_it_made(s) {
        let key = s.session("a");
        let (claim, base) = s.claim(&key, "m1").await;
        let first = s.store.commit(&claim, &base, commit("m1")).await.unwrap();
        s.store.release(&claim);
        let (_next, _) = s.claim(&key, "m2").await;
        let again = s.store.commit(&claim, &base, commit("m1")).await.unwrap();
        assert_eq!((again.turn, s.state(&key).await.seq), (first.turn, 1));
    }

    async fn a_claim_given_up_before_its_commit_is_lost(s) {
        let key = s.session("a");
        let (claim, base) = s.claim(&key, "m1").await;
        s.store.release(&claim);
        assert_eq!(s.store.commit(&claim, &base, commit("m1")).await.unwrap_err(), TurnError::ClaimLost);
        assert_eq!(s.turn(&key, "m1").await.turn.seq, 1);
    }

    async fn changes_of_user_slots_from_two_sessions_both_count(s) {
        let (a, b) = (s.session("a"), s.session("b"));
        let with = |id: &str| Commit { user_slots: vec![add("n", 1.0)], ..commit(id) };
        let (claim_a, base_a) = s.claim(&a, "m1").await;
        let (claim_b, base_b) = s.claim(&b, "m1").await;
        let (one, two) = tokio::join!(s.store.commit(&claim_a, &base_a, with("m1")), s.store.commit(&claim_b, &base_b, with("m1")));
        let (one, two) = (one.unwrap().state, two.unwrap().state);
        assert_eq!(number(&one, "n").unwrap() + number(&two, "n").unwrap(), 3.0);
        for key in [&a, &b] {
            assert_eq!(number(&s.state(key).await, "n"), Some(2.0));
        }
        let (earlier, old, other) = if number(&one, "n") == Some(1.0) { (&a, &one, &b) } else { (&b, &two, &a) };
        let StoreBegin::Claimed { state: Some(fresh), claim } = s.begin(earlier, "m2", Some(old)).await.unwrap() else {
            panic!("the other session's change makes the copy old")
        };
        assert_eq!(number(&fresh, "n"), Some(2.0));
        s.store.commit(&claim, &fresh, Commit { user_slots: vec![SlotDelta { name: "n".into(), change: Change::Remove }], ..commit("m2") })
            .await
            .unwrap();
        assert_eq!(number(&s.state(other).await, "n"), None);
    }

    async fn a_store_that_works_is_healthy(s) {
        s.store.health().await.unwrap();
    }

    async fn a_flush_follows_what_was_committed(s) {
        s.turn(&s.session("a"), "m1").await;
        s.store.flush().await.unwrap();
        assert_eq!(s.state(&s.session("a")).await.seq, 1);
    }
}
