//! Conversations on the local disk, for one process: claims in memory, records in a log-structured store, one thread that writes.
//!
//! A hot [`begin`](Store::begin) looks into the `table` and nowhere else. A cold one reads the `disk` on a blocking thread. Everything that
//! writes is a job for the `writer`, which groups what arrives together into one batch.

mod commit;
mod disk;
mod erase;
mod import;
mod records;
mod sweep;
mod table;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc as std_mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, timeout_at},
};

use self::{
    commit::CommitJob,
    disk::Disk,
    sweep::Sweep,
    table::{Asked, Held, Place, Table, Term},
    writer::{Job, Reply, Writer},
};
use super::{BeginRequest, Durability, Limits, OpenError, Store, StoreBegin, Stored};
use crate::api::{BoxFuture, Claim, Clock, Commit, SessionKey, SessionState, Step, Turn, TurnError, UserKey, Version, WaitFor};

/// Most jobs that wait for the writer; more wait for room.
const MAX_JOBS: usize = 1024;
/// Most reads of the disk at a time.
const MAX_READS: usize = 32;
/// How long one who waits for a lapsed claim leaves its holder to end the commit that it has begun.
const RECHECK: Duration = Duration::from_millis(5);
/// How often writes go to the disk with [`Durability::Os`].
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Conversations in a directory of the local disk. Dropping it writes what is queued, syncs and closes the directory.
pub struct Embedded {
    table: Arc<Table>,
    disk: Arc<Disk>,
    clock: Clock,
    limits: Limits,
    reads: Semaphore,
    jobs: Option<mpsc::Sender<Job>>,
    stop_sync: Option<std_mpsc::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Embedded {
    /// Opens or creates the store in `dir`. Blocks on the disk.
    ///
    /// # Errors
    /// The directory is in use, or cannot be read or written.
    pub fn open(dir: &Path, durability: Durability, limits: Limits, clock: Clock) -> Result<Self, OpenError> {
        let storage = |e: std::io::Error| OpenError::Storage { dir: dir.to_owned(), cause: e.to_string() };
        let (disk, generation) = Disk::open(dir)?;
        let (disk, table) = (Arc::new(disk), Table::new(generation, clock.clone()));
        let limits = Limits { turns: limits.turns.max(1), ..limits };
        let dirty = Arc::new(AtomicBool::new(false));
        let (jobs, queue) = mpsc::channel(MAX_JOBS);
        let (stop_sync, stopped) = std_mpsc::channel();
        let mut this = Self {
            table: table.clone(),
            disk: disk.clone(),
            clock: clock.clone(),
            limits,
            reads: Semaphore::new(MAX_READS),
            jobs: Some(jobs),
            stop_sync: Some(stop_sync),
            threads: Vec::new(),
        };
        let writer = Writer {
            disk: disk.clone(),
            table,
            clock,
            limits,
            sync: durability == Durability::Disk,
            dirty: dirty.clone(),
            sweep: Sweep::default(),
            erasures: VecDeque::new(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(storage)?;
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| std::thread::Builder::new().name(name.into()).spawn(run).map_err(storage);
        this.threads.push(spawn("context-writer", Box::new(move || runtime.block_on(writer.run(queue))))?);
        this.threads.push(spawn("context-sync", Box::new(move || sync_regularly(&disk, &dirty, &stopped)))?);
        Ok(this)
    }

    /// Runs a read of the disk on a blocking thread.
    async fn read<T: Send + 'static>(&self, read: impl FnOnce(&Disk) -> Result<T, TurnError> + Send + 'static) -> Result<T, TurnError> {
        let _permit = self.reads.acquire().await.expect("never closed");
        let disk = self.disk.clone();
        let read = tokio::task::spawn_blocking(move || read(&disk)).await;
        read.unwrap_or_else(|e| Err(TurnError::Unavailable(format!("a read did not end: {e}"))))
    }

    /// Hands a job to the writer and awaits the answer.
    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, TurnError> {
        let stopped = || TurnError::Unavailable("the writer has stopped".into());
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().expect("there until dropped");
        jobs.send(job(reply)).await.map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Has the writer do some work between two groups of commits and awaits the outcome.
    async fn alone(&self, work: impl FnOnce(&mut Writer) -> Result<(), TurnError> + Send + 'static) -> Result<(), TurnError> {
        self.ask(|reply| Job::Alone(Box::new(move |writer| drop(reply.send(work(writer)))))).await
    }

    /// The session from the disk, or nothing if its version is `known`.
    async fn read_session(&self, key: &SessionKey, known: Option<Version>) -> Result<Option<Arc<SessionState>>, TurnError> {
        let (current, writes) = self.table.current(key);
        if current.is_some() && current == known {
            return Ok(None);
        }
        let (now, limit, owned) = (self.clock.now(), self.limits.turns, key.clone());
        let found = self.read(move |disk| disk.with(|engine| engine.session(&owned, limit, now))).await?;
        self.table.learn(key, found.head, found.user, writes);
        Ok((Some(found.state.version) != known).then_some(found.state))
    }

    async fn begin_slowly(&self, request: BeginRequest<'_>, term: Term, mut asked: Asked) -> Result<StoreBegin, TurnError> {
        let end = Instant::now() + request.wait.min(term.lapses.saturating_sub(self.clock.monotonic()));
        let known = request.known.map(|state| state.version);
        loop {
            let mut held = match asked {
                Asked::Held(held) => held,
                busy => {
                    let state = self.read_session(request.key, known).await?;
                    if let Some(turn) = state.as_ref().or(request.known).map_or(Ok(None), |state| answered(state, &request))? {
                        return Ok(StoreBegin::Answered(turn));
                    }
                    let Asked::Queued(place) = busy else { return Err(TurnError::InProgress) };
                    self.wait(request.key, term, end, place).await?
                }
            };
            let state = match held.state.take() {
                Some(state) => Some(state),
                None => self.read_session(request.key, known).await?,
            };
            if let Some(turn) = state.as_ref().or(request.known).map_or(Ok(None), |state| answered(state, &request))? {
                return Ok(StoreBegin::Answered(turn));
            }
            if held.stands() {
                return Ok(StoreBegin::Claimed { claim: held.into_claim(), state });
            }
            asked = self.table.ask(request.key, term).0; // erased while we read
        }
    }

    /// Waits in a session's queue until it is our turn or too late.
    async fn wait(&self, key: &SessionKey, term: Term, end: Instant, mut place: Place) -> Result<Held, TurnError> {
        loop {
            let lapse = Instant::now() + place.lapses.saturating_sub(self.clock.monotonic()).max(RECHECK);
            match timeout_at(end.min(lapse), &mut place.turn).await {
                Ok(Ok(held)) if self.clock.monotonic() < term.lapses => return Ok(held),
                Ok(_) => return Err(TurnError::InProgress),
                Err(_) if Instant::now() >= end => return Err(TurnError::InProgress),
                Err(_) => place.lapses = self.table.pass_on_lapsed(key),
            }
        }
    }

    /// Removes all that has expired, now.
    #[cfg(test)]
    pub(super) async fn sweep(&self) -> Result<(), TurnError> {
        self.alone(Writer::sweep_all).await
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.jobs = None;
        self.stop_sync = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a thread of the context store panicked");
            }
        }
    }
}

impl Store for Embedded {
    fn begin<'a>(&'a self, request: BeginRequest<'a>) -> Step<'a, Result<StoreBegin, TurnError>> {
        let lapses = self.clock.monotonic() + self.clock.now().until(request.until);
        let term = Term { until: request.until, lapses };
        let (asked, current) = self.table.ask(request.key, term);
        let Some(known) = request.known.filter(|known| current == Some(known.version)) else {
            return Step::Pending(Box::pin(self.begin_slowly(request, term, asked)));
        };
        match (answered(known, &request), asked) {
            (Ok(Some(turn)), _) => Step::Ready(Ok(StoreBegin::Answered(turn))),
            (Err(e), _) => Step::Ready(Err(e)),
            (Ok(None), Asked::Full) => Step::Ready(Err(TurnError::InProgress)),
            (Ok(None), Asked::Held(held)) => Step::Ready(Ok(StoreBegin::Claimed { claim: held.into_claim(), state: None })),
            (Ok(None), queued) => Step::Pending(Box::pin(self.begin_slowly(request, term, queued))),
        }
    }

    fn commit<'a>(&'a self, claim: &'a Claim, base: &'a Arc<SessionState>, commit: Commit) -> BoxFuture<'a, Result<Stored, TurnError>> {
        let claim = Claim { key: claim.key.clone(), ..*claim };
        Box::pin(self.ask(|reply| Job::Commit(Box::new(CommitJob { claim, base: base.clone(), commit, reply }))))
    }

    fn release(&self, claim: &Claim) {
        self.table.give_up(claim);
    }

    fn load<'a>(
        &'a self,
        key: &'a SessionKey,
        known: Option<&'a Arc<SessionState>>,
    ) -> Step<'a, Result<Option<Arc<SessionState>>, TurnError>> {
        let known = known.map(|state| state.version);
        if known.is_some() && self.table.current(key).0 == known {
            return Step::Ready(Ok(None));
        }
        Step::Pending(Box::pin(self.read_session(key, known)))
    }

    fn is_new<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<bool, TurnError>> {
        let (now, key) = (self.clock.now(), key.clone());
        Box::pin(self.read(move |disk| disk.with(|engine| engine.is_new(&key, now))))
    }

    fn import<'a>(
        &'a self,
        claim: &'a Claim,
        base: &'a Arc<SessionState>,
        older: Vec<Turn>,
    ) -> BoxFuture<'a, Result<Option<Arc<SessionState>>, TurnError>> {
        let (claim, base) = (Claim { key: claim.key.clone(), ..*claim }, base.clone());
        Box::pin(self.ask(|reply| Job::Alone(Box::new(move |writer| writer.import(&claim, &base, older, reply)))))
    }

    fn erase_session<'a>(&'a self, key: &'a SessionKey, _wait: Option<WaitFor>) -> BoxFuture<'a, Result<(), TurnError>> {
        let key = key.clone();
        Box::pin(self.alone(move |writer| writer.erase_session(&key)))
    }

    fn erase_user<'a>(&'a self, key: &'a UserKey, _wait: Option<WaitFor>) -> BoxFuture<'a, Result<(), TurnError>> {
        let key = key.clone();
        Box::pin(self.ask(|reply| Job::Alone(Box::new(move |writer| writer.erase_user(&key, reply)))))
    }

    fn queued(&self) -> usize {
        self.jobs.as_ref().map_or(0, |jobs| jobs.max_capacity() - jobs.capacity())
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), TurnError>> {
        Box::pin(self.alone(|writer| writer.flush()))
    }

    fn health(&self) -> BoxFuture<'_, Result<(), TurnError>> {
        Box::pin(self.alone(|writer| writer.disk.probe()))
    }
}

/// The kept turn that answered this message before.
fn answered(state: &SessionState, request: &BeginRequest<'_>) -> Result<Option<Arc<Turn>>, TurnError> {
    match state.turn_of(request.message_id.expose()) {
        Some(turn) if turn.q == *request.q => Ok(Some(turn.clone())),
        Some(_) => Err(TurnError::MessageIdReused),
        None => Ok(None),
    }
}

/// Syncs what was written once a second, beside the writer, which does not wait for it.
fn sync_regularly(disk: &Disk, dirty: &AtomicBool, stopped: &std_mpsc::Receiver<()>) {
    while stopped.recv_timeout(SYNC_EVERY) == Err(std_mpsc::RecvTimeoutError::Timeout) {
        if dirty.swap(false, Ordering::AcqRel)
            && let Err(e) = disk.sync()
        {
            dirty.store(true, Ordering::Release);
            log::error!("the context store could not be synced: {e}");
        }
    }
}
