//! What was said elsewhere, on its way to Redis as a session's first turns.

use std::sync::Arc;

use super::{
    Inner,
    keys::{self, Parts, WAITING},
    reply::{Reply, seal_flow, seal_turn, unexpected},
    scripts::{IMPORT, IS_NEW},
};
use crate::{
    api::{Claim, SessionKey, SessionState, Turn, TurnError, Version},
    context::store::with_past,
};

impl Inner {
    pub(super) async fn is_new(&self, key: &SessionKey) -> Result<bool, TurnError> {
        let mut reply = Reply::of(self.run(&IS_NEW, &keys::session(key), &self.args()).await?)?;
        Ok(reply.bytes()? == b"new")
    }

    pub(super) async fn import(
        &self,
        claim: &Claim,
        base: &SessionState,
        older: Vec<Turn>,
    ) -> Result<Option<Arc<SessionState>>, TurnError> {
        let turns = with_past(base, older, self.limits);
        let Some(seq) = turns.last().map(|turn| turn.seq) else { return Ok(None) };
        let keys = keys::session(&claim.key);
        self.lines.settled(keys.get(WAITING)).await;
        let session = fastrand::u64(1..);
        let args = self.import_args(claim, base, (seq, session), &turns);
        let mut reply = Reply::of(self.run(&IMPORT, &keys, &args).await?)?;
        match &*reply.bytes()? {
            b"imported" => {
                let version = Version { session, user: reply.stamp()? };
                let (flow, user_slots) = (base.flow.clone(), reply.user_slots()?);
                Ok(Some(Arc::new(SessionState { version, epoch: base.epoch, seq, turns, flow, user_slots })))
            }
            b"old" => Ok(None),
            b"lost" => Err(TurnError::ClaimLost),
            _ => Err(unexpected()),
        }
    }

    fn import_args(&self, claim: &Claim, base: &SessionState, (seq, version): (u64, u64), turns: &[Arc<Turn>]) -> Parts {
        let stood = if base.awaits_past() { base.version.session } else { 0 };
        let mut args = self.args();
        args.number(claim.fence).stamp(stood).number(seq).stamp(version);
        args.bytes(&seal_flow(&claim.key, version, &base.flow)).number(self.keep()).bytes(&keys::id(&claim.key));
        for turn in turns {
            args.bytes(turn.message_id.expose().as_bytes()).bytes(&seal_turn(&claim.key, version, turn));
        }
        args
    }
}
