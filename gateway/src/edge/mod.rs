//! Where clients meet the gateway: connections, TLS, and what a request's head must be like before anything acts on it.

pub mod cors;
pub(crate) mod files;
pub(crate) mod head;
pub mod path;
mod public;
pub mod tls;

pub use public::Public;
pub(crate) use public::{LAST_CALL, last_call};
