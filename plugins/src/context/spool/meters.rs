//! What is counted of turns that wait for their store.

use std::sync::{Arc, Weak};

use prometheus::{IntCounter, IntCounterVec};

use super::{gaps::GAPS, record::Entry, waiting::Waiting, writer::Fate};
use crate::api::{Family, Meters};

const TURNS: Family =
    Family { name: "fengda_spool_turns", help: "Turns on this gateway's disk that wait for the store.", labels: &["tenant"] };
const BYTES: Family = Family { name: "fengda_spool_bytes", help: "Bytes of the turns that wait for the store.", labels: &["tenant"] };
const OUTCOMES: Family = Family {
    name: "fengda_spool_outcomes_total",
    help: "Turns by what became of them while the store was away: aside (put on the disk), then stored, discarded (erased or expired meanwhile) or \
           refused (put into a file of their own); or no_room.",
    labels: &["tenant", "outcome"],
};
const DAMAGED: Family =
    Family { name: "fengda_spool_damaged_bytes_total", help: "Bytes of waiting turns that could not be read at the start.", labels: &[] };

/// What became of turns.
pub(super) struct SpoolMeters {
    outcomes: IntCounterVec,
    damaged: IntCounter,
}

impl SpoolMeters {
    pub(super) fn new(meters: &Meters) -> Self {
        Self { outcomes: meters.counter(OUTCOMES), damaged: meters.counter(DAMAGED).with_label_values::<&str>(&[]) }
    }

    /// Of what an earlier process left: turns of nobody who is configured, and bytes that are none.
    pub(super) fn left_behind(&self, foreign: u64, damaged: u64) {
        if foreign > 0 {
            self.outcomes.with_label_values(&["-", "refused"]).inc_by(foreign);
        }
        self.damaged.inc_by(damaged);
    }

    pub(super) fn aside(&self, entry: &Entry) {
        self.count(entry, "aside");
    }

    pub(super) fn no_room(&self, entry: &Entry) {
        self.count(entry, "no_room");
    }

    pub(super) fn done(&self, entry: &Entry, fate: Fate) {
        self.count(
            entry,
            match fate {
                Fate::Stored => "stored",
                Fate::Discarded => "discarded",
                Fate::Refused => "refused",
            },
        );
    }

    fn count(&self, entry: &Entry, outcome: &str) {
        self.outcomes.with_label_values(&[entry.key.tenant().name(), outcome]).inc();
    }
}

/// Makes the families known, also where there is no spool.
pub(in crate::context) fn declare(meters: &Meters) {
    [TURNS, BYTES].into_iter().for_each(|family| drop(meters.gauge(family)));
    [OUTCOMES, DAMAGED, GAPS].into_iter().for_each(|family| drop(meters.counter(family)));
}

/// Has what waits looked up at each scrape, as long as the spool is open.
pub(super) fn watch(waiting: &Arc<Waiting>, meters: &Meters) {
    let waiting: Weak<Waiting> = Arc::downgrade(waiting);
    meters.before_gather(move |readings| {
        let Some(waiting) = waiting.upgrade() else { return };
        let set = |family, tenant: &str, n| readings.set(family, &[tenant], i64::try_from(n).unwrap_or(i64::MAX));
        for (tenant, load) in waiting.loads() {
            set(TURNS, &tenant, load.turns);
            set(BYTES, &tenant, load.bytes);
        }
    });
}
