//! What one gateway may let through of a key of a limit that several gateways keep together: a share of the rate until it lapses, and a
//! small stock. Pure: times come in, what to ask Redis for goes out.
//!
//! Tokens, one for each request, are not made here. What Redis gives is spent, or told to it as left over; what a gateway takes before it
//! has a lease is told as owed (`balance`). Redis' side of it is `lease.lua`.

use super::demand::{Demand, PAUSE};

/// Requests after which the share is talked over for the first time, if the stock lasts so long.
const REQUESTS: u32 = 128;
/// Least time between two requests for what Redis said it has, in nanoseconds.
const BREATH: u64 = 25_000_000;
/// The part of the rate that a gateway without a lease gets by itself, on trust: a key that is used less than that asks Redis for
/// nothing until it owes a slice.
const TRICKLE: f64 = 1.0 / 400.0;

/// The limit as all gateways together keep it, in tokens and nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole {
    /// Tokens a nanosecond.
    pub(super) rate: f64,
    /// Tokens at once.
    pub(super) burst: f64,
}

impl Whole {
    /// The most tokens that a gateway holds: what comes in a quarter of a second. So many more it may have left over and not yet told.
    /// Both together are its slice, by which all may exceed the limit.
    pub(super) fn stock(&self) -> f64 {
        (self.rate * 0.25e9).clamp(1.0, self.burst.max(1.0))
    }

    /// This part of it, for a gateway that counts alone.
    pub(super) fn part(&self, gateways: u32) -> Self {
        let gateways = f64::from(gateways.max(1));
        Self { rate: self.rate / gateways, burst: (self.burst / gateways).max(1.0) }
    }
}

/// One key's account.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    /// Tokens there were at `at`.
    level: f64,
    at: u64,
    /// The share, in tokens a nanosecond.
    share: f64,
    /// When it lapses; passed if there is none.
    until: u64,
    /// Tokens of the share that found the stock full, less those that were taken on trust, since Redis was last told.
    balance: f64,
    demand: Demand,
    /// Requests after which Redis is asked again.
    patience: u32,
    /// When it was last asked.
    asked: u64,
    asking: bool,
    /// Redis has, or soon will have, something to give to a gateway whose stock runs out.
    more: bool,
    /// It counts without Redis.
    alone: bool,
}

/// What Redis is told and asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ask {
    /// Requests a second that come here, let through or not; none if it wants no share any more.
    pub(super) demand: Option<f64>,
    /// See [`Lease`].
    pub(super) balance: f64,
    /// Tokens on hand.
    pub(super) level: f64,
    /// When it was asked.
    at: u64,
}

impl Ask {
    /// For nothing, to hear whether somebody answers.
    pub(super) const NOTHING: Self = Self { demand: None, balance: 0.0, level: 0.0, at: 0 };
}

/// What Redis gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Grant {
    /// Tokens a second.
    pub(super) share: f64,
    /// Tokens at once; below zero, so many are to be given back.
    pub(super) stock: f64,
    /// Nanoseconds until the share lapses.
    pub(super) life: u64,
    /// See [`Lease`].
    pub(super) patience: u32,
    /// See [`Lease`].
    pub(super) more: bool,
}

impl Lease {
    /// Of a key that nobody has asked for yet: a stock, on trust.
    pub(super) fn new(now: u64, whole: &Whole) -> Self {
        let level = whole.stock();
        Self {
            level,
            at: now,
            share: 0.0,
            until: 0,
            balance: -level,
            demand: Demand::new(now),
            patience: REQUESTS,
            asked: now.saturating_sub(PAUSE),
            asking: false,
            more: false,
            alone: false,
        }
    }

    /// Counts a request; whether it may pass.
    pub(super) fn take(&mut self, now: u64, whole: &Whole) -> bool {
        self.refill(now, whole);
        self.demand.count();
        self.spend()
    }

    /// The same for a gateway that counts alone, `part` of the limit.
    pub(super) fn take_alone(&mut self, now: u64, part: &Whole) -> bool {
        self.refill_alone(now, part);
        self.spend()
    }

    /// What Redis is to be asked for now, if anything; then [`granted`](Self::granted) or [`failed`](Self::failed) follows.
    pub(super) fn ask(&mut self, now: u64, whole: &Whole) -> Option<Ask> {
        let full = whole.stock();
        let due = self.demand.has_seen(self.patience, now);
        let pause = if self.more { BREATH } else { PAUSE };
        let short = self.level < full / 2.0 && (self.more || self.until <= now) && now.saturating_sub(self.asked) >= pause;
        let owing = self.balance <= -2.0 * full && now.saturating_sub(self.asked) >= PAUSE;
        if self.asking || !(due || short || owing) {
            return None;
        }
        (self.asking, self.asked) = (true, now);
        let balance = std::mem::take(&mut self.balance);
        Some(Ask { demand: Some(self.demand.measure(now) * 1e9), balance, level: self.level, at: now })
    }

    /// Gives everything back, if there is something to give back.
    pub(super) fn leave(&mut self, now: u64, whole: &Whole) -> Option<Ask> {
        self.refill(now, whole);
        let leased = self.until > now;
        (self.share, self.until) = (0.0, 0);
        let (level, balance) = (std::mem::take(&mut self.level), std::mem::take(&mut self.balance));
        leased.then_some(Ask { demand: None, balance: level + balance, level: 0.0, at: now })
    }

    /// Redis has answered.
    pub(super) fn granted(&mut self, ask: &Ask, grant: &Grant, now: u64, whole: &Whole) {
        self.refill(now, whole);
        self.asking = false;
        (self.share, self.until) = (grant.share / 1e9, ask.at + grant.life);
        (self.patience, self.more) = (grant.patience, grant.more);
        self.level += grant.stock;
    }

    /// Redis has not answered, and whether it knows what it was told is unknown. It is told again what was owed, but not what was left
    /// over; and what was on hand then is owed, spent or not, as it may have been given back.
    pub(super) fn failed(&mut self, ask: &Ask) {
        self.asking = false;
        self.more = false;
        self.balance += ask.balance.min(0.0) - ask.level.max(0.0);
    }

    /// Tokens there are now, and how many come in a nanosecond; while there is no share, how many might.
    pub(super) fn left(mut self, now: u64, whole: &Whole) -> (f64, f64) {
        self.refill(now, whole);
        (self.level, if self.until > now { self.share } else { whole.rate })
    }

    /// The same for a gateway that counts alone.
    pub(super) fn left_alone(mut self, now: u64, part: &Whole) -> (f64, f64) {
        self.refill_alone(now, part);
        (self.level, part.rate)
    }

    /// How far it is from having nothing to say that a new one would not: zero if it has.
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    pub(super) fn used(&self, now: u64, whole: &Whole) -> u64 {
        let missing = ((whole.stock() - self.clone().left(now, whole).0) / (whole.rate * TRICKLE)).max(0.0);
        (missing as u64).max(self.until.saturating_sub(now))
    }

    /// Brings the stock up to now.
    fn refill(&mut self, now: u64, whole: &Whole) {
        let full = whole.stock();
        if std::mem::take(&mut self.alone) {
            self.level = self.level.min(full);
            (self.balance, self.until, self.asking) = (-self.level, 0, false);
        }
        let lapsed = self.until.clamp(self.at, now.max(self.at));
        let leased = self.level + self.share * (lapsed - self.at) as f64;
        self.level = leased.min(full);
        // What was not used for long is lost, as it is from a bucket that is full.
        self.balance = (self.balance + leased - self.level).min(full);
        if self.until <= now {
            let trusted = (whole.rate * TRICKLE * now.saturating_sub(lapsed) as f64).min(full - self.level);
            (self.level, self.balance) = (self.level + trusted, self.balance - trusted);
            if self.share > 0.0 {
                (self.share, self.demand) = (0.0, Demand::new(now));
                (self.patience, self.more) = (REQUESTS, false);
            }
        }
        self.at = now.max(self.at);
    }

    /// The same without Redis: what it lent is void.
    fn refill_alone(&mut self, now: u64, part: &Whole) {
        self.alone = true;
        self.level = (self.level + part.rate * now.saturating_sub(self.at) as f64).min(part.burst);
        self.at = now.max(self.at);
    }

    fn spend(&mut self) -> bool {
        let passes = self.level >= 1.0;
        if passes {
            self.level -= 1.0;
        }
        passes
    }
}
