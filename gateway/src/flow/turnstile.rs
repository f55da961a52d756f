//! Where a tenant's scripts that compute for long take turns on a thread, and are held to the tenant's share of it.
//!
//! However many there are, one computes at a time, for one slice, after whatever else the thread has to do. That alone leaves others the
//! thread but not its core, which the store, the upstreams' kernel work and other threads want too: so a tenant that goes on computing
//! gets a share of the thread's time, and pauses.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::yield_now,
    time::{Instant, sleep_until},
};

/// How much of the thread's time a tenant's share adds up to while it uses none: so long a script need not pause by itself.
const CREDIT: Duration = Duration::from_millis(200);
/// The longest pause. Each script that comes has a first slice without one, so a crowd of them could owe hours.
const DEBT: Duration = Duration::from_secs(1);

/// One for each tenant and thread.
pub(super) struct Turnstile {
    line: Semaphore,
    /// When the tenant's share will have made up for what was used; before it, nobody passes.
    settled: Mutex<Instant>,
}

impl Turnstile {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { line: Semaphore::new(1), settled: Mutex::new(now.checked_sub(CREDIT).unwrap_or(now)) }
    }

    /// Waits for the next slice, which lasts until the result is dropped. First come, first served.
    pub(super) async fn pass(&self) -> SemaphorePermit<'_> {
        let slice = self.line.acquire().await.expect("a turnstile is never closed");
        let settled = *self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        if settled > Instant::now() {
            sleep_until(settled).await;
        }
        // The runtime looks for what has come in before it goes on with a task that yielded.
        yield_now().await;
        slice
    }

    /// Whether a script of the tenant is computing for long.
    pub(super) fn is_busy(&self) -> bool {
        self.line.available_permits() == 0
    }

    /// Notes CPU time that was used, of which scripts that compute for `long` may use `share` percent of the thread's time in the long
    /// run. Others only use up what share there is: they do not pause, so what they owed would be paid by those that do.
    pub(super) fn charge(&self, used: Duration, share: u32, long: bool) {
        if used.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let due = (*settled).max(now.checked_sub(CREDIT).unwrap_or(now)) + used * 100 / share.max(1);
        let latest = if long { now + DEBT } else { now };
        *settled = (*settled).max(due.min(latest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tenant_that_goes_on_computing_gets_its_share_and_no_more() {
        let (turnstile, begun) = (Turnstile::new(), Instant::now());
        let slice = Duration::from_millis(1);
        let mut used = Duration::ZERO;
        while begun.elapsed() < Duration::from_secs(10) {
            let _slice = turnstile.pass().await;
            tokio::time::advance(slice).await;
            turnstile.charge(slice, 25, true);
            used += slice;
        }
        let share = used.as_secs_f64() / 10.0;
        assert!((0.25..0.27).contains(&share), "{share}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_long_script_need_not_pause() {
        let (turnstile, begun) = (Turnstile::new(), Instant::now());
        for _ in 0..50 {
            let _slice = turnstile.pass().await;
            turnstile.charge(Duration::from_millis(1), 25, true);
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        turnstile.charge(Duration::from_millis(25), 25, true);
        drop(turnstile.pass().await);
        assert_eq!(begun.elapsed(), Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn all_of_the_time_means_no_pauses() {
        let (turnstile, begun) = (Turnstile::new(), Instant::now());
        for _ in 0..1000 {
            let _slice = turnstile.pass().await;
            tokio::time::advance(Duration::from_millis(1)).await;
            turnstile.charge(Duration::from_millis(1), 100, true);
        }
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
    }
    #[tokio::test(start_paused = true)]
    async fn many_scripts_that_end_soon_leave_a_long_one_its_share() {
        let (turnstile, ms) = (Turnstile::new(), Duration::from_millis(1));
        // 40 percent of six minutes on the thread, none of it in scripts that compute for long.
        let short = |ms| turnstile.charge(4 * ms, 25, false);
        for _ in 0..36_000 {
            tokio::time::advance(10 * ms).await;
            short(ms);
        }
        let begun = Instant::now();
        for _ in 0..100 {
            let _slice = turnstile.pass().await;
            turnstile.charge(ms, 25, true);
            short(ms);
        }
        assert!((395..=405).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_s_first_slices_make_no_longer_pause_than_a_second() {
        let (turnstile, begun) = (Turnstile::new(), Instant::now());
        for _ in 0..10_000 {
            turnstile.charge(Duration::from_millis(1), 25, true);
        }
        drop(turnstile.pass().await);
        assert_eq!(begun.elapsed(), DEBT);
    }
}
