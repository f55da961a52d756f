//! Where conversations are kept.

use std::time::Duration;

use fengda_plugins::{
    api::Secret,
    context::CacheConfig,
    redis::{ClientCertificate, Login, Mode, RedisConfig, RedisTls, RedisUrl, UrlError},
};

use super::{DAY, MILLISECOND, SECOND, upstreams::authority, within};
use crate::{
    config::{Backend, Import, MAX_PEERS, RedisStore, Store, diagnostic::Report, path::Path, raw},
    edge::tls::{Acceptor, TlsError},
};

const EXAMPLE: &str = "such as `redis://127.0.0.1:6379`, or `rediss://user:password@redis.internal:6380/0` with TLS; a `/`, `@`, `?` or \
                       `#` in a password is `%2F`, `%40`, `%3F`, `%23`";
/// Longest that a turn may be kept waiting for what was said before it.
const MAX_IMPORT_WAIT: Duration = Duration::from_secs(2);
const SERVERS: &str = "such as `servers: [\"redis-1:6379\", \"redis-2:6379\"]`";

pub(super) fn check(mut raw: raw::Store, report: &mut Report) -> Store {
    within(report, "store.cache.size", raw.cache.size, 1 << 20..=1 << 40, "1MiB to 1024GiB");
    within(report, "store.cache.share", raw.cache.share.0, 1..=100, "1% to 100%");
    within(report, "store.cache.idle", raw.cache.idle, SECOND..=30 * DAY, "1s to 30d");
    within(report, "store.history.turns", raw.history.turns, 1..=1000, "1 to 1000");
    within(report, "store.history.keep", raw.history.keep, SECOND..=3650 * DAY, "1s to 3650d");
    let path = Path::parse("store.redis");
    if raw.embedded.is_some() && raw.redis.is_some() {
        let hint = "keep one: `embedded` for one gateway, `redis` for many".to_owned();
        report.add(&path, "`redis` and `embedded` are two stores, and conversations are in one", hint);
    }
    let import = raw.import.take().or_else(|| raw.redis.as_ref().map(|_| raw::Import::default()));
    let import = import.and_then(|import| self::import(import, raw.redis.is_some(), report));
    let embedded = Backend::Embedded { durability: raw.embedded.unwrap_or_default().durability };
    Store {
        backend: raw.redis.take().map_or(embedded, |raw| Backend::Redis(Box::new(redis(raw, &path, report)))),
        import,
        cache: CacheConfig { size: raw.cache.size, share: raw.cache.share, idle: raw.cache.idle },
        history_turns: raw.history.turns,
        history_keep: raw.history.keep,
    }
}

/// `shared`: the store is a Redis, where the lists may be too.
fn import(raw: raw::Import, shared: bool, report: &mut Report) -> Option<Import> {
    let path = Path::parse("store.import");
    within(report, path.at("timeout"), raw.timeout, 10 * MILLISECOND..=MAX_IMPORT_WAIT, "10ms to 2s");
    let raw::Import { url, servers, cluster, sentinel, username, password, sentinel_username, sentinel_password, tls, timeout: wait } = raw;
    if url.is_some() || !servers.is_empty() {
        // What keeps a turn waiting is not what it takes to connect.
        let timeout = wait.clamp(raw::Redis::default().timeout, MAX_IMPORT_WAIT);
        let logins = raw::Redis { username, password, sentinel_username, sentinel_password, ..raw::Redis::default() };
        let raw = raw::Redis { url, servers, cluster, sentinel, tls, timeout, ..logins };
        return Some(Import { link: Some(redis(raw, &path, report).link), wait });
    }
    if !shared {
        report.add(&path, "`import` needs a `url`, or `servers`: the store is `embedded`", EXAMPLE.to_owned());
        return None;
    }
    let given = [
        ("cluster", cluster),
        ("sentinel", sentinel.is_some()),
        ("username", username.is_some()),
        ("password", password.is_some()),
        ("sentinel_username", sentinel_username.is_some()),
        ("sentinel_password", sentinel_password.is_some()),
        ("tls", tls.is_some()),
    ];
    for (key, _) in given.iter().filter(|(_, given)| *given) {
        let message = format!("`{key}` is about a `url` or `servers`, and there are none");
        report.add(&path.at(*key), message, format!("`store.redis` has a `{key}` of its own"));
    }
    Some(Import { link: None, wait })
}

fn redis(mut raw: raw::Redis, path: &Path, report: &mut Report) -> RedisStore {
    // A commit with the longest `wait`, for its own replicas and for others', is to fit into `COMMIT_TIME`, and the spool after it.
    within(report, path.at("timeout"), raw.timeout, 10 * MILLISECOND..=3 * SECOND, "10ms to 3s");
    within(report, path.at("spool"), raw.spool, 1 << 20..=64 << 30, "1MiB to 64GiB");
    let mode = mode(&mut raw, path, report);
    let url = raw.url.as_ref().and_then(|text| url(text.expose(), &path.at("url"), report));
    if let Some(url) = &url {
        beside_url(&raw, url, path, report);
    }
    let tls = tls(raw.tls, url.as_ref().is_some_and(|url| url.tls), &path.at("tls"), report);
    let (mut servers, mut database) = (servers(&raw.servers, &path.at("servers"), report), 0);
    let (mut username, mut password, mut named) = (raw.username, raw.password, "username");
    if let Some(url) = url {
        servers.push(url.server);
        database = url.database;
        if url.username.is_some() {
            (username, named) = (url.username, "url");
        }
        password = url.password.or(password);
    }
    let login = login(username, password, [named, "password"], path, report);
    RedisStore { link: RedisConfig { servers, mode, database, login, tls, timeout: raw.timeout }, spool: raw.spool }
}

/// `named` is which keys of `path` name the user, and would the password.
fn login(username: Option<String>, password: Option<Secret>, named: [&str; 2], path: &Path, report: &mut Report) -> Option<Login> {
    if username.is_some() && password.is_none() {
        let hint = format!("give `{}` too: without one Redis takes the gateway for its user `default`", named[1]);
        report.add(&path.at(named[0]), "a user of Redis without a password", hint);
    }
    Some(Login { username, password: password? })
}

/// What stands at the servers, and whether the file names as many as that takes.
fn mode(raw: &mut raw::Redis, path: &Path, report: &mut Report) -> Mode {
    match (&raw.url, raw.servers.len()) {
        (None, 0) => report.add(path, "`redis` needs a `url`, or `servers`", EXAMPLE.to_owned()),
        (Some(_), 1..) => {
            let hint = "keep `url` for one server, or `servers` for several".to_owned();
            report.add(&path.at("servers"), "`url` and `servers` both say where Redis is", hint);
        }
        (None, n) if n > MAX_PEERS => {
            let hint = "those that are asked first tell of the others".to_owned();
            report.add(&path.at("servers"), format!("{n} servers, and at most {MAX_PEERS} are taken"), hint);
        }
        (None, 2..) if !raw.cluster && raw.sentinel.is_none() => {
            let hint = "`cluster: true` if they are nodes of a cluster, `sentinel: NAME` if they are sentinels".to_owned();
            report.add(&path.at("servers"), "several servers, and nothing that joins them", hint);
        }
        _ => {}
    }
    let keys = ["sentinel_username", "sentinel_password"];
    let given = [raw.sentinel_username.is_some(), raw.sentinel_password.is_some()];
    if let (None, Some(i)) = (&raw.sentinel, given.iter().position(|given| *given)) {
        let hint = "give `sentinel` too, or remove it: `username` and `password` are for the servers themselves".to_owned();
        report.add(&path.at(keys[i]), format!("`{}` is for sentinels, and there are none", keys[i]), hint);
    }
    let login = login(raw.sentinel_username.take(), raw.sentinel_password.take(), keys, path, report);
    match raw.sentinel.take() {
        Some(_) if raw.cluster => {
            report.add(
                &path.at("sentinel"),
                "`sentinel` and `cluster` do not go together",
                "a cluster sees to its failovers itself".to_owned(),
            );
            Mode::Cluster
        }
        Some(master) => {
            if master.is_empty() {
                let hint = "what `sentinel monitor` calls it, such as `mymaster`".to_owned();
                report.add(&path.at("sentinel"), "the server that sentinels watch has a name", hint);
            }
            Mode::Sentinel { master, login }
        }
        None if raw.cluster => Mode::Cluster,
        None => Mode::Standalone,
    }
}

fn url(text: &str, path: &Path, report: &mut Report) -> Option<RedisUrl> {
    let wrong = |error: UrlError| report.add(path, error.to_string(), EXAMPLE.to_owned());
    RedisUrl::parse(text).map_err(wrong).ok()
}

/// Reports what says something else than the URL, or the same a second time.
fn beside_url(raw: &raw::Redis, url: &RedisUrl, path: &Path, report: &mut Report) {
    let twice =
        [("username", raw.username.is_some() && url.username.is_some()), ("password", raw.password.is_some() && url.password.is_some())];
    for (key, _) in twice.iter().filter(|(_, twice)| *twice) {
        report.add(&path.at(*key), format!("`{key}` is in `url` too"), "keep one of them".to_owned());
    }
    if raw.cluster && url.database != 0 {
        report.add(&path.at("url"), "a cluster has no databases but 0", "leave the number away".to_owned());
    }
    if raw.tls.is_some() && !url.tls {
        report.add(&path.at("tls"), "`tls` is given, and `url` is one in the clear", "begin it with `rediss://`".to_owned());
    }
}

fn servers(raw: &[Option<String>], path: &Path, report: &mut Report) -> Vec<(String, u16)> {
    let mut servers = Vec::with_capacity(raw.len() + 1);
    for (i, text) in raw.iter().enumerate() {
        let text = text.as_deref().unwrap_or_default();
        match server(text) {
            Some(server) => servers.push(server),
            None => {
                let at = path.at(i);
                report.add(&at, format!("{} is no host and port", report.shown(&at, text)), SERVERS.to_owned());
            }
        }
    }
    servers
}

/// Reads `host:port` or `[address]:port`.
fn server(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']').filter(|address| address.parse::<std::net::Ipv6Addr>().is_ok())?,
        None if host.is_empty() || host.contains([':', '/', '@', ' ']) => return None,
        None => host,
    };
    Some((host.to_owned(), port))
}

fn tls(raw: Option<raw::RedisTls>, of_url: bool, path: &Path, report: &mut Report) -> Option<RedisTls> {
    let Some(raw) = raw else { return of_url.then(RedisTls::default) };
    let client = match (raw.cert, raw.key) {
        (Some(chain), Some(key)) => {
            if let Err(error) = Acceptor::new(&chain, &key) {
                let at = match error {
                    TlsError::NoCertificate | TlsError::Certificate(_) => "cert",
                    TlsError::NoKey | TlsError::Key | TlsError::Mismatch => "key",
                };
                report.add(
                    &path.at(at),
                    error.to_string(),
                    "PEM: the certificate first, and the private key that belongs to it".to_owned(),
                );
            }
            Some(ClientCertificate { chain: chain.into(), key })
        }
        (None, None) => None,
        (given, _) => {
            let (there, missing) = if given.is_some() { ("cert", "key") } else { ("key", "cert") };
            report.add(path, format!("`{there}` without `{missing}`"), "give both, or neither".to_owned());
            None
        }
    };
    Some(RedisTls { ca: raw.ca.map(|text| authority(&text, &path.at("ca"), report)), client })
}
