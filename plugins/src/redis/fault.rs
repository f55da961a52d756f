//! What can be wrong with a call, told apart by what the caller may do next.

use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nothing was done: there is no connection, or the server refused before it did anything (loading, read-only, out of memory …).
    #[error("{0}")]
    Down(String),
    /// The connection was lost, or the time was up, after the call was sent: whether it was done is unknown.
    #[error("{0}")]
    Unknown(String),
    /// The server did not understand what stands under the keys, or the script: `code` is Redis' error code, such as `WRONGTYPE`.
    #[error("{code} {detail}")]
    Refused {
        /// The first word of the error.
        code: String,
        /// The rest.
        detail: String,
    },
}

impl Fault {
    /// What it is called in metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Down(_) => "down",
            Self::Unknown(_) => "unknown",
            Self::Refused { .. } => "refused",
        }
    }

    fn of(error: &RedisError) -> Self {
        use ServerErrorKind::{CrossSlot, ExecAbort, ResponseError};
        let Some((code, detail)) = code(error) else { return Self::Unknown(error.to_string()) };
        let refused = match error.kind() {
            ErrorKind::Server(kind) => matches!(kind, ResponseError | ExecAbort | CrossSlot),
            _ => !is_of_server(error),
        };
        if refused { Self::Refused { code: code.to_owned(), detail: detail.to_owned() } } else { Self::Down(said(error)) }
    }
}

/// What a server answered: the first word and the rest, without what it quotes of a command that it does not know: that may be the
/// password, or a tenant's words. None if the error is not the server's.
fn code(error: &RedisError) -> Option<(&str, &str)> {
    let said = || error.detail().unwrap_or("").split(", with args beginning with").next().unwrap_or_default();
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension).then(|| (error.code().unwrap_or("ERR"), said()))
}

/// An error in the server's own words.
pub(super) fn said(error: &RedisError) -> String {
    code(error).map_or_else(|| error.to_string(), |(code, detail)| format!("{code} {detail}"))
}

/// Whether an error says that the server takes none of our writes now, whatever they are.
pub(super) fn is_of_server(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, MasterDown, NoPerm, ReadOnly};
    match error.kind() {
        ErrorKind::Server(kind) => matches!(kind, BusyLoading | MasterDown | NoPerm | ReadOnly),
        ErrorKind::Extension => matches!(error.code(), Some("OOM" | "MISCONF" | "NOREPLICAS" | "BUSY" | "NOAUTH")),
        _ => false,
    }
}

/// Why one server gave no answer.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// It was not even asked.
    Down(Arc<str>),
    /// It did not answer in time.
    Late,
    /// What it, or the connection, said.
    Redis(RedisError),
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Down(reason) => Self::Down(reason.to_string()),
            Failure::Late => Self::Unknown("no answer in time".to_owned()),
            Failure::Redis(error) => Self::of(&error),
        }
    }
}
