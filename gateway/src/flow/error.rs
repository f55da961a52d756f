//! What can be wrong with a script or its run, with the words kept apart from what may be printed.

use std::borrow::Cow;

use fengda_plugins::api::Text;

use super::host::MAX_LOG_LINE;

/// The kind of a script's failure: a metric label and a log field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The source cannot be compiled, or does not return a function.
    Compile,
    /// The script raised an error.
    Runtime,
    /// The turn used up its CPU time.
    CpuBudget,
    /// The turn used up its memory.
    Memory,
    /// The answer is over the output limit.
    Output,
    /// The turn asked for more effects than it may.
    Effects,
    /// The function returned something that is no answer.
    BadReturn,
    /// A fault of ours, not of the script.
    Internal,
}

impl ErrorKind {
    /// The word for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Compile => "compile",
            Self::Runtime => "runtime",
            Self::CpuBudget => "cpu_budget",
            Self::Memory => "memory",
            Self::Output => "output",
            Self::Effects => "effects",
            Self::BadReturn => "bad_return",
            Self::Internal => "internal",
        }
    }
}

/// A script's failure. `Display` and `Debug` show its kind and line only, since a script may put a customer's words into its message;
/// [`ScriptError::message`] and [`ScriptError::traceback`] are for the tenant's own sink.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", Where(*kind, *line))]
pub struct ScriptError {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// What was wrong, without the position.
    pub message: Text,
    /// The line of the script, from 1, if it is known.
    pub line: Option<u32>,
    /// The calls that led there, one a line, innermost first; empty if unknown.
    pub traceback: Text,
}

/// The printable part of a [`ScriptError`].
struct Where(ErrorKind, Option<u32>);

impl std::fmt::Display for Where {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.as_str())?;
        self.1.map_or(Ok(()), |line| write!(f, " at line {line}"))
    }
}

/// The name under which the trusted prelude stands in tracebacks.
pub(super) const PRELUDE: &str = "fengda";

/// Calls kept of a traceback: after runaway recursion there are thousands.
const MAX_CALLS: usize = 16;

impl ScriptError {
    pub(super) fn new(kind: ErrorKind, message: impl Into<Text>) -> Self {
        Self { kind, message: message.into(), line: None, traceback: Text::default() }
    }

    /// An error of the compiler, whose messages begin with the line.
    pub(super) fn syntax(err: &mlua::Error) -> Self {
        let text = words(err);
        let line = text.split_once(':').and_then(|(line, rest): (&str, &str)| Some((line.trim().parse().ok()?, rest.trim_start())));
        let (line, message) = line.map_or((None, &*text), |(line, rest)| (Some(line), rest));
        Self { line, ..Self::new(ErrorKind::Compile, cut(message)) }
    }

    /// An error that a run ended with.
    pub(super) fn from_lua(err: &mlua::Error) -> Self {
        if is_memory(err) {
            return Self::new(ErrorKind::Memory, "the turn used up its memory");
        }
        let Parts { place, message, traceback } = Parts::of(err);
        Self {
            kind: ErrorKind::Runtime,
            message: cut(&message).into(),
            line: place.map(|(_, line)| line),
            traceback: cut(&traceback).into(),
        }
    }
}

/// As much of a script's words as a log takes: a message may be as long as the turn's memory allows.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_LOG_LINE)]
}

/// An error of mlua taken apart. Luau puts places into texts: `chunk:line: message`, and one `chunk:line …` for each call in a traceback.
pub(super) struct Parts {
    place: Option<(String, u32)>,
    message: String,
    /// Calls of the script only.
    traceback: String,
}

impl Parts {
    pub(super) fn of(err: &mlua::Error) -> Self {
        let (message, traceback) = match err {
            mlua::Error::CallbackError { traceback, cause } => (words(cause), traceback.as_str()),
            mlua::Error::RuntimeError(text) => {
                let (message, traceback) = text.rsplit_once("\nstack traceback:\n").unwrap_or((text, ""));
                (message.into(), traceback)
            }
            other => (words(other), ""),
        };
        let of_script = |call: &&str| split_place(call).is_some_and(|(chunk, ..)| chunk != PRELUDE);
        let calls: Vec<&str> = traceback.lines().map(str::trim_start).filter(of_script).take(MAX_CALLS).collect();
        let (own, message) = match split_place(&message) {
            Some((chunk, line, rest)) => (Some((chunk, line)), rest.strip_prefix(':').unwrap_or(rest).trim_start()),
            None => (None, &*message),
        };
        let outer = || calls.first().and_then(|call| split_place(call)).map(|(chunk, line, _)| (chunk, line));
        let place = own.filter(|(chunk, _)| *chunk != PRELUDE).or_else(outer);
        Self { place: place.map(|(chunk, line)| (chunk.to_owned(), line)), message: message.to_owned(), traceback: calls.join("\n") }
    }

    /// The error as Luau words its own.
    pub(super) fn text(self) -> String {
        match self.place {
            Some((chunk, line)) => format!("{chunk}:{line}: {}", self.message),
            None => self.message,
        }
    }
}

fn is_memory(err: &mlua::Error) -> bool {
    match err {
        mlua::Error::MemoryError(_) => true,
        mlua::Error::CallbackError { cause, .. } => is_memory(cause),
        _ => false,
    }
}

/// The message alone, without what `Display` puts around it.
fn words(err: &mlua::Error) -> Cow<'_, str> {
    match err {
        mlua::Error::RuntimeError(text) | mlua::Error::MemoryError(text) | mlua::Error::SyntaxError { message: text, .. } => text.into(),
        mlua::Error::CallbackError { cause, .. } | mlua::Error::BadArgument { cause, .. } => words(cause),
        mlua::Error::FromLuaConversionError { from, to, .. } => {
            let expected = if to.to_ascii_lowercase().contains("string") { "a text" } else { "a number" };
            format!("{expected} was expected, not {}", with_article(from)).into()
        }
        _ => "the call failed".into(),
    }
}

/// A type's name as part of a sentence.
pub(super) fn with_article(type_name: &str) -> Cow<'_, str> {
    if type_name == "nil" { "nothing".into() } else { format!("a {type_name}").into() }
}

/// `chunk:line` at the start of a text, and what follows it.
fn split_place(text: &str) -> Option<(&str, u32, &str)> {
    let (chunk, rest) = text.split_once(':')?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let line = rest[..digits].parse().ok()?;
    Some((chunk, line, &rest[digits..]))
}
