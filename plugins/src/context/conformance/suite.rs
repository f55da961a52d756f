//! The behaviours, one function each.

use std::time::Duration;

use super::{
    ANSWERED, LIMITS, Subject, TURN, commit, journal,
    parts::{add, elsewhere, ids, join_all, number, set},
};
use crate::{
    api::{Change, Commit, Journal, MAX_JOURNAL, SessionKey, SlotDelta, SlotValue, Timestamp, Turn, TurnError},
    context::{BeginRequest, StoreBegin, settle},
};

macro_rules! suite {
    (($d:tt) $(async fn $case:ident($s:ident) $body:block)*) => {
        $(#[allow(missing_docs, reason = "the name says it")]
        pub async fn $case($s: Subject) $body)*

        /// Makes one test of each behaviour of a store. `$open` yields a [`Subject`](crate::context::conformance::Subject).
        #[macro_export]
        macro_rules! store_conformance {
            ($d open:expr) => {$(
                #[tokio::test]
                async fn $case() {
                    $crate::context::conformance::suite::$case($d open).await;
                }
            )*};
        }
    };
}

suite! { ($)
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

    async fn a_store_that_works_is_healthy(s) {
        s.store.health().await.unwrap();
    }

    async fn a_flush_follows_what_was_committed(s) {
        s.turn(&s.session("a"), "m1").await;
        s.store.flush().await.unwrap();
        assert_eq!(s.state(&s.session("a")).await.seq, 1);
    }

    async fn a_new_session_is_given_what_was_said_elsewhere_once(s) {
        let key = s.session("a");
        assert!(s.store.is_new(&key).await.unwrap());
        let (claim, base) = s.claim(&key, "m1").await;
        assert!(s.store.import(&claim, &base, Vec::new()).await.unwrap().is_none());
        let given = s.store.import(&claim, &base, elsewhere(6)).await.unwrap().unwrap();
        assert_eq!((ids(&given), given.seq, given.turns[0].seq), (vec!["old 3", "old 4", "old 5", "old 6"], 6, 3));
        assert_eq!((given.turns[0].at, given.turns[3].handoff), (Timestamp(3), true));
        assert_ne!(given.version, base.version);
        assert_eq!(s.store.commit(&claim, &given, commit("m1")).await.unwrap().turn.seq, 7);
        assert_eq!(ids(&s.state(&key).await), ["old 4", "old 5", "old 6", "m1"]);
        assert!(!s.store.is_new(&key).await.unwrap() && s.store.is_new(&s.session("b")).await.unwrap());
        let (claim, base) = s.claim(&key, "m2").await;
        assert!(s.store.import(&claim, &base, elsewhere(1)).await.unwrap().is_none());
        assert_eq!(s.store.commit(&claim, &s.state(&key).await, commit("m2")).await.unwrap().turn.seq, 8);
    }

    async fn what_was_said_elsewhere_is_kept_as_long_as_a_turn_of_now(s) {
        let key = s.session("a");
        for _ in 0..2 {
            let (claim, base) = s.claim(&key, "m1").await;
            assert_eq!(s.store.import(&claim, &base, elsewhere(2)).await.unwrap().unwrap().seq, 2);
            s.store.release(&claim);
            s.clock.advance(LIMITS.keep - Duration::from_millis(1));
            assert_eq!((s.state(&key).await.seq, s.store.is_new(&key).await.unwrap()), (2, false));
            s.clock.advance(Duration::from_millis(1));
            assert_eq!((s.state(&key).await.seq, s.store.is_new(&key).await.unwrap()), (0, true));
        }
    }

    async fn only_who_holds_a_session_can_give_it_its_first_turns(s) {
        let key = s.session("a");
        let (lapsed, base) = s.claim(&key, "m1").await;
        s.clock.advance(TURN);
        assert_eq!(s.store.import(&lapsed, &base, elsewhere(1)).await.unwrap_err(), TurnError::ClaimLost);
        let (given_up, base) = s.claim(&key, "m1").await;
        s.store.release(&given_up);
        assert_eq!(s.store.import(&given_up, &base, elsewhere(1)).await.unwrap_err(), TurnError::ClaimLost);
        let (claim, base) = s.claim(&key, "m1").await;
        assert_eq!(s.store.import(&lapsed, &base, elsewhere(1)).await.unwrap_err(), TurnError::ClaimLost);
        assert_eq!(s.store.commit(&claim, &base, commit("m1")).await.unwrap().turn.seq, 1);
    }

    async fn the_claim_stands_after_the_first_turns_were_given(s) {
        let key = s.session("a");
        let (claim, base) = s.claim(&key, "m1").await;
        s.store.import(&claim, &base, elsewhere(1)).await.unwrap().unwrap();
        assert_eq!(s.begin_within(Duration::from_millis(5), &key, "m2", None).await.unwrap_err(), TurnError::InProgress);
        s.store.release(&claim);
        assert_eq!(ids(&s.turn(&key, "m2").await.state), ["old 1", "m2"]);
    }

    async fn what_was_erased_does_not_come_back_from_elsewhere(s) {
        let (one, other) = (s.user("bank", "u1").session("a").unwrap(), s.user("bank", "u2").session("a").unwrap());
        let (under_way, base) = s.claim(&one, "m1").await;
        s.store.erase_user(one.user(), None).await.unwrap();
        assert_eq!(s.store.import(&under_way, &base, elsewhere(1)).await.unwrap_err(), TurnError::ClaimLost);
        s.store.erase_session(&other, None).await.unwrap(); // although nothing was there
        for key in [&one, &one.user().session("b").unwrap(), &other] {
            assert!(!s.store.is_new(key).await.unwrap());
            let (claim, base) = s.claim(key, "m1").await;
            assert!(s.store.import(&claim, &base, elsewhere(1)).await.unwrap().is_none());
            s.store.release(&claim);
        }
        assert!(s.store.is_new(&other.user().session("b").unwrap()).await.unwrap());
        assert_eq!(s.turn(&one, "m1").await.turn.seq, 1);
    }

    async fn what_was_erased_shortly_before_its_end_is_not_new_after_it(s) {
        let key = s.session("a");
        s.turn(&key, "m1").await;
        s.clock.advance(LIMITS.keep - Duration::from_millis(1));
        s.store.erase_session(&key, None).await.unwrap();
        s.clock.advance(Duration::from_millis(1));
        assert_eq!((s.state(&key).await.seq, s.store.is_new(&key).await.unwrap()), (0, false));
        let (claim, base) = s.claim(&key, "m2").await;
        assert!(s.store.import(&claim, &base, elsewhere(1)).await.unwrap().is_none());
    }

    async fn an_import_given_up_leaves_all_or_nothing_and_no_claim(s) {
        let key = s.session("a");
        let (claim, base) = s.claim(&key, "m1").await;
        let mut import = s.store.import(&claim, &base, elsewhere(2));
        let _ = tokio::time::timeout(Duration::ZERO, &mut import).await; // begun, and mostly not done
        drop(import);
        s.store.release(&claim);
        let (_claim, state) = s.claim(&key, "m2").await;
        assert!(matches!(state.seq, 0 | 2) && state.turns.len() == usize::try_from(state.seq).unwrap());
    }

    async fn a_long_past_can_be_read(s) {
        let key = s.session("a");
        let (claim, base) = s.claim(&key, "m1").await;
        let long = elsewhere(4).into_iter().map(|turn| Turn { a: "x".repeat(200_000).into(), ..turn }).collect();
        s.store.import(&claim, &base, long).await.unwrap().unwrap();
        s.store.release(&claim);
        assert_eq!(ids(&s.turn(&key, "m1").await.state), ["old 2", "old 3", "old 4", "m1"]);
        assert_eq!(s.state(&key).await.turns[2].a.len(), 200_000);
    }

    async fn what_a_session_awaits_comes_before_its_turns(s) {
        let key = s.session("a");
        let slot = SlotDelta { name: "n".into(), change: Change::Set(SlotValue::Number(7.0)) };
        s.turn_with(&key, Commit { awaits_past: true, slots: vec![slot], ..commit("m1") }).await;
        s.turn(&key, "m2").await;
        assert!(s.state(&key).await.awaits_past() && !s.store.is_new(&key).await.unwrap());
        let (claim, base) = s.claim(&key, "m3").await;
        let whole = s.store.import(&claim, &base, elsewhere(1)).await.unwrap().unwrap();
        assert_eq!((ids(&whole), whole.seq, whole.awaits_past()), (vec!["old 1", "m1", "m2"], 3, false));
        assert_eq!((whole.turns[1].seq, whole.flow.slots.0.len()), (2, 1));
        assert!(s.store.import(&claim, &base, elsewhere(1)).await.unwrap().is_none(), "it awaits nothing any more");
        assert_eq!(s.store.commit(&claim, &whole, commit("m3")).await.unwrap().turn.seq, 4);
        assert_eq!(ids(&s.state(&key).await), ["old 1", "m1", "m2", "m3"]);
        assert_eq!(s.turn(&key, "m4").await.turn.seq, 5);
        assert_eq!((ids(&s.state(&key).await), s.state(&key).await.flow.slots.0.len()), (vec!["m1", "m2", "m3", "m4"], 1));
    }

    async fn a_past_that_is_awaited_and_is_none_is_awaited_no_more(s) {
        let key = s.session("a");
        s.turn_with(&key, Commit { awaits_past: true, ..commit("m1") }).await;
        let (claim, base) = s.claim(&key, "m2").await;
        let settled = s.store.import(&claim, &base, Vec::new()).await.unwrap().unwrap();
        assert_eq!((ids(&settled), settled.seq, settled.awaits_past()), (vec!["m1"], 1, false));
        s.store.release(&claim);
        assert!(!s.state(&key).await.awaits_past());
    }

    async fn what_is_erased_awaits_nothing(s) {
        let key = s.session("a");
        s.turn_with(&key, Commit { awaits_past: true, ..commit("m1") }).await;
        let (claim, base) = s.claim(&key, "m2").await;
        s.store.erase_session(&key, None).await.unwrap();
        assert_eq!(s.store.import(&claim, &base, elsewhere(1)).await.unwrap_err(), TurnError::ClaimLost);
        let (claim, now) = s.claim(&key, "m2").await;
        assert!(!now.awaits_past());
        assert!(s.store.import(&claim, &base, elsewhere(1)).await.unwrap().is_none());
        assert_eq!(s.store.commit(&claim, &now, commit("m2")).await.unwrap().turn.seq, 2);
    }
}
