//! Redis Cluster: which server has a key, followed as slots and primaries move.
//!
//! The redis crate's own cluster connection is not used: while it asks for the slots it holds all calls up, behind whatever server does
//! not answer, and it sends to another server, or a replica, what a primary that is gone was to get. Here every primary is a [`Node`] of
//! its own, so that one that is gone costs its users only.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use redis::{ErrorKind, RedisError, ServerErrorKind, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    call::{Answer, Call},
    dial::Address,
    fault::{Failure, said},
    node::{Around, Node, State},
    place::Place,
    slots,
};

/// How often the slots are asked for while all is well, while something is not, and at most.
const CALM: Duration = Duration::from_secs(10);
const TROUBLED: Duration = Duration::from_millis(250);
const LEAST: Duration = Duration::from_millis(50);
/// How often a call is sent on to another server, with no pause between, before it fails.
const HOPS: usize = 8;
/// The pause of a call that has some of its keys on either side of a slot's move, at least.
const SPLIT: Duration = Duration::from_millis(10);
/// How long a call may take beyond its time while its keys move: its servers do answer, and it will be done soon. With the default timeout
/// that is a second, which leaves a turn the time of its model.
const MOVING: Duration = Duration::from_millis(500);

/// A cluster.
pub(super) struct Cluster {
    seeds: Vec<Address>,
    around: Arc<Around>,
    map: RwLock<Arc<Map>>,
    /// Why there is no map yet; none once there is one.
    known: watch::Sender<Option<Arc<str>>>,
    /// Told when the map was seen to be behind.
    stale: Notify,
}

/// Who has which slots.
#[derive(Default)]
struct Map {
    /// First and last slot and their primary, sorted.
    ranges: Vec<(u16, u16, Arc<Node>)>,
    nodes: HashMap<Address, Arc<Node>>,
}

impl Map {
    fn primary(&self, slot: u16) -> Option<&Arc<Node>> {
        let (first, last, node) = &self.ranges[self.ranges.partition_point(|(first, ..)| *first <= slot).checked_sub(1)?];
        (*first <= slot && slot <= *last).then_some(node)
    }
}

/// What a server says instead of an answer.
enum Elsewhere {
    /// The slot is there.
    Moved(Address),
    /// The slot is going there, and so are these keys.
    Ask(Address),
    /// Later, for some of the keys have gone and others not; or where, the map has to say.
    Split,
}

impl Cluster {
    pub(super) fn new(seeds: Vec<Address>, around: Arc<Around>) -> Self {
        let known = watch::Sender::new(Some("not connected yet".into()));
        Self { seeds, around, map: RwLock::default(), known, stale: Notify::new() }
    }

    /// Why no map is known, if none is.
    pub(super) fn unknown(&self) -> Option<Arc<str>> {
        self.known.borrow().clone()
    }

    /// The primaries.
    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        self.map().nodes.values().cloned().collect()
    }

    /// Sends a call to the primary that has its keys, wherever that is, and waits so long for its answer; while the keys move, [`MOVING`]
    /// longer.
    pub(super) async fn call(&self, call: &Call<'_>, time: Duration) -> Result<Answer, Failure> {
        let slot = call.keys.first().map_or(0, |key| slots::slot(key));
        let mut deadline = Instant::now() + time;
        let end = deadline + MOVING;
        loop {
            let result = self.hop(call, slot, deadline).await;
            let is_split = matches!(&result, Err(Failure::Redis(error)) if matches!(elsewhere(error), Some(Elsewhere::Split)));
            if !is_split || Instant::now() >= end {
                return result;
            }
            sleep(SPLIT + SPLIT.mul_f64(fastrand::f64())).await;
            deadline = end.min(Instant::now() + time);
        }
    }

    /// Sends a call to where its slot is said to be, and on from there.
    async fn hop(&self, call: &Call<'_>, slot: u16, deadline: Instant) -> Result<Answer, Failure> {
        let (mut node, mut asking) = (self.primary(slot, deadline).await?, false);
        for _ in 0..HOPS {
            let result = node.call(call, asking, deadline).await;
            let Err(Failure::Redis(error)) = &result else { return result };
            if is_of_map(error) {
                self.stale.notify_one();
            }
            (node, asking) = match elsewhere(error) {
                Some(Elsewhere::Moved(to)) => (self.node(&to), false),
                Some(Elsewhere::Ask(to)) => (self.node(&to), true),
                Some(Elsewhere::Split) | None => return result,
            };
        }
        node.call(call, asking, deadline).await
    }

    /// Follows the cluster, for ever.
    pub(super) async fn follow(self: Arc<Self>) {
        loop {
            match self.ask().await {
                Ok(ranges) => self.install(ranges),
                Err(reason) => self.known.send_modify(|known| *known = known.take().map(|_| reason.into())),
            }
            self.around.changed.notify_one();
            sleep(LEAST).await;
            let pause = if self.is_calm() { CALM } else { TROUBLED };
            let _ = timeout(pause, self.stale.notified()).await;
        }
    }

    /// Told that the state of some primary has changed.
    pub(super) fn look_again(&self) {
        if !self.is_calm() {
            self.stale.notify_one();
        }
    }

    fn is_calm(&self) -> bool {
        let nodes = self.nodes();
        !nodes.is_empty() && nodes.iter().all(|node| matches!(node.state(), State::Up(_)))
    }

    fn map(&self) -> Arc<Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits only for the first map.
    async fn primary(&self, slot: u16, deadline: Instant) -> Result<Arc<Node>, Failure> {
        if let Some(node) = self.map().primary(slot) {
            return Ok(node.clone());
        }
        let _ = timeout_at(deadline, self.known.subscribe().wait_for(Option::is_none)).await;
        self.map().primary(slot).cloned().ok_or_else(|| Failure::Down("no primary is known for the slot".into()))
    }

    /// A server that another one named: if it is not in the map, it will be in the next.
    fn node(&self, address: &Address) -> Arc<Node> {
        if let Some(node) = self.map().nodes.get(address) {
            return node.clone();
        }
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let mut nodes = map.nodes.clone();
        let make = || Arc::new(Node::new(Arc::new(Place::Fixed(address.clone())), self.around.clone()));
        let node = nodes.entry(address.clone()).or_insert_with(make).clone();
        *map = Arc::new(Map { ranges: map.ranges.clone(), nodes });
        node
    }

    fn install(&self, ranges: Vec<(u16, u16, Address)>) {
        let before = self.map();
        let mut map = Map::default();
        for (first, last, address) in ranges {
            let make = || Arc::new(Node::new(Arc::new(Place::Fixed(address.clone())), self.around.clone()));
            let node = map.nodes.entry(address.clone()).or_insert_with(|| before.nodes.get(&address).cloned().unwrap_or_else(make));
            map.ranges.push((first, last, node.clone()));
        }
        map.ranges.sort_unstable_by_key(|(first, ..)| *first);
        *self.map.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(map);
        self.known.send_if_modified(|known| known.take().is_some());
    }

    /// The slots as the first server has them that answers: a primary that is up, or else one of the seeds.
    async fn ask(self: &Arc<Self>) -> Result<Vec<(u16, u16, Address)>, String> {
        let mut asked = JoinSet::new();
        for node in self.nodes() {
            if let State::Up(open) = node.state() {
                let (connection, address, time) = (open.connection.clone(), open.address.clone(), self.around.dial.timeout);
                asked.spawn(async move { slots_of(connection, &address, time).await });
            }
        }
        if asked.is_empty() {
            for address in self.seeds.clone() {
                let around = self.around.clone();
                asked.spawn(async move {
                    let connection = around.dial.connect(&address, |_| ()).await?;
                    slots_of(connection, &address, around.dial.timeout).await
                });
            }
        }
        let mut failure = String::new();
        while let Some(answer) = asked.join_next().await {
            match answer.expect("asking neither panics nor is aborted") {
                Ok(ranges) => return Ok(ranges),
                Err(reason) => failure = reason,
            }
        }
        Err(failure)
    }
}

/// What `CLUSTER SLOTS` says: first and last slot, and then the servers, the primary first, as host, port and more.
async fn slots_of(mut connection: MultiplexedConnection, address: &Address, time: Duration) -> Result<Vec<(u16, u16, Address)>, String> {
    let named = |what: &str| format!("{}:{}: {what}", address.0, address.1);
    let mut cmd = redis::cmd("CLUSTER");
    let asked = timeout(time, cmd.arg("SLOTS").query_async::<Vec<Vec<Value>>>(&mut connection)).await;
    let ranges = asked.map_err(|_| named("no answer in time"))?.map_err(|error| named(&said(&error)))?;
    let read = |range: Vec<Value>| {
        let mut range = range.into_iter();
        let number = |value: Option<Value>| redis::from_redis_value::<u16>(value?).ok();
        let (first, last) = (number(range.next())?, number(range.next())?);
        let mut primary = redis::from_redis_value::<Vec<Value>>(range.next()?).ok()?.into_iter();
        // Without a host it is the one that answered.
        let host = redis::from_redis_value::<Option<String>>(primary.next()?).ok()?.filter(|host| !host.is_empty());
        Some((first, last, (host.map_or_else(|| address.0.clone(), Into::into), number(primary.next())?)))
    };
    let ranges: Option<Vec<_>> = ranges.into_iter().map(read).collect();
    ranges.filter(|ranges| !ranges.is_empty()).ok_or_else(|| named("it has no slots"))
}

fn elsewhere(error: &RedisError) -> Option<Elsewhere> {
    let to = || {
        let (host, port) = error.redirect_node()?.0.rsplit_once(':')?;
        (!host.is_empty()).then_some((host.into(), port.parse().ok()?))
    };
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::Moved) => Some(to().map_or(Elsewhere::Split, Elsewhere::Moved)),
        ErrorKind::Server(ServerErrorKind::Ask) => Some(to().map_or(Elsewhere::Split, Elsewhere::Ask)),
        ErrorKind::Server(ServerErrorKind::TryAgain) => Some(Elsewhere::Split),
        _ => None,
    }
}

/// Whether an error says that the slots are with others than we think.
fn is_of_map(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::ClusterDown))
}
