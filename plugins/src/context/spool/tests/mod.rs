//! Turns while the store is away: a real store, which a switch puts out of reach.

mod away;
mod folder;
mod past;
mod random;
mod rig;
