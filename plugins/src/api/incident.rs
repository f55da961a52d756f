//! What plugins tell operators: a closed list, as the gateway's own log events are, so that no tenant's words get into the log.

use std::sync::OnceLock;

use log::Level;
use serde::Serialize;

/// Something that happened in a plugin and that operators want to know of. `event` in its JSON is its name, in snake case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Incident<'a> {
    /// A circuit changed its state: `closed`, `half_open` or `open`.
    CircuitChanged {
        /// Whose calls; `-` for those of public routes.
        tenant: &'a str,
        /// The upstream's configured name.
        upstream: &'a str,
        /// The state it had.
        from: &'static str,
        /// The state it came into.
        to: &'static str,
    },
    /// The directory of the conversations, or of the turns that wait, was removed or replaced while in use. What comes from now on goes into a new one.
    DataDirectoryGone,
    /// A turn was stored, or a conversation erased, but not on as many replicas in time as its tenant wants. At most one line a second; the next one counts those left out.
    ReplicasShort {
        /// Whose turn or conversation.
        tenant: &'a str,
        /// How many were to have it.
        wanted: u32,
        /// How many had it.
        have: u32,
        /// Such turns and erasures since the last line that got none.
        left_out: u64,
    },
    /// A session begins without what was said in an older deployment, as that could not be read. At most one line a second; the next one counts those left out.
    ImportMissed {
        /// Whose session.
        tenant: &'a str,
        /// Why.
        error: &'a str,
        /// Such sessions since the last line that got none.
        left_out: u64,
    },
    /// Redis does not answer: each gateway keeps by itself what limits they kept together.
    LimitsAlone {
        /// What became of the call: `down`, `unanswered` or `refused`.
        fault: &'static str,
    },
    /// Redis answers again, and gateways keep limits together.
    LimitsTogether,
    /// The store takes no turns; they wait on this gateway's disk. At most one line a second, this and the next.
    StoreAway {
        /// How many.
        waiting: usize,
    },
    /// The store takes turns again, and none waits any more.
    StoreBack {
        /// How many have waited.
        waited: usize,
    },
    /// The store is back without turns that it had acknowledged; turns that waited for it have taken their numbers. At most one line a second; the next one counts those left out.
    TurnsLost {
        /// Whose conversation.
        tenant: &'a str,
        /// The newest turn that it had acknowledged.
        acknowledged: u64,
        /// The newest turn that it still had.
        stored: u64,
        /// Such conversations since the last line that got none.
        left_out: u64,
    },
    /// Of the turns that an earlier process left to wait, not all can be stored. What is there of the others is in `data/spool/refused`.
    SpoolDamaged {
        /// Bytes that cannot be read.
        damaged: usize,
        /// Bytes at the end of a write that was cut short.
        torn: usize,
        /// Turns of tenants that are not configured.
        foreign: usize,
    },
    /// Turns that wait, or the marks of those that wait no longer, cannot be written to the disk. At most one line a second.
    SpoolFailed {
        /// What the operating system says.
        error: &'a str,
    },
}

/// The process's log, which all gateways in it share.
static LOG: OnceLock<fn(&Incident<'_>)> = OnceLock::new();

impl Incident<'_> {
    /// Has all incidents of this process written by `log`, which must not block; only the first call counts.
    pub fn log_with(log: fn(&Incident<'_>)) {
        let _ = LOG.set(log);
    }

    /// How much it matters.
    pub fn level(&self) -> Level {
        match self {
            Self::DataDirectoryGone | Self::SpoolDamaged { .. } | Self::SpoolFailed { .. } => Level::Error,
            Self::CircuitChanged { .. }
            | Self::ReplicasShort { .. }
            | Self::ImportMissed { .. }
            | Self::LimitsAlone { .. }
            | Self::StoreAway { .. }
            | Self::TurnsLost { .. } => Level::Warn,
            Self::LimitsTogether | Self::StoreBack { .. } => Level::Info,
        }
    }

    /// Logs it.
    pub fn log(&self) {
        if let Some(log) = LOG.get() {
            log(self);
        }
    }
}
