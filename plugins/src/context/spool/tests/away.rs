//! What a turn is while the store is away, and what becomes of it.

use std::{sync::Arc, time::Duration};

use super::rig::{FOREVER, Site};
use crate::{
    api::{Begin, SlotValue, TurnError, TurnPhase},
    context::conformance::{journal, session, user},
};

#[tokio::test]
async fn a_conversation_in_memory_goes_on_and_is_stored_in_order_once_the_store_is_back() {
    let site = Site::new();
    let gateway = site.gateway("a");
    let key = session("s");
    assert_eq!(gateway.turn(&key, "m1").await.unwrap().seq, 1);
    gateway.reach.cut(FOREVER);
    for id in ["m2", "m3"] {
        assert!(gateway.turn(&key, id).await.is_none());
    }
    let begun = gateway.begin(&key, "m4").await;
    let ids: Vec<_> = begun.state.turns.iter().map(|t| (t.seq, t.message_id.expose())).collect();
    assert_eq!(ids, [(1, "m1"), (2, "m2"), (3, "m3")]);
    assert_eq!((begun.state.seq, begun.gap, begun.claim.is_none()), (1, false, true), "only one is stored");
    assert_eq!(
        [&begun.state.flow.slots, &begun.state.user_slots].map(|slots| slots.0["n"].clone()),
        [(); 2].map(|()| SlotValue::Number(3.0))
    );
    assert_eq!(begun.state.flow.journal, journal("m3"));
    assert!(gateway.end(&begun, "m4").await.unwrap().is_none());
    assert_eq!((gateway.waiting(), gateway.outcomes("aside"), site.ids(&key).await.len()), (3, 3.0, 1));
    gateway.reach.cut(0);
    gateway.settled().await;
    assert_eq!(site.ids(&key).await, ["m1", "m2", "m3", "m4"]);
    assert_eq!((site.stored(&key).await.flow.slots.0["n"].clone(), gateway.outcomes("stored")), (SlotValue::Number(4.0), 3.0));
    assert_eq!(site.stored(&key).await.flow.journal, journal("m4"));
    assert_eq!(gateway.turn(&key, "m5").await.unwrap().seq, 5);
}

#[tokio::test]
async fn a_turn_that_waited_leaves_the_journal_of_one_that_was_stored_before_it() {
    let site = Site::new();
    let (mut gateway, other) = (site.gateway("a"), site.gateway("b"));
    let key = session("s");
    gateway.turn(&key, "m1").await;
    gateway.reach.cut(FOREVER);
    for id in ["m2", "m3"] {
        gateway.turn(&key, id).await;
    }
    other.turn(&key, "elsewhere").await;
    gateway.close();
    gateway.open();
    gateway.reach.cut(0);
    gateway.settled().await;
    assert_eq!(site.ids(&key).await, ["m1", "elsewhere", "m2", "m3"]);
    assert_eq!(site.stored(&key).await.flow.journal, journal("elsewhere"));
}

#[tokio::test]
async fn a_turn_that_waited_has_the_time_at_which_it_was_answered() {
    let site = Site::new();
    let gateway = site.gateway("a");
    let key = session("s");
    gateway.turn(&key, "m1").await;
    gateway.reach.cut(FOREVER);
    site.clock.advance(Duration::from_secs(60));
    let answered = site.clock.now();
    gateway.turn(&key, "m2").await;
    assert_eq!(gateway.begin(&key, "m3").await.state.turns[1].at, answered);
    site.clock.advance(Duration::from_secs(3600));
    gateway.reach.cut(0);
    gateway.settled().await;
    assert_eq!(site.stored(&key).await.turns[1].at, answered);
    assert!(gateway.turn(&key, "m3").await.unwrap().at > answered);
}

#[tokio::test]
async fn a_conversation_that_is_not_in_memory_or_not_new_enough_does_not_begin() {
    let site = Site::new();
    let gateway = site.gateway("a");
    let (warm, cold) = (session("warm"), session("cold"));
    gateway.turn(&warm, "m1").await;
    gateway.reach.cut(FOREVER);
    let unavailable = |begun: Result<Begin, TurnError>| matches!(begun, Err(TurnError::Unavailable(_)));
    assert!(unavailable(gateway.begin_seen(&cold, "m1", None).await));
    assert!(unavailable(gateway.begin_seen(&warm, "m2", Some(2)).await), "the client saw more than is in memory");
    assert!(matches!(gateway.begin_seen(&warm, "m2", Some(1)).await, Ok(Begin::Run(_))));
    assert!(matches!(gateway.context().history(&cold).await, Err(TurnError::Unavailable(_))));
}

#[tokio::test]
async fn a_message_sent_again_while_its_turn_waits_gets_the_same_answer() {
    let site = Site::new();
    let mut gateway = site.gateway("a");
    let key = session("s");
    gateway.turn(&key, "m1").await;
    gateway.reach.cut(FOREVER);
    gateway.turn(&key, "m2").await;
    for reopened in [false, true] {
        if reopened {
            gateway.close();
            gateway.open();
        }
        let Begin::Aside(turn) = gateway.begin_seen(&key, "m2", None).await.unwrap() else { panic!("not found") };
        assert_eq!((turn.a.expose(), turn.seq), ("a m2", 1), "of the turn only what is stored has a number");
    }
    gateway.reach.cut(0);
    gateway.settled().await;
    let Begin::Answered(turn) = gateway.begin_seen(&key, "m2", None).await.unwrap() else { panic!("not stored") };
    assert_eq!(turn.seq, 2);
    // A stored one is known from memory too.
    gateway.turn(&key, "m3").await;
    gateway.reach.cut(FOREVER);
    assert!(matches!(gateway.begin_seen(&key, "m1", None).await, Ok(Begin::Answered(_))));
}

#[tokio::test]
async fn a_commit_that_fails_is_tried_again_and_then_put_aside_and_stored_once() {
    let site = Site::new();
    let gateway = site.gateway("a");
    let key = session("s");
    // Nothing done, or done and not heard of; once, or for longer.
    for (id, lost, calls) in [("m1", false, 1), ("m2", true, 1), ("m3", false, 4), ("m4", true, 3)] {
        let begun = gateway.begin(&key, id).await;
        if lost {
            gateway.reach.lose_answers(calls);
        } else {
            gateway.reach.cut(calls);
        }
        let stored = gateway.end(&begun, id).await.unwrap();
        assert_eq!(stored.is_some(), calls == 1, "{id}");
        gateway.settled().await;
    }
    assert_eq!(site.ids(&key).await, ["m1", "m2", "m3", "m4"]);
    assert_eq!(site.stored(&key).await.flow.slots.0["n"], SlotValue::Number(4.0));
}

#[tokio::test]
async fn a_sessions_next_turn_comes_after_what_waits_of_it() {
    let site = Site::new();
    let gateway = site.gateway("a");
    let key = session("s");
    gateway.turn(&key, "m1").await;
    gateway.reach.cut(FOREVER);
    for i in 2..=30 {
        gateway.turn(&key, &format!("m{i}")).await;
    }
    gateway.reach.cut(0);
    // At once, so that recovery has hardly begun.
    assert_eq!(gateway.turn(&key, "m31").await.unwrap().seq, 31);
    assert_eq!(site.ids(&key).await, (1..=31).map(|i| format!("m{i}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_was_erased_meanwhile_is_not_stored() {
    let site = Site::new();
    let (gateway, other) = (site.gateway("a"), site.gateway("b"));
    let (here, there, kept) = (session("here"), user("bank", "v").session("there").unwrap(), session("kept"));
    for key in [&here, &there, &kept] {
        gateway.turn(key, "m1").await;
    }
    gateway.reach.cut(FOREVER);
    for key in [&here, &there, &kept] {
        gateway.turn(key, "m2").await;
    }
    other.context().erase_session(&here, None).await.unwrap();
    other.context().erase_user(there.user(), None).await.unwrap();
    assert!(gateway.context().erase_session(&kept, None).await.is_err(), "nothing is erased that the store has");
    gateway.reach.cut(0);
    gateway.settled().await;
    for (key, ids) in [(&here, &[][..]), (&there, &[]), (&kept, &["m1", "m2"])] {
        assert_eq!(site.ids(key).await, ids);
    }
    assert_eq!((gateway.outcomes("stored"), gateway.outcomes("discarded")), (1.0, 2.0));
}

#[tokio::test]
async fn what_waited_for_longer_than_conversations_are_kept_is_not_stored() {
    let site = Site::new();
    let gateway = site.gateway("a");
    let key = session("s");
    gateway.turn(&key, "m1").await;
    gateway.reach.cut(FOREVER);
    gateway.turn(&key, "m2").await;
    site.clock.advance(gateway.config.history_keep);
    gateway.reach.cut(0);
    gateway.settled().await;
    assert_eq!((site.ids(&key).await.len(), gateway.outcomes("discarded")), (0, 1.0));
}

#[tokio::test]
async fn an_erasure_by_the_same_gateway_takes_the_words_from_its_disk() {
    let site = Site::new();
    let (gateway, other) = (site.gateway("a"), site.gateway("b"));
    let keys = [session("s"), user("bank", "v").session("s").unwrap()];
    let mut claimed = Vec::new();
    for key in &keys {
        gateway.turn(key, "m1").await;
        // So that recovery has to wait.
        claimed.push(other.begin(key, "long").await);
        gateway.reach.cut(FOREVER);
        gateway.turn(key, &format!("secret of {}", key.user().id())).await;
        gateway.reach.cut(0);
    }
    let holds = |words: &str| std::fs::read(gateway.spool_folder().join("waiting")).unwrap().windows(11).any(|w| w == words.as_bytes());
    assert!(holds("secret of u") && holds("secret of v"));
    gateway.context().erase_user(keys[0].user(), None).await.unwrap();
    assert!(!holds("secret of u") && holds("secret of v"));
    assert_eq!((gateway.waiting(), gateway.outcomes("discarded")), (1, 1.0));
    claimed.iter().for_each(|begun| other.context().release(begun.claim.as_ref().unwrap()));
}

#[tokio::test]
async fn an_erasure_takes_words_from_the_disk_that_wait_no_longer() {
    let site = Site::new();
    let (gateway, other) = (site.gateway("a"), site.gateway("b"));
    let (stored, waits) = (user("bank", "v").session("s").unwrap(), session("s"));
    for key in [&stored, &waits] {
        gateway.turn(key, "m1").await;
    }
    let held = other.begin(&waits, "long").await;
    gateway.reach.cut(FOREVER);
    gateway.turn(&waits, "m2").await;
    gateway.turn(&stored, "secret").await;
    gateway.reach.cut(0);
    gateway.turn(&stored, "m3").await;
    assert_eq!(gateway.waiting(), 1);
    let holds = || std::fs::read(gateway.spool_folder().join("waiting")).unwrap().windows(6).any(|w| w == b"secret");
    gateway.context().erase_user(stored.user(), None).await.unwrap();
    assert!(!holds() && gateway.waiting() == 1);
    other.context().release(held.claim.as_ref().unwrap());
}

#[tokio::test]
async fn a_turn_that_the_store_refuses_is_put_aside_for_good_and_keeps_nobody() {
    let site = Site::new();
    let (gateway, other) = (site.gateway("a"), site.gateway("b"));
    let key = session("s");
    gateway.turn(&key, "m1").await;
    gateway.reach.cut(FOREVER);
    for id in ["same", "m2"] {
        gateway.turn(&key, id).await;
    }
    // Another gateway takes the same id for another question.
    let begun = other.begin(&key, "same").await;
    let another = crate::api::Commit { q: "another".into(), ..crate::context::conformance::commit("same") };
    other.context().commit(&begun, another).await.unwrap();
    gateway.reach.cut(0);
    gateway.settled().await;
    assert_eq!(site.ids(&key).await, ["m1", "same", "m2"]);
    assert_eq!((gateway.outcomes("refused"), gateway.outcomes("stored")), (1.0, 1.0));
    let refused = || std::fs::read(gateway.spool_folder().join("refused")).unwrap();
    assert!(refused().windows(6).any(|w| w == b"a same"));
    // It is the user's all the same.
    gateway.context().erase_user(key.user(), None).await.unwrap();
    assert!(refused().is_empty());
}

#[tokio::test]
async fn what_waits_of_an_erased_conversation_is_not_shown_to_the_next_one() {
    let site = Site::new();
    let (gateway, other) = (site.gateway("a"), site.gateway("b"));
    let key = session("s");
    gateway.turn(&key, "m1").await;
    gateway.reach.cut(FOREVER);
    gateway.turn(&key, "m2").await;
    other.context().erase_session(&key, None).await.unwrap();
    // The store is back, but another turn keeps what waits from being looked at, until it is away again.
    let held = other.begin(&key, "long").await;
    gateway.reach.cut(0);
    assert_eq!(gateway.context().history(&key).await.unwrap().turns.len(), 0);
    gateway.reach.cut(FOREVER);
    assert_eq!(gateway.waiting(), 1);
    let storing = gateway.context().spool.as_ref().unwrap().waiting().storing(key.user()).unwrap();
    drop(storing.lock().await); // recovery has seen that too
    assert_eq!(gateway.begin(&key, "m3").await.state.turns.len(), 0);
    assert_eq!(gateway.begin(&key, "m2").await.state.turns.len(), 0, "nor is it answered with the erased words");
    drop(held);
}

#[tokio::test]
async fn one_who_gives_up_waiting_for_what_waits_leaves_nothing_behind() {
    let site = Site::new();
    let gateway = site.gateway("a");
    let key = session("s");
    gateway.turn(&key, "m1").await;
    gateway.reach.cut(FOREVER);
    gateway.turn(&key, "m2").await;
    let spool = gateway.context().spool.as_ref().unwrap();
    let storing = spool.waiting().storing(key.user()).unwrap();
    let alone = storing.lock().await;
    for _ in 0..20 {
        assert!(tokio::time::timeout(Duration::from_millis(2), spool.settle(&key, Duration::from_secs(60))).await.is_err());
    }
    assert!(Arc::strong_count(&storing) <= 3, "those who wait, ours and recovery: {}", Arc::strong_count(&storing));
    let settled = spool.settle(&key, Duration::from_millis(2)).await;
    assert_eq!(settled, Err(TurnError::InProgress), "no longer than it is said to");
    drop(alone);
}

#[tokio::test]
async fn one_who_waits_while_another_finds_the_store_away_is_told_so_and_does_not_ask_again() {
    let site = Site::new();
    let gateway = site.gateway("a");
    let key = session("s");
    gateway.turn(&key, "m1").await;
    gateway.reach.cut(FOREVER);
    gateway.turn(&key, "m2").await;
    let spool = gateway.context().spool.as_ref().unwrap();
    let storing = spool.waiting().storing(key.user()).unwrap();
    let alone = storing.lock().await;
    while Arc::strong_count(&storing) < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await; // until recovery is the next in line
    }
    gateway.reach.cut(1);
    let (settled, ()) = tokio::join!(spool.settle(&key, Duration::from_secs(60)), async { drop(alone) });
    assert_eq!(settled, Err(TurnError::Unavailable("cut off".into())), "what recovery was told");
    assert_eq!(spool.settle(&key, Duration::from_secs(60)).await, Ok(()), "later it asks by itself");
    assert_eq!(site.ids(&key).await, ["m1", "m2"]);
}

#[tokio::test]
async fn a_message_sent_again_gets_the_same_answer_also_while_another_gateway_has_the_session() {
    let site = Site::new();
    let (gateway, other) = (site.gateway("a"), site.gateway("b"));
    let key = session("s");
    gateway.turn(&key, "m1").await;
    gateway.reach.cut(FOREVER);
    let answered = gateway.turn(&key, "m2").await;
    assert!(answered.is_none(), "it waits");
    let begun = other.begin(&key, "m3").await;
    gateway.reach.cut(0);
    let again = gateway.begin_seen(&key, "m2", None).await;
    assert!(matches!(&again, Ok(Begin::Aside(turn)) if turn.message_id.expose() == "m2"), "{again:?}");
    assert_eq!(other.end(&begun, "m3").await.unwrap().unwrap().seq, 2);
    gateway.settled().await;
    assert_eq!(site.ids(&key).await, ["m1", "m3", "m2"]);
}
