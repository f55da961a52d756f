//! Erases what is asked to be erased, at one moment for all who read, and in small steps on the disk. Part of the writer's work.
//!
//! A user's erasure begins with one record, which says that all the user's sessions as they were until then are erased:
//! [`Engine`](super::disk::Engine) reads them so from that moment, also after a crash. Then what is hidden is removed, a step at a
//! time between two groups of commits, and with the last step that record. Only then is the erasure acknowledged.

use super::{
    disk::Batch,
    records::{self, SessionHead},
    sweep::STEP,
    writer::{Reply, Writer},
};
use crate::{
    api::{FlowState, SessionKey, TurnError, UserKey},
    context::codec::{self, Kind},
};

/// Most erasures under way.
const MAX_ERASURES: usize = 1024;

/// A user whose erased records are being removed.
pub(super) struct Erasure {
    user: Box<[u8]>,
    /// Sessions of an older version are erased.
    version: u64,
    /// What is being looked at: sessions, then turns.
    kind: Kind,
    /// The place to go on at.
    next: Vec<u8>,
    /// Nobody waits for one that was taken up again.
    reply: Option<Reply<()>>,
}

impl Erasure {
    fn new(user: &[u8], version: u64, reply: Option<Reply<()>>) -> Self {
        Self { user: user.into(), version, kind: Kind::Session, next: codec::place(Kind::Session, user), reply }
    }

    fn answer(self, outcome: Result<(), TurnError>) {
        if let Some(reply) = self.reply {
            let _ = reply.send(outcome); // whoever asked may have gone
        }
    }
}

impl Writer {
    /// Erases a session's turns and slots; its number goes on unless that cannot be read.
    pub(super) fn erase_session(&self, key: &SessionKey) -> Result<(), TurnError> {
        let session = key.as_bytes();
        let erased = self.readable_head(session).and_then(|head| {
            let turns = codec::place(Kind::Turn, session);
            let turns: Vec<_> = self.disk.with(|engine| engine.places(&turns, &turns).collect())?;
            let head = head.erased(self.table.stamp());
            self.write_batch(|batch| {
                turns.into_iter().for_each(|place| batch.remove(place));
                let place = codec::place(Kind::Session, session);
                match head.version {
                    0 => batch.remove(place),
                    _ => batch.put(place.clone(), records::encode_session(&place, &head, &FlowState::default())),
                }
                self.mark_erased(session, batch);
            })
        });
        self.table.forget(session, true);
        erased
    }

    /// Hides all of a user's sessions and removes the user's slots at once; the answer comes when the sessions are removed too.
    pub(super) fn erase_user(&mut self, key: &UserKey, reply: Reply<()>) {
        let user = key.as_bytes();
        let erasure = Erasure::new(user, self.table.stamp(), Some(reply));
        if self.erasures.len() >= MAX_ERASURES {
            return erasure.answer(Err(TurnError::Unavailable("too many erasures under way".into())));
        }
        let hidden = self.write_batch(|batch| {
            let place = codec::place(Kind::Erasure, user);
            batch.put(place.clone(), records::encode_number(Kind::Erasure, &place, erasure.version));
            batch.remove(codec::place(Kind::User, user));
            self.mark_erased(user, batch);
        });
        self.table.forget(user, true);
        match hidden {
            Ok(()) => self.erasures.push_back(erasure),
            Err(e) => erasure.answer(Err(e)),
        }
    }

    /// Notes that a session or a user was erased, for as long as it might have been kept.
    fn mark_erased(&self, key: &[u8], batch: &mut Batch<'_>) {
        let place = codec::place(Kind::Erased, key);
        let until = records::encode_number(Kind::Erased, &place, self.clock.now().after(self.limits.keep).0);
        batch.put(place, until);
    }

    /// Takes the first erasure under way a step further. One that fails is left to [`Self::resume_erasures`].
    pub(super) fn erase_on(&mut self) {
        let Some(mut erasure) = self.erasures.pop_front() else { return };
        match self.erase_step(&mut erasure) {
            Ok(false) => self.erasures.push_front(erasure),
            Ok(true) => erasure.answer(Ok(())),
            Err(e) => erasure.answer(Err(e)),
        }
    }

    /// Takes up erasures that a crash, the end of the process or a failure cut short.
    pub(super) fn resume_erasures(&mut self) -> Result<(), TurnError> {
        let begun = codec::place(Kind::Erasure, &[]);
        let places: Vec<_> = self.disk.with(|engine| engine.places(&begun, &begun).take(MAX_ERASURES).collect())?;
        for place in &places {
            let user = &place[1..];
            if self.erasures.len() < MAX_ERASURES && self.erasures.iter().all(|erasure| *erasure.user != *user) {
                match self.disk.with(|engine| engine.erasure(user)) {
                    Ok(version) => self.erasures.push_back(Erasure::new(user, version, None)),
                    Err(e) => log::warn!("an erasure could not be taken up again: {e}"),
                }
            }
        }
        Ok(())
    }

    /// Removes at most [`STEP`] records in one batch. Says whether they were the last.
    fn erase_step(&self, erasure: &mut Erasure) -> Result<bool, TurnError> {
        let newest = self.disk.with(|engine| engine.erasure(&erasure.user))?;
        let prefix = codec::place(erasure.kind, &erasure.user);
        let mut places: Vec<_> = self.disk.with(|engine| engine.places(&prefix, &erasure.next).take(STEP + 1).collect())?;
        let more = if places.len() > STEP { places.pop() } else { None };
        let done = more.is_none() && erasure.kind == Kind::Turn;
        let mut changes = match erasure.kind {
            Kind::Session => self.erased_heads(places, erasure.version)?,
            _ => self.erased_turns(places)?,
        };
        if done && newest == erasure.version {
            changes.push((codec::place(Kind::Erasure, &erasure.user), None));
        }
        if !changes.is_empty() {
            self.write_batch(|batch| {
                for (place, record) in changes {
                    match record {
                        Some(record) => batch.put(place, record),
                        None => batch.remove(place),
                    }
                }
            })?;
        }
        erasure.next = more.unwrap_or_else(|| {
            erasure.kind = Kind::Turn;
            codec::place(Kind::Turn, &erasure.user)
        });
        Ok(done)
    }

    /// What becomes of sessions' records: those that an erasure hides are written as they are read, the unreadable ones go.
    fn erased_heads(&self, places: Vec<Vec<u8>>, version: u64) -> Result<Vec<Change>, TurnError> {
        let mut changes = Vec::with_capacity(places.len());
        for place in places {
            let head = self.readable_head(&place[1..])?;
            if head.version == version {
                let record = records::encode_session(&place, &head, &FlowState::default());
                changes.push((place, Some(record)));
            } else if head.version == 0 {
                changes.push((place, None));
            }
        }
        Ok(changes)
    }

    /// What becomes of turns' records: those that are none of their session's present turns go.
    fn erased_turns(&self, places: Vec<Vec<u8>>) -> Result<Vec<Change>, TurnError> {
        let mut changes = Vec::with_capacity(places.len());
        let mut last: Option<(Vec<u8>, SessionHead)> = None;
        for place in places {
            let (session, seq) = records::session_and_seq(&place);
            let head = match &last {
                Some((of, head)) if of == session => *head,
                _ => self.readable_head(session)?,
            };
            if last.as_ref().is_none_or(|(of, _)| of != session) {
                last = Some((session.to_vec(), head));
            }
            if !(head.first..=head.seq).contains(&seq) {
                changes.push((place, None));
            }
        }
        Ok(changes)
    }

    /// A session's head as it is read; absent if it is damaged.
    fn readable_head(&self, session: &[u8]) -> Result<SessionHead, TurnError> {
        match self.disk.with(|engine| engine.head(session)) {
            Err(TurnError::Corrupt(_)) => Ok(SessionHead::ABSENT),
            head => head,
        }
    }
}

/// A place and its new record; none if it is to be removed.
type Change = (Vec<u8>, Option<Vec<u8>>);
