//! What was said elsewhere, on its way to Redis as a session's first turns.

use std::sync::Arc;

use super::{
    Inner,
    keys::{self, Parts, WAITING},
    reply::{Reply, seal_flow, seal_turn, unexpected},
    scripts::{IMPORT, IS_NEW},
};
use crate::api::{Claim, FlowState, SessionKey, SessionState, Turn, TurnError, Version};

impl Inner {
    pub(super) async fn is_new(&self, key: &SessionKey) -> Result<bool, TurnError> {
        let mut reply = Reply::of(self.run(&IS_NEW, &keys::session(key), &self.args()).await?)?;
        Ok(reply.bytes()? == b"new")
    }

    pub(super) async fn import(&self, claim: &Claim, mut turns: Vec<Turn>) -> Result<Option<Arc<SessionState>>, TurnError> {
        turns.drain(..turns.len().saturating_sub(self.limits.turns));
        let Some(seq) = turns.last().map(|turn| turn.seq) else { return Ok(None) };
        let keys = keys::session(&claim.key);
        self.lines.settled(keys.get(WAITING)).await;
        let session = fastrand::u64(1..);
        let args = self.import_args(claim, seq, session, &turns);
        let mut reply = Reply::of(self.run(&IMPORT, &keys, &args).await?)?;
        match &*reply.bytes()? {
            b"imported" => {
                let version = Version { session, user: reply.stamp()? };
                let turns = turns.into_iter().map(Arc::new).collect();
                let user_slots = reply.user_slots()?;
                Ok(Some(Arc::new(SessionState { version, epoch: 0, seq, turns, flow: FlowState::default(), user_slots })))
            }
            b"old" => Ok(None),
            b"lost" => Err(TurnError::ClaimLost),
            _ => Err(unexpected()),
        }
    }

    fn import_args(&self, claim: &Claim, seq: u64, version: u64, turns: &[Turn]) -> Parts {
        let mut args = self.args();
        args.number(claim.fence).number(seq).stamp(version).bytes(&seal_flow(&claim.key, version, &FlowState::default()));
        args.number(self.keep()).bytes(&keys::id(&claim.key));
        for turn in turns {
            args.bytes(turn.message_id.expose().as_bytes()).bytes(&seal_turn(&claim.key, version, turn));
        }
        args
    }
}
