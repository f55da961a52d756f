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
/// A source that does not answer keeps nobody waiting for longer than the time set: the turn goes on without, and what it leaves says
/// that its past is missing. Each later contact looks for it again, until it is there or the turn is no longer kept.
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
        let patterns = || self.patterns.read().unwrap_or_else(PoisonError::into_inner);
        is_without(state).then(|| patterns().get(key.tenant())?.key_of(key)).flatten()
    }

    /// Brings a list over under a turn's claim, for a session that stands like this. Dropping the future gives the claim back.
    pub(in crate::context) async fn under(
        &self,
        store: &dyn Store,
        claim: Claim,
        base: Arc<SessionState>,
        list: &[u8],
    ) -> Result<Contact, TurnError> {
        let held = Held::new(store, claim);
        let (state, missed) = match self.bring(&held, &base, list).await? {
            Brought::State(state) => (state, false),
            Brought::Nothing => (base, false),
            Brought::Missed => (base, true),
        };
        // What was erased is not awaited, nor is what is awaited already.
        let awaits_past = missed && state.seq == 0 && store.is_new(&held.claim().key).await?;
        Ok(Contact { claim: held.into_claim(), state, awaits_past })
    }

    /// Brings a list over outside of a turn, for a session that stands like this; not if a turn has it, which sees to that itself.
    pub(in crate::context) async fn aside(
        &self,
        store: &dyn Store,
        key: &SessionKey,
        state: &SessionState,
        list: &[u8],
    ) -> Result<Option<Arc<SessionState>>, TurnError> {
        if !state.awaits_past() && !store.is_new(key).await? {
            return Ok(None);
        }
        match Held::take(store, key, self.wait, &self.clock).await {
            Ok(Some((held, base))) if is_without(&base) => match self.bring(&held, &base, list).await? {
                Brought::State(state) => Ok(Some(state)),
                Brought::Nothing | Brought::Missed => Ok(None),
            },
            Ok(_) | Err(TurnError::InProgress) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn bring(&self, held: &Held<'_>, base: &Arc<SessionState>, list: &[u8]) -> Result<Brought, TurnError> {
        let tenant = held.claim().key.tenant().name();
        let (older, outcome) = match timeout(self.wait, self.lists.read(list, self.limits, self.clock.now())).await {
            Err(_) => return Ok(self.missed(tenant, "no answer in time")),
            Ok(Err(fault)) => return Ok(self.missed(tenant, &fault.to_string())),
            Ok(Ok(Found::Nothing)) => (Vec::new(), "none"),
            Ok(Ok(Found::Other)) => (Vec::new(), "refused"),
            Ok(Ok(Found::Turns(turns, flaws))) => {
                self.left.with_label_values(&[tenant]).inc_by(flaws.len() as u64);
                let outcome = if turns.is_empty() { "refused" } else { "imported" };
                (turns, outcome)
            }
        };
        // A session that awaited something learns that there is nothing.
        let state = if older.is_empty() && !base.awaits_past() { None } else { held.import(base, older).await? };
        // Otherwise erased, or brought over by another just now.
        let outcome = if outcome == "imported" && state.is_none() { "none" } else { outcome };
        self.sessions.with_label_values(&[tenant, outcome]).inc();
        Ok(state.map_or(Brought::Nothing, Brought::State))
    }

    /// What a session comes to whose list could not be read. Operators hear of it once a second at most.
    fn missed(&self, tenant: &str, error: &str) -> Brought {
        if let Some(left_out) = self.reports.pass(&self.clock) {
            Incident::ImportMissed { tenant, error, left_out }.log();
        }
        self.sessions.with_label_values(&[tenant, "missed"]).inc();
        Brought::Missed
    }
}

/// How a session stands after its first contact.
pub(in crate::context) struct Contact {
    /// The turn's claim.
    pub(in crate::context) claim: Claim,
    /// The session as it is now.
    pub(in crate::context) state: Arc<SessionState>,
    /// What was said before could not be read, and the turn that begins is to say so.
    pub(in crate::context) awaits_past: bool,
}

/// What came of looking for a list.
enum Brought {
    /// The session as it is now.
    State(Arc<SessionState>),
    /// It is as it was.
    Nothing,
    /// It could not be read in time.
    Missed,
}

/// Whether what was said before may be missing in a session that stands like this.
fn is_without(state: &SessionState) -> bool {
    state.awaits_past() || state.seq == 0 && state.version.session == 0
}
