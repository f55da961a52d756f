//! Measuring tools that use the gateway from outside: the replay of conversations, neighbours under overload, and micro benchmarks (`benches/`).

mod gateway;
mod http;
mod latency;
pub mod overload;
mod redis;
pub mod replay;
mod token;
mod usage;

pub use gateway::GatewayError;
