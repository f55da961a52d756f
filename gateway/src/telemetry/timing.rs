//! Where a request's time goes: what was the gateway's own, and what each plugin took of it.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus::Histogram;

/// One request's time. What is its own, and not others', is known when its answer begins: what follows goes at the pace of the
/// client and the upstream.
pub struct Timing {
    begun: Instant,
    waits: Waits,
    own: Option<Duration>,
}

/// How long a request waited for others, added up by whoever waits in its name. Clones add to the same.
#[derive(Clone, Default)]
pub struct Waits(Arc<AtomicU64>);

impl Timing {
    /// Of a request whose head was just read.
    pub fn begin() -> Self {
        Self { begun: Instant::now(), waits: Waits::default(), own: None }
    }

    /// Where its waits are added up.
    pub fn waits(&self) -> &Waits {
        &self.waits
    }

    /// Notes that the answer begins; only the first time counts.
    pub fn answer_begins(&mut self) {
        if self.own.is_none() {
            self.own = Some(self.begun.elapsed().saturating_sub(self.waits.sum()));
        }
    }

    /// The gateway's own part, if an answer has begun.
    pub fn own(&self) -> Option<Duration> {
        self.own
    }

    /// Time since the head was read.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

impl Waits {
    /// Adds a wait that is over.
    pub fn add(&self, wait: Duration) {
        self.0.fetch_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn sum(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// One phase in so many has its plugins timed: a clock read (40 ns) takes longer than some of them. A prime, so that all of a
/// request's phases get their turn, however many it has.
const SAMPLE: u32 = 17;

/// Times the parts of a phase one after the other, if this one is to be timed at all.
pub struct Laps(Option<Instant>);

impl Laps {
    /// Times every 17th phase that this thread begins, the first one among them.
    pub fn sample() -> Self {
        thread_local! {
            static PHASES: Cell<u32> = const { Cell::new(0) };
        }
        let number = PHASES.get();
        PHASES.set(number.wrapping_add(1));
        Self(number.is_multiple_of(SAMPLE).then(Instant::now))
    }

    /// The part that ends now began when the one before ended.
    pub fn lap(&mut self, part: &Histogram) {
        if let Some(from) = &mut self.0 {
            let now = Instant::now();
            part.observe((now - *from).as_secs_f64());
            *from = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::HistogramOpts;

    use super::*;

    #[test]
    fn waits_are_not_the_gateway_s_own_and_what_follows_the_first_byte_is_not_counted() {
        let mut timing = Timing { begun: Instant::now().checked_sub(Duration::from_secs(60)).unwrap(), ..Timing::begin() };
        timing.waits().clone().add(Duration::from_secs(50));
        timing.answer_begins();
        timing.waits().add(Duration::from_secs(5));
        timing.answer_begins();
        let own = timing.own().unwrap();
        assert!(own >= Duration::from_secs(10) && own < Duration::from_secs(11), "{own:?}");
        assert!(timing.elapsed() >= Duration::from_secs(60));
    }

    #[test]
    fn one_phase_in_seventeen_is_timed_part_by_part() {
        let part = Histogram::with_opts(HistogramOpts::new("part_seconds", "A part.")).unwrap();
        for _ in 0..34 {
            let mut laps = Laps::sample();
            laps.lap(&part);
            laps.lap(&part);
        }
        assert_eq!(part.get_sample_count(), 4);
    }
}
