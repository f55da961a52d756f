//! Reading and erasing what was said, and how long it is kept.

use std::time::Duration;

use serde_json::{Value, json};

use super::{harness::Site, model::Model};

fn questions(history: &Value) -> Vec<&str> {
    history["turns"].as_array().unwrap().iter().map(|t| t["q"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn history_is_read_in_order_and_in_pages() {
    let gateway = Site::new().start();
    for q in ["a", "b", "c", "d"] {
        gateway.ask("alpha", "u", q).await;
    }
    let all = gateway.history("GET", "alpha", "u", "").await.json();
    assert_eq!((&all["seq"], questions(&all)), (&json!(4), vec!["a", "b", "c", "d"]));
    let first = &all["turns"][0];
    let at = gateway.site.clock.now().0;
    let expected =
        json!({ "seq": 1, "message_id": first["message_id"], "q": "a", "a": "（演示模型）您说：“a”。", "at": at, "fallback": false });
    assert_eq!(first, &expected);
    let page = gateway.history("GET", "alpha", "u", "?limit=2&before=4").await.json();
    assert_eq!(questions(&page), ["b", "c"]);
    gateway.history("GET", "alpha", "u", "?limit=0").await.error(400, "bad_request");
    gateway.history("GET", "alpha", "u", "?session_id=").await.error(400, "bad_request");
    gateway.history("POST", "alpha", "u", "").await.error(405, "method_not_allowed");
}

#[tokio::test]
async fn an_erased_session_is_forgotten_and_its_numbers_go_on() {
    let gateway = Site::new().start();
    gateway.ask("alpha", "u", "secret").await;
    gateway.say("alpha", "u", json!({ "query": "kept", "session_id": "other" })).await;
    assert_eq!(gateway.history("DELETE", "alpha", "u", "?session_id=default").await.status, 204);
    assert_eq!(gateway.history("GET", "alpha", "u", "").await.json(), json!({ "session_id": "default", "seq": 1, "turns": [] }));
    assert_eq!(questions(&gateway.history("GET", "alpha", "u", "?session_id=other").await.json()), ["kept"]);
    let next = gateway.ask("alpha", "u", "fresh").await;
    assert_eq!((&next["seq"], &next["answer"]), (&json!(2), &json!("（演示模型）您说：“fresh”。")));
    for mistyped in ["?sesion_id=other", "?before=1", "?session_id=other&limit=1"] {
        gateway.history("DELETE", "alpha", "u", mistyped).await.error(400, "bad_request");
    }
    // Without an id: everything of the user.
    assert_eq!(gateway.history("DELETE", "alpha", "u", "").await.status, 204);
    assert_eq!(questions(&gateway.history("GET", "alpha", "u", "?session_id=other").await.json()), [""; 0]);
}

#[tokio::test]
async fn a_user_who_returns_after_half_an_hour_goes_on_and_after_a_week_begins_anew() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).start();
    gateway.ask("alpha", "u", "first").await;
    gateway.site.clock.advance(Duration::from_secs(31 * 60));
    assert_eq!(gateway.ask("alpha", "u", "second").await["answer"], "1:second");
    gateway.site.clock.advance(Duration::from_secs(7 * 86400 + 1));
    let anew = gateway.ask("alpha", "u", "third").await;
    assert_eq!(anew["answer"], "0:third");
}

#[tokio::test]
async fn only_so_many_of_the_newest_turns_are_kept_as_configured() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).extra("store: { history: { turns: 5 } }").start();
    for i in 1..=8 {
        let reply = gateway.ask("alpha", "u", &i.to_string()).await;
        assert_eq!(reply["seq"], i);
        assert_eq!(reply["answer"], format!("{}:{i}", (i - 1).min(5)));
    }
    let history = gateway.history("GET", "alpha", "u", "").await.json();
    assert_eq!((questions(&history), &history["seq"]), (vec!["4", "5", "6", "7", "8"], &json!(8)));
}

#[tokio::test]
async fn conversations_survive_a_restart() {
    let gateway = Site::new().start();
    gateway.ask("alpha", "u", "before").await;
    let gateway = gateway.stop().start();
    let reply = gateway.ask("alpha", "u", "after").await;
    assert_eq!(reply["seq"], 2);
    assert!(reply["answer"].as_str().unwrap().contains("上一轮您说的是“before”"), "{reply}");
}
