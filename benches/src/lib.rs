//! Measuring tools that use the gateway from outside: the replay of conversations, and micro benchmarks (`benches/`).

pub mod replay;
