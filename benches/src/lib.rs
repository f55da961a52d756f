//! Shared parts of the replay and the micro benchmarks.
