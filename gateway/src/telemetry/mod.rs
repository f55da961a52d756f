//! What operators see: every metric ([`metrics`]) and every log event ([`events`]) is a type here, and nowhere else is one made.

pub mod events;
mod faults;
pub mod logger;
pub mod metrics;
mod process;
pub(crate) mod redis;
pub mod series;
mod sink;
mod throttle;
mod timing;

pub use events::Event;
pub use faults::{StoreFaults, StoreStep};
pub use metrics::Metrics;
pub use sink::{FileId, Sink};
pub(crate) use throttle::Throttle;
pub use timing::{Laps, Timing, Waits};
