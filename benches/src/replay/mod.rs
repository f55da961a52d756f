//! Plays recorded conversations against a real gateway process and checks every turn, so that speed is measured only where the answers are right.
//!
//! | module | what |
//! |---|---|
//! | `conversations` | the file |
//! | `plan` | who says what to whom, and the one right answer |
//! | `model` | the upstream: answers from the plan, checks the history it is shown |
//! | `play` | the clients |
//! | `run` | all of them together, and the kill in the middle |
//! | `fault`, `report` | what was wrong, what it cost, how it is said |

mod conversations;
mod fault;
mod model;
mod plan;
mod play;
mod report;
mod run;

pub use conversations::ReadError;
pub use fault::{Fault, Seen};
pub use report::{Kill, Report, Used};
pub use run::{Error, Options, Store, run};
