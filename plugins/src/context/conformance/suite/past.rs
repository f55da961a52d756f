//! What was said elsewhere, before the first turn here.

use std::time::Duration;

use crate::{
    api::{Change, Commit, SlotDelta, SlotValue, Timestamp, Turn, TurnError},
    context::conformance::{
        LIMITS, Subject, TURN, commit,
        parts::{elsewhere, ids},
    },
};

behaviours! { ($) past
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
