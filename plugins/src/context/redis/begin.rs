//! How a turn begins: ask, and if the session is somebody's, wait to be woken and ask again.

use std::{sync::Arc, time::Duration};

use redis::Value;
use tokio::{sync::oneshot, time::Instant};

use super::{
    Inner,
    keys::{self, Parts, WAITING},
    lines::{Ahead, Place},
    put_known,
    reply::{Reply, fault, unexpected},
    scripts::{BEGIN, RELEASE},
};
use crate::{
    api::{Claim, Limited, TurnError},
    context::{BeginRequest, StoreBegin},
    redis::Fault,
};

/// The news that a session is free can be lost with the gateway that it was for: who waits asks again after so long.
const RECHECK: Duration = Duration::from_secs(1);

/// A message that wants a session: its place in the line of this process.
struct Waiter<'a> {
    inner: &'a Arc<Inner>,
    place: Place,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if self.inner.lines.leave(&self.place) {
            self.inner.pass_on(self.place.key());
        }
    }
}

/// What Redis says to one who asks.
enum Said {
    Begun(StoreBegin),
    /// The session is somebody's for so long at most.
    Busy(Duration),
}

impl Inner {
    pub(super) async fn begin(self: &Arc<Self>, request: BeginRequest<'_>) -> Result<StoreBegin, TurnError> {
        let mut keys = keys::session(request.key);
        self.lines.settled(keys.get(WAITING)).await;
        let end = Instant::now() + request.wait.min(self.clock.now().until(request.until));
        let waiter = Waiter { inner: self, place: self.lines.enter(keys.get(WAITING)).ok_or(TurnError::InProgress)? };
        request.limits.iter().for_each(|limit| keys::add_limit(&mut keys, request.key.user(), &limit.name));
        let mut counted = false;
        loop {
            let (ahead, mut until) = (self.lines.ahead(&waiter.place), end);
            if ahead.first || !counted {
                let limits = if counted { 0 } else { request.limits.len() };
                let said = self.try_begin(&request, &keys, limits, &ahead, end).await;
                if ahead.woken && !matches!(said, Ok(Said::Busy(_) | Said::Begun(StoreBegin::Claimed { .. }))) {
                    self.pass_on(waiter.place.key()); // it stays free
                }
                match said? {
                    Said::Begun(begun) => return Ok(begun),
                    Said::Busy(left) if ahead.first => until = end.min(Instant::now() + left.min(RECHECK)),
                    Said::Busy(_) => {}
                }
                counted = true;
            }
            waiter.place.wait(until).await;
            if Instant::now() >= end {
                return Err(TurnError::InProgress);
            }
        }
    }

    /// Asks once. Who is not first in line does not claim, but hears whether the message was answered or is one too many.
    async fn try_begin(
        self: &Arc<Self>,
        request: &BeginRequest<'_>,
        keys: &Parts,
        limits: usize,
        ahead: &Ahead,
        end: Instant,
    ) -> Result<Said, TurnError> {
        let term = self.clock.now().until(request.until);
        if term.is_zero() {
            return Err(TurnError::InProgress);
        }
        let name = fastrand::u64(1..);
        let wait = u64::try_from(end.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(u64::MAX);
        let mut args = self.args_with_turns();
        args.bytes(request.message_id.expose().as_bytes());
        put_known(&mut args, request.known);
        args.number(u64::try_from(term.as_millis()).unwrap_or(u64::MAX)).stamp(name).bytes(self.redis.name().as_bytes());
        args.bytes(if ahead.first { b"claim" } else { b"look" });
        args.bytes(match (wait, ahead) {
            (0, _) | (_, Ahead { first: false, .. }) => b"",
            (_, Ahead { woken: true, .. }) => b"front",
            _ => b"back",
        });
        args.number(wait);
        for limit in &request.limits[..limits] {
            let period = u64::try_from(limit.period.as_micros()).unwrap_or(u64::MAX);
            args.number(period.max(1)).number(limit.burst.into()).number(limit.shadow.into());
        }
        let reply = self.ask(keys.first(WAITING + 1 + limits), args, name).await?;
        self.begun(request, reply)
    }

    fn begun(self: &Arc<Self>, request: &BeginRequest<'_>, reply: Value) -> Result<Said, TurnError> {
        let mut reply = Reply::of(reply)?;
        Ok(Said::Begun(match &*reply.bytes()? {
            b"claimed" => {
                let claim = Claim { key: request.key.clone(), fence: reply.number()?, until: request.until };
                match (!reply.is_done()).then(|| reply.state(request.key, request.known)).transpose() {
                    Ok(state) => StoreBegin::Claimed { claim, state },
                    Err(error) => {
                        self.release(&claim);
                        return Err(error);
                    }
                }
            }
            b"answered" => match reply.turn(request.key)? {
                turn if turn.message_id != *request.message_id => {
                    return Err(TurnError::Corrupt("a turn stands under another's id".into()));
                }
                turn if turn.q == *request.q => StoreBegin::Answered(turn),
                _ => return Err(TurnError::MessageIdReused),
            },
            b"limited" => {
                let index = usize::try_from(reply.number()?).map_err(|_| unexpected())?;
                StoreBegin::Limited(Limited { index, wait: Duration::from_micros(reply.number()?) })
            }
            b"busy" => return Ok(Said::Busy(Duration::from_millis(reply.number()?))),
            _ => return Err(unexpected()),
        }))
    }

    /// Runs the script to its end whatever becomes of who asked.
    async fn ask(self: &Arc<Self>, keys: Parts, args: Parts, name: u64) -> Result<Value, TurnError> {
        let (sender, answer) = oneshot::channel();
        let inner = self.clone();
        self.redis.spawn(async move {
            let reply = inner.redis.run(&BEGIN, &keys.slices(), &args.slices()).await;
            drop(sender.send(Answer { reply: Some(reply), inner, keys, name })); // if nobody is there, it comes back
        });
        let answer = answer.await.map_err(|_| TurnError::Unavailable("the thread of Redis has ended".into()))?;
        answer.take().map_err(fault)
    }
}

/// What Redis said to one who asked for a session. Unless it is taken, the claim that may be in it is given up.
struct Answer {
    reply: Option<Result<Value, Fault>>,
    inner: Arc<Inner>,
    keys: Parts,
    /// Of the claim.
    name: u64,
}

impl Answer {
    /// The answer. If it is unknown, so is whether the claim was made.
    fn take(mut self) -> Result<Value, Fault> {
        match self.reply.take().expect("taken only here, which consumes it") {
            Err(Fault::Unknown(why)) => {
                self.reply = Some(Err(Fault::Unknown(why.clone())));
                Err(Fault::Unknown(why))
            }
            reply => reply,
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.reply.is_some() {
            let (inner, keys, mut args) = (self.inner.clone(), self.keys.first(WAITING + 1), self.inner.args());
            args.bytes(b"").stamp(self.name);
            self.inner.redis.spawn(async move {
                if inner.run(&RELEASE, &keys, &args).await.is_err() {
                    inner.release_later(&keys, &args).await;
                }
            });
        }
    }
}
