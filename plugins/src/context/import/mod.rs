//! Conversations of an older deployment: lists of JSON `{"q","a"}` in a Redis, the newest first, one for each session.
//!
//! A [`Pattern`] says which key is whose list; [`Lists`] reads it and never changes it. A session is brought over in one atomic step,
//! [`Store::import`], under a claim, and only if it is new or still awaits it: so whatever imports may be killed and run again, and several may run at once.
//! [`Bulk`] brings all over, [`FirstContact`] each when its user comes.

mod bulk;
mod first_contact;
mod list;
mod lists;
mod pattern;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

pub(super) use self::first_contact::{Contact, declare};
pub use self::{
    bulk::{Bulk, BulkError, Left, News, Tally},
    first_contact::FirstContact,
    list::Flaw,
    lists::Lists,
    pattern::{DEFAULT_SESSION, KeyError, Pattern, PatternError},
};
use super::{BeginRequest, Store, StoreBegin, settle};
use crate::api::{Claim, Clock, SessionKey, SessionState, Turn, TurnError};

/// Largest element that is taken, in bytes: far more than a question and its answer.
pub const MAX_ELEMENT: u64 = 256 << 10;
/// Most bytes that are taken of one list; the newest elements count first.
pub const MAX_LIST: u64 = 4 << 20;
/// How long a claim for an import stands if whoever has it is killed.
const TERM: Duration = Duration::from_secs(30);

/// A claim that is given back unless it is taken out.
struct Held<'a> {
    store: &'a dyn Store,
    claim: Option<Claim>,
}

impl<'a> Held<'a> {
    fn new(store: &'a dyn Store, claim: Claim) -> Self {
        Self { store, claim: Some(claim) }
    }

    /// Claims a session outside of any turn, waiting for one that has it, and says how it stands. `None` if it cannot be new.
    async fn take(
        store: &'a dyn Store,
        key: &SessionKey,
        wait: Duration,
        clock: &Clock,
    ) -> Result<Option<(Self, Arc<SessionState>)>, TurnError> {
        let (message_id, q) = ("import".into(), "".into());
        let request = BeginRequest { key, message_id: &message_id, q: &q, until: clock.now().after(TERM), wait, known: None, limits: &[] };
        match settle(store.begin(request)).await {
            Ok(StoreBegin::Claimed { claim, state }) => Ok(Some((Self::new(store, claim), state.unwrap_or_default()))),
            Ok(StoreBegin::Answered(_) | StoreBegin::Limited(_)) | Err(TurnError::MessageIdReused) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn claim(&self) -> &Claim {
        self.claim.as_ref().expect("taken out only by consuming")
    }

    async fn import(&self, base: &Arc<SessionState>, older: Vec<Turn>) -> Result<Option<Arc<SessionState>>, TurnError> {
        self.store.import(self.claim(), base, older).await
    }

    fn into_claim(mut self) -> Claim {
        self.claim.take().expect("taken out only here")
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(claim) = &self.claim {
            self.store.release(claim);
        }
    }
}
