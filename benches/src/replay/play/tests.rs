//! The clients against a small honest gateway, and against the same one telling lies.

use std::sync::Mutex;

use http::{Response, request::Parts};
use serde_json::{Value, json};

use super::*;
use crate::{
    http::{Server, json as respond},
    replay::plan::tests::monotonous,
};

type Lie = fn(&mut Value);

/// A gateway in a few lines: keeps histories by token, asks the model, answers; `lie` has the last word on every chat answer.
fn small_gateway(stage: &Stage, lie: Lie, lie_in_history: Lie) -> impl Fn(&Parts, &[u8]) -> Response<Full<Bytes>> + use<> {
    let (model, plan, bearers) = (stage.model.clone(), stage.plan.clone(), stage.bearers.clone());
    let histories = Mutex::new(vec![Vec::<Value>::new(); plan.dialogues.len()]);
    let users: Vec<_> = plan.dialogues.iter().map(|d| json!({ "tenant": plan.tenants[d.tenant].name, "user_id": d.user })).collect();
    move |head, body| {
        let authorization = head.headers[header::AUTHORIZATION].to_str().unwrap();
        let dialogue = bearers.iter().position(|b| b == authorization).unwrap();
        let turns = &mut histories.lock().unwrap()[dialogue];
        if head.method == Method::GET {
            let mut answer = json!({ "session_id": SESSION, "seq": turns.len(), "turns": turns });
            lie_in_history(&mut answer);
            return respond(StatusCode::OK, answer.to_string());
        }
        let asked: Value = serde_json::from_slice(body).unwrap();
        let mut question = users[dialogue].clone();
        question["query"] = asked["query"].clone();
        question["history"] = json!(turns);
        question["session_id"] = asked["session_id"].clone();
        question["message_id"] = asked["message_id"].clone();
        let text = model.answer(question.to_string().as_bytes()).unwrap().expose();
        let turn = json!({ "seq": turns.len() + 1, "message_id": asked["message_id"], "q": asked["query"], "a": text, "fallback": false });
        turns.push(turn);
        let mut answer = json!({
            "answer": text, "seq": turns.len(), "session_id": SESSION, "message_id": asked["message_id"], "fallback": false, "stored": true,
        });
        lie(&mut answer);
        respond(StatusCode::OK, answer.to_string())
    }
}

/// Twelve dialogues of three turns.
fn stage(gateways: &watch::Sender<Vec<SocketAddr>>, patient: bool) -> Arc<Stage> {
    let plan = Arc::new(monotonous(12, 3));
    let faults = Arc::new(Faults::default());
    Arc::new(Stage {
        bearers: bearers(&plan),
        model: Arc::new(Model::new(plan.clone(), faults.clone())),
        plan,
        faults,
        next: AtomicUsize::new(0),
        acknowledged: watch::Sender::new(0),
        gateways: gateways.subscribe(),
        patient,
        bar: ProgressBar::hidden(),
    })
}

struct Outcome {
    played: Played,
    faults: Vec<Fault>,
}

/// Plays a stage with two clients and reads the histories back.
async fn outcome_of(stage: Arc<Stage>) -> Outcome {
    let (mut played, other) = tokio::join!(play(stage.clone()), play(stage.clone()));
    played.latencies.extend(other.latencies);
    played.whole.extend(other.whole);
    played.resent += other.resent;
    verify(stage.clone(), &played.whole).await;
    Outcome { played, faults: stage.faults.seen().into_keys().collect() }
}

async fn outcome(lie: Lie, lie_in_history: Lie) -> Outcome {
    let gateways = watch::Sender::new(Vec::new());
    let stage = stage(&gateways, false);
    let server = Server::start(small_gateway(&stage, lie, lie_in_history)).await.unwrap();
    gateways.send_replace(vec![server.address]);
    outcome_of(stage).await
}

const HONEST: Lie = |_| {};

#[tokio::test]
async fn an_honest_gateway_has_no_faults() {
    let outcome = outcome(HONEST, HONEST).await;
    assert_eq!(outcome.faults, []);
    assert_eq!((outcome.played.latencies.len(), outcome.played.whole.len()), (36, 12));
}

#[tokio::test]
async fn every_lie_in_an_answer_is_seen() {
    let lies: [(Lie, Fault); 7] = [
        (|a| a["answer"] = json!("不客气"), Fault::Answer),
        (|a| a["seq"] = json!(7), Fault::Seq),
        (|a| a["session_id"] = json!("other"), Fault::Echo),
        (|a| a["message_id"] = json!("other"), Fault::Echo),
        (|a| a["fallback"] = json!(true), Fault::Fallback),
        (|a| a["stored"] = json!(false), Fault::NotStored),
        (|a| *a = json!({ "answer": "" }), Fault::Unreadable),
    ];
    for (lie, fault) in lies {
        let outcome = outcome(lie, HONEST).await;
        assert_eq!(outcome.faults, [fault]);
        assert!(outcome.played.whole.is_empty());
    }
}

#[tokio::test]
async fn every_lie_in_a_stored_history_is_seen() {
    let lies: [Lie; 5] = [
        |h| h["seq"] = json!(4),
        |h| h["turns"].as_array_mut().unwrap().truncate(2),
        |h| h["turns"][1] = h["turns"][0].clone(),
        |h| h["turns"][2]["a"] = json!("不客气"),
        |h| h["turns"].as_array_mut().unwrap().swap(0, 1),
    ];
    for lie in lies {
        assert_eq!(outcome(HONEST, lie).await.faults, [Fault::Stored]);
    }
}

/// A gateway that refuses its first request, closes, and has a better one follow it.
async fn outcome_of_a_restart(patient: bool) -> Outcome {
    let gateways = watch::Sender::new(Vec::new());
    let stage = stage(&gateways, patient);
    let next = Server::start(small_gateway(&stage, HONEST, HONEST)).await.unwrap();
    let (switch, address) = (gateways.clone(), next.address);
    let dying = Server::start(move |_, _| {
        switch.send_replace(vec![address]);
        let mut refusal = respond(StatusCode::SERVICE_UNAVAILABLE, "{}");
        refusal.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        refusal
    });
    let dying = dying.await.unwrap();
    gateways.send_replace(vec![dying.address]);
    outcome_of(stage).await
}

#[tokio::test]
async fn a_patient_client_sends_a_message_again_until_the_next_gateway_answers() {
    let outcome = outcome_of_a_restart(true).await;
    assert_eq!(outcome.faults, []);
    assert_eq!(outcome.played.whole.len(), 12);
    assert!(outcome.played.resent > 0);
}

#[tokio::test]
async fn without_a_restart_to_come_a_refusal_is_a_fault() {
    assert_eq!(outcome_of_a_restart(false).await.faults, [Fault::Status(503)]);
}
