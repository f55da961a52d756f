//! Tenants script their dialogue here: each turn runs the tenant's Luau function in a sandbox and asks the caller for what it cannot do itself.
//!
//! A [`Script`] is compiled once, off the request path. A [`Run`] is one turn of it: the caller resumes it, performs the [`Effect`] it
//! asks for, and resumes it with the outcome until it is done or failed. This loop is the one door through which a script reaches the
//! world, so a journal of effects goes into the loop that drives it.

mod budget;
mod error;
mod host;
mod lib_json;
mod lib_slots;
mod lib_turn;
mod run;
mod sandbox;
mod script;
mod step;
mod vm;

#[cfg(test)]
mod tests;

pub use error::{ErrorKind, ScriptError};
pub use run::Run;
pub use script::{MAX_SOURCE, Script};
pub use step::{AnswerError, AnswerId, Effect, End, Input, Level, Limits, LogLine, Reply, Resume, Step};
