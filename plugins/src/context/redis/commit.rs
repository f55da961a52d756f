//! A turn on its way to Redis, and the state that follows from it.

use std::sync::Arc;

use super::{
    Inner,
    keys::{self, Parts, WAITING},
    reply::{Reply, seal_flow, seal_turn, unexpected},
    scripts::COMMIT,
};
use crate::{
    api::{Change, Claim, Commit, FlowState, SessionState, SlotDelta, SlotValue, Turn, TurnError, Version},
    context::{Stored, codec},
};

/// What a commit makes of the state that its turn began with.
struct Next {
    turn: Arc<Turn>,
    flow: FlowState,
    version: Version,
}

impl Inner {
    pub(super) async fn commit(&self, claim: &Claim, base: &Arc<SessionState>, commit: Commit) -> Result<Stored, TurnError> {
        let keys = keys::session(&claim.key);
        self.lines.settled(keys.get(WAITING)).await;
        let next = self.next(base, &commit);
        let args = self.commit_args(claim, base, &next, &commit.user_slots);
        let (reply, _) = self.run_and_wait(&COMMIT, &keys, &args, claim.key.tenant(), commit.wait).await?;
        let mut reply = Reply::of(reply)?;
        match &*reply.bytes()? {
            b"stored" => next.stored(base, &commit.user_slots, self.limits.turns, &mut reply),
            b"repeated" => match reply.turn(&claim.key)? {
                turn if turn.q == commit.q => Ok(Stored { turn, state: reply.state(&claim.key, Some(base))? }),
                _ => Err(TurnError::MessageIdReused),
            },
            b"lost" => Err(TurnError::ClaimLost),
            _ => Err(unexpected()),
        }
    }

    fn next(&self, base: &SessionState, commit: &Commit) -> Next {
        Next {
            turn: Arc::new(commit.turn(base.seq + 1)),
            flow: base.flow.after(commit),
            version: Version { session: fastrand::u64(1..), user: fastrand::u64(1..) },
        }
    }

    fn commit_args(&self, claim: &Claim, base: &SessionState, next: &Next, user_slots: &[SlotDelta]) -> Parts {
        let mut args = self.args_with_turns();
        args.bytes(next.turn.message_id.expose().as_bytes()).number(claim.fence);
        args.bytes(if self.clock.now() >= claim.until { b"1" } else { b"0" });
        args.stamp(base.version.session).stamp(base.version.user).stamp(base.epoch).number(base.seq);
        args.stamp(next.version.session).stamp(next.version.user);
        args.bytes(&seal_turn(&claim.key, next.version.session, &next.turn)).bytes(&seal_flow(
            &claim.key,
            next.version.session,
            &next.flow,
        ));
        args.number(self.keep()).bytes(&keys::id(&claim.key));
        user_slots.iter().for_each(|delta| put_change(&mut args, delta));
        args
    }
}

impl Next {
    /// The state after the commit. User's slots that somebody else changed meanwhile come with the reply.
    fn stored(self, base: &SessionState, changes: &[SlotDelta], limit: usize, reply: &mut Reply) -> Result<Stored, TurnError> {
        let Self { turn, flow, mut version } = self;
        let mut user_slots = base.user_slots.clone();
        if reply.is_done() {
            for change in changes {
                user_slots.apply(change);
            }
            if changes.is_empty() {
                version.user = base.version.user;
            }
        } else {
            version.user = reply.stamp()?;
            user_slots = reply.user_slots()?;
        }
        let kept = base.turns.len().min(limit - 1);
        let mut turns = Vec::with_capacity(kept + 1);
        turns.extend_from_slice(&base.turns[base.turns.len() - kept..]);
        turns.push(turn.clone());
        let state = SessionState { version, epoch: base.epoch, seq: turn.seq, turns, flow, user_slots };
        Ok(Stored { turn, state: Arc::new(state) })
    }
}

fn put_change(args: &mut Parts, delta: &SlotDelta) {
    let (change, value) = match &delta.change {
        Change::Set(value) => ("set", Some(value)),
        Change::Add(by) => ("add", Some(&SlotValue::Number(*by))),
        Change::Remove => ("remove", None),
    };
    args.bytes(change.as_bytes()).bytes(delta.name.as_bytes());
    args.add(|out| value.into_iter().for_each(|value| codec::put_slot(out, value)));
}
