//! Keeps what happens to a thousand turns a second from being told as often.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::api::Clock;

/// Lets one report a second through and counts the others.
#[derive(Default)]
pub(super) struct Throttle {
    /// The second of [`Clock::monotonic`] in which it last let one through, and one more.
    told: AtomicU64,
    left_out: AtomicU64,
}

impl Throttle {
    /// How many were left out before this one, if this one may be told.
    pub(super) fn pass(&self, clock: &Clock) -> Option<u64> {
        let second = clock.monotonic().as_secs() + 1;
        if self.told.swap(second, Ordering::Relaxed) == second {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.left_out.swap(0, Ordering::Relaxed))
    }
}
