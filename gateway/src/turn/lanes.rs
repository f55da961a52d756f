//! Messages of one session run one after the other, and copies of one message run once: the order inside this process.
//!
//! A lane is a session with a message in it. Copies of a message wait for the outcome of the first; other messages queue.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use fengda_plugins::api::{SessionKey, Text};
use tokio::sync::{oneshot, watch};

/// Locks are taken for a map operation only; this many of them keep threads apart.
const SHARDS: usize = 64;

/// All sessions that have messages in this process. `T` is the outcome of a message.
pub struct Lanes<T> {
    shards: Box<[Mutex<Shard<T>>]>,
    hasher: RandomState,
    next_id: AtomicU64,
}

type Shard<T> = HashMap<SessionKey, Lane<T>>;

struct Lane<T> {
    running: Ticket<T>,
    waiting: VecDeque<Ticket<T>>,
}

struct Ticket<T> {
    id: u64,
    message_id: Text,
    q: Text,
    outcome: watch::Receiver<Option<T>>,
    /// Tells a waiting message that it is its turn.
    go: Option<oneshot::Sender<()>>,
}

/// What becomes of a message that enters its session's lane.
pub enum Entry<T: Clone> {
    /// It is the first of its id: it runs when its turn comes.
    Lead(Place<T>),
    /// A copy of it is ahead; this is where that one's outcome appears.
    Join(watch::Receiver<Option<T>>),
}

/// Why a message may not enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneError {
    /// As many messages wait as may.
    Full,
    /// A message with this id and another question is ahead.
    MessageIdReused,
}

impl<T: Clone> Lanes<T> {
    /// No sessions yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new(), next_id: AtomicU64::new(0) })
    }

    /// Puts a message into its session's lane, where at most `depth` wait behind the one that runs.
    ///
    /// # Errors
    /// The lane is full, or the id is in it with another question.
    pub fn enter(self: &Arc<Self>, key: &SessionKey, message_id: &Text, q: &Text, depth: usize) -> Result<Entry<T>, LaneError> {
        let mut shard = self.shard(key);
        let Some(lane) = shard.get_mut(key) else {
            let (place, ticket) = self.place(key, message_id, q, None);
            shard.insert(key.clone(), Lane { running: ticket, waiting: VecDeque::new() });
            return Ok(Entry::Lead(place));
        };
        if let Some(ahead) = std::iter::once(&lane.running).chain(&lane.waiting).find(|t| t.message_id == *message_id) {
            return if ahead.q == *q { Ok(Entry::Join(ahead.outcome.clone())) } else { Err(LaneError::MessageIdReused) };
        }
        if lane.waiting.len() >= depth {
            return Err(LaneError::Full);
        }
        let (go, wait) = oneshot::channel();
        let (place, mut ticket) = self.place(key, message_id, q, Some(wait));
        ticket.go = Some(go);
        lane.waiting.push_back(ticket);
        Ok(Entry::Lead(place))
    }

    /// Messages in all lanes, running and waiting.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| lock(s).values().map(|l| 1 + l.waiting.len()).sum::<usize>()).sum()
    }

    /// Whether no message is in any lane.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn place(
        self: &Arc<Self>,
        key: &SessionKey,
        message_id: &Text,
        q: &Text,
        turn: Option<oneshot::Receiver<()>>,
    ) -> (Place<T>, Ticket<T>) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (outcome, seen) = watch::channel(None);
        let place = Place { lanes: self.clone(), key: key.clone(), id, turn, outcome };
        (place, Ticket { id, message_id: message_id.clone(), q: q.clone(), outcome: seen, go: None })
    }

    fn shard(&self, key: &SessionKey) -> MutexGuard<'_, Shard<T>> {
        let index = self.hasher.hash_one(key) % self.shards.len() as u64;
        lock(&self.shards[usize::try_from(index).expect("less than the number of shards")])
    }
}

/// No code that may panic runs under these locks, so a poisoned one still guards a whole map.
fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A message's place in its lane. Dropping it, with an outcome or without, lets the next one go.
pub struct Place<T: Clone> {
    lanes: Arc<Lanes<T>>,
    key: SessionKey,
    id: u64,
    turn: Option<oneshot::Receiver<()>>,
    outcome: watch::Sender<Option<T>>,
}

impl<T: Clone> Place<T> {
    /// Where the outcome will appear; the channel closes without one if the turn is given up.
    pub fn outcome(&self) -> watch::Receiver<Option<T>> {
        self.outcome.subscribe()
    }

    /// Whether there are messages ahead.
    pub fn is_behind(&self) -> bool {
        self.turn.is_some()
    }

    /// Waits until all messages ahead are done.
    pub async fn wait(&mut self) {
        if let Some(turn) = self.turn.take() {
            // The sender lives in the lane until this place is at the front or gone.
            let _ = turn.await;
        }
    }

    /// Gives the outcome to everybody who waits for it, then leaves the lane.
    pub fn finish(self, outcome: T) {
        self.outcome.send_replace(Some(outcome));
    }
}

impl<T: Clone> Drop for Place<T> {
    fn drop(&mut self) {
        let mut shard = self.lanes.shard(&self.key);
        let Some(lane) = shard.get_mut(&self.key) else { return };
        if lane.running.id != self.id {
            lane.waiting.retain(|t| t.id != self.id);
            return;
        }
        match lane.waiting.pop_front() {
            None => drop(shard.remove(&self.key)),
            Some(mut next) => {
                let go = next.go.take();
                lane.running = next;
                drop(shard);
                // A receiver that is gone is about to drop its place, which comes through here again.
                go.map(|go| go.send(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fengda_plugins::api::Tenant;

    use super::*;

    fn key(session: &str) -> SessionKey {
        Tenant::from_config("t").unwrap().user("u").unwrap().session(session).unwrap()
    }

    fn lead(lanes: &Arc<Lanes<u32>>, session: &str, id: &str) -> Place<u32> {
        match lanes.enter(&key(session), &id.into(), &"q".into(), 2) {
            Ok(Entry::Lead(place)) => place,
            Ok(Entry::Join(_)) => panic!("joined"),
            Err(e) => panic!("{e:?}"),
        }
    }

    #[tokio::test]
    async fn messages_of_a_session_go_in_order_of_arrival() {
        let lanes = Lanes::new();
        let (mut a, mut b, mut c) = (lead(&lanes, "s", "1"), lead(&lanes, "s", "2"), lead(&lanes, "s", "3"));
        a.wait().await;
        let mut other = lead(&lanes, "other", "1");
        other.wait().await;
        {
            let mut second = std::pin::pin!(b.wait());
            assert!(futures_poll(second.as_mut()).is_none());
            a.finish(1);
            second.await;
        }
        drop(b);
        c.wait().await;
        drop(c);
        drop(other);
        assert!(lanes.is_empty());
    }

    #[tokio::test]
    async fn copies_get_the_outcome_of_the_first() {
        let lanes = Lanes::new();
        let mut a = lead(&lanes, "s", "1");
        a.wait().await;
        let Ok(Entry::Join(mut copy)) = lanes.enter(&key("s"), &"1".into(), &"q".into(), 0) else { panic!() };
        assert_eq!(lanes.enter(&key("s"), &"1".into(), &"other".into(), 0).err(), Some(LaneError::MessageIdReused));
        a.finish(7);
        assert_eq!(*copy.wait_for(Option::is_some).await.unwrap(), Some(7));
    }

    #[tokio::test]
    async fn a_full_lane_refuses_and_a_message_that_gives_up_makes_room() {
        let lanes = Lanes::new();
        let a = lead(&lanes, "s", "1");
        let b = lead(&lanes, "s", "2");
        assert_eq!(lanes.enter(&key("s"), &"3".into(), &"q".into(), 1).err(), Some(LaneError::Full));
        drop(b);
        let mut c = lead(&lanes, "s", "3");
        let mut given_up = a.outcome();
        drop(a);
        assert!(given_up.wait_for(Option::is_some).await.is_err());
        c.wait().await;
    }

    #[tokio::test]
    async fn a_message_whose_waiter_vanished_at_its_turn_does_not_block_the_next() {
        let lanes = Lanes::new();
        let (a, b) = (lead(&lanes, "s", "1"), lead(&lanes, "s", "2"));
        let mut c = lead(&lanes, "s", "3");
        a.finish(1);
        drop(b);
        c.wait().await;
    }

    fn futures_poll<F: Future>(f: std::pin::Pin<&mut F>) -> Option<F::Output> {
        match f.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(v) => Some(v),
            std::task::Poll::Pending => None,
        }
    }
}
