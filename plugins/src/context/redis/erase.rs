//! Erasing: at one moment for all who read, then key by key until nothing is left.

use super::{
    Inner,
    keys::{self, Parts},
    reply::Reply,
    scripts::{ERASE_SESSION, ERASE_USER},
};
use crate::api::{SessionKey, TurnError, UserKey, WaitFor};

impl Inner {
    pub(super) async fn erase_session(&self, key: &SessionKey, wait: Option<WaitFor>) -> Result<(), TurnError> {
        let mut args = self.args();
        args.number(self.keep()).stamp(fastrand::u64(1..));
        self.run_and_wait(&ERASE_SESSION, &keys::session(key), &args, key.tenant(), wait).await.map(drop)
    }

    pub(super) async fn erase_user(&self, key: &UserKey, mut wait: Option<WaitFor>) -> Result<(), TurnError> {
        let (mut keys, mut args) = (keys::user(key), first_step(self));
        loop {
            let (reply, replicated) = self.run_and_wait(&ERASE_USER, &keys, &args, key.tenant(), wait).await?;
            // Too slow once, they are too slow: that is said, and the other steps need not take as long each.
            wait = wait.filter(|_| replicated);
            let mut reply = Reply::of(reply)?;
            let (next, mut ids) = (reply.bytes()?, reply.list()?);
            if next.is_empty() && ids.is_done() {
                return Ok(());
            }
            (keys, args) = (keys::user(key), erasing(self));
            args.bytes(b"").bytes(&next);
            while !ids.is_done() {
                let id = ids.bytes()?;
                keys::add_session(&mut keys, key, &id);
                args.bytes(&id);
            }
        }
    }
}

fn erasing(inner: &Inner) -> Parts {
    let mut args = inner.args();
    args.number(inner.keep());
    args
}

/// What hides a user's sessions from all who read, and begins to look for them.
pub(super) fn first_step(inner: &Inner) -> Parts {
    let mut args = erasing(inner);
    args.stamp(fastrand::u64(1..)).bytes(b"0");
    args
}
