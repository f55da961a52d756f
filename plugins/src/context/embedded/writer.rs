//! The one thread that writes: it takes what has queued up, writes it as one batch and answers everybody.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::yield_now,
    time::{Instant, sleep_until},
};

use super::{
    commit::{CommitJob, Group},
    disk::{Batch, Disk},
    erase::Erasure,
    sweep::Sweep,
    table::Table,
};
use crate::{
    api::{Clock, Incident, TurnError},
    context::Limits,
};

/// Most commits in one batch.
const MAX_GROUP: usize = 256;
/// How often expired records are looked for, and a directory that failed is tried again.
const TICK: Duration = Duration::from_secs(1);

/// Where an answer goes. That nobody waits for it any more changes nothing.
pub(super) type Reply<T> = oneshot::Sender<Result<T, TurnError>>;

/// What the writer is asked to do.
pub(super) enum Job {
    Commit(Box<CommitJob>),
    /// Anything else: done by itself, in its turn.
    Alone(Box<dyn FnOnce(&mut Writer) + Send>),
}

/// What the writer's thread works with.
pub(super) struct Writer {
    pub(super) disk: Arc<Disk>,
    pub(super) table: Arc<Table>,
    pub(super) clock: Clock,
    pub(super) limits: Limits,
    /// Each batch is synced before it is acknowledged.
    pub(super) sync: bool,
    /// Something was written and not yet synced.
    pub(super) dirty: Arc<AtomicBool>,
    pub(super) sweep: Sweep,
    pub(super) erasures: VecDeque<Erasure>,
}

impl Writer {
    /// Works until all senders are gone, then syncs. What is left of erasures then is done after the next opening.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut taken = Vec::with_capacity(MAX_GROUP);
        let mut tick = Instant::now() + TICK;
        loop {
            tokio::select! {
                biased; // so that whoever waits for a commit waits for one step of an erasure at most
                n = jobs.recv_many(&mut taken, MAX_GROUP) => match n {
                    0 => break,
                    _ => self.work(&mut taken),
                },
                () = yield_now(), if !self.erasures.is_empty() => {}
                () = sleep_until(tick) => self.revive(),
            }
            self.erase_on();
            if Instant::now() >= tick {
                tick = Instant::now() + TICK;
                self.see_to_the_directory();
                self.sweep_on();
            }
        }
        if let Err(e) = self.flush() {
            log::error!("the context store could not be synced at the end: {e}");
        }
    }

    fn work(&mut self, taken: &mut Vec<Job>) {
        self.revive();
        let mut group = Group::default();
        for job in taken.drain(..) {
            match job {
                Job::Commit(job) => self.stage(*job, &mut group),
                Job::Alone(work) => {
                    self.write(std::mem::take(&mut group)); // what was asked for first happens first
                    work(self);
                }
            }
        }
        self.write(group);
    }

    /// A directory that could not be opened after a failure is tried again.
    fn revive(&self) {
        if !self.disk.is_open() {
            self.disk.reopen();
        }
    }

    /// A directory that was removed or replaced under us takes no more turns: what comes from now on goes into a new one.
    fn see_to_the_directory(&self) {
        if !self.disk.is_in_place() {
            Incident::DataDirectoryGone.log();
            self.disk.reopen();
            self.table.forget_all();
        }
    }

    /// Writes a batch with the durability configured.
    pub(super) fn write_batch(&self, fill: impl FnOnce(&mut Batch<'_>)) -> Result<(), TurnError> {
        self.disk.write(self.sync, fill).inspect_err(|e| {
            log::error!("the context store could not write: {e}");
            self.table.forget_all();
        })?;
        self.dirty.store(!self.sync, Ordering::Release);
        Ok(())
    }

    /// Syncs to the disk.
    pub(super) fn flush(&self) -> Result<(), TurnError> {
        self.dirty.store(false, Ordering::Release);
        self.disk.with(|_| Ok(()))?;
        self.disk.sync().map_err(|e| TurnError::Unavailable(e.to_string()))
    }
}
