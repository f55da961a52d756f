//! What a replay found out, in numbers and in words.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::fault::{Fault, Seen};
use crate::latency::{millis, percentile};

/// The outcome of a replay.
pub struct Report {
    /// Dialogues played.
    pub dialogues: usize,
    /// Turns acknowledged.
    pub turns: usize,
    /// From the first message sent to the last answer.
    pub took: Duration,
    /// For each acknowledged turn, sorted.
    pub latencies: Vec<Duration>,
    /// What the gateway used while it served; `None` where the system does not say.
    pub used: Option<Used>,
    /// How the kill went, if there was one.
    pub kill: Option<Kill>,
    /// Dialogues read back from the store and compared.
    pub verified: usize,
    /// Everything that was wrong.
    pub faults: BTreeMap<Fault, Seen>,
}

/// What the gateway used.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    /// Processor time while the turns were played, start-up excluded.
    pub cpu: Duration,
    /// Resident memory at the end, in bytes.
    pub resident: u64,
}

/// A kill in the middle of a replay.
#[derive(Debug, Clone, Copy)]
pub struct Kill {
    /// How many turns were acknowledged before.
    pub after: usize,
    /// From the signal until the next gateway was ready.
    pub down: Duration,
    /// How often messages were sent again.
    pub resent: u64,
}

impl Report {
    /// Whether every turn was right.
    pub fn passed(&self) -> bool {
        self.faults.is_empty()
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52, for display")]
fn rate(count: usize, per: Duration) -> f64 {
    count as f64 / per.as_secs_f64().max(f64::MIN_POSITIVE)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p95, p99] = [50, 95, 99].map(|p| millis(percentile(&self.latencies, p)));
        writeln!(f, "turns      {} of {} dialogues, {:.1}/s", self.turns, self.dialogues, rate(self.turns, self.took))?;
        writeln!(f, "latency    p50 {p50:.2} ms, p95 {p95:.2} ms, p99 {p99:.2} ms")?;
        if let Some(used) = &self.used {
            let each = used.cpu / u32::try_from(self.turns.max(1)).unwrap_or(u32::MAX);
            let mib = used.resident >> 20;
            writeln!(f, "gateway    {} µs CPU a turn ({:.2} s in all), {mib} MiB resident", each.as_micros(), used.cpu.as_secs_f64())?;
        }
        if let Some(Kill { after, down, resent }) = &self.kill {
            writeln!(f, "killed     after {after} turns, ready again after {:.0} ms, {resent} messages sent again", millis(*down))?;
        }
        writeln!(f, "verified   {} stored histories", self.verified)?;
        writeln!(f, "foreign    {} histories", self.faults.get(&Fault::ForeignHistory).map_or(0, |s| s.count))?;
        write!(f, "errors     {}", self.faults.values().map(|s| s.count).sum::<u64>())?;
        for (fault, seen) in &self.faults {
            write!(f, "\n  {} × {fault}; first: {}", seen.count, seen.first)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(values: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        values.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn the_summary_says_everything_in_a_few_lines() {
        let seen = Seen { count: 2, first: "replay-1 u4, turn 3".to_owned() };
        let report = Report {
            dialogues: 2,
            turns: 10,
            took: Duration::from_secs(2),
            latencies: ms(1..=10),
            used: Some(Used { cpu: Duration::from_millis(1), resident: 40 << 20 }),
            kill: Some(Kill { after: 5, down: Duration::from_millis(120), resent: 3 }),
            verified: 1,
            faults: BTreeMap::from([(Fault::ForeignHistory, seen.clone()), (Fault::Status(502), Seen { count: 1, ..seen })]),
        };
        assert_eq!(
            report.to_string(),
            "turns      10 of 2 dialogues, 5.0/s\n\
             latency    p50 5.00 ms, p95 10.00 ms, p99 10.00 ms\n\
             gateway    100 µs CPU a turn (0.00 s in all), 40 MiB resident\n\
             killed     after 5 turns, ready again after 120 ms, 3 messages sent again\n\
             verified   1 stored histories\n\
             foreign    2 histories\n\
             errors     3\n  1 × status 502; first: replay-1 u4, turn 3\n  2 × the model got a foreign history; first: replay-1 u4, turn 3"
        );
        assert!(!report.passed());
    }
}
