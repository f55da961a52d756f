//! Conversations on the local disk, for one process: a log-structured store written by one thread.

use std::{path::Path, sync::Arc};

use super::{BeginRequest, Durability, Limits, OpenError, Store, StoreBegin, Stored};
use crate::api::{BoxFuture, Claim, Clock, Commit, SessionKey, SessionState, Step, TurnError, UserKey, Version};

/// Conversations in a directory of the local disk.
pub struct Embedded;

impl Embedded {
    /// Opens or creates the store in `dir`. Blocks on the disk.
    ///
    /// # Errors
    /// The directory is in use, or cannot be read or written.
    pub fn open(_dir: &Path, _durability: Durability, _limits: Limits, _clock: Clock) -> Result<Self, OpenError> {
        Ok(Self)
    }
}

impl Store for Embedded {
    fn begin<'a>(&'a self, _request: BeginRequest<'a>) -> Step<'a, Result<StoreBegin, TurnError>> {
        unimplemented!()
    }

    fn commit<'a>(&'a self, _claim: &'a Claim, _base: &'a Arc<SessionState>, _commit: Commit) -> BoxFuture<'a, Result<Stored, TurnError>> {
        unimplemented!()
    }

    fn release(&self, _claim: &Claim) {}

    fn load<'a>(&'a self, _key: &'a SessionKey, _known: Option<Version>) -> Step<'a, Result<Option<Arc<SessionState>>, TurnError>> {
        unimplemented!()
    }

    fn erase_session<'a>(&'a self, _key: &'a SessionKey) -> BoxFuture<'a, Result<(), TurnError>> {
        unimplemented!()
    }

    fn erase_user<'a>(&'a self, _key: &'a UserKey) -> BoxFuture<'a, Result<(), TurnError>> {
        unimplemented!()
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), TurnError>> {
        unimplemented!()
    }
}
