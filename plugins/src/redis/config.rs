//! How Redis is reached.

use std::time::Duration;

use crate::api::Secret;

/// Where Redis is and how it is spoken to.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `host:port` of the server; of several nodes or sentinels, those that are asked first.
    pub servers: Vec<(String, u16)>,
    /// What stands there.
    pub mode: Mode,
    /// The ACL user; without one `default`.
    pub username: Option<String>,
    /// That user's password.
    pub password: Option<Secret>,
    /// How long a command may take; so may a connection.
    pub timeout: Duration,
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
    },
    /// Redis Cluster.
    Cluster,
}
