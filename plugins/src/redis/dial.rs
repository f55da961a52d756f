//! How a connection is made: address, TLS, login, and what the server says unasked.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind,
    RedisConnectionInfo, RedisError, RedisResult, TlsCertificates, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use tokio::time::timeout;
use tokio_rustls::rustls::crypto::aws_lc_rs;

use super::{Login, RedisConfig, RedisTls, config::Role, fault::said};

/// Calls that may be in flight on one connection; more fail at once. They are what is lost with it, and what it holds in memory.
pub(super) const IN_FLIGHT: usize = 1024;

/// Before the next attempt to connect, in milliseconds by the failures so far; lengthened by up to as much again at random.
const PAUSES: [u64; 5] = [5, 50, 100, 200, 250];

/// How long to wait before the next attempt.
pub(super) fn pause(failures: usize) -> Duration {
    let pause = PAUSES[failures.min(PAUSES.len() - 1)];
    Duration::from_millis(pause + fastrand::u64(..=pause))
}

/// Host and port.
pub(super) type Address = (Arc<str>, u16);

/// What all connections to one Redis have in common.
pub(super) struct Dial {
    login: RedisConnectionInfo,
    protocol: ProtocolVersion,
    /// Sentinels have the same.
    tls: Arc<RwLock<Option<TlsCertificates>>>,
    /// How long it may take to connect, and to answer.
    pub(super) timeout: Duration,
}

impl Dial {
    pub(super) fn new(config: &RedisConfig, role: Role) -> Self {
        let protocol = protocol(role);
        let login = logging_in(config.login.as_ref(), protocol).set_db(i64::from(config.database));
        if config.tls.is_some() {
            // The crate takes the process's, which somebody may have set already.
            let _ = aws_lc_rs::default_provider().install_default();
        }
        let dial = Self { login, protocol, tls: Arc::default(), timeout: config.timeout };
        dial.renew(config.tls.as_ref());
        dial
    }

    /// Has new connections, to sentinels too, made with these certificates.
    pub(super) fn renew(&self, tls: Option<&RedisTls>) {
        let certificates = tls.map(|tls| TlsCertificates {
            client_tls: tls.client.as_ref().map(|client| ClientTlsConfig {
                client_cert: client.chain.as_bytes().to_vec(),
                client_key: client.key.expose().as_bytes().to_vec(),
            }),
            root_cert: tls.ca.as_ref().map(|ca| ca.as_bytes().to_vec()),
        });
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = certificates;
    }

    /// The way to the sentinels of such servers: they have no databases, and users of their own.
    pub(super) fn to_sentinels(&self, login: Option<&Login>) -> Self {
        Self { login: logging_in(login, self.protocol), protocol: self.protocol, tls: self.tls.clone(), timeout: self.timeout }
    }

    /// Connects and logs in. `pushed` hears what a store says unasked, and that the connection has ended; it must not wait.
    ///
    /// # Errors
    /// Why not, with the address.
    pub(super) async fn connect(
        &self,
        address: &Address,
        pushed: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> Result<MultiplexedConnection, String> {
        let named = |what: &str| format!("{}:{}: {what}", address.0, address.1);
        match timeout(self.timeout, self.try_connect(address, pushed)).await {
            Ok(result) => result.map_err(|error| named(&said(&error))),
            Err(_) => Err(named("no connection in time")),
        }
    }

    async fn try_connect(
        &self,
        (host, port): &Address,
        pushed: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<MultiplexedConnection> {
        let host = host.to_string();
        let tls = self.tls.read().unwrap_or_else(PoisonError::into_inner).clone();
        let address = match tls {
            Some(_) => ConnectionAddr::TcpTls { host, port: *port, insecure: false, tls_params: None },
            None => ConnectionAddr::Tcp(host, *port),
        };
        // Without TCP_NODELAY a call waits for the acknowledgement of the one before it, up to 40 ms.
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = address.into_connection_info()?.set_redis_settings(self.login.clone()).set_tcp_settings(tcp);
        let client = match tls {
            Some(tls) => Client::build_with_tls(info, tls)?,
            None => Client::open(info)?,
        };
        let mut settings = AsyncConnectionConfig::new();
        settings = settings.set_connection_timeout(None).set_response_timeout(None).set_pipeline_buffer_size(IN_FLIGHT);
        if self.protocol == ProtocolVersion::RESP3 {
            settings = settings.set_push_sender(move |info| {
                pushed(info);
                Ok::<_, RedisError>(())
            });
        }
        client.get_multiplexed_async_connection_with_config(&settings).await
    }
}

/// Redis before 6.0 knows the older one only, in which nothing is said unasked: that a connection has ended shows when it is used.
fn protocol(role: Role) -> ProtocolVersion {
    match role {
        Role::Store => ProtocolVersion::RESP3,
        Role::Source => ProtocolVersion::RESP2,
    }
}

fn logging_in(login: Option<&Login>, protocol: ProtocolVersion) -> RedisConnectionInfo {
    let mut info = RedisConnectionInfo::default().set_protocol(protocol).set_skip_set_lib_name();
    if let Some(Login { username, password }) = login {
        if let Some(username) = username {
            info = info.set_username(username);
        }
        info = info.set_password(password.expose());
    }
    info
}

/// Whether this says that the connection has ended.
pub(super) fn is_end(info: &PushInfo) -> bool {
    info.kind == PushKind::Disconnection
}
