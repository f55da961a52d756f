//! Who holds which session, and which version of it is current: what a hot turn needs, without the disk.
//!
//! Only this process writes the directory, so what stands here is right; what does not is on the disk. Claims live here alone:
//! they die with the process, as the turns that held them do.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use super::records::{SessionHead, UserHead, user_of};
use crate::api::{Claim, Clock, SessionKey, SessionState, Timestamp, Version};

/// Most messages that wait for one session.
pub(super) const MAX_WAITERS: usize = 128;
/// Independent parts of the table; a user's sessions are all in one.
const SHARDS: usize = 64;
/// Most sessions of a shard, and most users, beyond those in use. At about 250 bytes each, 16 MiB in all.
const SHARD_SIZE: usize = 1024;

/// The sessions of this process.
pub(super) struct Table {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    clock: Clock,
    /// Fences and versions are drawn from one counter that never repeats in the directory's life.
    stamps: AtomicU64,
}

#[derive(Default)]
struct Shard {
    sessions: HashMap<Box<[u8]>, Session>,
    users: HashMap<Box<[u8]>, UserHead>,
    /// Writes to the disk so far: a head read before one and noted after it would be old.
    writes: u64,
}

#[derive(Default)]
struct Session {
    head: Option<SessionHead>,
    lease: Option<Lease>,
    queue: VecDeque<Waiter>,
}

/// How long a claim stands.
#[derive(Clone, Copy)]
pub(super) struct Term {
    /// As it was asked for.
    pub(super) until: Timestamp,
    /// The same on [`Clock::monotonic`], which decides: a step of the machine's clock ends no turn.
    pub(super) lapses: Duration,
}

/// A claim, as the table knows it.
#[derive(Clone, Copy)]
struct Lease {
    fence: u64,
    /// On [`Clock::monotonic`].
    lapses: Duration,
    /// Its commit is being written: it neither lapses nor is given up.
    spending: bool,
}

/// Somebody in a session's queue.
struct Waiter {
    key: SessionKey,
    term: Term,
    turn: oneshot::Sender<Held>,
}

/// A claim that gives itself up unless it is [taken out](Held::into_claim).
pub(super) struct Held {
    table: Arc<Table>,
    /// Empty when it was taken out.
    claim: Option<Claim>,
    /// The session as the previous holder's commit left it.
    pub(super) state: Option<Arc<SessionState>>,
}

/// A place in a session's queue; dropping it gives it up.
pub(super) struct Place {
    /// Yields the claim.
    pub(super) turn: oneshot::Receiver<Held>,
    /// When the present holder's claim lapses, on [`Clock::monotonic`].
    pub(super) lapses: Duration,
}

/// What comes of asking for a session.
pub(super) enum Asked {
    /// It was free.
    Held(Held),
    /// It is somebody's.
    Queued(Place),
    /// So many wait for it already that one more would be too many.
    Full,
}

/// A claim on its way to the next in line. Sent without the lock: if nobody is there any more, it comes back to the table.
#[must_use]
struct Handover(Option<(oneshot::Sender<Held>, Held)>);

impl Table {
    /// `generation` is greater each time the directory is opened; each has room for 2⁴⁴ stamps.
    pub(super) fn new(generation: u64, clock: Clock) -> Arc<Self> {
        let shards = std::iter::repeat_with(Mutex::default).take(SHARDS).collect();
        Arc::new(Self { shards, hasher: RandomState::new(), clock, stamps: AtomicU64::new(generation << 44) })
    }

    /// A number greater than all before.
    pub(super) fn stamp(&self) -> u64 {
        self.stamps.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Claims a session or queues for it. Also says which version is current, if that is known.
    pub(super) fn ask(self: &Arc<Self>, key: &SessionKey, term: Term) -> (Asked, Option<Version>) {
        let (now, time) = (self.clock.now(), self.clock.monotonic());
        let mut shard = self.shard(key.user().as_bytes());
        let current = shard.version(key, now);
        let session = shard.session(key.as_bytes(), time);
        let free = session.lease.is_none_or(|lease| !lease.stands(time));
        if free && session.queue.is_empty() {
            return (Asked::Held(self.lease(session, key, term, None)), current);
        }
        if session.queue.len() >= MAX_WAITERS {
            session.queue.retain(|waiter| !waiter.turn.is_closed());
        }
        if session.queue.len() >= MAX_WAITERS {
            return (Asked::Full, current);
        }
        let (sender, turn) = oneshot::channel();
        session.queue.push_back(Waiter { key: key.clone(), term, turn: sender });
        let handover = if free { self.next(session, None) } else { Handover(None) };
        let lapses = session.lease.map_or(time, |lease| lease.lapses);
        drop(shard);
        handover.send();
        (Asked::Queued(Place { turn, lapses }), current)
    }

    /// Lets the next in line have a session whose claim has lapsed. Says when the claim that then holds it lapses.
    pub(super) fn pass_on_lapsed(self: &Arc<Self>, key: &SessionKey) -> Duration {
        let time = self.clock.monotonic();
        let mut shard = self.shard(key.user().as_bytes());
        let session = shard.session(key.as_bytes(), time);
        let lapsed = session.lease.is_none_or(|lease| !lease.stands(time));
        let handover = if lapsed { self.next(session, None) } else { Handover(None) };
        let lapses = session.lease.map_or(time, |lease| lease.lapses);
        drop(shard);
        handover.send();
        lapses
    }

    /// Gives up a claim; one that is not the session's present claim, or is being spent, stays as it is.
    pub(super) fn give_up(self: &Arc<Self>, claim: &Claim) {
        let mut shard = self.shard(claim.key.user().as_bytes());
        let Some(session) = shard.sessions.get_mut(claim.key.as_bytes()) else { return };
        if session.lease.is_some_and(|lease| lease.fence == claim.fence && !lease.spending) {
            let handover = self.next(session, None);
            drop(shard);
            handover.send();
        }
    }

    /// Which version is current, if that is known, and a note for [`learn`](Self::learn).
    pub(super) fn current(&self, key: &SessionKey) -> (Option<Version>, u64) {
        let now = self.clock.now();
        let shard = self.shard(key.user().as_bytes());
        (shard.version(key, now), shard.writes)
    }

    /// Notes heads read from the disk, unless something was written since [`current`](Self::current) gave `writes`.
    pub(super) fn learn(&self, key: &SessionKey, head: SessionHead, user: UserHead, writes: u64) {
        let time = self.clock.monotonic();
        let mut shard = self.shard(key.user().as_bytes());
        if shard.writes == writes {
            shard.session(key.as_bytes(), time).head = Some(head);
            shard.users.insert(key.user().as_bytes().into(), user);
        }
    }

    /// Whether a claim stands.
    pub(super) fn holds(&self, claim: &Claim) -> bool {
        let shard = self.shard(claim.key.user().as_bytes());
        shard.lease(claim.key.as_bytes()).is_some_and(|lease| lease.fence == claim.fence)
    }

    /// Whether anybody holds a session.
    pub(super) fn is_claimed(&self, session: &[u8]) -> bool {
        let time = self.clock.monotonic();
        self.shard(user_of(session)).lease(session).is_some_and(|lease| lease.stands(time))
    }

    /// Marks a live claim as being spent, so that it cannot lapse while its commit is written. `None` if it is lost or being spent.
    /// The heads are given as far as they are known.
    pub(super) fn spend(&self, claim: &Claim) -> Option<(Option<SessionHead>, Option<UserHead>)> {
        let time = self.clock.monotonic();
        let mut shard = self.shard(claim.key.user().as_bytes());
        let user = shard.users.get(claim.key.user().as_bytes()).copied();
        let session = shard.sessions.get_mut(claim.key.as_bytes())?;
        let lease = session.lease.as_mut().filter(|lease| lease.fence == claim.fence && lease.lapses > time && !lease.spending)?;
        lease.spending = true;
        Some((session.head, user))
    }

    /// Takes note of a commit: the claim is spent, the next in line gets the session as it is now.
    pub(super) fn committed(self: &Arc<Self>, key: &SessionKey, (head, user): (SessionHead, UserHead), state: &Arc<SessionState>) {
        let time = self.clock.monotonic();
        let mut shard = self.shard(key.user().as_bytes());
        shard.writes += 1;
        shard.users.insert(key.user().as_bytes().into(), user);
        let session = shard.session(key.as_bytes(), time);
        session.head = Some(head);
        let handover = self.next(session, Some(state));
        drop(shard);
        handover.send();
    }

    /// Takes note of a commit that was not written, or perhaps was: the claim stands, what the disk holds is unknown.
    pub(super) fn unspend(&self, key: &SessionKey) {
        let mut shard = self.shard(key.user().as_bytes());
        shard.writes += 1;
        shard.users.remove(key.user().as_bytes());
        if let Some(session) = shard.sessions.get_mut(key.as_bytes()) {
            session.head = None;
            if let Some(lease) = &mut session.lease {
                lease.spending = false;
            }
        }
    }

    /// Takes note that sessions whose keys begin with `prefix`, and their user, were written behind the claims' backs.
    /// With `revoke`, claims on them are lost and the next in line get them.
    pub(super) fn forget(self: &Arc<Self>, prefix: &[u8], revoke: bool) {
        let mut guard = self.shard(user_of(prefix));
        let shard = &mut *guard;
        shard.writes += 1;
        shard.users.remove(user_of(prefix));
        let mut handovers = Vec::new();
        for (_, session) in shard.sessions.iter_mut().filter(|(key, _)| key.starts_with(prefix)) {
            session.head = None;
            if revoke {
                handovers.push(self.next(session, None));
            }
        }
        drop(guard);
        handovers.into_iter().for_each(Handover::send);
    }

    /// Takes note that the directory was opened again after a failure: what it holds is unknown. Claims stand.
    pub(super) fn forget_all(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.writes += 1;
            shard.users.clear();
            shard.sessions.values_mut().for_each(|session| session.head = None);
        }
    }

    fn shard(&self, user: &[u8]) -> MutexGuard<'_, Shard> {
        let hash = usize::try_from(self.hasher.hash_one(user) % SHARDS as u64).expect("below the number of shards");
        self.shards[hash].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the session's claim and makes one for the first in line who is still there.
    fn next(self: &Arc<Self>, session: &mut Session, state: Option<&Arc<SessionState>>) -> Handover {
        session.lease = None;
        while let Some(waiter) = session.queue.pop_front() {
            if !waiter.turn.is_closed() {
                return Handover(Some((waiter.turn, self.lease(session, &waiter.key, waiter.term, state.cloned()))));
            }
        }
        Handover(None)
    }

    fn lease(self: &Arc<Self>, session: &mut Session, key: &SessionKey, term: Term, state: Option<Arc<SessionState>>) -> Held {
        let fence = self.stamp();
        session.lease = Some(Lease { fence, lapses: term.lapses, spending: false });
        Held { table: self.clone(), claim: Some(Claim { key: key.clone(), fence, until: term.until }), state }
    }
}

impl Lease {
    /// Whether nobody else can have the session yet.
    fn stands(self, time: Duration) -> bool {
        self.spending || self.lapses > time
    }
}

impl Shard {
    /// The session's entry. A full shard first forgets all that are not in use: the disk knows them.
    fn session(&mut self, key: &[u8], time: Duration) -> &mut Session {
        if !self.sessions.contains_key(key) {
            if self.sessions.len() >= SHARD_SIZE || self.users.len() >= SHARD_SIZE {
                self.sessions.retain(|_, s| s.lease.is_some_and(|lease| lease.stands(time)) || !s.queue.is_empty());
                self.users.clear();
            }
            self.sessions.insert(key.into(), Session::default());
        }
        self.sessions.get_mut(key).expect("just inserted")
    }

    fn lease(&self, session: &[u8]) -> Option<Lease> {
        self.sessions.get(session)?.lease
    }

    fn version(&self, key: &SessionKey, now: Timestamp) -> Option<Version> {
        let session = self.sessions.get(key.as_bytes())?.head?.live(now).version;
        let user = self.users.get(key.user().as_bytes())?.live(now).version;
        Some(Version { session, user })
    }
}

impl Held {
    /// Whether the claim was not lost since.
    pub(super) fn stands(&self) -> bool {
        self.claim.as_ref().is_some_and(|claim| self.table.holds(claim))
    }

    /// The claim, from now on the caller's to spend or give up.
    pub(super) fn into_claim(mut self) -> Claim {
        self.claim.take().expect("taken only here, which consumes it")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(claim) = &self.claim {
            self.table.give_up(claim);
        }
    }
}

impl Handover {
    fn send(self) {
        if let Some((turn, held)) = self.0 {
            drop(turn.send(held)); // a claim that comes back is given up by being dropped
        }
    }
}
