//! The way to Redis, shared by whatever keeps something there: one logical connection for each process, scripts that are one round trip
//! each, news from other gateways, and whether it works at all.
//!
//! It has a runtime and a thread of its own. A call from a serving thread costs that thread a hand-over and no wait but for the answer;
//! it fails as soon as it is known that there is none.

mod config;
mod fault;
mod link;
mod script;
#[cfg(any(test, feature = "conformance"))]
pub mod server;
#[cfg(test)]
mod tests;
mod url;

use std::sync::{Arc, OnceLock};

pub use self::{
    config::{ClientCertificate, Mode, RedisConfig, RedisTls},
    fault::Fault,
    link::{Listener, Redis},
    script::Script,
    url::{RedisUrl, UrlError},
};

/// Where the process's Redis is found. Empty if it has none, and while a configuration is only checked.
pub type Slot = Arc<OnceLock<Arc<Redis>>>;
