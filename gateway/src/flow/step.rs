//! The words in which a script and its caller speak: what a turn starts from, what it asks for, what it comes to.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fengda_plugins::api::{SessionKey, SessionState, SlotDelta, Text, Timestamp};

use super::{Script, ScriptError};

/// What one turn may use. A turn over a limit fails; the script cannot catch that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// CPU time in Lua, over all parts of the turn; waiting for effects does not count. Enforced to about 2 ms, and to the end of a library call.
    pub cpu: Duration,
    /// How many percent of each thread's time the tenant's scripts may use in the long run once they compute for longer than a millisecond
    /// or two, together with its long bodies.
    pub share: u32,
    /// How much the VM may grow during the turn, in bytes, garbage included.
    pub memory: usize,
    /// Said and returned text together, in bytes.
    pub output: usize,
    /// Effects asked for.
    pub effects: u32,
    /// Log lines kept; further ones are counted and reported in one last line.
    pub log_lines: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cpu: Duration::from_millis(50), share: 15, memory: 32 << 20, output: 64 << 10, effects: 32, log_lines: 100 }
    }
}

/// What a turn starts from.
#[derive(Debug)]
pub struct Input {
    /// The tenant's script.
    pub script: Arc<Script>,
    /// What it may use.
    pub limits: Limits,
    /// The tenant's ready-made texts by name.
    pub canned: Arc<BTreeMap<String, Text>>,
    /// What the user wrote.
    pub query: Text,
    /// The message's id.
    pub message_id: Text,
    /// Whose conversation; of the same tenant as the script.
    pub key: SessionKey,
    /// The channel the client named.
    pub channel: Option<Text>,
    /// The language the client named.
    pub lang: Option<Text>,
    /// The conversation so far.
    pub state: Arc<SessionState>,
    /// When the turn began.
    pub now: Timestamp,
}

/// Names an answer of a model that the caller holds for the turn. The caller chooses the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AnswerId(pub u32);

/// Why a model gave no answer; the script sees the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It could not be reached or answered badly.
    #[error("upstream_failed")]
    UpstreamFailed,
    /// It took too long.
    #[error("timeout")]
    Timeout,
    /// The circuit is open: it was not asked.
    #[error("open")]
    Open,
}

/// What a script asks its caller to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Ask the model; answered with [`Resume::Answer`], once the answer has begun.
    Answer {
        /// The question.
        query: Text,
        /// Whether the session's turns go along.
        history: bool,
    },
    /// Wait for the whole text of an answer; answered with [`Resume::Text`]. May be asked more than once for one answer.
    AnswerText(AnswerId),
}

/// What a run goes on with.
#[derive(Debug)]
pub enum Resume {
    /// Nothing: the first time.
    Start,
    /// The outcome of [`Effect::Answer`].
    Answer(Result<AnswerId, AnswerError>),
    /// The outcome of [`Effect::AnswerText`].
    Text(Result<Text, AnswerError>),
}

/// How far a run came.
#[derive(Debug)]
pub enum Step {
    /// It waits for this effect's outcome.
    Effect(Effect),
    /// It is over.
    Done(Reply),
    /// It failed; nothing of it counts, apart from its log lines.
    Failed(ScriptError),
}

/// How the reply ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With this text.
    Text(Text),
    /// With this answer, streamed as it comes.
    Answer(AnswerId),
    /// With what was said.
    Said,
    /// A model call failed and the script left it at that: the tenant's fallback text is due. Nothing was said.
    Fallback,
}

/// What a turn came to. The answer is `said`, then what `end` gives, joined by `\n`.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The said texts, in order.
    pub said: Vec<Text>,
    /// What follows them.
    pub end: End,
    /// The script asked for a person to take over.
    pub handoff: bool,
    /// Changes to the session's slots, in order.
    pub slots: Vec<SlotDelta>,
    /// Changes to the user's slots, in order.
    pub user_slots: Vec<SlotDelta>,
}

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// `log(text)`
    Info,
    /// `log.warn(text)`
    Warn,
    /// `log.error(text)`
    Error,
}

/// What a script logged: for its tenant's own sink only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How much it matters.
    pub level: Level,
    /// The words.
    pub text: Text,
    /// The line of the script that logged it.
    pub line: Option<u32>,
}
