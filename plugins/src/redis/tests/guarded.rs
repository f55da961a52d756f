//! Servers that ask for TLS and a login: they are followed as all others, and what they do not allow is told.

use super::{ADD, PATIENCE, add, begin, config, down, health, open, standalone, up, works};
use crate::{
    api::Secret,
    redis::{
        ClientCertificate, Fault, Health, Login, Mode, Redis, RedisConfig, RedisTls, Script, rights,
        server::{Cluster, Guard, Sentinels, Server, pki},
    },
};

/// The number of elements that it makes of a list.
static PUSH: Script = Script::new("push", "return redis.call('RPUSH', KEYS[1], 'x')");

fn pem(name: &str) -> String {
    std::fs::read_to_string(pki(name)).unwrap()
}

fn tls(ca: Option<&str>, certificate: Option<&str>) -> Option<RedisTls> {
    let client = certificate
        .map(|name| ClientCertificate { chain: pem(&format!("{name}.pem")).into(), key: Secret::from(pem(&format!("{name}-key.pem"))) });
    Some(RedisTls { ca: ca.map(|name| pem(name).into()), client })
}

/// Let in by such a guard.
pub(super) fn past(guard: &Guard, config: RedisConfig) -> RedisConfig {
    let tls = if guard.tls { tls(Some("ca.pem"), Some("second")) } else { None };
    RedisConfig { login: guard.login(), tls, ..config }
}

/// The guards of the document, of servers and of sentinels, whose servers let [`ADD`] run too.
pub(super) fn strict() -> [Guard; 2] {
    let [mut servers, sentinels] = Guard::documented(true);
    servers.user.as_mut().unwrap().push_str(" +incrby");
    [servers, sentinels]
}

/// What is told of the health, once it is about all of this.
async fn told(redis: &Redis, words: &[&str]) -> String {
    let is = |health: &Health| !health.is_up() && words.iter().all(|word| format!("{health:?}").contains(word));
    format!("{:?}", health(redis, &format!("told of {words:?}"), PATIENCE, is).await)
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_shown() {
    let [server, sentinel] = Guard::documented(false);
    let sentinels = Sentinels::guarded(&server, &sentinel);
    let wrong = || Some(Login { password: Secret::from("other-secret".to_owned()), ..server.login().unwrap() });
    let by = |login| config(Mode::Sentinel { master: Sentinels::MASTER.into(), login }, sentinels.ports());
    let one = || standalone(sentinels.primary().port());
    for (config, by_sentinel, code) in [
        (one(), false, "NOAUTH"),
        (RedisConfig { login: wrong(), ..one() }, false, "WRONGPASS"),
        (past(&server, by(None)), true, "NOAUTH"),
        (past(&server, by(wrong())), true, "WRONGPASS"),
        (by(sentinel.login()), false, "NOAUTH"),
        (RedisConfig { login: wrong(), ..by(sentinel.login()) }, false, "WRONGPASS"),
    ] {
        let told = told(&begin(config), &["127.0.0.1:", code]).await;
        assert_eq!(told.contains("sentinel 127.0.0.1:"), by_sentinel, "{told}");
        assert!(!told.contains("other-secret"), "{told}");
    }
    let redis = begin(past(&server, by(sentinel.login())));
    up(&redis).await;
}

#[tokio::test]
async fn a_server_that_quotes_the_login_it_does_not_know_gives_no_password_away() {
    let server = Server::with(&["rename-command HELLO \"\""]);
    let login = Some(Login { username: None, password: Secret::from("hunter2".to_owned()) });
    let told = told(&begin(RedisConfig { login, ..standalone(server.port()) }), &["unknown command 'HELLO'"]).await;
    assert!(!told.contains("hunter2"), "{told}");
}

/// A right as an ACL rule has it.
fn rule(right: &str) -> String {
    let upper = right.split(' ').take_while(|word| word.chars().all(|c| c.is_ascii_uppercase()));
    upper.collect::<Vec<_>>().join("|").to_lowercase()
}

#[tokio::test]
async fn each_right_of_the_document_is_asked_for() {
    let [guard, _] = Guard::documented(false);
    let node = Server::guarded(&guard, &["cluster-enabled yes"]);
    node.cli::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).unwrap();
    let change = |rule: &str| node.cli::<()>(&["ACL", "SETUSER", "fengda", rule]).unwrap();
    let connect = || begin(past(&guard, config(Mode::Cluster, [node.port()])));
    let rules = rights::STORE.iter().chain(rights::CLUSTER).map(|right| rule(right));
    let rules = rules.map(|rule| (format!("-{rule}"), format!("+{rule}"), rule));
    let others = [("resetkeys", "~fengda:*", "type fengda:*"), ("resetchannels", "&fengda:wake:*", "publish fengda:wake:*")];
    for (less, more, named) in rules.chain(others.map(|(less, more, named)| (less.into(), more.into(), named.into()))) {
        change(&less);
        let redis = connect();
        let denied = |health: &Health| {
            let told = format!("{health:?}").to_lowercase();
            ["127.0.0.1:", "noperm", &named].iter().all(|word| told.contains(word) || told.contains(&word.replace('|', " ")))
        };
        health(&redis, &format!("told of {named}"), PATIENCE, denied).await;
        change(&more);
    }
    up(&connect()).await;
}

/// Redis 7.0 crashes when it is asked of some that lack arguments.
#[test]
fn what_is_asked_of_a_right_is_a_whole_command() {
    let server = Server::start();
    for right in [rights::STORE, rights::CLUSTER].concat() {
        let info: Vec<Vec<redis::Value>> = server.cli(&["COMMAND", "INFO", &rule(right)]).unwrap();
        let arity: i64 = redis::from_redis_value(info[0][1].clone()).unwrap();
        let words = i64::try_from(right.split(' ').count()).unwrap();
        assert!(words == arity || (arity < 0 && words >= -arity), "{right}: {arity}");
    }
}

#[tokio::test]
async fn a_right_that_is_taken_away_is_missed_before_anything_is_half_done() {
    let [guard, _] = Guard::documented(false);
    let server = Server::guarded(&guard, &[]);
    server.cli::<()>(&["ACL", "SETUSER", "fengda", "-zadd", "-publish"]).unwrap();
    let redis = begin(past(&guard, standalone(server.port())));
    let named = "NOPERM the user has no right to PUBLISH fengda:wake:* 1, ZADD fengda:* 0 1";
    told(&redis, &[named]).await;
    let pushed = redis.run(&PUSH, &[b"fengda:a"], &[]).await;
    assert!(matches!(&pushed, Err(Fault::Down(reason)) if reason.contains(named)), "{pushed:?}");
    server.cli::<()>(&["ACL", "SETUSER", "fengda", "+zadd", "+publish"]).unwrap();
    up(&redis).await;
    redis.run(&PUSH, &[b"fengda:a"], &[]).await.unwrap();
    server.cli::<()>(&["ACL", "SETUSER", "fengda", "-hset"]).unwrap();
    told(&redis, &["HSET fengda:*"]).await;
    server.cli::<()>(&["ACL", "SETUSER", "fengda", "+hset"]).unwrap();
    up(&redis).await;
    // Who is let in no more.
    server.cli::<()>(&["ACL", "DELUSER", "fengda"]).unwrap();
    let told = told(&redis, &["WRONGPASS"]).await;
    assert!(!told.contains("password-of-your-own"), "{told}");
}

#[test]
fn the_document_grants_what_scripts_call_and_nothing_else() {
    let granted = |document: &str| -> Vec<String> {
        let words = document.split(' ').filter_map(|word| word.strip_prefix('+'));
        words.map(|word| word.trim_end_matches('`').to_owned()).collect()
    };
    let rules = |rights: &[&str]| rights.iter().map(|right| rule(right)).collect::<Vec<_>>();
    let [server, _] = Guard::documented(false);
    assert_eq!(granted(&server.user.unwrap()), [rules(rights::STORE), rules(rights::CLUSTER)].concat());

    let sources = |dirs: &[&str]| -> String {
        let files = dirs.iter().flat_map(|dir| std::fs::read_dir(format!("{}/src/{dir}", env!("CARGO_MANIFEST_DIR"))).unwrap());
        let paths = files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|end| end == "lua"));
        paths.map(|path| std::fs::read_to_string(path).unwrap()).collect()
    };
    let source = sources(&["context/redis", "rate_limit", "redis"]);
    let words = [rights::STORE, rights::CLUSTER].concat();
    let commands: Vec<_> = words.iter().map(|right| right.split(' ').next().unwrap()).collect();
    for (i, _) in source.match_indices("call('") {
        let called = source[i + 6..].split('\'').next().unwrap();
        assert!(commands.contains(&called), "{called} is called and not granted");
    }
    for command in commands {
        let ours = ["EVAL", "EVALSHA", "PING", "WAIT", "SUBSCRIBE", "ASKING"].contains(&command); // sent as they are
        assert!(ours || source.contains(&format!("'{command}'")), "{command} is granted and not called");
    }
}

#[tokio::test]
async fn tls_takes_only_servers_and_clients_that_it_trusts() {
    let guard = Guard { tls: true, user: None };
    let server = Server::guarded(&guard, &["bind 127.0.0.1 127.0.0.2"]);
    let with = |tls| RedisConfig { tls, ..standalone(server.port()) };
    let redis = open(with(tls(Some("ca.pem"), Some("second")))).await;
    assert_eq!(add(&redis, "a", 1).await, Ok(1));
    let elsewhere = RedisConfig { servers: vec![("127.0.0.2".into(), server.port())], ..with(tls(Some("ca.pem"), Some("second"))) };
    for refused in [with(tls(None, Some("second"))), with(tls(Some("ca.pem"), None)), elsewhere, with(None)] {
        let host = refused.servers[0].0.clone();
        let why = if refused.tls.is_some() { "ertificate" } else { "" }; // in the clear the connection just ends
        told(&begin(refused), &[&host, why]).await;
    }
}

#[tokio::test]
async fn nodes_of_a_cluster_show_certificates_for_the_names_that_they_tell() {
    let guard = Guard { tls: true, user: None };
    let lines = ["bind 127.0.0.1 127.0.0.2", "cluster-announce-ip 127.0.0.2", "cluster-announce-hostname localhost"];
    let cluster = Cluster::guarded(&guard, &lines);
    let redis = begin(past(&guard, config(Mode::Cluster, cluster.ports())));
    told(&redis, &["127.0.0.2:", "not valid for name"]).await;
    for node in &cluster.nodes {
        node.cli::<()>(&["CONFIG", "SET", "cluster-preferred-endpoint-type", "hostname"]).unwrap();
    }
    up(&redis).await;
    for key in ["a", "b", "c", "d"] {
        assert_eq!(redis.run(&ADD, &[key.as_bytes()], &[b"1"]).await, Ok(redis::Value::Int(1)));
    }
    let lost = cluster.primary_of("a");
    lost.kill();
    let named = |health: &Health| format!("{health:?}").contains(&format!("localhost:{}: ", lost.port()));
    assert!(health(&redis, "partly up", PATIENCE, named).await.is_up());
}

/// Through an orderly failover, and one after a death.
#[tokio::test]
async fn sentinels_are_followed_to_another_primary() {
    let [servers, sentinels] = strict();
    let there = Sentinels::guarded(&servers, &sentinels);
    let mode = Mode::Sentinel { master: Sentinels::MASTER.into(), login: sentinels.login() };
    let redis = open(past(&servers, config(mode, there.ports()))).await;
    assert_eq!(add(&redis, "fengda:a", 1).await, Ok(1));

    // One that goes on living, as a replica.
    there.fail_over();
    works(&redis, "fengda:a").await;

    let old = there.primary();
    there.sentinels()[0].kill(); // two are enough
    old.kill();
    down(&redis).await;
    there.wait_for_another_than(old.port());
    up(&redis).await;
    let written = works(&redis, "fengda:a").await;
    assert_eq!(there.primary().cli::<i64>(&["GET", "fengda:a"]), Ok(written));
}
