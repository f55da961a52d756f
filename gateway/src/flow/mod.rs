//! Tenants script their dialogue here: each turn runs the tenant's Luau function in a sandbox and asks the caller for what it cannot do itself.
//!
//! A [`Script`] is compiled once, off the request path. A [`Run`] is one turn of it: the caller resumes it, performs the [`Effect`] it
//! asks for, and resumes it with the outcome until it is done or failed. This loop is the one door through which a script reaches the
//! world, so a journal of effects goes into the loop that drives it.

mod error;
mod run;
mod script;

pub use error::{ErrorKind, ScriptError};
pub use run::{AnswerError, AnswerId, Effect, End, Input, Level, Limits, LogLine, Reply, Resume, Run, Step};
pub use script::Script;
