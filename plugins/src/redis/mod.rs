//! The way to Redis, shared by whatever keeps something there: one logical connection for each process, scripts that are one round trip
//! each, news from other gateways, and whether it works at all.
//!
//! It has a runtime and a thread of its own. A call from a serving thread costs that thread a hand-over and no wait but for the answer;
//! it fails as soon as it is known that there is none.

mod call;
mod cluster;
mod config;
mod dial;
mod fault;
mod health;
mod link;
mod meters;
mod name;
mod node;
mod place;
pub mod rights;
mod scan;
mod script;
#[cfg(any(test, feature = "conformance"))]
pub mod server;
mod slots;
#[cfg(test)]
mod tests;
mod url;
mod waits;
mod wake;

use std::sync::{Arc, OnceLock};

pub(crate) use self::name::put_id;
pub use self::{
    config::{ClientCertificate, Login, Mode, RedisConfig, RedisTls},
    fault::Fault,
    health::Health,
    link::Redis,
    scan::Scan,
    script::Script,
    url::{RedisUrl, UrlError},
    wake::Listener,
};

/// Where the process's Redis is found. Empty if it has none, and while a configuration is only checked.
pub type Slot = Arc<OnceLock<Arc<Redis>>>;
