//! What one tenant's customers notice of another tenant that asks for ten times its share.
//!
//! The victim's messages go out at a steady rate, whatever becomes of the ones before, and each latency counts from when the message was due.
//! For each attack the victim is measured alone and beside the aggressor in turns, so that a machine that is slower for a while is slower for
//! both; what counts is the median of the rounds' ratios.
//!
//! | module | what |
//! |---|---|
//! | `scene` | the gateway's configuration, the flows, what is behind it |
//! | `attack` | what an aggressor does |
//! | `client` | the victim and the aggressor |
//! | `run` | the rounds |
//! | `report` | how it is said |

mod attack;
mod client;
mod report;
mod run;
mod scene;

pub use attack::Attack;
pub use report::{Outcome, Round};
pub use run::{Error, Options, run};
