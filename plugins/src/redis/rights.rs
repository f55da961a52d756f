//! What a gateway's user must be allowed on a server, asked before it is used and again while it is: a script that is stopped in its midst
//! would leave half of what it does.

use super::{Mode, config::Role};

/// Commands, each with the keys or channels that it is for, as the ACL rules have them, and as many arguments as it takes: asked of
/// `EVAL` without its arguments, Redis 7.0 crashes.
pub type Rights = &'static [&'static str];

/// Of a Redis that keeps conversations and shares of limits.
pub const STORE: Rights = &[
    "EVAL return 0",
    "EVALSHA sha 0",
    "PING",
    "WAIT 0 1",
    "TIME",
    "SUBSCRIBE fengda:wake:*",
    "PUBLISH fengda:wake:* 1",
    "TYPE fengda:*",
    "EXISTS fengda:*",
    "MEMORY USAGE fengda:*",
    "GET fengda:*",
    "SET fengda:* 1",
    "GETRANGE fengda:* 0 0",
    "DEL fengda:*",
    "UNLINK fengda:*",
    "PEXPIRE fengda:* 1",
    "PTTL fengda:*",
    "HGET fengda:* h",
    "HSET fengda:* h 1",
    "HDEL fengda:* h",
    "HGETALL fengda:*",
    "HLEN fengda:*",
    "HSTRLEN fengda:* h",
    "LLEN fengda:*",
    "LINDEX fengda:* 0",
    "LRANGE fengda:* 0 0",
    "LPOS fengda:* 1",
    "LPUSH fengda:* 1",
    "LPOP fengda:*",
    "RPUSH fengda:* 1",
    "ZADD fengda:* 0 1",
    "ZREM fengda:* 1",
    "ZRANGE fengda:* 0 0",
    "ZSCORE fengda:* 1",
    "ZSCAN fengda:* 0",
];

/// Of a node of a cluster, besides.
pub const CLUSTER: Rights = &["CLUSTER INFO", "CLUSTER SLOTS", "ASKING"];

/// All that such a server must grant. One that is only read may be too old to be asked, and the names of its keys are not known here.
pub(super) fn of(role: Role, mode: &Mode) -> Vec<&'static [u8]> {
    let rights: &[&str] = if role == Role::Store { STORE } else { &[] };
    let cluster: &[&str] = if role == Role::Store && *mode == Mode::Cluster { CLUSTER } else { &[] };
    rights.iter().chain(cluster).map(|command| command.as_bytes()).collect()
}
