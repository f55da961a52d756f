//! Routes with an `upstream`: a request is passed on as its client sent it, and the response as it comes.
//!
//! | step | module |
//! |---|---|
//! | what the upstream gets of the head | `request`, `fields` |
//! | attempts under the chain's guards, until there is the head of a response | here |
//! | the request's body, one piece at a time | `upload` |
//! | the response | `relay` |
//! | raw bytes after `101 Switching Protocols` | `tunnel` |
//!
//! All of it runs in the task of the client's connection: a client that goes away drops it, and with it the upstream's connection.

mod duplex;
mod fields;
mod relay;
mod request;
mod tunnel;
mod upload;

use std::{pin::pin, sync::Arc, time::Duration};

use fengda_plugins::api::{Code, Reject, Verdict};
use http::{HeaderValue, Response, header};
use hyper::body::Incoming;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use self::{
    duplex::{Lost, Moved, Want},
    request::{Length, Plan},
    upload::{Stopped, Upload},
};
use crate::{
    config::{Forward, HttpTimeouts},
    downstream::{Cut, Downstream},
    gateway::Gateway,
    turnstile::Line,
    upstream::{Attempt, CallError, Caller, Connection, ModelError, Outgoing, Peers, Tried, Upstream},
};

/// The head of a response and all that is needed for the rest.
struct Answer<'a> {
    response: Response<Incoming>,
    connection: Connection<'a>,
    upload: Upload,
}

/// Why there is no head of a response.
enum Failure {
    /// The upstream's fault.
    Upstream(ModelError),
    /// The client's fault, or its wish.
    Client(Stopped),
    /// The client does not send its body.
    ClientSlow,
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        Self::Upstream(error)
    }
}

/// What a request is passed on with.
struct Forwarding<'a> {
    peers: &'a Peers,
    timeouts: HttpTimeouts,
    rules: &'a Forward,
    plan: Plan,
    key: Option<u64>,
}

/// Passes a request on that its chain let through.
///
/// # Errors
/// What the client is told if the upstream has not answered.
pub async fn serve(gateway: &Gateway, upstream: &Arc<Upstream>, rules: &Forward, down: &mut Downstream) -> Result<(), Reject> {
    let (peers, timeouts) = upstream.http().expect("the configuration lets a route pass requests on only to `http` upstreams");
    let plan = Plan::of(down, rules)?;
    if matches!(plan.length, Length::Known(n) if n > rules.body) {
        return Err(too_large(rules));
    }
    let key = request::key(peers.balance(), &down.head().headers, &down.ctx);
    let chain = down.route.as_ref().expect("a request is passed on after its route is known").chain.clone();
    let tenant = down.ctx.tenant().cloned();
    let caller = Caller { chain, tenant, upstream: upstream.clone(), metrics: gateway.metrics.clone(), waits: down.timing.waits().clone() };
    // Waits are counted here: Pingora's own would begin anew with each poll.
    down.session.set_read_timeout(None);
    // Only the reading of a body is charged to its tenant; its upstream's connection, which many share, takes twice as long to write it.
    down.share = down.share.div_ceil(3);
    let served = Forwarding { peers, timeouts, rules, plan, key }.serve(&caller, down).await;
    down.session.set_read_timeout(Some(down.io_timeout));
    served
}

impl Forwarding<'_> {
    async fn serve(&self, caller: &Caller, down: &mut Downstream) -> Result<(), Reject> {
        let begun = Instant::now();
        let mut tried = Tried::default();
        let mut number = 0;
        loop {
            let mut attempt = Attempt::begin(caller, number, self.plan.repeatable()).map_err(|e| reject(&e))?;
            let began = Instant::now();
            let result = self.exchange(down, &mut tried, begun, &mut attempt).await;
            if !matches!(result, Err(Failure::Client(_) | Failure::ClientSlow)) {
                attempt.came_back(tried.last(), began.elapsed());
            }
            let (error, answer) = match result {
                Ok(answer) if answer.response.status().is_server_error() => {
                    (ModelError::Status(answer.response.status().as_u16()), Some(answer))
                }
                Ok(answer) => return self.relay(caller, answer, attempt, down).await,
                Err(Failure::Upstream(error)) => (error, None),
                Err(Failure::Client(stopped)) => return self.stopped(stopped, down),
                Err(Failure::ClientSlow) => {
                    down.give_up_body();
                    let message = "the body did not arrive in time; send it without pauses, and whole within the route's `body_deadline`";
                    return Err(Reject::new(Code::RequestTimeout, message));
                }
            };
            caller.note_failure(down.ctx.request_id.as_str(), &error);
            let (allowed, possible) = (attempt.timeout, attempt.repeatable);
            let in_time = |pause| allowed.is_none_or(|allowed| begun.elapsed() + pause < allowed);
            match attempt.settle(attempt.outcome_of(&error)) {
                Verdict::Retry(pause) if possible && in_time(pause) => self.pause(pause, down).await?,
                _ => {
                    return match answer {
                        Some(answer) => self.relay(caller, answer, attempt, down).await,
                        None => Err(reject(&error.into())),
                    };
                }
            }
            number += 1;
        }
    }

    /// One attempt: a connection, the request, the head of the response. The body goes along meanwhile.
    async fn exchange(
        &self,
        down: &mut Downstream,
        tried: &mut Tried,
        begun: Instant,
        attempt: &mut Attempt,
    ) -> Result<Answer<'_>, Failure> {
        let allowed = attempt.timeout.map_or(self.timeouts.first_byte, |allowed| allowed.min(self.timeouts.first_byte));
        let connecting = timeout_at(begun + allowed, self.peers.connect(self.key, tried)).await.map_err(|_| ModelError::TimedOut)?;
        // Without a connection nothing of the request has left, and nothing of its body was read. If a kept one goes later and
        // cannot be made anew, some of the body may be gone with it.
        attempt.repeatable |= connecting.is_err();
        let (mut connection, endpoint) = connecting?;
        if self.plan.expects && down.session.write_continue_response().await.is_err() {
            return Err(Failure::Client(Stopped::Lost(Lost::Gone)));
        }
        let (mut upload, body) = Upload::begin(self.plan.length, self.rules.body, begun + self.rules.body_deadline);
        let again = || self.plan.repeatable().then(|| self.plan.request(endpoint, Outgoing::empty()));
        let response = {
            let mut sending = pin!(connection.send(self.plan.request(endpoint, body), again));
            loop {
                let want = if self.plan.upgrade { Want::Nothing } else { upload.want() };
                let client_s_turn = want == Want::Body;
                // The time is for all attempts; while the body moves, it begins anew.
                let until = upload.in_time(match self.plan.length {
                    _ if client_s_turn => upload.moved() + down.io_timeout,
                    _ if upload.is_in_line() => begun + self.rules.body_deadline,
                    Length::Empty => begun + allowed,
                    Length::Known(_) | Length::Unknown => upload.moved() + allowed,
                });
                tokio::select! {
                    biased;
                    response = &mut sending => break response?,
                    moved = down.duplex(want) => if let Moved::Read(data, last) = moved.map_err(|lost| Failure::Client(lost.into()))? {
                        upload.take(data, last, line(down)).map_err(Failure::Client)?;
                    },
                    () = upload.proceed() => {}
                    () = sleep_until(until) => {
                        let client_s_fault = client_s_turn || upload.is_late();
                        return Err(if client_s_fault { Failure::ClientSlow } else { ModelError::TimedOut.into() });
                    }
                }
            }
        };
        Ok(Answer { response, connection, upload })
    }

    /// Waits before the next attempt, as long as the client does.
    async fn pause(&self, pause: Duration, down: &mut Downstream) -> Result<(), Reject> {
        let want = if self.plan.length == Length::Empty && !self.plan.upgrade { Want::Presence } else { Want::Nothing };
        tokio::select! {
            () = sleep(pause) => Ok(()),
            _ = down.duplex(want) => self.stopped(Stopped::Lost(Lost::Gone), down),
        }
    }

    /// Ends a request that its client cannot or may not finish.
    fn stopped(&self, stopped: Stopped, down: &mut Downstream) -> Result<(), Reject> {
        match stopped {
            Stopped::TooLarge => Err(too_large(self.rules)),
            Stopped::Lost(Lost::Broken) => {
                down.give_up_body();
                Err(Reject::new(Code::BadRequest, "the body's framing is broken"))
            }
            Stopped::Lost(Lost::Gone) => {
                down.cut = Some(Cut::Client);
                Ok(())
            }
        }
    }
}

/// Where a long body waits for its turn to be read on. One that is nobody's waits for nobody.
fn line(down: &mut Downstream) -> Option<&Line> {
    down.ctx.tenant()?;
    down.line_of_next()
}

fn too_large(rules: &Forward) -> Reject {
    Reject::new(Code::BodyTooLarge, format!("the body is over {} bytes, the most this route takes (`body`)", rules.body))
}

/// What the client is told of a call that came to nothing.
fn reject(error: &CallError) -> Reject {
    match error {
        CallError::Open { retry_after } => {
            let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
            Reject::new(Code::UpstreamUnavailable, "the service behind the gateway keeps failing and is left alone for a while")
                .with(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
        }
        CallError::Model(ModelError::Connect(_)) => {
            Reject::new(Code::UpstreamUnreachable, "the service behind the gateway cannot be reached")
        }
        CallError::Model(ModelError::TimedOut) => {
            Reject::new(Code::DeadlineExceeded, "the service behind the gateway did not answer in time")
        }
        CallError::Model(_) => Reject::new(Code::UpstreamFailed, "the service behind the gateway did not answer as HTTP asks for"),
    }
}
