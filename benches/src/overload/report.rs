//! What an attack did to its neighbour, in numbers and in words.

use std::{fmt, time::Duration};

use super::{attack::Attack, client::Statuses};
use crate::latency::millis;

/// The victim's latencies in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Alone: p50 and p99.
    pub alone: [Duration; 2],
    /// Beside the aggressor: p50 and p99.
    pub beside: [Duration; 2],
}

/// What came of one attack.
pub struct Outcome {
    /// What the aggressor did.
    pub attack: Attack,
    /// At least one.
    pub rounds: Vec<Round>,
    /// The victim's messages that were not answered with 200.
    pub failed: u64,
    /// The answers to the aggressor by status, over all rounds.
    pub statuses: Statuses,
    /// How long the aggressor was at it, over all rounds.
    pub attacked: Duration,
}

impl Outcome {
    /// Medians over the rounds: p50 and p99 alone, p50 and p99 beside, in milliseconds, and the ratios of both.
    fn medians(&self) -> [f64; 6] {
        let of = |value: &dyn Fn(&Round) -> f64| median(self.rounds.iter().map(value).collect());
        let ratio = |i: usize| move |r: &Round| millis(r.beside[i]) / millis(r.alone[i]);
        [
            of(&|r| millis(r.alone[0])),
            of(&|r| millis(r.alone[1])),
            of(&|r| millis(r.beside[0])),
            of(&|r| millis(r.beside[1])),
            of(&ratio(0)),
            of(&ratio(1)),
        ]
    }
}

/// The middle value; of two middle ones the lower.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a50, a99, b50, b99, r50, r99] = self.medians();
        let name = format!("{:?}", self.attack).to_lowercase();
        write!(f, "{name:<9} alone {a50:6.2} / {a99:6.2} ms   beside {b50:6.2} / {b99:6.2} ms   × {r50:.3} / × {r99:.3}   ")?;
        write!(f, "victim's errors {}; aggressor per second:", self.failed)?;
        for (status, count) in &self.statuses {
            #[expect(clippy::cast_precision_loss, reason = "a count of requests, for display")]
            let rate = *count as f64 / self.attacked.as_secs_f64().max(f64::MIN_POSITIVE);
            write!(f, " {status}: {rate:.0}")?;
        }
        if self.statuses.is_empty() { write!(f, " none") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_the_median_of_the_rounds_ratios() {
        let ms = Duration::from_millis;
        let round = |alone, beside| Round { alone: [ms(10), ms(alone)], beside: [ms(10), ms(beside)] };
        // The machine was ten times slower in the second round, for both.
        let rounds = vec![round(20, 22), round(200, 210), round(20, 40)];
        let outcome =
            Outcome { attack: Attack::Rate, rounds, failed: 0, statuses: Statuses::from([(200, 30), (429, 270)]), attacked: ms(3000) };
        let said = outcome.to_string();
        assert!(said.contains("× 1.000 / × 1.100"), "{said}");
        assert!(said.ends_with("victim's errors 0; aggressor per second: 200: 10 429: 90"), "{said}");
    }
}
