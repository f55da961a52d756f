//! What goes wrong with stored conversations: counted each time, logged once a second at most, however many turns it hits.

use fengda_plugins::api::TurnError;
use prometheus::IntCounterVec;

use super::{Event, Throttle, logger};

/// A part of a request that asks the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreStep {
    /// A turn begins.
    Begin,
    /// A turn is written.
    Commit,
    /// A history is read.
    Read,
    /// A session or user is erased.
    Erase,
}

impl StoreStep {
    /// Its name in metrics and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Commit => "commit",
            Self::Read => "read",
            Self::Erase => "erase",
        }
    }
}

/// Counts and logs what the store does not do, or has lost.
pub struct StoreFaults {
    failures: IntCounterVec,
    gaps: IntCounterVec,
    failure_lines: [Throttle; 4],
    gap_lines: Throttle,
}

impl StoreFaults {
    /// Counts in these: failures by step, gaps by tenant.
    pub fn new(failures: IntCounterVec, gaps: IntCounterVec) -> Self {
        Self { failures, gaps, failure_lines: Default::default(), gap_lines: Throttle::default() }
    }

    /// The store failed a step, or did not end it in time.
    pub fn failed(&self, tenant: &str, request_id: &str, step: StoreStep, error: &TurnError) {
        self.failures.with_label_values(&[step.as_str()]).inc();
        if let Some(left_out) = self.failure_lines[step as usize].pass() {
            logger::emit(&Event::ContextFailed { tenant, request_id, step: step.as_str(), error: error.to_string(), left_out });
        }
    }

    /// A client has seen turns up to one that the store does not have.
    pub fn gap(&self, tenant: &str, request_id: &str, seen: u64, stored: u64) {
        self.gaps.with_label_values(&[tenant]).inc();
        if let Some(left_out) = self.gap_lines.pass() {
            logger::emit(&Event::Gap { tenant, request_id, seen, stored, left_out });
        }
    }
}
