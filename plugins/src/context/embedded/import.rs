//! Writes what was said elsewhere as a session's first turns. Part of the writer's work.

use std::sync::Arc;

use super::{
    records::{self, SessionHead},
    writer::{Reply, Writer},
};
use crate::{
    api::{Claim, SessionState, Turn, TurnError},
    context::{
        codec::{self, Kind},
        store::with_past,
    },
};

impl Writer {
    /// Gives a session its first turns, if it is new or awaits them. The claim neither lapses nor is given up meanwhile, and stands after
    /// it as long as somebody waits for the answer.
    pub(super) fn import(&self, claim: &Claim, base: &SessionState, older: Vec<Turn>, reply: Reply<Option<Arc<SessionState>>>) {
        if self.table.spend(claim).is_none() {
            return drop(reply.send(Err(TurnError::ClaimLost)));
        }
        let imported = self.write_first(claim, base, older);
        self.table.unspend(&claim.key);
        if reply.send(imported).is_err() {
            self.table.give_up(claim);
        }
    }

    fn write_first(&self, claim: &Claim, base: &SessionState, older: Vec<Turn>) -> Result<Option<Arc<SessionState>>, TurnError> {
        let (now, key) = (self.clock.now(), &claim.key);
        let turns = with_past(base, older, self.limits);
        let ([first, ..], [.., last]) = (&*turns, &*turns) else { return Ok(None) };
        let before = self.disk.with(|engine| engine.head(key.as_bytes()))?;
        let stands = match base.awaits_past() {
            true => before.live(now).version == base.version.session,
            false => self.disk.with(|engine| engine.is_new(key, now))?,
        };
        if !stands {
            return Ok(None);
        }
        let session = key.as_bytes();
        let head = SessionHead { version: self.table.stamp(), seq: last.seq, first: first.seq, expires: now.after(self.limits.keep) };
        self.write_batch(|batch| {
            let kept = head.first..=head.seq;
            (before.first..=before.seq).filter(|seq| !kept.contains(seq)).for_each(|seq| batch.remove(codec::turn_place(session, seq)));
            for turn in &turns {
                let place = codec::turn_place(session, turn.seq);
                let record = codec::encode_turn(&place, turn);
                batch.put(place, record);
            }
            let place = codec::place(Kind::Session, session);
            let record = records::encode_session(&place, &head, &base.flow);
            batch.put(place, record);
        })?;
        self.disk.with(|engine| engine.session(key, self.limits.turns, now)).map(|found| Some(found.state))
    }
}
