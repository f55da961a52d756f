//! The gateway as a library.

pub mod config;
pub mod flow;
