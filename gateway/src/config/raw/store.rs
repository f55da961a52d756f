//! `store:` as it was typed.

use std::time::Duration;

use fengda_plugins::api::Secret;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{or_default, some};
use crate::config::{
    types::Durability,
    units::{DurationText, Percent, SizeText},
};

#[derive(Deserialize, Default, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Store {
    /// The store in the data directory, of this gateway alone; the default.
    #[serde(deserialize_with = "some")]
    pub(in crate::config) embedded: Option<Embedded>,
    /// A store that many gateways share. Instead of `embedded`.
    #[serde(deserialize_with = "some")]
    pub(in crate::config) redis: Option<Redis>,
    /// Where the conversations of an older deployment are, for tenants with `import`. In `redis` if absent.
    #[serde(deserialize_with = "some")]
    pub(in crate::config) import: Option<Import>,
    /// Conversations held in memory; the rest is read from the store when its user comes back.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "Option<Cache>")]
    pub(in crate::config) cache: Cache,
    /// What is kept of a conversation.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "Option<History>")]
    pub(in crate::config) history: History,
}

#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Embedded {
    /// What a committed turn survives.
    pub(in crate::config) durability: Durability,
}

impl Default for Embedded {
    fn default() -> Self {
        Self { durability: Durability::Os }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Redis {
    /// Where it is: `redis://host:6379`, `rediss://user:password@host:6380/0` with TLS. This or `servers`.
    // Maybe with a password in it.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "Secret")]
    pub(in crate::config) url: Option<Secret>,
    /// Nodes of a cluster, or sentinels, that are asked first, as `redis-1:6379`: 1 to 64.
    #[schemars(with = "Vec<String>")]
    pub(in crate::config) servers: Vec<Option<String>>,
    /// Whether it is a Redis Cluster.
    pub(in crate::config) cluster: bool,
    /// The name under which sentinels know the server; `url` or `servers` are the sentinels then.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "String")]
    pub(in crate::config) sentinel: Option<String>,
    /// The ACL user, unless `url` names it.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "String")]
    pub(in crate::config) username: Option<String>,
    /// That user's password, or the server's, unless `url` has it.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "Secret")]
    pub(in crate::config) password: Option<Secret>,
    /// The ACL user of the sentinels, if they have users.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "String")]
    pub(in crate::config) sentinel_username: Option<String>,
    /// That user's password, or the sentinels'. Without it the gateway does not log in to them.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "Secret")]
    pub(in crate::config) sentinel_password: Option<Secret>,
    /// TLS for `servers`, or to trust others than the machine does; `{}` is plain TLS.
    #[serde(deserialize_with = "some")]
    pub(in crate::config) tls: Option<RedisTls>,
    /// How long a command may take: 10ms to 3s. Then the store counts as out of reach.
    #[serde(with = "DurationText")]
    pub(in crate::config) timeout: Duration,
    /// Most bytes of turns kept in the data directory while Redis is out of reach: 1MiB to 64GiB.
    #[serde(with = "SizeText")]
    pub(in crate::config) spool: u64,
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            url: None,
            servers: Vec::new(),
            cluster: false,
            sentinel: None,
            username: None,
            password: None,
            sentinel_username: None,
            sentinel_password: None,
            tls: None,
            timeout: Duration::from_millis(500),
            spool: 64 << 20,
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Import {
    /// The Redis that has them, as in `redis`: 5.0 or newer, maybe a replica. Without this and `servers` it is `redis` itself.
    // Maybe with a password in it.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "Secret")]
    pub(in crate::config) url: Option<Secret>,
    /// Nodes of a cluster, or sentinels, as in `redis`.
    #[schemars(with = "Vec<String>")]
    pub(in crate::config) servers: Vec<Option<String>>,
    /// Whether it is a Redis Cluster.
    pub(in crate::config) cluster: bool,
    /// The name under which sentinels know the server, as in `redis`.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "String")]
    pub(in crate::config) sentinel: Option<String>,
    /// The ACL user, unless `url` names it. Redis before 6.0 has none.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "String")]
    pub(in crate::config) username: Option<String>,
    /// That user's password, or the server's, unless `url` has it.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "Secret")]
    pub(in crate::config) password: Option<Secret>,
    /// The ACL user of the sentinels, as in `redis`.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "String")]
    pub(in crate::config) sentinel_username: Option<String>,
    /// That user's password, or the sentinels', as in `redis`.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "Secret")]
    pub(in crate::config) sentinel_password: Option<Secret>,
    /// TLS, as in `redis`.
    #[serde(deserialize_with = "some")]
    pub(in crate::config) tls: Option<RedisTls>,
    /// How long a session's first turn may wait for what was said before: 10ms to 2s. Then it begins without.
    #[serde(with = "DurationText")]
    pub(in crate::config) timeout: Duration,
}

impl Default for Import {
    fn default() -> Self {
        Self {
            url: None,
            servers: Vec::new(),
            cluster: false,
            sentinel: None,
            username: None,
            password: None,
            sentinel_username: None,
            sentinel_password: None,
            tls: None,
            timeout: Duration::from_millis(250),
        }
    }
}

/// PEM, or the paths of files with it.
// `keys::read_in` puts the text in the place of the path.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct RedisTls {
    /// A file in PEM form with the certificates to trust instead of the machine's.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "String")]
    pub(in crate::config) ca: Option<String>,
    /// The certificate that the gateway shows, with the others of its chain after it, if Redis asks for one.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "String")]
    pub(in crate::config) cert: Option<String>,
    /// The private key of that certificate, not encrypted.
    #[serde(deserialize_with = "some")]
    #[schemars(with = "Secret")]
    pub(in crate::config) key: Option<Secret>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Cache {
    /// Most bytes of conversations: 1MiB to 1024GiB.
    #[serde(with = "SizeText")]
    pub(in crate::config) size: u64,
    /// The most of `size` that one tenant's conversations may fill: 1% to 100%. While less than a sixteenth of `size` is free, it is not more
    /// than an equal part; one conversation may fill an eighth of the share, and is not held in memory if it is larger.
    pub(in crate::config) share: Percent,
    /// How long an unused conversation stays: 1s to 30d.
    #[serde(with = "DurationText")]
    pub(in crate::config) idle: Duration,
}

impl Default for Cache {
    fn default() -> Self {
        Self { size: 256 << 20, share: Percent(50), idle: Duration::from_mins(30) }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct History {
    /// How many turns of a session are kept, newest first: 1 to 1000.
    pub(in crate::config) turns: usize,
    /// How long a session is kept after its last turn: 1s to 3650d.
    #[serde(with = "DurationText")]
    pub(in crate::config) keep: Duration,
}

impl Default for History {
    fn default() -> Self {
        Self { turns: 100, keep: Duration::from_hours(7 * 24) }
    }
}
