//! Turns commits into records: checks the claim, works out the state that follows, writes a group of them at once.

use std::{collections::HashMap, sync::Arc};

use super::{
    disk::Batch,
    records::{self, SessionHead, UserHead},
    writer::{Reply, Writer},
};
use crate::{
    api::{Claim, Commit, SessionState, Slots, Timestamp, TurnError, UserKey, Version},
    context::{
        Stored,
        codec::{self, Kind},
    },
};

/// A commit on its way.
pub(super) struct CommitJob {
    pub(super) claim: Claim,
    pub(super) base: Arc<SessionState>,
    pub(super) commit: Commit,
    pub(super) reply: Reply<Stored>,
}

/// A commit that is ready to be written.
struct Staged {
    claim: Claim,
    stored: Stored,
    head: SessionHead,
    user: UserHead,
    /// Turns that fall out, by number.
    dropped: std::ops::Range<u64>,
    reply: Reply<Stored>,
}

/// Commits that are written together.
#[derive(Default)]
pub(super) struct Group {
    staged: Vec<Staged>,
    /// The users' slots as they will be after it.
    users: HashMap<UserKey, (UserHead, Slots)>,
    /// Commits whose claim is spent or lost: answered when the others are written, one of which may be the same.
    late: Vec<CommitJob>,
}

impl Writer {
    /// Makes a commit part of a group, or refuses it.
    pub(super) fn stage(&self, job: CommitJob, group: &mut Group) {
        let now = self.clock.now();
        let Some((head, user)) = self.table.spend(&job.claim) else {
            group.late.push(job);
            return;
        };
        match self.continues(&job, head, now) {
            Ok(Some(head)) => match self.user_slots(&job, user, group, now) {
                Ok(user) => self.add(job, head, user, group, now),
                Err(e) => self.refuse(&job.claim, job.reply, e),
            },
            Ok(None) => {
                self.table.unspend(&job.claim.key);
                group.late.push(job);
            }
            Err(e) => self.refuse(&job.claim, job.reply, e),
        }
    }

    fn refuse(&self, claim: &Claim, reply: Reply<Stored>, error: TurnError) {
        self.table.unspend(&claim.key);
        let _ = reply.send(Err(error)); // whoever asked may have gone
    }

    /// The head that the commit continues; `None` if its base is not the session's present state. What had not expired when
    /// the turn began goes on although it has by now; what had expired then is replaced.
    fn continues(&self, job: &CommitJob, known: Option<SessionHead>, now: Timestamp) -> Result<Option<SessionHead>, TurnError> {
        let head = known.map_or_else(|| self.disk.with(|engine| engine.head(job.claim.key.as_bytes())), Ok)?;
        let base = job.base.version.session;
        Ok((head.version == base || head.live(now).version == base).then_some(head))
    }

    /// The user's slots with the commit's changes applied to their present state, which another session may have written.
    fn user_slots(&self, job: &CommitJob, known: Option<UserHead>, group: &Group, now: Timestamp) -> Result<(UserHead, Slots), TurnError> {
        let user = job.claim.key.user();
        let (head, mut slots) = match (group.users.get(user), known) {
            (Some(present), _) => present.clone(),
            (None, Some(head)) if head.live(now).version == job.base.version.user => (head.live(now), job.base.user_slots.clone()),
            (None, _) => match self.disk.with(|engine| engine.user(user.as_bytes()))? {
                (head, slots) if head.expires > now => (head, slots),
                _ => (UserHead::ABSENT, Slots::default()),
            },
        };
        let changes = &job.commit.user_slots;
        for change in changes {
            slots.apply(change);
        }
        let head = match (slots.0.is_empty(), changes.is_empty()) {
            (true, _) => UserHead::ABSENT,
            (false, true) => UserHead { expires: now.after(self.limits.keep), ..head },
            (false, false) => UserHead { version: self.table.stamp(), expires: now.after(self.limits.keep) },
        };
        Ok((head, slots))
    }

    /// Adds the state that follows from a commit to its group.
    fn add(&self, job: CommitJob, before: SessionHead, user: (UserHead, Slots), group: &mut Group, now: Timestamp) {
        let CommitJob { claim, base, commit, reply } = job;
        let (user, user_slots) = user;
        let turn = Arc::new(commit.turn(base.seq + 1));
        let kept = base.turns.len().min(self.limits.turns - 1);
        let mut turns = Vec::with_capacity(kept + 1);
        turns.extend_from_slice(&base.turns[base.turns.len() - kept..]);
        turns.push(turn.clone());
        let head = SessionHead { version: self.table.stamp(), seq: turn.seq, first: turns[0].seq, expires: now.after(self.limits.keep) };
        let continued = before.version == base.version.session;
        let dropped = before.first..if continued { head.first } else { before.seq + 1 };
        if !(commit.user_slots.is_empty() && user_slots.0.is_empty()) {
            group.users.insert(claim.key.user().clone(), (user, user_slots.clone()));
        }
        let version = Version { session: head.version, user: user.version };
        let state = Arc::new(SessionState { version, epoch: 0, seq: turn.seq, turns, flow: base.flow.after(&commit), user_slots });
        group.staged.push(Staged { claim, stored: Stored { turn, state }, head, user, dropped, reply });
    }

    /// Writes a group and answers everybody in it.
    pub(super) fn write(&self, group: Group) {
        let mut written = Ok(());
        if !group.staged.is_empty() {
            written = self.write_batch(|batch| {
                for commit in &group.staged {
                    commit.put(batch);
                }
                for (user, (head, slots)) in &group.users {
                    let place = codec::place(Kind::User, user.as_bytes());
                    if slots.0.is_empty() {
                        batch.remove(place);
                    } else {
                        let record = records::encode_user(&place, head, slots);
                        batch.put(place, record);
                    }
                }
            });
            for Staged { claim, stored, head, user, reply, .. } in group.staged {
                match &written {
                    Ok(()) => {
                        self.table.committed(&claim.key, (head, user), &stored.state);
                        let _ = reply.send(Ok(stored)); // whoever asked may have gone
                    }
                    Err(e) => self.refuse(&claim, reply, e.clone()),
                }
            }
        }
        for job in group.late {
            let answer = written.clone().and_then(|()| self.repeated(&job)); // it may repeat one that failed just now
            let _ = job.reply.send(answer); // whoever asked may have gone
        }
    }

    /// The answer to a commit whose claim is gone, or whose base is not the present state: it may have been written before.
    fn repeated(&self, job: &CommitJob) -> Result<Stored, TurnError> {
        let found = self.disk.with(|engine| engine.session(&job.claim.key, self.limits.turns, self.clock.now()))?;
        let turn = found.state.turn_of(job.commit.message_id.expose()).cloned().ok_or(TurnError::ClaimLost)?;
        if turn.q != job.commit.q {
            return Err(TurnError::MessageIdReused);
        }
        self.table.give_up(&job.claim);
        Ok(Stored { turn, state: found.state })
    }
}

impl Staged {
    fn put(&self, batch: &mut Batch<'_>) {
        let session = self.claim.key.as_bytes();
        let turn = &self.stored.turn;
        let place = codec::turn_place(session, turn.seq);
        let record = codec::encode_turn(&place, turn);
        batch.put(place, record);
        let place = codec::place(Kind::Session, session);
        let record = records::encode_session(&place, &self.head, &self.stored.state.flow);
        batch.put(place, record);
        for seq in self.dropped.clone().filter(|seq| *seq != turn.seq) {
            batch.remove(codec::turn_place(session, seq));
        }
    }
}
