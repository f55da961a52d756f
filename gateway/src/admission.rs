//! How many requests may be in flight, and whose: a bound on all of them that no tenant can use up for the others.
//!
//! A request enters before its chain runs, and takes its tenant's place when the chain has said whose it is. The rule of fairness: while a
//! quarter of the bound is free everybody is admitted. In the last quarter only tenants are that hold less than a fair share, which is
//! the bound divided by the tenants that hold any place and one more: so the next one to come finds its share free.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Why a request is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shed {
    /// `limits.in_flight` is used up.
    Full,
    /// It nearly is, and the tenant holds its fair share or more.
    Share,
    /// The tenant's own `in_flight` is used up.
    Tenant,
}

impl Shed {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Share => "share",
            Self::Tenant => "tenant",
        }
    }
}

/// All requests in flight. One for each gateway; it lives through reloads, and each request brings the bounds it knows.
#[derive(Default)]
pub struct Admission {
    taken: AtomicUsize,
    /// Shares of which a place is taken.
    active: AtomicUsize,
}

/// How many places a tenant holds. It lives through reloads.
#[derive(Default)]
pub struct Share(AtomicUsize);

impl Share {
    /// Requests of this tenant in flight.
    pub fn taken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A request that is counted, but nobody's yet.
pub struct Entered(Arc<Admission>);

/// A tenant's request in flight, until this is dropped.
pub struct Place {
    entered: Entered,
    share: Arc<Share>,
}

impl Admission {
    /// Requests in flight.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Counts a request, of which there may be `bound`.
    ///
    /// # Errors
    /// There are as many already.
    pub fn enter(self: &Arc<Self>, bound: usize) -> Result<Entered, Shed> {
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        let entered = Entered(self.clone());
        if before < bound { Ok(entered) } else { Err(Shed::Full) }
    }
}

impl Entered {
    /// Counts the request as one of a tenant's, which may hold `own` places; `bound` as in [`Admission::enter`].
    ///
    /// # Errors
    /// The tenant holds as many as it may.
    pub fn take(self, share: &Arc<Share>, own: usize, bound: usize) -> Result<Place, Shed> {
        let held = share.0.fetch_add(1, Ordering::AcqRel);
        if held == 0 {
            self.0.active.fetch_add(1, Ordering::AcqRel);
        }
        let place = Place { entered: self, share: share.clone() };
        let admission = &place.entered.0;
        let crowded = admission.taken() > bound - bound / 4;
        if held >= own {
            Err(Shed::Tenant)
        } else if crowded && held >= (bound / (admission.active.load(Ordering::Acquire) + 1)).max(1) {
            Err(Shed::Share)
        } else {
            Ok(place)
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.share.0.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.entered.0.active.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: usize = 100;
    const OWN: usize = usize::MAX;

    /// Takes places until one is refused.
    fn fill(admission: &Arc<Admission>, share: &Arc<Share>, own: usize, places: &mut Vec<Place>) -> Shed {
        loop {
            match admission.enter(BOUND).and_then(|entered| entered.take(share, own, BOUND)) {
                Ok(place) => places.push(place),
                Err(shed) => return shed,
            }
        }
    }

    #[test]
    fn a_lone_tenant_leaves_a_quarter_for_whoever_comes() {
        let (admission, greedy, late) = (Arc::<Admission>::default(), Arc::<Share>::default(), Arc::<Share>::default());
        let mut places = Vec::new();
        assert_eq!(fill(&admission, &greedy, OWN, &mut places), Shed::Share);
        assert_eq!((greedy.taken(), admission.taken()), (75, 75));
        assert_eq!(fill(&admission, &late, OWN, &mut places), Shed::Full);
        assert_eq!((late.taken(), admission.taken()), (25, 100));
    }

    #[test]
    fn whoever_frees_places_they_go_to_those_under_their_share() {
        let (admission, greedy, late) = (Arc::<Admission>::default(), Arc::<Share>::default(), Arc::<Share>::default());
        let (mut of_greedy, mut of_late) = (Vec::new(), Vec::new());
        fill(&admission, &greedy, OWN, &mut of_greedy);
        for _ in 0..60 {
            of_greedy.pop();
            let again = admission.enter(BOUND).and_then(|entered| entered.take(&greedy, OWN, BOUND));
            of_greedy.extend(again);
            let other = admission.enter(BOUND).and_then(|entered| entered.take(&late, OWN, BOUND));
            of_late.extend(other);
        }
        assert!(late.taken() >= BOUND / 3 && greedy.taken() <= BOUND * 2 / 3, "{} {}", late.taken(), greedy.taken());
    }

    #[test]
    fn many_greedy_tenants_leave_the_share_of_one_more() {
        let admission = Arc::<Admission>::default();
        let shares: Vec<Arc<Share>> = (0..4).map(|_| Arc::default()).collect();
        let mut places = Vec::new();
        for round in 0..BOUND {
            let entered = admission.enter(BOUND).unwrap();
            places.extend(entered.take(&shares[round % shares.len()], OWN, BOUND));
        }
        assert!(shares.iter().all(|share| share.taken() == BOUND / 5), "{:?}", shares.iter().map(|s| s.taken()).collect::<Vec<_>>());
    }

    #[test]
    fn a_tenant_with_a_bound_of_its_own_keeps_to_it() {
        let (admission, share) = (Arc::<Admission>::default(), Arc::<Share>::default());
        let mut places = Vec::new();
        assert_eq!(fill(&admission, &share, 7, &mut places), Shed::Tenant);
        assert_eq!(share.taken(), 7);
    }

    #[test]
    fn nothing_is_left_when_all_are_done_in_whatever_order_and_on_whatever_thread() {
        let admission = Arc::<Admission>::default();
        let shares: Arc<Vec<Arc<Share>>> = Arc::new((0..3).map(|_| Arc::default()).collect());
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let (admission, shares) = (admission.clone(), shares.clone());
                std::thread::spawn(move || {
                    let mut places = std::collections::VecDeque::new();
                    for i in 0..10_000 {
                        places.extend(admission.enter(BOUND).and_then(|e| e.take(&shares[(i * 7 + thread) % 3], 40, BOUND)));
                        assert!(admission.taken() <= BOUND + 4);
                        if i % 3 != 0 {
                            places.pop_front();
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((admission.taken(), admission.active.load(Ordering::Acquire)), (0, 0));
        assert!(shares.iter().all(|share| share.taken() == 0));
    }

    #[test]
    fn the_smallest_bound_still_admits_one() {
        let (admission, share) = (Arc::<Admission>::default(), Arc::<Share>::default());
        let place = admission.enter(1).and_then(|entered| entered.take(&share, OWN, 1));
        assert!(place.is_ok());
        assert_eq!(admission.enter(1).err(), Some(Shed::Full));
    }
}
