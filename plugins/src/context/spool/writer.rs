//! Writes the spool's file: in groups, on the spool's own thread, and no further than there is room.

use std::{
    collections::{HashMap, hash_map},
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use super::{
    file::Folder,
    meters::SpoolMeters,
    record::{Entry, encode_done},
    waiting::Waiting,
};
use crate::api::{Incident, Tenant, TurnError};

/// Most jobs written together.
const GROUP: usize = 256;
/// How often failures are logged.
const COMPLAINTS: Duration = Duration::from_secs(1);
/// Most erasures that wait for the file of refused turns to be written; for more, all of it goes.
const MAX_ERASED: usize = 1024;
/// How many times as much as is left for others a tenant may have.
const PART: u64 = 3;

/// Why an entry waits no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The store has it.
    Stored,
    /// The conversation was erased after the turn began, or would have expired.
    Discarded,
    /// The store will never take it.
    Refused,
}

/// What the writer is asked for.
pub(super) enum Job {
    /// Keep this turn. Its number and size are the writer's to set.
    Append(Box<Entry>, oneshot::Sender<Result<(), TurnError>>),
    /// This one waits no longer.
    Done(Arc<Entry>, Fate, oneshot::Sender<()>),
    /// Drop what waits, or was refused, of the session or user with this key.
    Forget(Box<[u8]>, oneshot::Sender<()>),
}

pub(super) struct Writer {
    pub(super) folder: Folder,
    pub(super) waiting: Arc<Waiting>,
    pub(super) meters: SpoolMeters,
    /// How much waits, and whose.
    pub(super) room: Room,
    /// Number of the next entry.
    pub(super) next: u64,
    /// The file has words that were erased, or has not all that waits: it is to be written anew.
    pub(super) outdated: bool,
    /// The sessions and users whose words are to go from the file of refused turns.
    pub(super) erased: Vec<Box<[u8]>>,
    /// When it last logged that something failed.
    pub(super) complained: Option<Instant>,
}

/// Bytes of what waits, of which no tenant takes what the others need.
pub(super) struct Room {
    /// Most bytes. The file, which holds marks and what waits no longer too, is twice as large at most.
    most: u64,
    live: u64,
    /// By tenant; none that has nothing.
    shares: HashMap<Tenant, u64>,
}

impl Room {
    pub(super) fn new(most: u64) -> Self {
        Self { most, live: 0, shares: HashMap::new() }
    }

    /// Makes room for a turn, if its tenant has at most [`PART`] times as much then as is left for others. However much one tenant
    /// sends, another still finds a part of the rest (dynamic thresholds: Choudhury and Hahne, IEEE/ACM ToN 6(2), 1998).
    fn take(&mut self, entry: &Entry) -> bool {
        let own = self.shares.get(entry.key.tenant()).copied().unwrap_or_default() + entry.size;
        let fits = own <= PART * self.most.saturating_sub(self.live + entry.size);
        if fits {
            self.count(entry);
        }
        fits
    }

    /// Counts what is there already.
    pub(super) fn count(&mut self, entry: &Entry) {
        self.live += entry.size;
        *self.shares.entry(entry.key.tenant().clone()).or_default() += entry.size;
    }

    fn give_back(&mut self, entry: &Entry) {
        self.live -= entry.size;
        if let hash_map::Entry::Occupied(mut share) = self.shares.entry(entry.key.tenant().clone()) {
            *share.get_mut() -= entry.size;
            if *share.get() == 0 {
                share.remove();
            }
        }
    }
}

/// What one group comes to.
#[derive(Default)]
struct Group {
    bytes: Vec<u8>,
    added: Vec<(Entry, oneshot::Sender<Result<(), TurnError>>)>,
    done: Vec<oneshot::Sender<()>>,
    /// Words were erased, so they have to go from the file too.
    erased: bool,
}

impl Writer {
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.recv().await {
            let mut group = Group::default();
            self.take(first, &mut group);
            while group.added.len() + group.done.len() < GROUP
                && let Ok(job) = jobs.try_recv()
            {
                self.take(job, &mut group);
            }
            self.write(group);
        }
    }

    fn take(&mut self, job: Job, group: &mut Group) {
        match job {
            Job::Append(entry, reply) => self.add(*entry, reply, group),
            Job::Done(entry, fate, reply) => {
                self.remove(&entry, fate, group);
                group.done.push(reply);
            }
            Job::Forget(owner, reply) => {
                for entry in self.waiting.all().into_iter().filter(|e| e.key.as_bytes().starts_with(&owner)) {
                    self.remove(&entry, Fate::Discarded, group);
                }
                group.erased |= self.folder.len() > 0; // also words of theirs that wait no longer
                self.erased.push(owner);
                group.done.push(reply);
            }
        }
    }

    fn add(&mut self, mut entry: Entry, reply: oneshot::Sender<Result<(), TurnError>>, group: &mut Group) {
        let before = group.bytes.len();
        entry.number = self.next;
        entry.encode(&mut group.bytes);
        entry.size = (group.bytes.len() - before) as u64;
        if !self.room.take(&entry) {
            group.bytes.truncate(before);
            self.meters.no_room(&entry);
            let _ = reply.send(Err(TurnError::Unavailable("there is no room for more waiting turns (`spool`)".into())));
            return;
        }
        self.next += 1;
        group.added.push((entry, reply));
    }

    fn remove(&mut self, entry: &Entry, fate: Fate, group: &mut Group) {
        if !self.waiting.remove(entry) {
            return;
        }
        self.room.give_back(entry);
        self.meters.done(entry, fate);
        encode_done(&mut group.bytes, entry.number);
        if fate == Fate::Refused {
            let mut record = Vec::new();
            entry.encode(&mut record);
            let kept = self.folder.refuse(&record, self.room.most);
            self.complain(&kept);
        }
    }

    fn write(&mut self, group: Group) {
        let Group { bytes, added, done, erased } = group;
        let written = self.put(&bytes, &added, erased);
        self.complain(&written);
        self.forget_refused();
        for (entry, reply) in added {
            let outcome = match &written {
                Ok(()) => {
                    self.meters.aside(&entry);
                    self.waiting.push(Arc::new(entry));
                    Ok(())
                }
                Err(e) => {
                    self.room.give_back(&entry);
                    Err(TurnError::Unavailable(format!("the spool cannot be written: {e}")))
                }
            };
            let _ = reply.send(outcome); // who asked may be gone
        }
        for reply in done {
            let _ = reply.send(());
        }
    }

    /// Logs what failed: a line a second at most.
    fn complain(&mut self, written: &io::Result<()>) {
        let Err(error) = written else { return };
        if self.complained.is_none_or(|last| last.elapsed() >= COMPLAINTS) {
            self.complained = Some(Instant::now());
            Incident::SpoolFailed { error: &error.to_string() }.log();
        }
    }

    /// Brings the file up to date. One that cannot be written anew still takes what is new, and is tried again with what comes next.
    fn put(&mut self, bytes: &[u8], added: &[(Entry, oneshot::Sender<Result<(), TurnError>>)], erased: bool) -> io::Result<()> {
        self.outdated |= erased;
        if !self.folder.is_in_place() {
            self.outdated = true;
            self.folder.reopen()?;
            Incident::DataDirectoryGone.log(); // once: until there is a folder again, that is what fails
        }
        if self.room.live == 0 {
            self.folder.clear()?;
            self.outdated = false;
            return Ok(());
        }
        let fits = self.folder.len() + bytes.len() as u64 <= 2 * self.room.most;
        if self.outdated || !fits {
            let rewritten = self.rewrite(added.iter().map(|(entry, _)| entry));
            self.outdated = rewritten.is_err();
            if rewritten.is_ok() || !fits {
                return rewritten;
            }
            self.complain(&rewritten);
        }
        self.folder.append(bytes, !added.is_empty())
    }

    /// Takes erased words from the file of refused turns. If that fails, it is tried again with what comes next.
    fn forget_refused(&mut self) {
        if self.erased.is_empty() {
            return;
        }
        let forgotten = self.folder.forget_refused(&self.erased);
        self.complain(&forgotten);
        if forgotten.is_ok() {
            self.erased.clear();
        } else if self.erased.len() > MAX_ERASED {
            self.erased = vec![Box::default()]; // what everybody's begins with
        }
    }

    /// Leaves nothing in the file but what waits.
    pub(super) fn tidy(&mut self) -> io::Result<()> {
        match self.room.live {
            0 => self.folder.clear(),
            live if live == self.folder.len() => Ok(()),
            _ => self.rewrite(std::iter::empty()),
        }
    }

    fn rewrite<'a>(&mut self, added: impl Iterator<Item = &'a Entry>) -> io::Result<()> {
        let mut waiting = self.waiting.all();
        waiting.sort_unstable_by_key(|e| e.number);
        let mut all = Vec::new();
        waiting.iter().for_each(|e| e.encode(&mut all));
        added.for_each(|e| e.encode(&mut all));
        self.folder.rewrite(&all)
    }
}
