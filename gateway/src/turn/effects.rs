//! The one door between a script and the world: every effect a flow asks for is performed here and nowhere else.
//!
//! The journal of durable flows belongs in [`Effects::perform`]: look the effect up before it is performed, record its outcome after.

use std::sync::Arc;

use fengda_plugins::api::{SessionState, Text};
use tokio::time::Instant;

use super::Message;
use crate::{
    flow::{AnswerError, AnswerId, Effect, Resume},
    upstream::{Answering, CallError, Caller, ModelError, Question},
};

/// The effects of one turn and what they left open.
pub(super) struct Effects<'a> {
    caller: &'a Caller,
    message: &'a Message,
    state: &'a Arc<SessionState>,
    deadline: Instant,
    answers: Vec<Opened>,
}

/// An answer that the script got hold of.
pub(super) enum Opened {
    Open(Box<Answering>),
    Read(Result<Text, AnswerError>),
}

impl<'a> Effects<'a> {
    pub(super) fn new(caller: &'a Caller, message: &'a Message, state: &'a Arc<SessionState>, deadline: Instant) -> Self {
        Self { caller, message, state, deadline, answers: Vec::new() }
    }

    /// Does what the script asks for and says what it goes on with.
    pub(super) async fn perform(&mut self, effect: Effect) -> Resume {
        match effect {
            Effect::Answer { query, history } => Resume::Answer(self.ask(&query, history).await),
            Effect::AnswerText(id) => Resume::Text(self.text(id).await),
        }
    }

    /// Gives up an answer that the script returned: open, so that it can be streamed, unless the script has read it.
    pub(super) fn take(&mut self, id: AnswerId) -> Opened {
        std::mem::replace(self.slot(id), Opened::Read(Err(AnswerError::UpstreamFailed)))
    }

    async fn ask(&mut self, query: &Text, history: bool) -> Result<AnswerId, AnswerError> {
        let message = self.message;
        let question = Question {
            key: &message.key,
            message_id: &message.message_id,
            query,
            history: if history { &self.state.turns } else { &[] },
            channel: message.channel.as_ref(),
            lang: message.lang.as_ref(),
            attachments: message.attachments.as_deref(),
            stream: message.stream,
            request_id: &message.request_id,
            trace: message.trace,
        };
        let answering = self.caller.ask(&question, self.deadline).await.map_err(|e| match e {
            CallError::Open { .. } => AnswerError::Open,
            CallError::Model(e) => word_for(&e),
        })?;
        let id = u32::try_from(self.answers.len()).expect("effects of a turn are bounded");
        self.answers.push(Opened::Open(Box::new(answering)));
        Ok(AnswerId(id))
    }

    async fn text(&mut self, id: AnswerId) -> Result<Text, AnswerError> {
        let slot = &mut self.answers[usize::try_from(id.0).expect("32 bits fit")];
        if let Opened::Open(answering) = slot {
            let mut whole = String::new();
            let read = loop {
                match answering.next().await {
                    Ok(Some(piece)) => whole.push_str(piece.expose()),
                    Ok(None) => break Ok(whole.into()),
                    Err(e) => {
                        self.caller.note_failure(&self.message.request_id, &e);
                        break Err(word_for(&e));
                    }
                }
            };
            *slot = Opened::Read(read);
        }
        match slot {
            Opened::Read(text) => text.clone(),
            Opened::Open(_) => unreachable!("read above"),
        }
    }

    fn slot(&mut self, id: AnswerId) -> &mut Opened {
        &mut self.answers[usize::try_from(id.0).expect("32 bits fit")]
    }
}

fn word_for(error: &ModelError) -> AnswerError {
    match error {
        ModelError::TimedOut => AnswerError::Timeout,
        _ => AnswerError::UpstreamFailed,
    }
}
