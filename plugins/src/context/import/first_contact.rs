//! A user's list at the first word here, so that nobody has to wait until all lists have been brought over.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use prometheus::IntCounterVec;
use tokio::time::timeout;

use super::{Held, Lists, Pattern, lists::Found};
use crate::{
    api::{Claim, Clock, Family, Incident, Meters, SessionKey, SessionState, Tenant, TurnError},
    context::{Limits, Store, throttle::Throttle},
};

const SESSIONS: Family = Family {
    name: "fengda_import_sessions_total",
    help: "Sessions of an older deployment at their first contact: brought over (imported), without a list (none), with one that nothing \
           could be made of (refused), or begun without it because it could not be read in time (missed).",
    labels: &["tenant", "outcome"],
};
const LEFT: Family = Family {
    name: "fengda_import_elements_left_total",
    help: "Elements of an older deployment's lists, read at a first contact, that nothing could be made of.",
    labels: &["tenant"],
};

/// Has the metrics there be, whether or not anything is brought over.
pub(in crate::context) fn declare(meters: &Meters) {
    [SESSIONS, LEFT].into_iter().for_each(|family| drop(meters.counter(family)));
}

/// Brings a session's list over before its first turn, and before its history is first looked at.
///
/// A source that does not answer keeps nobody waiting for longer than the time set: the turn goes on without, and once it is kept the
/// session is no longer new and its list stays where it is. Answering late, or not at all, would be worse.
pub struct FirstContact {
    lists: Lists,
    patterns: RwLock<HashMap<Tenant, Pattern>>,
    wait: Duration,
    limits: Limits,
    clock: Clock,
    sessions: IntCounterVec,
    left: IntCounterVec,
    reports: Throttle,
}

impl FirstContact {
    /// From these lists, for which a turn waits for at most so long. No tenant has any until [`set`](Self::set) says which.
    pub fn new(lists: Lists, wait: Duration, limits: Limits, clock: Clock, meters: &Meters) -> Self {
        let (sessions, left) = (meters.counter(SESSIONS), meters.counter(LEFT));
        Self { lists, patterns: RwLock::default(), wait, limits, clock, sessions, left, reports: Throttle::default() }
    }

    /// Says which keys the tenants' lists have.
    pub fn set(&self, patterns: HashMap<Tenant, Pattern>) {
        *self.patterns.write().unwrap_or_else(PoisonError::into_inner) = patterns;
    }

    /// The key of the list to bring over for a session that stands like this; `None` if there is none to look for.
    pub(in crate::context) fn list_for(&self, key: &SessionKey, state: &SessionState) -> Option<Vec<u8>> {
        let new = state.seq == 0 && state.version.session == 0;
        let patterns = || self.patterns.read().unwrap_or_else(PoisonError::into_inner);
        new.then(|| patterns().get(key.tenant())?.key_of(key)).flatten()
    }

    /// Brings a list over under a turn's claim. `None` for the state if nothing was brought. Dropping the future gives the claim back.
    pub(in crate::context) async fn under(
        &self,
        store: &dyn Store,
        claim: Claim,
        list: &[u8],
    ) -> Result<(Claim, Option<Arc<SessionState>>), TurnError> {
        let held = Held::new(store, claim);
        let state = self.bring(&held, list).await?;
        Ok((held.into_claim(), state))
    }

    /// Brings a list over outside of a turn; not if one has the session, which sees to that itself.
    pub(in crate::context) async fn aside(
        &self,
        store: &dyn Store,
        key: &SessionKey,
        list: &[u8],
    ) -> Result<Option<Arc<SessionState>>, TurnError> {
        match Held::take(store, key, self.wait, &self.clock).await {
            Ok(Some(held)) => self.bring(&held, list).await,
            Ok(None) | Err(TurnError::InProgress) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn bring(&self, held: &Held<'_>, list: &[u8]) -> Result<Option<Arc<SessionState>>, TurnError> {
        let tenant = held.claim().key.tenant().name();
        let found = timeout(self.wait, self.lists.read(list, self.limits, self.clock.now())).await;
        let (outcome, state) = match found {
            Err(_) => self.missed(tenant, "no answer in time"),
            Ok(Err(fault)) => self.missed(tenant, &fault.to_string()),
            Ok(Ok(Found::Nothing)) => ("none", None),
            Ok(Ok(Found::Other)) => ("refused", None),
            Ok(Ok(Found::Turns(turns, flaws))) => {
                self.left.with_label_values(&[tenant]).inc_by(flaws.len() as u64);
                match (turns.is_empty(), held.import(turns).await?) {
                    (true, _) => ("refused", None),
                    (false, None) => ("none", None), // erased, or brought over by another just now
                    (false, state) => ("imported", state),
                }
            }
        };
        self.sessions.with_label_values(&[tenant, outcome]).inc();
        Ok(state)
    }

    /// What a session comes to whose list could not be read. Operators hear of it once a second at most.
    fn missed(&self, tenant: &str, error: &str) -> (&'static str, Option<Arc<SessionState>>) {
        if let Some(left_out) = self.reports.pass(&self.clock) {
            Incident::ImportMissed { tenant, error, left_out }.log();
        }
        ("missed", None)
    }
}
