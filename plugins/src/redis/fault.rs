//! What can be wrong with a call, told apart by what the caller may do next.

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
    pub(super) fn of(error: &RedisError) -> Self {
        let detail = || error.detail().unwrap_or(error.category()).to_owned();
        match error.kind() {
            ErrorKind::Server(kind) if !matches!(kind, ServerErrorKind::ResponseError | ServerErrorKind::ExecAbort) => {
                Self::Down(error.to_string())
            }
            ErrorKind::Server(_) | ErrorKind::Extension => match error.code() {
                Some(code @ ("OOM" | "MISCONF" | "NOREPLICAS" | "BUSY")) => Self::Down(format!("{code} {}", detail())),
                code => Self::Refused { code: code.unwrap_or("ERR").to_owned(), detail: detail() },
            },
            _ => Self::Unknown(error.to_string()),
        }
    }
}
