//! The Fengda gateway as a library: everything the `fengda` command does, for tests and for a binary with plugins of its own.
//!
//! Start at [`server::start`]; `docs/ARCHITECTURE.md` has the map.

pub mod admin;
pub mod admission;
pub mod chain;
pub mod chat;
pub mod check;
pub mod circuits;
pub mod config;
pub mod downstream;
pub mod edge;
pub mod flow;
pub mod forward;
pub mod gateway;
pub mod history;
pub mod import;
mod private;
pub mod proxy;
pub mod registry;
pub mod respond;
mod scripts;
pub mod server;
pub mod snapshot;
pub mod telemetry;
pub mod tokens;
mod try_page;
pub mod turn;
mod turnstile;
pub mod upstream;
pub mod watch;
