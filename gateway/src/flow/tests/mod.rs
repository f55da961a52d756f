//! Tests of the flow engine: scripts in, replies out.

mod errors;
mod limits;
mod sandbox;
mod tenants;
mod turns;
mod types;
mod vms;

use std::{collections::BTreeMap, sync::Arc};

use fengda_plugins::api::{SessionState, Tenant, Text, Timestamp, Turn};

use super::*;

/// A script and what its turns start from.
struct Flow {
    script: Arc<Script>,
    state: SessionState,
    limits: Limits,
    query: &'static str,
    /// What the model says; an error if it fails.
    model: Result<&'static str, AnswerError>,
}

/// How a turn went.
struct Outcome {
    result: Result<Reply, ScriptError>,
    effects: Vec<Effect>,
    logs: Vec<LogLine>,
}

impl Flow {
    fn new(source: &str) -> Self {
        Self::of("acme-shop", source)
    }

    fn of(tenant: &str, source: &str) -> Self {
        let tenant = Tenant::from_config(tenant).unwrap();
        let script = Script::compile(&tenant, "main.lua", source.as_bytes()).map(Arc::new).unwrap_or_else(|e| panic!("{}", shown(&e)));
        // Time enough for a busy machine; tests of the budget set their own.
        let limits = Limits { cpu: std::time::Duration::from_secs(10), ..Limits::default() };
        Self { script, state: SessionState::default(), limits, query: "你好", model: Ok("好的") }
    }

    /// A flow whose function has this body.
    fn body(body: &str) -> Self {
        Self::new(&format!("return function(turn) {body} end"))
    }

    fn input(&self) -> Input {
        let key = self.script.tenant().user("u1").unwrap().session("s1").unwrap();
        let canned = BTreeMap::from([("busy".to_owned(), Text::from("系统繁忙")), ("hours".to_owned(), "9-18".into())]);
        Input {
            script: self.script.clone(),
            limits: self.limits,
            canned: Arc::new(canned),
            query: self.query.into(),
            message_id: "m1".into(),
            key,
            channel: None,
            lang: Some("zh".into()),
            state: Arc::new(self.state.clone()),
            now: Timestamp(100_000),
        }
    }

    async fn turn(&self) -> Outcome {
        let mut run = Run::start(self.input());
        let mut effects = Vec::new();
        let mut with = Resume::Start;
        let result = loop {
            match run.resume(with).await {
                Step::Done(reply) => break Ok(reply),
                Step::Failed(error) => break Err(error),
                Step::Effect(effect) => {
                    with = match &effect {
                        Effect::Answer { .. } => Resume::Answer(self.model.map(|_| AnswerId(u32::try_from(effects.len()).unwrap()))),
                        Effect::AnswerText(_) => Resume::Text(self.model.map(Text::from)),
                    };
                    effects.push(effect);
                }
            }
        };
        Outcome { result, effects, logs: run.take_logs() }
    }

    fn run(&self) -> Outcome {
        runtime().block_on(self.turn())
    }

    /// The reply's text; panics with the error if there is none.
    fn text(&self) -> String {
        let reply = self.run().result.unwrap_or_else(|e| panic!("{}", shown(&e)));
        match reply.end {
            End::Text(text) => text.expose().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    fn error(&self) -> ScriptError {
        self.run().result.expect_err("the flow was expected to fail")
    }
}

/// Applies what a turn did to the slots, as a commit does.
fn commit(flow: &mut Flow, reply: &Reply) {
    reply.slots.iter().for_each(|delta| assert!(flow.state.flow.slots.apply(delta)));
    reply.user_slots.iter().for_each(|delta| assert!(flow.state.user_slots.apply(delta)));
}

fn past(seq: u64) -> Arc<Turn> {
    let (q, a) = (format!("q{seq}").into(), format!("a{seq}").into());
    Arc::new(Turn { seq, message_id: "m".into(), q, a, at: Timestamp(seq * 1000), fallback: seq == 2, handoff: false, awaits_past: false })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

fn shown(error: &ScriptError) -> String {
    format!("{error}: {}\n{}", error.message.expose(), error.traceback.expose())
}
