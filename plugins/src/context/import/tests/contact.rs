//! A session's list at its first contact, and at later ones if that came to nothing.

use std::time::Duration;

use tokio::time::Instant;

use super::{Move, WAIT, begin, begin_as, questions, run, seq, session};
use crate::{
    api::{Begun, Commit, Meters, SessionKey, TurnPhase},
    context::{
        Context,
        conformance::{commit, user},
        import::Tally,
    },
    testing::metric,
};

/// How many first contacts ended so.
fn contacts(meters: &Meters, outcome: &str) -> Option<f64> {
    metric(meters, "fengda_import_sessions_total", &[outcome, "bank"])
}

#[tokio::test]
async fn a_user_goes_on_at_the_first_contact_and_the_list_is_read_once() {
    let (moving, meters) = (Move::new(), Meters::default());
    moving.say("chat:u", "before", "long ago");
    let context = moving.context("chat:{user_id}", &meters);
    let key = session("u");
    let begun = begin(&context, &key).await;
    assert_eq!(questions(&begun.state), [(1, "before", "long ago")]);
    assert_eq!(seq(context.commit(&begun, commit("m1")).await.unwrap()), 2);
    for (id, number) in [("m2", 3), ("m3", 4)] {
        let begun = begin_as(&context, &key, id).await;
        assert_eq!(seq(context.commit(&begun, commit(id)).await.unwrap()), number);
    }
    assert_eq!((moving.reads(), contacts(&meters, "imported"), context.history(&key).await.unwrap().seq), (1, Some(1.0), 4));
}

#[tokio::test]
async fn a_history_that_is_looked_at_first_is_there_and_a_user_without_a_list_begins_anew() {
    let (moving, meters) = (Move::new(), Meters::default());
    moving.say("chat:u", "before", "long ago");
    let context = moving.context("chat:{user_id}", &meters);
    assert_eq!(questions(&context.history(&session("u")).await.unwrap()), [(1, "before", "long ago")]);
    assert_eq!(begin(&context, &session("u")).await.state.seq, 1);
    // A copy of nothing in the cache hides no list.
    assert_eq!(context.history(&session("v")).await.unwrap().seq, 0);
    moving.say("chat:v", "q", "a");
    assert_eq!(begin(&context, &session("v")).await.state.seq, 1);
    assert_eq!(begin(&context, &session("new")).await.state.seq, 0);
    assert_eq!((contacts(&meters, "imported"), contacts(&meters, "none")), (Some(2.0), Some(2.0)));
}

#[tokio::test]
async fn nobody_gets_the_list_of_another() {
    let (moving, meters) = (Move::new(), Meters::default());
    moving.say("chat:a:b:c", "secret", "of somebody");
    moving.say("chat:u:s", "q", "a");
    let context = moving.context("chat:{user_id}:{session_id}", &meters);
    for (user_id, id) in [("a", "b:c"), ("a:b", "c")] {
        let key = user("bank", user_id).session(id).unwrap();
        assert_eq!(begin(&context, &key).await.state.seq, 0);
    }
    let shop = user("shop", "u").session("s").unwrap();
    assert_eq!(begin(&context, &shop).await.state.seq, 0);
    assert_eq!(moving.reads(), 0);
    assert_eq!(begin(&context, &user("bank", "u").session("s").unwrap()).await.state.seq, 1);
}

#[tokio::test]
async fn what_was_erased_is_not_brought_over() {
    let (moving, meters) = (Move::new(), Meters::default());
    let context = moving.context("chat:{user_id}", &meters);
    for name in ["u", "v"] {
        moving.say(&format!("chat:{name}"), "q", "a");
    }
    context.erase_user(session("u").user(), None).await.unwrap();
    assert_eq!(context.history(&session("u")).await.unwrap().seq, 0);
    assert_eq!(begin(&context, &session("u")).await.state.seq, 0);
    let begun = begin(&context, &session("v")).await;
    context.release(&begun.claim.unwrap());
    context.erase_session(&session("v"), None).await.unwrap();
    let begun = begin(&context, &session("v")).await;
    assert_eq!((begun.state.seq, begun.state.turns.len()), (1, 0));
    assert_eq!(run(&moving.bulk("chat:{user_id}")).await, Tally { keys: 2, there: 2, ..Tally::default() });
}

#[tokio::test]
async fn a_source_that_does_not_answer_delays_a_turn_no_longer_than_agreed() {
    let (moving, meters) = (Move::new(), Meters::default());
    moving.say("chat:u", "q", "a");
    let context = moving.context("chat:{user_id}", &meters);
    moving.server.pause();
    let begun_at = Instant::now();
    let begun = begin(&context, &session("u")).await;
    let took = begun_at.elapsed();
    moving.server.resume();
    assert!(took >= WAIT && took < WAIT * 4, "{took:?}");
    assert_eq!((begun.state.seq, contacts(&meters, "missed")), (0, Some(1.0)));
    // Nothing was kept yet: the next message finds it.
    context.release(&begun.claim.unwrap());
    assert_eq!(begin(&context, &session("u")).await.state.seq, 1);
}

#[tokio::test]
async fn a_first_contact_given_up_halfway_leaves_no_claim() {
    let (moving, meters) = (Move::new(), Meters::default());
    let context = moving.context("chat:{user_id}", &meters);
    moving.server.pause();
    let key = session("u");
    let given_up = tokio::time::timeout(WAIT / 3, begin(&context, &key)).await;
    moving.server.resume();
    assert!(given_up.is_err());
    let begun = tokio::time::timeout(Duration::from_secs(3), begin_as(&context, &key, "m2")).await.unwrap();
    assert_eq!(seq(context.commit(&begun, commit("m2")).await.unwrap()), 1);
}

#[tokio::test]
async fn what_could_not_be_read_in_time_is_there_at_the_next_contact() {
    let (moving, meters) = (Move::new(), Meters::default());
    for (q, key) in [("first", "chat:u"), ("second", "chat:u"), ("first", "chat:v")] {
        moving.say(key, q, "a");
    }
    let context = moving.context("chat:{user_id}", &meters);
    moving.server.pause();
    for name in ["u", "v"] {
        for (id, number) in [("m1", 1), ("m2", 2)] {
            let begun = begin_as(&context, &session(name), id).await;
            assert_eq!(keep(&context, &begun, id).await, number);
        }
    }
    moving.server.resume();
    let begun = until_found(&context, &session("u"), "m3").await;
    assert_eq!(questions(&begun.state), [(1, "first", "a"), (2, "second", "a"), (3, "q m1", "a m1"), (4, "q m2", "a m2")]);
    assert_eq!(keep(&context, &begun, "m3").await, 5);
    // A look at the history is a contact too.
    assert_eq!(questions(&context.history(&session("v")).await.unwrap())[..2], [(1, "first", "a"), (2, "q m1", "a m1")]);
    let read = moving.reads();
    assert_eq!((begin_as(&context, &session("u"), "m4").await.state.seq, begin_as(&context, &session("v"), "m3").await.state.seq), (5, 3));
    assert_eq!((moving.reads(), contacts(&meters, "imported")), (read, Some(2.0)));
}

/// A turn as the gateway keeps it.
async fn keep(context: &Context, begun: &Begun, id: &str) -> u64 {
    seq(context.commit(begun, Commit { awaits_past: begun.awaits_past, ..commit(id) }).await.unwrap())
}

/// Begins a turn as soon as the source is known to be back.
async fn until_found(context: &Context, key: &SessionKey, id: &str) -> Begun {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let begun = begin_as(context, key, id).await;
        if !begun.state.awaits_past() {
            return begun;
        }
        assert!(Instant::now() < end);
        context.release(&begun.claim.unwrap());
    }
}

#[tokio::test]
async fn a_list_that_is_not_there_after_all_is_looked_for_no_more() {
    let (moving, meters) = (Move::new(), Meters::default());
    let context = moving.context("chat:{user_id}", &meters);
    moving.server.pause();
    let begun = begin(&context, &session("u")).await;
    assert_eq!(keep(&context, &begun, "m1").await, 1);
    moving.server.resume();
    let begun = until_found(&context, &session("u"), "m2").await;
    assert_eq!(keep(&context, &begun, "m2").await, 2);
    let read = moving.reads();
    assert_eq!((begin_as(&context, &session("u"), "m3").await.state.seq, moving.reads()), (2, read));
}

#[tokio::test]
async fn what_was_erased_is_not_looked_for_again_either() {
    let (moving, meters) = (Move::new(), Meters::default());
    for name in ["before", "after", "all", "other"] {
        moving.say(&format!("chat:{name}"), "q", "a");
    }
    let context = moving.context("chat:{user_id}", &meters);
    context.erase_session(&session("before"), None).await.unwrap();
    moving.server.pause();
    for name in ["before", "after", "all", "other"] {
        let begun = begin(&context, &session(name)).await;
        keep(&context, &begun, "m1").await;
    }
    context.erase_session(&session("after"), None).await.unwrap();
    context.erase_user(session("all").user(), None).await.unwrap();
    moving.server.resume();
    assert_eq!(until_found(&context, &session("other"), "m2").await.state.seq, 2);
    let turns = async |name: &str| begin_as(&context, &session(name), "m2").await.state.turns.len();
    assert_eq!([turns("before").await, turns("after").await, turns("all").await], [1, 0, 0]);
    assert_eq!(contacts(&meters, "imported"), Some(1.0));
}
