//! Turns that were answered while their store was away: on this gateway's disk until they can be stored, each once and in order.
//!
//! One thread writes the file and stores what waits. `file` is the folder, `record` what stands in it, `waiting` the same in memory,
//! `writer` keeps the two alike, `drain` is the recovery, `gaps` is what it finds lost.

mod drain;
mod file;
mod gaps;
mod meters;
mod record;
#[cfg(test)]
mod tests;

mod waiting;
mod writer;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::timeout,
};

use self::{
    drain::Drain,
    file::Folder,
    gaps::Gaps,
    meters::SpoolMeters,
    record::Line,
    writer::{Job, Room, Writer},
};
pub(super) use self::{meters::declare, record::Entry, waiting::Waiting};
use super::{ContextConfig, OpenError, Store, cache::SessionCache};
use crate::api::{Begun, Claim, Clock, Commit, Incident, Meters, SessionKey, Tenant, TurnError};

/// How long the disk may take to keep a turn.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// Most jobs that wait for the writer; more wait for room.
const MAX_JOBS: usize = 1024;

/// Where turns wait while the store is away.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    /// Most bytes of turns that wait. They are in memory too, and the file may be twice as large.
    pub size: u64,
    /// Those whose turns, left by an earlier process, are taken up again.
    pub tenants: Vec<Tenant>,
}

/// What waits, for operators.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SpoolStatus {
    /// Turns.
    pub turns: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Most bytes.
    pub most: u64,
}

/// The spool, open. Dropping it closes its folder.
pub(super) struct Spool {
    waiting: Arc<Waiting>,
    drain: Arc<Drain>,
    most: u64,
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Spool {
    /// Opens the folder and begins to store what an earlier process left in it. Blocks on the disk.
    pub(super) fn open(
        config: &SpoolConfig,
        context: &ContextConfig,
        store: Arc<dyn Store>,
        cache: Arc<SessionCache>,
        clock: Clock,
        meters: &Meters,
    ) -> Result<Self, OpenError> {
        let storage = |e: std::io::Error| OpenError::Storage { dir: context.dir.clone(), cause: e.to_string() };
        let waiting = Arc::new(Waiting::default());
        let writer = take_up(config, &context.dir, &waiting, meters)?;
        meters::watch(&waiting, meters);
        let (jobs, queue) = mpsc::channel(MAX_JOBS);
        let (keep, gaps) = (context.history_keep, Gaps::new(meters));
        let drain = Arc::new(Drain { store, cache, waiting: waiting.clone(), jobs, clock, keep, gaps });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(storage)?;
        let (stop, stopped) = oneshot::channel();
        let (handle, recovery) = (runtime.handle().clone(), drain.clone());
        let run = move || {
            runtime.block_on(async {
                tokio::spawn(recovery.run());
                tokio::select! {
                    () = writer.run(queue) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("spool".into()).spawn(run).map_err(storage)?;
        Ok(Self { waiting, drain, most: config.size, runtime: handle, stop: Some(stop), thread: Some(thread) })
    }

    /// What waits.
    pub(super) fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// Keeps a turn: it is on the disk when this returns.
    ///
    /// # Errors
    /// There is no room, or the disk does not take it.
    pub(super) async fn keep(&self, begun: &Begun, commit: Commit) -> Result<(), TurnError> {
        let state = &begun.state;
        let entry = Entry {
            number: 0,
            key: begun.key.clone(),
            epoch: state.epoch,
            seq: state.seq,
            place: state.turns.last().map_or(state.seq, |turn| turn.seq.max(state.seq)) + 1,
            commit,
            claim: begun.claim.as_ref().map(|claim| Claim { key: claim.key.clone(), ..*claim }),
            size: 0,
        };
        let late = |_| Err(TurnError::Unavailable("the spool's disk does not answer".into()));
        timeout(PATIENCE, self.ask(|reply| Job::Append(Box::new(entry), reply))).await.unwrap_or_else(late)?
    }

    /// Stores what waits of a session, so that its next turn comes after it.
    ///
    /// # Errors
    /// The store is still away, or somebody else has the session.
    pub(super) async fn settle(&self, key: &SessionKey, wait: Duration) -> Result<(), TurnError> {
        let Some(storing) = self.waiting.storing(key.user()) else { return Ok(()) };
        let asked = Instant::now();
        let mut alone = timeout(wait, storing.lock_owned()).await.map_err(|_| TurnError::InProgress)?;
        // Who had to wait while another one found the store to be away does not find it out once more.
        if let Some((when, away)) = &*alone
            && *when >= asked
        {
            return Err(away.clone());
        }
        let (drain, key) = (self.drain.clone(), key.clone());
        // Not on the caller's thread, where it could end in the middle.
        let settled = self.runtime.spawn(async move { drain.user(key.user(), Some(&key), wait, &mut alone).await });
        settled.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Whether a conversation's user is to be told, once, that turns were lost before those that waited.
    pub(super) fn take_gap(&self, key: &SessionKey) -> bool {
        self.drain.gaps.take(key)
    }

    /// Drops what waits of an erased session or user.
    pub(super) async fn forget(&self, erased: &[u8]) {
        // On a closed spool there is nobody to forget it for.
        let _ = self.ask(|reply| Job::Forget(erased.into(), reply)).await;
    }

    pub(super) fn status(&self) -> SpoolStatus {
        let loads = self.waiting.loads();
        SpoolStatus { turns: loads.values().map(|l| l.turns).sum(), bytes: loads.values().map(|l| l.bytes).sum(), most: self.most }
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Result<T, TurnError> {
        let (reply, answer) = oneshot::channel();
        self.drain.jobs.send(job(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread of the spool panicked");
        }
    }
}

fn closed() -> TurnError {
    TurnError::Unavailable("the spool is closed".into())
}

/// Takes up what an earlier process left. What cannot be stored by this one goes into the file of refused turns.
fn take_up(config: &SpoolConfig, dir: &Path, waiting: &Arc<Waiting>, meters: &Meters) -> Result<Writer, OpenError> {
    let storage = |e: std::io::Error| OpenError::Storage { dir: dir.to_owned(), cause: e.to_string() };
    let (folder, bytes) = Folder::open(dir)?;
    let found = file::scan(&bytes);
    let (mut lines, mut unread, mut next) = (BTreeMap::new(), found.damaged, 1);
    for record in found.records {
        match Line::decode(record, &config.tenants) {
            Some(Line::Waits(entry)) => drop(lines.insert(entry.number, Ok(entry))),
            Some(Line::Foreign(number)) => drop(lines.insert(number, Err(record))),
            Some(Line::Done(number)) => drop(lines.remove(&number)),
            None => unread.push(record),
        }
        next = next.max(lines.last_key_value().map_or(0, |(number, _)| number + 1));
    }
    let mut refused = Vec::new();
    let (mut room, mut foreign) = (Room::new(config.size), 0);
    for line in lines.into_values() {
        match line {
            Ok(entry) => {
                room.count(&entry);
                waiting.push(entry);
            }
            Err(record) => {
                foreign += 1;
                record::put_frame(&mut refused, record);
            }
        }
    }
    let damaged: usize = unread.iter().map(|bytes| bytes.len()).sum();
    unread.into_iter().for_each(|bytes| refused.extend_from_slice(bytes));
    let meters = SpoolMeters::new(meters);
    meters.left_behind(foreign as u64, damaged as u64);
    if !refused.is_empty() {
        folder.refuse(&refused, config.size).map_err(storage)?;
    }
    if damaged + found.torn + foreign > 0 {
        Incident::SpoolDamaged { damaged, torn: found.torn, foreign }.log();
    }
    let mut writer = Writer { folder, waiting: waiting.clone(), meters, room, next, outdated: false, erased: Vec::new(), complained: None };
    writer.tidy().map_err(storage)?;
    Ok(writer)
}
