//! Removes what has expired, and has cut-short erasures taken up again. Part of the writer's work.

use fjall::Slice;

use super::{
    disk::fault,
    records::{self, SessionHead},
    writer::Writer,
};
use crate::{
    api::{Timestamp, TurnError},
    context::codec::{self, Kind},
};

/// Most records looked at in one step, so that commits do not wait for long.
pub(super) const STEP: usize = 1000;

/// Calls of [`Writer::sweep_on`] that do nothing after a whole round: expired records cannot be read anyway, so there is no hurry.
const PAUSE: u32 = 60;

/// How far the search for expired records has come: sessions first, then users, then marks of erasure.
#[derive(Default)]
pub(super) struct Sweep {
    /// The place to go on at; empty to begin again.
    next: Vec<u8>,
    /// What is left of the pause.
    pause: u32,
}

/// A record that has expired.
enum Expired {
    Session(Vec<u8>, SessionHead),
    User(Vec<u8>),
    /// The place of a record that nobody has a copy of.
    Mark(Vec<u8>),
}

impl Writer {
    /// Goes on with the search for what has expired, a step at a time.
    pub(super) fn sweep_on(&mut self) {
        if self.sweep.pause > 0 {
            self.sweep.pause -= 1;
            return;
        }
        if let Err(e) = self.sweep_step() {
            log::warn!("expired conversations could not be removed: {e}");
        }
        if self.sweep.next.is_empty() {
            self.sweep.pause = PAUSE;
        }
    }

    /// A whole round of the search, with the erasures that it takes up again.
    #[cfg(test)]
    pub(super) fn sweep_all(&mut self) -> Result<(), TurnError> {
        self.sweep.next.clear();
        loop {
            self.sweep_step()?;
            if self.sweep.next.is_empty() {
                break;
            }
        }
        while !self.erasures.is_empty() {
            self.erase_on();
        }
        Ok(())
    }

    fn sweep_step(&mut self) -> Result<(), TurnError> {
        let now = self.clock.now();
        let mut from = std::mem::take(&mut self.sweep.next);
        if from.is_empty() {
            self.resume_erasures()?;
            from = codec::place(Kind::Session, &[]);
        }
        let mut expired = Vec::new();
        self.disk.with(|engine| {
            for (looked_at, item) in engine.scan(from).enumerate() {
                let (place, record) = item.into_inner().map_err(fault)?;
                if looked_at == STEP {
                    self.sweep.next = place.to_vec();
                    break;
                }
                match look(&place, &record, now) {
                    Some(found) => expired.push(found),
                    None if place[0] == Kind::Turn as u8 => {
                        self.sweep.next = codec::place(Kind::Erased, &[]); // turns go with their sessions
                        break;
                    }
                    None => {}
                }
            }
            Ok(())
        })?;
        expired.into_iter().try_for_each(|found| self.remove(found))
    }

    fn remove(&self, expired: Expired) -> Result<(), TurnError> {
        match expired {
            Expired::Session(session, _) if self.table.is_claimed(&session) => Ok(()), // its turn may yet renew it
            Expired::Session(session, head) => {
                self.write_batch(|batch| {
                    batch.remove(codec::place(Kind::Session, &session));
                    (head.first..=head.seq).for_each(|seq| batch.remove(codec::turn_place(&session, seq)));
                })?;
                self.table.forget(&session, false);
                Ok(())
            }
            Expired::User(user) => {
                self.write_batch(|batch| batch.remove(codec::place(Kind::User, &user)))?;
                self.table.forget(&user, false);
                Ok(())
            }
            Expired::Mark(place) => self.write_batch(|batch| batch.remove(place)),
        }
    }
}

/// What is expired of a record. What cannot be read stays, to be looked into.
fn look(place: &[u8], record: &Slice, now: Timestamp) -> Option<Expired> {
    let key = || place[1..].to_vec();
    if place[0] == Kind::Session as u8 {
        let (head, _) = records::decode_session(place, record).ok()?;
        (head.expires <= now).then(|| Expired::Session(key(), head))
    } else if place[0] == Kind::User as u8 {
        let (head, _) = records::decode_user(place, record).ok()?;
        (head.expires <= now).then(|| Expired::User(key()))
    } else if place[0] == Kind::Erased as u8 {
        let until = records::decode_number(Kind::Erased, place, record).ok()?;
        (until <= now.0).then(|| Expired::Mark(place.to_vec()))
    } else {
        None
    }
}
