//! Tenants script their dialogue here: each turn runs the tenant's Luau function in a sandbox and asks the caller for what it cannot do itself.
//!
//! A [`Script`] is compiled once, off the request path. A [`Run`] is one turn of it: the caller resumes it, performs the [`Effect`] it
//! asks for, and resumes it with the outcome until it is done or failed.
//!
//! | file | holds |
//! |---|---|
//! | `step` | the words between a run and its caller |
//! | `script`, `error` | compiled scripts; what can be wrong with them |
//! | `run` | the loop that resumes a turn's coroutine under its limits |
//! | `vm`, `sandbox`, `prelude.luau` | the VMs of a thread, and the closed world in each |
//! | `budget` | CPU budgets that are free until they fire |
//! | `host`, `lib_*` | the turn in progress, and the functions by which a script sees and changes it |
//!
//! Invariants:
//! - The coroutine's yield is the one door to the world. A journal of effects goes into the caller's loop around [`Run::resume`]: it
//!   answers recorded effects at once and records the others.
//! - Nothing in a VM belongs to a turn but its coroutine and its globals, and no VM serves two tenants.
//! - There is no `coroutine` library, no code loading and no clock in scripts, so that one can be replayed from its effects;
//!   `math.random` is to be seeded from the journal once there is one.
//! - A limit once reached fails the turn, whatever the script catches.

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
pub use vm::vms;
