//! The newest calls of a closed circuit, counted: the last so many, or those of the last while. What it holds and does for a
//! call does not grow with the calls.

use std::time::Duration;

use super::config::Span;

/// Into how many parts a window of time is cut: it forgets a part at once, so it covers nine to ten tenths of its time.
const PARTS: u32 = 10;

/// What one call was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Mark {
    pub(super) failed: bool,
    pub(super) slow: bool,
}

/// What so many calls were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    pub(super) calls: u32,
    pub(super) failed: u32,
    pub(super) slow: u32,
}

impl Tally {
    fn add(&mut self, mark: Mark) {
        self.calls += 1;
        self.failed += u32::from(mark.failed);
        self.slow += u32::from(mark.slow);
    }

    fn remove(&mut self, mark: Mark) {
        self.calls -= 1;
        self.failed -= u32::from(mark.failed);
        self.slow -= u32::from(mark.slow);
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Window {
    /// The last calls, and what they sum up to.
    Calls { marks: Box<[Mark]>, next: usize, sum: Tally },
    /// The calls of each part of the time, with the number of the part since the clock began.
    Time { parts: Box<[(u64, Tally); PARTS as usize]>, part: Duration },
}

impl Window {
    pub(super) fn new(span: Span) -> Self {
        match span {
            Span::Calls(calls) => {
                let marks = std::iter::repeat_n(Mark::default(), usize::try_from(calls).unwrap_or(1)).collect();
                Self::Calls { marks, next: 0, sum: Tally::default() }
            }
            Span::Time(time) => Self::Time { parts: Default::default(), part: time / PARTS },
        }
    }

    /// Takes note of a call; what the window's calls are with it. Only a window of time reads the clock.
    pub(super) fn add(&mut self, mark: Mark, now: impl FnOnce() -> Duration) -> Tally {
        match self {
            Self::Calls { marks, next, sum } => {
                let oldest = std::mem::replace(&mut marks[*next], mark);
                if usize::try_from(sum.calls).is_ok_and(|calls| calls == marks.len()) {
                    sum.remove(oldest);
                }
                sum.add(mark);
                *next = (*next + 1) % marks.len();
                *sum
            }
            Self::Time { parts, part } => {
                let number = u64::try_from(now().as_nanos() / part.as_nanos().max(1)).unwrap_or(u64::MAX);
                let at = usize::try_from(number % u64::from(PARTS)).unwrap_or(0);
                if parts[at].0 != number {
                    parts[at] = (number, Tally::default());
                }
                parts[at].1.add(mark);
                let recent = parts.iter().filter(|(n, _)| *n + u64::from(PARTS) > number);
                recent.fold(Tally::default(), |sum, (_, tally)| Tally {
                    calls: sum.calls + tally.calls,
                    failed: sum.failed + tally.failed,
                    slow: sum.slow + tally.slow,
                })
            }
        }
    }

    /// Forgets all calls.
    pub(super) fn clear(&mut self) {
        match self {
            Self::Calls { next, sum, .. } => (*next, *sum) = (0, Tally::default()),
            Self::Time { parts, .. } => **parts = Default::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    fn some_mark(random: &mut fastrand::Rng) -> Mark {
        Mark { failed: random.bool(), slow: random.bool() }
    }

    fn tally<'a>(marks: impl IntoIterator<Item = &'a Mark>) -> Tally {
        let mut sum = Tally::default();
        marks.into_iter().for_each(|mark| sum.add(*mark));
        sum
    }

    #[test]
    fn a_window_of_calls_counts_exactly_the_last_ones() {
        let mut random = fastrand::Rng::with_seed(3);
        for size in [1, 2, 7, 100] {
            let (mut window, mut last) = (Window::new(Span::Calls(size)), VecDeque::new());
            for i in 0..500 {
                if i == 250 {
                    window.clear();
                    last.clear();
                }
                last.push_back(some_mark(&mut random));
                if last.len() > size as usize {
                    last.pop_front();
                }
                assert_eq!(window.add(last[last.len() - 1], || unreachable!("it needs no clock")), tally(&last));
            }
        }
    }

    #[test]
    fn a_window_of_time_counts_what_is_no_older_and_forgets_a_tenth_at_a_time() {
        let mut random = fastrand::Rng::with_seed(4);
        let (mut window, mut all, mut now) = (Window::new(Span::Time(Duration::from_secs(10))), Vec::new(), Duration::from_secs(3));
        for _ in 0..2000 {
            let longest = if random.u8(..50) == 0 { 30_000 } else { 900 };
            now += Duration::from_millis(random.u64(..longest));
            all.push((now, some_mark(&mut random)));
            let begin = now.as_secs().saturating_sub(9);
            let counted = all.iter().filter(|(at, _)| at.as_secs() >= begin).map(|(_, mark)| mark);
            assert_eq!(window.add(all[all.len() - 1].1, || now), tally(counted));
        }
        window.clear();
        assert_eq!(window.add(Mark::default(), || now), Tally { calls: 1, failed: 0, slow: 0 });
    }

    #[test]
    fn its_size_does_not_grow_with_the_calls() {
        assert!(size_of::<Window>() <= 48, "{}", size_of::<Window>());
        assert_eq!(size_of::<Mark>(), 2);
    }
}
