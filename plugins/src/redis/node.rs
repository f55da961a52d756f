//! One server and the connection to it, which a task of its own makes, doubts, and makes again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use redis::{Cmd, RedisResult, Value, aio::MultiplexedConnection};
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore, watch},
    task::AbortHandle,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    Script,
    call::{Answer, Call, is_forgotten},
    config::Role,
    dial::{Address, Dial, IN_FLIGHT, is_end, pause},
    fault::{Failure, is_of_server, said},
    meters::Meters,
    place::Place,
    waits::Waits,
};

/// So many calls in a row without an answer in time, and the connection counts as broken.
const LATE: u32 = 3;
/// How often a connection is looked at that nobody complains about.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// Writes nothing, but is refused whenever a write would be: by a replica, without memory, while loading, when the disk failed, to a
/// user who may not do all that is asked of it ….
static WRITES: Script = Script::new("probe", include_str!("probe.lua"));
/// Is refused when nothing can be read, and by a server that lets nobody run scripts.
static READS: Script = Script::new("probe", "return 1");

/// What all servers of one Redis share.
pub(super) struct Around {
    pub(super) role: Role,
    pub(super) dial: Dial,
    /// Commands that the user must be allowed.
    pub(super) rights: Vec<&'static [u8]>,
    pub(super) runtime: Handle,
    /// Told when a server came or went.
    pub(super) changed: Notify,
    pub(super) meters: Meters,
}

impl Around {
    /// What tells whether a server is of use.
    fn probe(&self) -> Call<'_> {
        let script = match self.role {
            Role::Store => &WRITES,
            Role::Source => &READS,
        };
        Call { script, keys: &[], args: &self.rights, wait: None }
    }
}

/// One server.
pub(super) struct Node {
    place: Arc<Place>,
    around: Arc<Around>,
    calls: Link,
    waits: Waits,
}

/// How a server does.
#[derive(Clone)]
pub(super) enum State {
    /// Not yet known.
    Connecting,
    Up(Arc<Open>),
    Down {
        reason: Arc<str>,
        since: Instant,
    },
}

/// A connection that passed the probe.
pub(super) struct Open {
    pub(super) connection: MultiplexedConnection,
    pub(super) address: Address,
    /// Calls in a row that got no answer in time.
    late: AtomicU32,
}

impl Open {
    fn named(&self, what: &str) -> String {
        format!("{}:{}: {what}", self.address.0, self.address.1)
    }
}

impl Node {
    pub(super) fn new(place: Arc<Place>, around: Arc<Around>) -> Self {
        Self { calls: Link::new(place.clone(), around.clone()), waits: Waits::default(), place, around }
    }

    pub(super) fn state(&self) -> State {
        self.calls.shared.state.borrow().clone()
    }

    /// Calls that wait for an answer, not for replicas.
    pub(super) fn in_flight(&self) -> usize {
        IN_FLIGHT - self.calls.shared.free.available_permits()
    }

    /// Sends a call, and waits for the answer until `deadline`.
    pub(super) async fn call(&self, call: &Call<'_>, asking: bool, deadline: Instant) -> Result<Answer, Failure> {
        let Some(wait) = call.wait else {
            let value = self.calls.with(deadline, |mut connection| async move { call.send(&mut connection, asking).await });
            return Ok((value.await?, 0));
        };
        let ask = |source| timeout_at(deadline, self.waits.call(call.cmd(source), asking, wait, &self.place, &self.around));
        match ask(false).await {
            Ok(Err(Failure::Redis(error))) if is_forgotten(&error) => ask(true).await,
            answer => answer,
        }
        .unwrap_or(Err(Failure::Late))
    }

    /// Sends a command that is about this server, not about a key.
    pub(super) async fn ask(&self, cmd: &Cmd, deadline: Instant) -> Result<Value, Failure> {
        self.calls.with(deadline, |mut connection| async move { connection.send_packed_command(cmd).await?.extract_error() }).await
    }

    /// Whether it is of use now.
    pub(super) async fn probe(&self, deadline: Instant) -> Result<(), Failure> {
        self.call(&self.around.probe(), false, deadline).await.map(drop)
    }
}

/// A connection that is kept for as long as this is.
pub(super) struct Link {
    shared: Arc<Shared>,
    keeper: AbortHandle,
}

struct Shared {
    state: watch::Sender<State>,
    free: Semaphore,
    around: Arc<Around>,
}

impl Link {
    pub(super) fn new(place: Arc<Place>, around: Arc<Around>) -> Self {
        let runtime = around.runtime.clone();
        let shared = Arc::new(Shared { state: watch::Sender::new(State::Connecting), free: Semaphore::new(IN_FLIGHT), around });
        let keeping = shared.clone();
        Self { shared, keeper: runtime.spawn(async move { keeping.keep(&place).await }).abort_handle() }
    }

    /// Does something with the connection, for no longer than until `deadline`.
    pub(super) async fn with<T, F>(&self, deadline: Instant, work: impl FnOnce(MultiplexedConnection) -> F) -> Result<T, Failure>
    where
        F: Future<Output = RedisResult<T>>,
    {
        self.shared.with(deadline, work).await
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Shared {
    async fn with<T, F>(&self, deadline: Instant, work: impl FnOnce(MultiplexedConnection) -> F) -> Result<T, Failure>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let _place = self.free.try_acquire().map_err(|_| Failure::Down(format!("more than {IN_FLIGHT} calls in flight").into()))?;
        let open = self.open(deadline).await?;
        match timeout_at(deadline, work(open.connection.clone())).await {
            Ok(Ok(answer)) => {
                if open.late.load(Ordering::Relaxed) != 0 {
                    open.late.store(0, Ordering::Relaxed);
                }
                Ok(answer)
            }
            Ok(Err(error)) => {
                if is_of_server(&error) || error.is_io_error() {
                    self.doubt(&open, &open.named(&said(&error)));
                }
                Err(Failure::Redis(error))
            }
            Err(_) => {
                if open.late.fetch_add(1, Ordering::Relaxed) + 1 >= LATE {
                    self.doubt(&open, &open.named("no answers in time"));
                }
                Err(Failure::Late)
            }
        }
    }

    /// The connection. Waits only for the first one.
    async fn open(&self, deadline: Instant) -> Result<Arc<Open>, Failure> {
        let known = |state: &State| match state {
            State::Connecting => None,
            State::Up(open) => Some(Ok(open.clone())),
            State::Down { reason, .. } => Some(Err(Failure::Down(reason.clone()))),
        };
        if let Some(result) = known(&self.state.borrow()) {
            return result;
        }
        let mut states = self.state.subscribe();
        let waited = timeout_at(deadline, states.wait_for(|state| !matches!(state, State::Connecting))).await;
        let state = waited.ok().and_then(Result::ok).map(|state| state.clone());
        state.as_ref().and_then(known).unwrap_or_else(|| Err(Failure::Down("no connection yet".into())))
    }

    /// From now on calls fail at once, until the keeper has seen that a new connection works.
    fn doubt(&self, open: &Arc<Open>, reason: &str) {
        let in_use = |state: &State| matches!(state, State::Up(current) if Arc::ptr_eq(current, open));
        self.state.send_if_modified(|state| {
            let doubted = in_use(state);
            if doubted {
                *state = State::Down { reason: reason.into(), since: Instant::now() };
            }
            doubted
        });
        self.around.changed.notify_one();
    }

    /// Connects for as long as the link lives.
    async fn keep(&self, place: &Place) {
        let mut failures = 0;
        loop {
            match self.connect(place).await {
                Ok((open, closed)) => {
                    self.around.meters.connected.inc();
                    let begun = Instant::now();
                    self.state.send_replace(State::Up(open.clone()));
                    self.around.changed.notify_one();
                    let reason = self.look_after(&open, &closed, place).await;
                    self.doubt(&open, &reason);
                    failures = if begun.elapsed() < LOOK { failures + 1 } else { 0 };
                }
                Err(reason) => {
                    self.around.meters.failed.inc();
                    self.is_down(&reason);
                    failures += 1;
                }
            }
            sleep(pause(failures)).await;
        }
    }

    /// A connection that passed the probe, and what is told when it ends.
    async fn connect(&self, place: &Place) -> Result<(Arc<Open>, Arc<Notify>), String> {
        let address = place.find().await?;
        let closed = Arc::new(Notify::new());
        let told = closed.clone();
        let end = move |info| {
            if is_end(&info) {
                told.notify_one();
            }
        };
        let connection = self.around.dial.connect(&address, end).await?;
        let open = Arc::new(Open { connection, address, late: AtomicU32::new(0) });
        self.probe(&open).await?;
        Ok((open, closed))
    }

    /// Returns why the connection is no good any more.
    async fn look_after(&self, open: &Open, closed: &Notify, place: &Place) -> String {
        let mut states = self.state.subscribe();
        loop {
            tokio::select! {
                () = closed.notified() => return open.named("the connection was closed"),
                _ = states.wait_for(|state| !matches!(state, State::Up(_))) => return String::new(), // whoever doubts it has said why
                () = sleep(LOOK) => {}
            }
            if let Err(reason) = self.probe(open).await {
                return reason;
            }
            if let Ok((host, port)) = place.find().await.as_ref()
                && (host, *port) != (&open.address.0, open.address.1)
            {
                return format!("{host}:{port} is the primary now");
            }
        }
    }

    async fn probe(&self, open: &Open) -> Result<(), String> {
        let (probe, time) = (self.around.probe(), self.around.dial.timeout);
        match timeout(time, probe.send(&mut open.connection.clone(), false)).await {
            Ok(result) => result.map(drop).map_err(|error| open.named(&said(&error))),
            Err(_) => Err(open.named("no answer in time")),
        }
    }

    /// Says why there is no connection, but leaves it at that since when.
    fn is_down(&self, reason: &str) {
        self.state.send_modify(|state| {
            let since = if let State::Down { since, .. } = state { *since } else { Instant::now() };
            *state = State::Down { reason: reason.into(), since };
        });
        self.around.changed.notify_one();
    }
}
