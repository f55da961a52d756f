//! Threads, listeners and their end: one runtime for each core, none of which gives work to another.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::IntoRawFd,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use fengda_plugins::{
    api::{Clock, Meters, Registry},
    context::{Backend, Context, ContextConfig, Durability, OpenError, SpoolConfig, import::Lists},
    redis::{Health, Redis},
};
use pingora_core::{
    apps::ServerApp,
    server::{Fds, ListenFds},
    services::{Service as _, listening::Service},
};
use tokio::{
    runtime::{Builder, Handle},
    sync::watch,
};

use crate::{
    admin::Admin,
    config::{self, Config, Diagnostics, Origin},
    edge::{LAST_CALL, Public, files},
    gateway::{Environment, Gateway},
    import, registry,
    snapshot::{Snapshot, Workshop},
    telemetry::{self, Event, Metrics, Sink, logger},
    watch::{Look, watch_files},
};

/// How long a thread lives on after its last request, for answers that are still on their way out.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// How long plugins may take to give back what they hold for others.
const LEAVE: Duration = Duration::from_millis(500);

/// How to run a gateway.
pub struct Options {
    /// Where its configuration comes from.
    pub config: Origin,
    /// Where `${NAME}` in it is looked up.
    pub environment: Environment,
    /// Time of day for tokens, limits and expiry.
    pub clock: Clock,
    /// Adds plugins of one's own to the built-in ones.
    pub plugins: fn(&mut Registry),
}

impl Options {
    /// The process's environment, the machine's clock, only the built-in plugins.
    pub fn new(config: impl Into<PathBuf>) -> Self {
        Self::of(Origin::File(config.into()))
    }

    /// The same with a configuration from anywhere.
    pub fn of(config: Origin) -> Self {
        Self { config, environment: Arc::new(|name| std::env::var(name).ok()), clock: Clock::system(), plugins: |_| {} }
    }
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] Diagnostics),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// An address cannot be listened on.
    #[error("`{key}: {address}` cannot be listened on: {cause}")]
    Listen {
        /// `listen` or `admin`.
        key: &'static str,
        /// The configured address.
        address: SocketAddr,
        /// What the operating system says.
        cause: io::Error,
    },
    /// No thread or runtime to be had.
    #[error("no thread can be started")]
    Thread(#[from] io::Error),
}

/// A gateway that serves. Dropping it without [`Running::stop`] leaves it serving.
pub struct Running {
    /// The public listener's address, with the port it got.
    pub public: SocketAddr,
    /// The admin listener's address, with the port it got, if there is one.
    pub admin: Option<SocketAddr>,
    /// The gateway.
    pub gateway: Arc<Gateway>,
    /// The store of conversations, if a route keeps any.
    context: Option<Arc<Context>>,
    control: tokio::runtime::Runtime,
    draining: watch::Sender<bool>,
    stop_serving: watch::Sender<bool>,
    stop_admin: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

/// Starts a gateway: when this returns, it serves.
///
/// # Errors
/// See [`StartError`]; nothing is left running then.
pub fn start(options: Options) -> Result<Running, StartError> {
    let slots = registry::Slots::default();
    let registry = registry::builtin(&slots, options.plugins);
    let read = Look::at(options.config.listed());
    let config = options.config.load(&*options.environment, &registry)?;
    let read = read.then_at(config.files.iter().cloned());
    logger::init(config.log.level);
    config.log_warnings();
    let workshop = Workshop { registry, clock: options.clock.clone(), metrics: Arc::new(Metrics::new()) };
    let (public_socket, public) = bind("listen", config.listen)?;
    let (admin_socket, admin) = config.admin.map(|address| bind("admin", address)).transpose()?.unzip();
    let redis = open_redis(&config, workshop.metrics.meters())?;
    let older = import::lists(&config, redis.as_ref())?;
    if let Some(redis) = &redis {
        redis.spawn(telemetry::redis::report(redis.health(), logger::emit));
        slots.redis.set(redis.clone()).ok().expect("the slots were made above");
    }
    let open = || Context::open(&context_config(&config, redis.clone(), older), options.clock, workshop.metrics.meters());
    let context = config.keeps_conversations().then(open).transpose()?;
    if let Some(context) = &context {
        slots.conversations.set(context.clone()).ok().expect("the slots were made above");
    }
    let (count, connections, room) = (config.threads, config.limits.connections, files::room_for_clients());
    if connections > room {
        logger::emit(&Event::FewFiles { connections, served: room });
    }
    let snapshot = Snapshot::build(config, &workshop, None)?;
    let gateway = Gateway::new(snapshot, workshop, context.clone(), redis.clone(), options.config, options.environment, read);
    let (draining, drains) = watch::channel(false);
    let (stop_serving, serving) = watch::channel(false);
    let (stop_admin, administering) = watch::channel(false);
    let control = Builder::new_multi_thread().worker_threads(1).thread_name("control").enable_all().build()?;
    if let Some(socket) = admin_socket {
        let admin = Admin::new(gateway.clone(), context.clone(), redis, drains);
        control.spawn(listen("admin".into(), admin, socket, administering));
    }
    control.spawn(watch_files(gateway.clone()));
    if let Some(context) = context.clone() {
        // Whether the store was ever in reach decides what becomes of readiness when it is not.
        control.spawn(async move { drop(context.readiness().await) });
    }
    let threads = Vec::with_capacity(count);
    let mut running = Running { public, admin, gateway, context, control, draining, stop_serving, stop_admin, threads };
    let mut runtimes = Vec::with_capacity(count);
    for index in 0..count {
        let socket = public_socket.try_clone()?;
        let app = Public::new(running.gateway.clone(), room);
        let (thread, runtime) = spawn_serving_thread(index, app, socket, serving.clone(), running.stop_admin.subscribe())?;
        running.threads.push(thread);
        runtimes.push(runtime);
    }
    running.gateway.metrics.count_tasks(runtimes);
    let event = Event::Listening { public: public.to_string(), admin: admin.map(|a| a.to_string()), version: env!("CARGO_PKG_VERSION") };
    logger::emit(&event);
    Ok(running)
}

impl Running {
    /// Says that it is not ready for the configured pause, stops accepting, lets requests and turns in flight finish for at most the
    /// configured grace, and ends all threads. Returns how many were abandoned.
    pub fn stop(self) -> usize {
        let (pause, grace) = {
            let config = &self.gateway.snapshot.load().config;
            (config.shutdown_pause, config.shutdown_grace)
        };
        let (work, connections) = (self.gateway.work.clone(), self.gateway.connections.clone());
        self.draining.send_replace(true);
        logger::emit(&Event::Draining { in_flight: work.len() });
        let abandoned = self.control.block_on(async {
            // Until load balancers have noticed, they go on sending.
            tokio::time::sleep(pause).await;
            self.stop_serving.send_replace(true);
            // Requests that crossed the signal on their connections are still taken.
            connections.close();
            let _ = tokio::time::timeout(LAST_CALL, connections.wait()).await;
            work.close();
            // The health endpoints go on answering until the last turn is done.
            let drained = tokio::time::timeout(grace, work.wait()).await.is_ok();
            let _ = tokio::time::timeout(LEAVE, self.gateway.snapshot.load_full().leave()).await;
            if let Some(context) = &self.context
                && let Err(error) = context.flush().await
            {
                logger::emit(&Event::NotFlushed { error: error.to_string() });
            }
            if drained { 0 } else { work.len() }
        });
        self.stop_admin.send_replace(true);
        for thread in self.threads {
            if thread.join().is_err() {
                log::error!(target: "fengda::server", "a serving thread panicked");
            }
        }
        self.control.shutdown_timeout(Duration::from_secs(1));
        logger::emit(&Event::Stopped { abandoned });
        Sink::flush();
        abandoned
    }
}

/// The way to the Redis that keeps conversations, if one does. Gives it the time that one command has to be there, so that the first
/// message of a user does not come before it.
fn open_redis(config: &Config, meters: &Meters) -> io::Result<Option<Arc<Redis>>> {
    let config::Backend::Redis(store) = &config.store.backend else { return Ok(None) };
    let redis = Redis::open(store.link.clone(), meters)?;
    let mut health = redis.health();
    let (there, connected) = mpsc::sync_channel(1);
    redis.spawn(async move {
        let _ = health.wait_for(Health::is_up).await; // fails only when Redis is closed again
        let _ = there.send(()); // nobody waits any more if it took too long
    });
    let _ = connected.recv_timeout(store.link.timeout); // the gateway gets on without it
    Ok(Some(redis))
}

/// How conversations are kept, and where `older` ones are.
pub(crate) fn context_config(config: &Config, redis: Option<Arc<Redis>>, older: Option<(Lists, Duration)>) -> ContextConfig {
    let store = &config.store;
    let durability = match store.backend {
        config::Backend::Embedded { durability: config::Durability::Disk } => Durability::Disk,
        _ => Durability::Os,
    };
    let spool = match &store.backend {
        config::Backend::Embedded { .. } => None,
        config::Backend::Redis(redis) => {
            Some(SpoolConfig { size: redis.spool, tenants: config.tenants.iter().map(|t| t.tenant.clone()).collect() })
        }
    };
    ContextConfig {
        backend: redis.map_or(Backend::Embedded(durability), Backend::Redis),
        cache: store.cache,
        history_turns: store.history_turns,
        history_keep: store.history_keep,
        dir: config.data.clone(),
        spool,
        import: older,
    }
}

fn bind(key: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let bound = || {
        let socket = TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let bound = socket.local_addr()?;
        Ok((socket, bound))
    };
    bound().map_err(|cause| StartError::Listen { key, address, cause })
}

/// Serves an application on a socket that is bound already, until told to stop.
async fn listen<A: ServerApp + Send + Sync + 'static>(name: String, app: A, socket: TcpListener, stop: watch::Receiver<bool>) {
    // Pingora takes listening sockets by the name of their address, as it gets them from an older process.
    let mut sockets = Fds::new();
    sockets.add(name.clone(), socket.into_raw_fd());
    let mut service = Service::new(name.clone(), app);
    service.add_tcp(&name);
    let sockets: ListenFds = Arc::new(parking_lot::Mutex::new(sockets));
    service.start_service(Some(sockets), stop, 1).await;
}

/// A thread with a runtime of its own: a connection, its turns, their VMs and upstream connections never leave it.
fn spawn_serving_thread(
    index: usize,
    app: Public,
    socket: TcpListener,
    stop: watch::Receiver<bool>,
    mut end: watch::Receiver<bool>,
) -> Result<(JoinHandle<()>, Handle), io::Error> {
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(16).build()?;
    let handle = runtime.handle().clone();
    let thread = std::thread::Builder::new().name(format!("serve-{index}")).spawn(move || {
        runtime.block_on(async {
            listen(format!("serve-{index}"), app, socket, stop).await;
            // Requests in flight are tasks of this runtime: it lives until they are done.
            let _ = end.wait_for(|e| *e).await;
            // What HTTP/2 connections have queued is written by tasks of their own.
            tokio::time::sleep(LAST_WORDS).await;
        });
        runtime.shutdown_timeout(Duration::from_millis(100));
    })?;
    Ok((thread, handle))
}
