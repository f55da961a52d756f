//! Whether Redis answers, for those who wait for it, log it, or are asked.

use std::sync::Arc;

use tokio::time::Instant;

use super::node::State;

/// How Redis does, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// All of it answers and takes writes.
    Up,
    /// Some primaries of a cluster do, others do not: their users are without.
    Partly {
        /// The first fault. It holds addresses and what servers say, nothing of tenants.
        reason: Arc<str>,
        /// Since when.
        since: Instant,
    },
    /// None of it does.
    Down {
        /// See [`Partly`](Self::Partly).
        reason: Arc<str>,
        /// Since when.
        since: Instant,
    },
}

impl Health {
    /// What several servers come to; of several reasons the oldest counts. Of none nothing is known but that it is not up.
    pub(super) fn of(states: impl IntoIterator<Item = State>, begun: Instant) -> Self {
        let (mut up, mut down) = (false, None::<(Instant, Arc<str>)>);
        let connecting = || (begun, Arc::from("not connected yet"));
        for state in states {
            let fault = match state {
                State::Up(_) => {
                    up = true;
                    continue;
                }
                State::Connecting => connecting(),
                State::Down { reason, since } => (since, reason),
            };
            down = Some(down.map_or(fault.clone(), |oldest| oldest.min(fault)));
        }
        match (up, down) {
            (true, None) => Self::Up,
            (true, Some((since, reason))) => Self::Partly { reason, since },
            (false, down) => {
                let (since, reason) = down.unwrap_or_else(connecting);
                Self::Down { reason, since }
            }
        }
    }

    /// Whether any of it answers.
    pub fn is_up(&self) -> bool {
        !matches!(self, Self::Down { .. })
    }
}
