//! The model behind the gateway: answers from the plan, and checks that every question comes with exactly its own dialogue's history.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use fengda_plugins::api::Text;
use http::StatusCode;
use serde::Deserialize;

use super::{
    fault::{Fault, Faults},
    plan::{Plan, PlannedTurn, SESSION},
};
use crate::http::{Server, json};

/// How many turns the gateway keeps, and so shows to the model.
pub(super) const KEPT_TURNS: usize = 100;

/// A model that knows every dialogue by (tenant, user, session).
pub(super) struct Model {
    plan: Arc<Plan>,
    faults: Arc<Faults>,
    /// How often each turn of each dialogue was asked.
    calls: Vec<Vec<AtomicU32>>,
}

/// The body of `POST /v1/answer`.
#[derive(Deserialize)]
struct Question {
    query: Text,
    history: Vec<Past>,
    tenant: String,
    user_id: String,
    session_id: String,
    message_id: String,
}

#[derive(Deserialize)]
struct Past {
    q: Text,
    a: Text,
}

impl Model {
    /// A model for this plan; what it finds wrong goes to `faults`.
    pub(super) fn new(plan: Arc<Plan>, faults: Arc<Faults>) -> Self {
        let calls = plan.dialogues.iter().map(|d| d.turns.iter().map(|_| AtomicU32::new(0)).collect()).collect();
        Self { plan, faults, calls }
    }

    /// Serves the `answer` protocol on a free loopback port.
    ///
    /// # Errors
    /// No port is free.
    pub(super) async fn serve(self: Arc<Self>) -> io::Result<Server> {
        Server::start(move |_, body| match self.answer(body) {
            Ok(text) => json(StatusCode::OK, serde_json::json!({ "text": text.expose() }).to_string()),
            Err(fault) => json(StatusCode::UNPROCESSABLE_ENTITY, serde_json::json!({ "error": fault.to_string() }).to_string()),
        })
        .await
    }

    /// How often the model was asked for this turn.
    pub(super) fn calls(&self, dialogue: usize, turn: usize) -> u32 {
        self.calls[dialogue][turn].load(Ordering::Relaxed)
    }

    /// The answer to the body of a question. A wrong history is noted and answered all the same, so that one fault does not become many.
    ///
    /// # Errors
    /// It is no question, or from nobody in the plan; that is noted as well.
    pub(super) fn answer(&self, body: &[u8]) -> Result<&Text, Fault> {
        let question: Question = serde_json::from_slice(body).map_err(|_| {
            self.faults.note(Fault::ModelRequest, || "the model's server".to_owned());
            Fault::ModelRequest
        })?;
        let Some((dialogue, turn)) = self.find(&question) else {
            self.faults.note(Fault::UnknownIdentity, || "the model's server".to_owned());
            return Err(Fault::UnknownIdentity);
        };
        self.calls[dialogue][turn].fetch_add(1, Ordering::Relaxed);
        let turns = &self.plan.dialogues[dialogue].turns;
        let place = || self.plan.place(dialogue, turn);
        if question.query != turns[turn].q {
            self.faults.note(Fault::Query, place);
        }
        if let Err(fault) = check_history(&question.history, turns, turn) {
            self.faults.note(fault, place);
        }
        Ok(&turns[turn].a)
    }

    fn find(&self, question: &Question) -> Option<(usize, usize)> {
        let dialogue = self.plan.dialogue_of(&question.tenant, &question.user_id)?;
        let turn = question.message_id.parse::<usize>().ok()?.checked_sub(1)?;
        (question.session_id == SESSION && turn < self.calls[dialogue].len()).then_some((dialogue, turn))
    }
}

/// Whether `history` is exactly what was said before `turn`, as far as it is kept.
fn check_history(history: &[Past], turns: &[PlannedTurn], turn: usize) -> Result<(), Fault> {
    let expected = &turns[turn.saturating_sub(KEPT_TURNS)..turn];
    let same = |past: &Past, own: &PlannedTurn| past.q == own.q && past.a == own.a;
    if history.len() == expected.len() && history.iter().zip(expected).all(|(past, own)| same(past, own)) {
        return Ok(());
    }
    if history.iter().all(|past| turns.iter().any(|own| same(past, own))) { Err(Fault::History) } else { Err(Fault::ForeignHistory) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::plan::tests::monotonous;

    fn model(turns: usize) -> Model {
        Model::new(Arc::new(monotonous(20, turns)), Arc::default())
    }

    /// Asks for a turn of dialogue 0 with the turns `shown` (dialogue, turn) as its history; returns the fault noted, if any.
    fn ask(model: &Model, turn: usize, shown: impl IntoIterator<Item = (usize, usize)>) -> Option<Fault> {
        let history = shown.into_iter().map(|(d, t)| {
            let t = &model.plan.dialogues[d].turns[t];
            serde_json::json!({ "q": t.q.expose(), "a": t.a.expose() })
        });
        let body = serde_json::json!({
            "query": "谢谢", "history": history.collect::<Vec<_>>(), "tenant": model.plan.tenant_of(0).name,
            "user_id": model.plan.dialogues[0].user, "session_id": SESSION, "message_id": (turn + 1).to_string(),
        });
        assert_eq!(model.answer(body.to_string().as_bytes()).unwrap(), &model.plan.dialogues[0].turns[turn].a);
        model.faults.seen().into_keys().next()
    }

    #[test]
    fn the_dialogues_own_turns_are_right_and_calls_are_counted() {
        let model = model(4);
        for turn in 0..4 {
            assert_eq!(ask(&model, turn, (0..turn).map(|t| (0, t))), None);
        }
        assert_eq!(ask(&model, 1, [(0, 0)]), None);
        assert_eq!((0..4).map(|t| model.calls(0, t)).collect::<Vec<_>>(), [1, 2, 1, 1]);
    }

    #[test]
    fn only_the_newest_hundred_turns_are_shown() {
        assert_eq!(ask(&model(120), 110, (10..110).map(|t| (0, t))), None);
        assert_eq!(ask(&model(120), 110, (9..110).map(|t| (0, t))), Some(Fault::History));
    }

    #[test]
    fn missing_doubled_and_reordered_turns_are_a_wrong_history() {
        for shown in [vec![(0, 0)], vec![], vec![(0, 0), (0, 0)], vec![(0, 1), (0, 0)], vec![(0, 0), (0, 1), (0, 2)]] {
            assert_eq!(ask(&model(4), 2, shown), Some(Fault::History));
        }
    }

    #[test]
    fn another_dialogues_turn_is_foreign_even_if_it_says_the_same() {
        assert_eq!(ask(&model(4), 1, [(1, 0)]), Some(Fault::ForeignHistory));
        assert_eq!(ask(&model(4), 1, [(0, 0), (1, 0)]), Some(Fault::ForeignHistory));
    }

    #[test]
    fn what_is_no_question_of_the_plan_gets_no_answer() {
        let model = model(2);
        assert_eq!(model.answer(b"{").unwrap_err(), Fault::ModelRequest);
        for (tenant, user, session, message) in [
            ("replay-9", "u0", SESSION, "1"),
            ("replay-0", "u99", SESSION, "1"),
            ("replay-0", "u0", "other", "1"),
            ("replay-0", "u0", SESSION, "3"),
            ("replay-0", "u0", SESSION, "0"),
        ] {
            let body = serde_json::json!({ "query": "谢谢", "history": [], "tenant": tenant, "user_id": user, "session_id": session, "message_id": message });
            assert_eq!(model.answer(body.to_string().as_bytes()).unwrap_err(), Fault::UnknownIdentity);
        }
    }
}
