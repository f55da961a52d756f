//! Where the work of a tenant that takes long is put in line on a thread, and held to the tenant's share of it: scripts that compute for
//! long, and long bodies.
//!
//! However much there is, one piece is done at a time, for one slice, after whatever else the thread has to do. That alone leaves others
//! the thread but not its core, which the store, the upstreams' kernel work and other threads want too: so a tenant that goes on gets a
//! share of the thread's time, and pauses.

use std::{
    cell::RefCell,
    collections::HashMap,
    future::{Future, pending, poll_fn},
    panic::resume_unwind,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fengda_plugins::api::Tenant;
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::{JoinError, spawn_blocking, yield_now},
    time::{Instant, sleep_until},
};

/// How much of the thread's time a tenant's share adds up to while it uses none: so long a piece of work need not pause by itself.
const CREDIT: Duration = Duration::from_millis(200);
/// The longest pause. Each script that comes has a first slice without one, so a crowd of them could owe hours.
const DEBT: Duration = Duration::from_secs(1);

thread_local! {
    static LINES: RefCell<HashMap<Option<Tenant>, Arc<Turnstile>>> = RefCell::default();
}

/// The time that this thread has spent on a core.
pub(crate) fn cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().expect("CPU time is not negative")
}

/// One for each tenant and thread.
pub(crate) struct Turnstile {
    line: Semaphore,
    /// When the tenant's share will have made up for what was used; before it, nobody passes.
    settled: Mutex<Instant>,
}

impl Turnstile {
    /// One that nobody has passed yet, and of no tenant in particular.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self { line: Semaphore::new(1), settled: Mutex::new(now.checked_sub(CREDIT).unwrap_or(now)) }
    }

    /// The tenant's on this thread; `None` is everybody whose tenant is not known.
    pub(crate) fn of(tenant: Option<&Tenant>) -> Arc<Self> {
        LINES.with_borrow_mut(|lines| {
            let tenant = tenant.cloned();
            if let Some(known) = lines.get(&tenant) {
                return known.clone();
            }
            // One that has its whole credit is as good as a new one.
            lines.retain(|_, line| Arc::strong_count(line) > 1 || line.settled().elapsed() < CREDIT);
            lines.entry(tenant).or_insert_with(|| Arc::new(Self::new())).clone()
        })
    }

    /// Waits for the next slice, which lasts until the result is dropped. First come, first served.
    pub(crate) async fn pass(&self) -> SemaphorePermit<'_> {
        let slice = self.line.acquire().await.expect("a turnstile is never closed");
        let settled = self.settled();
        if settled > Instant::now() {
            sleep_until(settled).await;
        }
        // The runtime looks for what has come in before it goes on with a task that yielded.
        yield_now().await;
        slice
    }

    /// Whether something of the tenant takes long.
    pub(crate) fn is_busy(&self) -> bool {
        self.line.available_permits() == 0
    }

    /// Notes CPU time that was used, of which what takes `long` may use `share` percent of the thread's time in the long run.
    /// The rest only uses up what share there is: it does not pause, so what it owed would be paid by what does.
    pub(crate) fn charge(&self, used: Duration, share: u32, long: bool) {
        if used.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let due = (*settled).max(now.checked_sub(CREDIT).unwrap_or(now)) + used * 100 / share.max(1);
        let latest = if long { now + DEBT } else { now };
        *settled = (*settled).max(due.min(latest));
    }

    /// Does something that takes long, and charges it.
    fn work<R>(&self, share: u32, work: impl FnOnce() -> R) -> R {
        let before = cpu_time();
        let done = work();
        self.charge(cpu_time().saturating_sub(before), share, true);
        done
    }

    fn settled(&self) -> Instant {
        *self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tenant's place at its turnstile for long work that comes in pieces.
#[derive(Clone)]
pub(crate) struct Line {
    turnstile: Arc<Turnstile>,
    share: u32,
}

impl Line {
    /// For a tenant that may use `share` percent of this thread's time for all that takes long.
    pub(crate) fn of(tenant: Option<&Tenant>, share: u32) -> Self {
        Self { turnstile: Turnstile::of(tenant), share }
    }

    /// Waits until the next piece may be done.
    pub(crate) async fn pass(&self) {
        // Whoever is next in line comes to run only when the piece is done or waits for something, and what it took is noted.
        drop(self.turnstile.pass().await);
    }

    /// Does a piece that may have to wait for something else; the wait is nobody's turn.
    pub(crate) async fn wait_for<R>(&self, piece: impl Future<Output = R>) -> R {
        let mut piece = pin!(piece);
        poll_fn(|cx| self.turnstile.work(self.share, || piece.as_mut().poll(cx))).await
    }

    /// Does a piece that cannot be interrupted and may be longer than a slice: on another thread, so that this one goes on.
    pub(crate) async fn aside<R: Send + 'static>(&self, piece: impl FnOnce() -> R + Send + 'static) -> R {
        let (turnstile, share) = (self.turnstile.clone(), self.share);
        let _slice = self.turnstile.pass().await;
        match spawn_blocking(move || turnstile.work(share, piece)).await.map_err(JoinError::try_into_panic) {
            Ok(done) => done,
            Err(Ok(panic)) => resume_unwind(panic),
            // The runtime is at its end, and this task with it.
            Err(Err(_)) => pending().await,
        }
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

    #[tokio::test(start_paused = true)]
    async fn what_a_tenant_owes_is_owed_on_when_nobody_is_in_line_and_forgotten_when_it_is_paid() {
        let [one, other] = ["one", "other"].map(|name| Tenant::from_config(name).unwrap());
        Turnstile::of(Some(&one)).charge(Duration::from_millis(100), 25, true);
        let begun = Instant::now();
        drop(Turnstile::of(Some(&other)).pass().await);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        drop(Turnstile::of(Some(&one)).pass().await);
        assert_eq!(begun.elapsed(), Duration::from_millis(200));
        tokio::time::advance(CREDIT).await;
        drop(Turnstile::of(None));
        assert_eq!(LINES.with_borrow(HashMap::len), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_piece_that_waits_for_something_else_holds_nobody_up() {
        let [slow, quick] = [(), ()].map(|()| Line::of(None, 1));
        let begun = Instant::now();
        let waiting = async {
            slow.pass().await;
            slow.wait_for(tokio::time::sleep(Duration::from_hours(1))).await;
        };
        tokio::select! {
            () = waiting => panic!("an hour has not passed"),
            () = quick.pass() => {}
        }
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
}
