//! How Redis is reached.

use std::{sync::Arc, time::Duration};

use crate::api::Secret;

/// Where Redis is and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// `host:port` of the server; of several nodes or sentinels, those that are asked first. At least one; an IPv6 address without its
    /// brackets.
    pub servers: Vec<(String, u16)>,
    /// What stands there.
    pub mode: Mode,
    /// The number of the database; 0 in a cluster, which has no other.
    pub database: u32,
    /// Who the gateway is to the servers; without it nobody in particular.
    pub login: Option<Login>,
    /// TLS towards all servers, sentinels too; in the clear if absent.
    pub tls: Option<RedisTls>,
    /// How long a command may take; so may a connection.
    pub timeout: Duration,
}

/// A user and how it shows that it is the one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The ACL user; without one `default`.
    pub username: Option<String>,
    /// Its password.
    pub password: Secret,
}

/// What a Redis is to this process, and so what it has to be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It keeps what is written: Redis 7 or newer, and the primary.
    Store,
    /// It is only read: any Redis from 5.0 on, also a replica.
    Source,
}

/// What kind of servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// One server.
    Standalone,
    /// Sentinels, which know the server of this name.
    Sentinel {
        /// The name that they monitor.
        master: String,
        /// Who the gateway is to the sentinels, which have users of their own.
        login: Option<Login>,
    },
    /// Redis Cluster.
    Cluster,
}

/// TLS towards Redis. All texts are PEM (RFC 7468).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RedisTls {
    /// The certificates to trust instead of the machine's.
    pub ca: Option<Arc<str>>,
    /// What this gateway shows of itself, where the server asks for it.
    pub client: Option<ClientCertificate>,
}

/// A certificate chain and the key of its first certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The gateway's own certificate first.
    pub chain: Arc<str>,
    /// Its private key, not encrypted.
    pub key: Secret,
}
