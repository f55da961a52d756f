//! The `fengda` command.

fn main() {}
