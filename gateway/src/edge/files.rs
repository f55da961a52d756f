//! How many connections of clients the process's limit of open files leaves room for.

use rustix::process::{Resource, getrlimit, setrlimit};

/// What is kept for the store, logs, sockets and the admin listener.
const RESERVED: u64 = 128;

/// Raises the limit as far as it may be raised and returns how many clients may be connected under it: each may need a second
/// file for the upstream it asks.
pub(crate) fn room_for_clients() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // A system that forbids it goes on with what there is.
    let _ = setrlimit(Resource::Nofile, limit);
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files.saturating_sub(RESERVED) / 2).unwrap_or(usize::MAX).max(1)
}
