//! Turns while the store is away: a real store, which a switch puts out of reach.

mod away;
mod folder;
mod random;
mod rig;
