//! Calls that wait until replicas have what they wrote.
//!
//! `WAIT` holds up whatever comes after it on its connection, and a replica that is gone holds it up for as long as it may wait. So calls
//! that wait have connections of their own, one for each setting in use, and those that come while it waits share the next `WAIT`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redis::{Cmd, Pipeline, Value};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

use super::{
    call::Answer,
    dial::IN_FLIGHT,
    fault::Failure,
    node::{Around, Link},
    place::Place,
};

/// Most calls that share a `WAIT`.
const BATCH: usize = 128;
/// How long a connection is kept that nobody needs.
const IDLE: Duration = Duration::from_secs(60);

/// How many replicas are to have it, and how long that is waited for.
pub(super) type Wait = (u32, Duration);

/// The connections of one server for calls that wait.
#[derive(Default)]
pub(super) struct Waits(Mutex<HashMap<Wait, mpsc::Sender<Job>>>);

struct Job {
    cmd: Cmd,
    asking: bool,
    answer: oneshot::Sender<Result<Answer, Failure>>,
}

impl Waits {
    /// Sends a command and waits for its answer and replicas: up to twice the setting's time, as another `WAIT` may be on.
    pub(super) async fn call(
        &self,
        cmd: Cmd,
        asking: bool,
        wait: Wait,
        place: &Arc<Place>,
        around: &Arc<Around>,
    ) -> Result<Answer, Failure> {
        let (answer, answered) = oneshot::channel();
        let sent = self.jobs(wait, place, around).try_send(Job { cmd, asking, answer });
        sent.map_err(|_| Failure::Down(format!("more than {IN_FLIGHT} calls wait for replicas").into()))?;
        answered.await.unwrap_or(Err(Failure::Late))
    }

    fn jobs(&self, wait: Wait, place: &Arc<Place>, around: &Arc<Around>) -> mpsc::Sender<Job> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, jobs| !jobs.is_closed());
        let begin = || {
            let (jobs, received) = mpsc::channel(IN_FLIGHT);
            around.runtime.spawn(serve(received, wait, Link::new(place.clone(), around.clone()), around.clone()));
            jobs
        };
        all.entry(wait).or_insert_with(begin).clone()
    }
}

/// Does what is asked until nobody asks any more.
async fn serve(mut jobs: mpsc::Receiver<Job>, wait: Wait, link: Link, around: Arc<Around>) {
    let mut batch = Vec::new();
    loop {
        match timeout(IDLE, jobs.recv_many(&mut batch, BATCH)).await {
            Ok(0) => return,
            Ok(_) => run(&mut batch, wait, &link, &around).await,
            Err(_) => {
                // Who comes now finds it closed or is still served.
                jobs.close();
            }
        }
    }
}

/// Sends all of them in one message, with one `WAIT` at its end.
async fn run(batch: &mut Vec<Job>, (replicas, time): Wait, link: &Link, around: &Around) {
    let mut all = Pipeline::new();
    for job in &*batch {
        if job.asking {
            all.cmd("ASKING");
        }
        all.add_command(job.cmd.clone());
    }
    // No time at all would be for ever.
    all.cmd("WAIT").arg(replicas).arg(time.as_millis().max(1).to_string());
    let (all, deadline) = (&all, Instant::now() + around.dial.timeout + time);
    let sent = link.with(deadline, |mut connection| async move { connection.send_packed_commands(all, 0, all.len()).await }).await;
    let (mut values, reached) = match sent {
        Ok(mut values) => {
            let reached = values.pop().map_or(0, |count| redis::from_redis_value(count).unwrap_or(0));
            (Ok(values.into_iter()), reached)
        }
        Err(failure) => (Err(failure), 0),
    };
    for job in batch.drain(..) {
        let value = values.as_mut().map_err(|failure| failure.clone()).and_then(|values| {
            let value = values.nth(usize::from(job.asking)).unwrap_or(Value::Nil);
            Ok((value.extract_error().map_err(Failure::Redis)?, reached))
        });
        let _ = job.answer.send(value); // nobody may wait for it any more
    }
}
