//! The connection: made in the background, used by everyone, made again when it breaks.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo, RedisResult, ServerErrorKind,
    Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
};
use tokio::{runtime::Runtime, sync::watch};

use super::{Fault, Mode, RedisConfig, Script};
use crate::api::Meters;

/// Hears what other gateways send.
pub trait Listener: Send + Sync {
    /// A message for this gateway.
    fn woken(&self, message: &[u8]);
    /// Messages may have been missed.
    fn reconnected(&self);
}

/// Redis, as one process uses it.
pub struct Redis {
    /// Tells this gateway from others on the same Redis: 16 random hexadecimal digits.
    name: String,
    config: RedisConfig,
    link: watch::Sender<Option<Connection>>,
    listeners: Mutex<Vec<Weak<dyn Listener>>>,
    runtime: Option<Runtime>,
}

#[derive(Clone)]
enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Redis {
    /// Begins to connect and returns at once: a gateway starts without Redis, and gets on when there is one.
    ///
    /// # Errors
    /// No thread is to be had.
    pub fn open(config: RedisConfig, _meters: &Meters) -> io::Result<Arc<Self>> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("redis").enable_all().build()?;
        let (link, _) = watch::channel(None);
        let name = format!("{:016x}", fastrand::u64(..));
        let redis = Arc::new(Self { name, config, link, listeners: Mutex::default(), runtime: Some(runtime) });
        let connecting = redis.clone();
        redis.spawn(async move {
            if let Ok(connection) = connecting.connect().await {
                connecting.link.send_replace(Some(connection));
            }
        });
        Ok(redis)
    }

    /// This gateway's name among those on this Redis.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether commands are answered, as far as is known now.
    pub fn is_up(&self) -> bool {
        self.link.borrow().is_some()
    }

    /// Calls a script on the primary that has these keys: one round trip, and a second one if the server has forgotten the script.
    /// All keys are in one slot.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn run(&self, script: &Script, keys: &[&[u8]], args: &[&[u8]]) -> Result<Value, Fault> {
        match self.send(&script.by_digest(keys, args)).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => self.send(&script.by_source(keys, args)).await,
            result => result,
        }
        .map_err(|e| Fault::of(&e))
    }

    /// Has messages for this gateway handed to `listener` for as long as it lives.
    pub fn listen(&self, listener: Weak<dyn Listener>) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    /// Runs something on Redis' own thread.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.as_ref().expect("there until dropped").spawn(work);
    }

    async fn send(&self, cmd: &Cmd) -> RedisResult<Value> {
        let connection = self.link.borrow().clone();
        // The crate hands errors of the server on as values.
        match connection {
            Some(Connection::One(mut connection)) => connection.send_packed_command(cmd).await,
            Some(Connection::Cluster(mut connection)) => connection.req_packed_command(cmd).await,
            None => Err((ErrorKind::Io, "not connected").into()),
        }
        .and_then(Value::extract_error)
    }

    async fn connect(&self) -> RedisResult<Connection> {
        let config = &self.config;
        let mut login = RedisConnectionInfo::default();
        if let Some(username) = &config.username {
            login = login.set_username(username);
        }
        if let Some(password) = &config.password {
            login = login.set_password(password.expose());
        }
        let address = |(host, port): &(String, u16)| ConnectionAddr::Tcp(host.clone(), *port);
        let infos = config.servers.iter().map(|server| Ok(address(server).into_connection_info()?.set_redis_settings(login.clone())));
        let infos: Vec<_> = infos.collect::<RedisResult<_>>()?;
        match config.mode {
            Mode::Cluster => {
                let builder = ClusterClientBuilder::new(infos).connection_timeout(config.timeout).response_timeout(config.timeout);
                Ok(Connection::Cluster(builder.build()?.get_async_connection().await?))
            }
            Mode::Standalone | Mode::Sentinel { .. } => {
                let settings =
                    AsyncConnectionConfig::new().set_connection_timeout(Some(config.timeout)).set_response_timeout(Some(config.timeout));
                let client = Client::open(infos[0].clone())?;
                Ok(Connection::One(client.get_multiplexed_async_connection_with_config(&settings).await?))
            }
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
