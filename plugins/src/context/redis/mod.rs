//! Conversations on Redis, for many gateways: every step of a turn is one script on the primary that has its user's keys.
//!
//! | key, after `fengda:{tenant/user}` | type | what |
//! |---|---|---|
//! | `:s:`session | hash | head `h` (version, number, count, epochs, expiry), what the flow keeps `d`: slots, journal |
//! | `:t:`session | list | id and record of each kept turn, oldest first; a record ends with the version that its commit made |
//! | `:c:`session | string | the claim |
//! | `:w:`session | list | gateways that wait for it |
//! | `:u` | hash | head `h` (epoch, version, count, expiry) and a field for each of the user's slots |
//! | `:i` | sorted set | the user's sessions by expiry |
//! | `:r:`limit | string | one of the user's limits |
//!
//! What only gateways read is a record of `codec`. What scripts read and write stands after a checksum over it and its key. All
//! of it expires. A script reads and checks before it writes, so it does all or nothing.

mod begin;
mod commit;
mod erase;
mod import;
mod keys;
mod lines;
mod reply;
mod scripts;
mod shortfall;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use redis::Value;

use self::{
    keys::{Parts, WAITING},
    lines::Lines,
    reply::{Reply, fault},
    scripts::{LOAD, RELEASE, WAKE},
    shortfall::Shortfall,
};
use super::{BeginRequest, Limits, Store, StoreBegin, Stored};
use crate::{
    api::{BoxFuture, Claim, Clock, Commit, Meters, SessionKey, SessionState, Step, Tenant, Turn, TurnError, UserKey, Version, WaitFor},
    redis::{Health, Listener, Redis, Script},
};

/// The pause before a release that failed is tried again.
const RETELL: Duration = Duration::from_millis(50);
/// How long that is tried.
const RETELL_FOR: Duration = Duration::from_mins(1);

/// Conversations on Redis, as one gateway sees them.
pub struct RedisStore(Arc<Inner>);

struct Inner {
    redis: Arc<Redis>,
    limits: Limits,
    clock: Clock,
    lines: Lines,
    shortfall: Shortfall,
}

impl RedisStore {
    /// Keeps conversations on a Redis. A manual clock is that of the scripts too; without one they go by the server's.
    pub fn new(redis: Arc<Redis>, limits: Limits, clock: Clock, meters: &Meters) -> Self {
        let limits = Limits { turns: limits.turns.max(1), ..limits };
        let inner = Arc::new(Inner { redis, limits, clock, lines: Lines::new(), shortfall: Shortfall::new(meters) });
        let listener: Arc<dyn Listener> = inner.clone();
        inner.redis.listen(Arc::downgrade(&listener));
        Self(inner)
    }
}

impl Inner {
    async fn run(&self, script: &Script, keys: &Parts, args: &Parts) -> Result<Value, TurnError> {
        self.redis.run(script, &keys.slices(), &args.slices()).await.map_err(fault)
    }

    /// The same for a tenant that may want it on replicas. Says whether they have it in time; if not, that is noted.
    async fn run_and_wait(
        &self,
        script: &Script,
        keys: &Parts,
        args: &Parts,
        tenant: &Tenant,
        wait: Option<WaitFor>,
    ) -> Result<(Value, bool), TurnError> {
        let Some(wanted) = wait else { return Ok((self.run(script, keys, args).await?, true)) };
        let WaitFor { replicas, timeout } = wanted;
        let waited = self.redis.run_and_wait(script, &keys.slices(), &args.slices(), replicas, timeout).await;
        let (reply, have) = waited.map_err(fault)?;
        if have < replicas {
            self.shortfall.note(tenant, wanted, have, &self.clock);
        }
        Ok((reply, have >= replicas))
    }

    /// Arguments that begin with the time, as every script's do.
    fn args(&self) -> Parts {
        let mut args = Parts::with_capacity(512, 24);
        args.add(|out| self.clock.manual_now().into_iter().for_each(|now| out.extend_from_slice(now.0.to_string().as_bytes())));
        args
    }

    /// The same, and how many turns are kept.
    fn args_with_turns(&self) -> Parts {
        let mut args = self.args();
        args.number(self.limits.turns as u64);
        args
    }

    fn keep(&self) -> u64 {
        u64::try_from(self.limits.keep.as_millis()).unwrap_or(u64::MAX).max(1)
    }

    async fn load(&self, key: &SessionKey, known: Option<&Arc<SessionState>>) -> Result<Option<Arc<SessionState>>, TurnError> {
        let mut args = self.args_with_turns();
        put_known(&mut args, known);
        let mut reply = Reply::of(self.run(&LOAD, &keys::session(key), &args).await?)?;
        match &*reply.bytes()? {
            b"unchanged" => Ok(None),
            _ => reply.state(key, known).map(Some),
        }
    }

    /// Gives up a claim in the background. What follows on the same session waits for that.
    fn release(self: &Arc<Self>, claim: &Claim) {
        let keys = keys::session(&claim.key);
        let mut args = self.args();
        args.number(claim.fence).bytes(b"");
        let (inner, releasing) = (self.clone(), self.lines.releasing(keys.get(WAITING)));
        self.redis.spawn(async move {
            let told = inner.run(&RELEASE, &keys, &args).await;
            inner.lines.released(keys.get(WAITING), releasing);
            if told.is_err() {
                inner.release_later(&keys, &args).await;
            }
        });
    }

    /// Has a claim released that Redis could not be told of, as soon as it can be: a server that stood still takes claims that were
    /// asked for before, and they block their sessions.
    async fn release_later(&self, keys: &Parts, args: &Parts) {
        let mut health = self.redis.health();
        let tell = async {
            loop {
                tokio::time::sleep(RETELL).await;
                let _ = health.wait_for(Health::is_up).await; // fails only when Redis is closed, and this task with it
                if self.run(&RELEASE, keys, args).await.is_ok() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(RETELL_FOR, tell).await; // later it lapses
    }

    /// Lets the next gateway know of a free session that nobody here waits for any more.
    fn pass_on(&self, waiting: &[u8]) {
        let (redis, key, args) = (self.redis.clone(), waiting.to_vec(), self.args());
        self.redis.spawn(async move {
            let keys = [&key[..]; WAITING + 1]; // the script looks at one of them only
            let _ = redis.run(&WAKE, &keys, &args.slices()).await; // if it fails, they ask by themselves
        });
    }
}

impl Listener for Inner {
    fn woken(&self, message: &[u8]) {
        if !self.lines.wake(message) {
            self.pass_on(message);
        }
    }

    fn reconnected(&self) {
        self.lines.wake_all();
    }
}

/// The state that the caller has; none is like that of nothing.
fn put_known(args: &mut Parts, known: Option<&Arc<SessionState>>) {
    let (Version { session, user }, seq) = known.map_or_else(Default::default, |state| (state.version, state.seq));
    args.stamp(session).stamp(user).number(seq);
}

impl Store for RedisStore {
    fn begin<'a>(&'a self, request: BeginRequest<'a>) -> Step<'a, Result<StoreBegin, TurnError>> {
        Step::Pending(Box::pin(self.0.begin(request)))
    }

    fn commit<'a>(&'a self, claim: &'a Claim, base: &'a Arc<SessionState>, commit: Commit) -> BoxFuture<'a, Result<Stored, TurnError>> {
        Box::pin(self.0.commit(claim, base, commit))
    }

    fn release(&self, claim: &Claim) {
        self.0.release(claim);
    }

    fn load<'a>(
        &'a self,
        key: &'a SessionKey,
        known: Option<&'a Arc<SessionState>>,
    ) -> Step<'a, Result<Option<Arc<SessionState>>, TurnError>> {
        Step::Pending(Box::pin(self.0.load(key, known)))
    }

    fn is_new<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<bool, TurnError>> {
        Box::pin(self.0.is_new(key))
    }

    fn import<'a>(
        &'a self,
        claim: &'a Claim,
        base: &'a Arc<SessionState>,
        older: Vec<Turn>,
    ) -> BoxFuture<'a, Result<Option<Arc<SessionState>>, TurnError>> {
        Box::pin(self.0.import(claim, base, older))
    }

    fn erase_session<'a>(&'a self, key: &'a SessionKey, wait: Option<WaitFor>) -> BoxFuture<'a, Result<(), TurnError>> {
        Box::pin(self.0.erase_session(key, wait))
    }

    fn erase_user<'a>(&'a self, key: &'a UserKey, wait: Option<WaitFor>) -> BoxFuture<'a, Result<(), TurnError>> {
        Box::pin(self.0.erase_user(key, wait))
    }

    fn queued(&self) -> usize {
        0
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), TurnError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn health(&self) -> BoxFuture<'_, Result<(), TurnError>> {
        Box::pin(async { self.0.redis.probe().await.map_err(fault) })
    }
}
