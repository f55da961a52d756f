//! How many requests come to a gateway. All gateways together keep a limit only as exactly as each of them knows this: who has too much
//! of a share leaves some of it unused, until it is used all at once.

/// The most requests that are remembered.
const MEMORY: f64 = 512.0;
/// Least time that it is measured over, in nanoseconds.
pub(super) const PAUSE: u64 = 250_000_000;
/// A count that is off by more than the root of so many times itself is no chance: the load has changed.
const CHANCE: f64 = 20.0;

/// The requests for one key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    /// Requests up to `since`, and the nanoseconds that they came in.
    known: f32,
    time: u64,
    /// Requests since then.
    seen: u32,
    since: u64,
}

impl Demand {
    /// Of a key that nothing is known of.
    pub(super) fn new(now: u64) -> Self {
        Self { known: 0.0, time: 0, seen: 0, since: now }
    }

    /// A request came.
    pub(super) fn count(&mut self) {
        self.seen = self.seen.saturating_add(1);
    }

    /// Whether so many came since it was measured last, in a time that is long enough to measure it again.
    pub(super) fn has_seen(&self, requests: u32, now: u64) -> bool {
        self.seen >= requests && now.saturating_sub(self.since) >= PAUSE
    }

    /// Requests a nanosecond, with those since it was measured last if that is long enough ago.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "nanoseconds, and requests up to `MEMORY`")]
    pub(super) fn measure(&mut self, now: u64) -> f64 {
        let (known, time) = (f64::from(self.known), self.time as f64);
        let (seen, since) = (f64::from(self.seen), now.saturating_sub(self.since));
        if since < PAUSE {
            return if known > 0.0 { known / time } else { seen / PAUSE as f64 };
        }
        let since = since as f64;
        let expected = known / time.max(1.0) * since;
        let changed = (seen - expected).powi(2) > CHANCE * seen.max(expected);
        let (all, over) = if changed { (seen, since) } else { (known + seen, time + since) };
        let kept = (MEMORY / all).min(1.0);
        *self = Self { known: (all * kept) as f32, time: (over * kept) as u64, ..Self::new(now) };
        all / over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Requests a second that are known when so many have come in each of some seconds.
    fn known(counts: impl IntoIterator<Item = u32>) -> f64 {
        let mut demand = Demand::new(0);
        let measure = |(second, count)| {
            (0..count).for_each(|_| demand.count());
            demand.measure((second + 1) * SECOND) * 1e9
        };
        (0u64..).zip(counts).map(measure).last().unwrap()
    }

    #[test]
    fn a_load_that_stays_is_known_better_than_by_its_last_second() {
        let wavering = (0..20).map(|second| if second % 2 == 0 { 80 } else { 120 });
        assert!((95.0..105.0).contains(&known(wavering)));
        assert!((99.9..100.1).contains(&known([80, 120])), "all that was seen counts the same at first");
    }

    #[test]
    fn a_load_that_changes_is_known_at_once() {
        assert_eq!([known([100, 100, 10]), known([100, 100, 1000]), known([1, 100])].map(f64::round), [10.0, 1000.0, 100.0]);
    }
}
