//! What can be wrong with a script or its run, with the words kept apart from what may be printed.

use fengda_plugins::api::Text;

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
