//! Redis, as one process uses it.

use std::{
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use redis::Value;
use tokio::{
    runtime::Runtime,
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    Fault, Health, Listener, Mode, RedisConfig, RedisTls, Script,
    call::{Answer, Call},
    cluster::Cluster,
    config::Role,
    dial::{Address, Dial},
    fault::Failure,
    meters,
    node::{Around, Node, Open, State},
    place::{Place, Sentinels},
    rights,
    wake::{self, Listeners},
};
use crate::api::Meters;

/// Redis. When it is dropped, its thread and connections end.
pub struct Redis {
    /// Tells this gateway from others on the same Redis: 16 random hexadecimal digits.
    name: String,
    route: Arc<Route>,
    around: Arc<Around>,
    health: watch::Receiver<Health>,
    listeners: Arc<Listeners>,
    runtime: Option<Runtime>,
}

/// The server of a key.
pub(super) enum Route {
    /// The only one.
    One(Node),
    Cluster(Arc<Cluster>),
}

impl Redis {
    /// Begins to connect and returns at once: a gateway starts without Redis, and gets on when there is one. A server that does not
    /// grant all `rights` counts as down, so that no script fails in its midst.
    ///
    /// # Errors
    /// No thread is to be had.
    pub fn open(config: RedisConfig, meters: &Meters) -> io::Result<Arc<Self>> {
        Self::new(config, Role::Store, meters)
    }

    /// The same with one that is only read: it may be as old as 5.0, or a replica, and is not counted. No messages come from it.
    ///
    /// # Errors
    /// No thread is to be had.
    pub fn open_source(config: RedisConfig) -> io::Result<Arc<Self>> {
        Self::new(config, Role::Source, &Meters::default())
    }

    fn new(config: RedisConfig, role: Role, meters: &Meters) -> io::Result<Arc<Self>> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("redis").enable_all().build()?;
        let around = Arc::new(Around {
            dial: Dial::new(&config, role),
            role,
            rights: rights::of(role, &config.mode),
            runtime: runtime.handle().clone(),
            changed: Notify::new(),
            meters: meters::Meters::new(meters),
        });
        let (name, listeners) = (format!("{:016x}", fastrand::u64(..)), Arc::<Listeners>::default());
        let route = Arc::new(Route::new(config, &around));
        meters::watch(meters, &route, Route::in_flight);
        if let Route::Cluster(cluster) = &*route {
            runtime.spawn(cluster.clone().follow());
        }
        let begun = Instant::now();
        let (report, health) = watch::channel(route.health(begun));
        if role == Role::Store {
            let channel = format!("fengda:wake:{name}");
            runtime.spawn(wake::hear(channel, route.clone(), around.clone(), listeners.clone(), health.clone()));
        }
        runtime.spawn(watch_over(route.clone(), around.clone(), begun, report));
        Ok(Arc::new(Self { name, route, around, health, listeners, runtime: Some(runtime) }))
    }

    /// This gateway's name among those on this Redis.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it does, as it changes.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Whether commands are answered, as far as is known now; of a cluster, whether any are.
    pub fn is_up(&self) -> bool {
        self.health.borrow().is_up()
    }

    /// Asks every primary whether it would take a write now; of a source, whether it can be read.
    ///
    /// # Errors
    /// What the first one says that would not.
    pub async fn probe(&self) -> Result<(), Fault> {
        let deadline = Instant::now() + self.around.dial.timeout;
        match &*self.route {
            Route::One(node) => node.probe(deadline).await?,
            Route::Cluster(cluster) => {
                if let Some(reason) = cluster.unknown() {
                    return Err(Fault::Down(reason.to_string()));
                }
                for node in cluster.nodes() {
                    node.probe(deadline).await?;
                }
            }
        }
        Ok(())
    }

    /// How many keys there are on all primaries, whatever their names.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn count_keys(&self) -> Result<u64, Fault> {
        let (dbsize, deadline) = (redis::cmd("DBSIZE"), Instant::now() + self.around.dial.timeout);
        let nodes = match &*self.route {
            Route::One(node) => return number(node.ask(&dbsize, deadline).await?),
            Route::Cluster(cluster) => cluster.nodes(),
        };
        let mut keys = 0;
        for node in nodes {
            keys += number(node.ask(&dbsize, deadline).await?)?;
        }
        Ok(keys)
    }

    /// Calls a script on the primary that has these keys: one round trip, and a second one if the server has forgotten the script.
    /// All keys are in one slot. It takes no longer than the configured timeout, or half a second more while a cluster moves its keys.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn run(&self, script: &Script, keys: &[&[u8]], args: &[&[u8]]) -> Result<Value, Fault> {
        self.call(&Call { script, keys, args, wait: None }, Duration::ZERO).await.map(|(value, _)| value)
    }

    /// The same, and waits for up to `time` until so many replicas have what the script wrote, and for up to as long again while others
    /// wait for theirs. Says how many have it.
    ///
    /// # Errors
    /// As [`run`](Self::run). Too few replicas are none.
    pub async fn run_and_wait(
        &self,
        script: &Script,
        keys: &[&[u8]],
        args: &[&[u8]],
        replicas: u32,
        time: Duration,
    ) -> Result<(Value, u32), Fault> {
        self.call(&Call { script, keys, args, wait: Some((replicas, time)) }, 2 * time).await
    }

    /// Has messages for this gateway handed to `listener` for as long as it lives.
    pub fn listen(&self, listener: Weak<dyn Listener>) {
        self.listeners.add(listener);
    }

    /// Has new connections made with these certificates; those that are open go on. Whether TLS is spoken stays as it was.
    pub fn renew(&self, tls: &RedisTls) {
        self.around.dial.renew(Some(tls));
    }

    /// Runs something on Redis' own thread.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.around.runtime.spawn(work);
    }

    /// The servers, and what they share.
    pub(super) fn parts(&self) -> (&Route, &Around) {
        (&self.route, &self.around)
    }

    async fn call(&self, call: &Call<'_>, more: Duration) -> Result<Answer, Fault> {
        let (begun, time) = (Instant::now(), self.around.dial.timeout + more);
        let result = match &*self.route {
            Route::One(node) => node.call(call, false, begun + time).await,
            Route::Cluster(cluster) => cluster.call(call, time).await,
        };
        let result = result.map_err(Fault::from);
        let (meters, script) = (&self.around.meters, call.script.name);
        if !matches!(result, Err(Fault::Down(_))) {
            meters.seconds.with_label_values(&[script]).observe(begun.elapsed().as_secs_f64());
        }
        meters.commands.with_label_values(&[script, result.as_ref().err().map_or("ok", Fault::label)]).inc();
        result
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Route {
    fn new(config: RedisConfig, around: &Arc<Around>) -> Self {
        let mut servers: Vec<Address> = config.servers.into_iter().map(|(host, port)| (host.into(), port)).collect();
        let place = match config.mode {
            Mode::Cluster => return Self::Cluster(Arc::new(Cluster::new(servers, around.clone()))),
            Mode::Standalone => Place::Fixed(servers.swap_remove(0)),
            Mode::Sentinel { master, login } => {
                Place::Sentinels(Arc::new(Sentinels::new(servers, master, around.dial.to_sentinels(login.as_ref()))))
            }
        };
        Self::One(Node::new(Arc::new(place), around.clone()))
    }

    /// The connections that calls go over now, of which each server hears what is published.
    pub(super) fn open(&self) -> Vec<Arc<Open>> {
        let open = |node: &Node| if let State::Up(open) = node.state() { Some(open) } else { None };
        match self {
            Self::One(node) => open(node).into_iter().collect(),
            Self::Cluster(cluster) => cluster.nodes().iter().filter_map(|node| open(node)).collect(),
        }
    }

    fn health(&self, begun: Instant) -> Health {
        match self {
            Self::One(node) => Health::of([node.state()], begun),
            Self::Cluster(cluster) => match cluster.unknown() {
                Some(reason) => Health::Down { reason, since: begun },
                None => Health::of(cluster.nodes().iter().map(|node| node.state()), begun),
            },
        }
    }

    fn in_flight(&self) -> usize {
        match self {
            Self::One(node) => node.in_flight(),
            Self::Cluster(cluster) => cluster.nodes().iter().map(|node| node.in_flight()).sum(),
        }
    }
}

fn number(value: Value) -> Result<u64, Fault> {
    redis::from_redis_value(value).map_err(|error| Failure::Redis(error.into()).into())
}

/// Keeps the health up to date, for ever.
async fn watch_over(route: Arc<Route>, around: Arc<Around>, begun: Instant, report: watch::Sender<Health>) {
    loop {
        around.changed.notified().await;
        if let Route::Cluster(cluster) = &*route {
            cluster.look_again();
        }
        let now = route.health(begun);
        around.meters.up.set((now == Health::Up).into());
        report.send_if_modified(|known| {
            let news = *known != now;
            *known = now;
            news
        });
    }
}
