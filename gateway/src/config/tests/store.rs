//! `store:`: exactly one of two, and a Redis that can be reached as it is described.

use std::time::Duration;

use fengda_plugins::redis::{Login, Mode, RedisConfig};

use super::{Backend, Dir, Import, TENANT, Wait, expect, problems, problems_with};

fn redis(text: &str, env: &[(&str, &str)]) -> RedisConfig {
    let dir = Dir::new();
    let config = dir.parse(&format!("{TENANT}store: {{redis: {text}}}\n"), env).unwrap_or_else(|e| panic!("{e}"));
    match config.store.backend {
        Backend::Redis(redis) => redis.link,
        Backend::Embedded { .. } => panic!("embedded"),
    }
}

fn login(username: Option<&str>, password: &str) -> Option<Login> {
    Some(Login { username: username.map(Into::into), password: password.to_owned().into() })
}

fn wrong(redis: &str, expected: &[&str]) {
    expect(&format!("store: {{redis: {redis}}}\n"), expected);
}

#[test]
fn a_server_is_named_by_a_url() {
    let link = redis("{url: redis://redis.internal}", &[]);
    let expected = RedisConfig {
        servers: vec![("redis.internal".into(), 6379)],
        mode: Mode::Standalone,
        database: 0,
        login: None,
        tls: None,
        timeout: Duration::from_millis(500),
    };
    assert_eq!(link, expected);
    let link = redis("{url: \"rediss://fengda:${P}@[::1]:7/2\", timeout: 1s}", &[("P", "hunter2")]);
    assert_eq!((link.servers, link.database, link.tls.is_some()), (vec![("::1".into(), 7)], 2, true));
    assert_eq!(link.login, login(Some("fengda"), "hunter2"));
}

#[test]
fn several_servers_are_a_cluster_or_sentinels() {
    let link = redis("{servers: [\"a:1\", \"[::1]:2\"], cluster: true, password: p, tls: {}}", &[]);
    assert_eq!((link.servers.len(), link.mode, link.login), (2, Mode::Cluster, login(None, "p")));
    assert!(link.tls.is_some_and(|tls| tls.ca.is_none() && tls.client.is_none()));
    let link = redis("{servers: [\"a:26379\"], sentinel: mymaster, username: fengda, password: p}", &[]);
    assert_eq!((link.mode, link.tls), (Mode::Sentinel { master: "mymaster".into(), login: None }, None));
    wrong("{servers: [\"a:1\", \"b:1\"]}", &["2:17: several servers, and nothing that joins them | `cluster: true` if"]);
    wrong("{servers: [\"a:1\"], sentinel: m, cluster: true}", &["2:45: `sentinel` and `cluster` do not go together"]);
    wrong("{servers: [\"a:1\"], sentinel: \"\"}", &["2:45: the server that sentinels watch has a name"]);
    wrong("{url: redis://a/1, cluster: true}", &["2:22: a cluster has no databases but 0"]);
}

#[test]
fn sentinels_are_logged_in_to_as_somebody_of_their_own() {
    let link = redis("{url: redis://u:p@a, sentinel: m, sentinel_username: s, sentinel_password: q}", &[]);
    let mode = Mode::Sentinel { master: "m".into(), login: login(Some("s"), "q") };
    assert_eq!((link.mode, link.login), (mode, login(Some("u"), "p")));
    let no_sentinels = "is for sentinels, and there are none | give `sentinel` too, or remove it";
    wrong("{url: redis://a, sentinel_password: q}", &[&format!("2:52: `sentinel_password` {no_sentinels}")]);
    wrong(
        "{url: redis://a, sentinel_username: s}",
        &[&format!("2:52: `sentinel_username` {no_sentinels}"), "2:52: a user of Redis without a password | give `sentinel_password` too"],
    );
}

#[test]
fn there_is_one_store_and_one_place_of_it() {
    expect("store: {embedded: {durability: os}, redis: {url: redis://a}}\n", &["2:37: `redis` and `embedded` are two stores"]);
    expect("store: {embedded: , redis: {url: redis://a}}\n", &["2:21: `redis` and `embedded` are two stores"]);
    wrong("{timeout: 1s}", &["2:9: `redis` needs a `url`, or `servers` | such as `redis://127.0.0.1:6379`"]);
    wrong("{url: redis://a, servers: [\"b:1\"]}", &["2:33: `url` and `servers` both say where Redis is"]);
    wrong("{url: redis://u:p@a, username: u, password: p}", &["2:47: `username` is in `url` too", "2:60: `password` is in `url` too"]);
    wrong("{url: redis://a, username: u}", &["2:43: a user of Redis without a password | give `password` too"]);
    wrong("{url: redis://u@a}", &["2:22: a user of Redis without a password | give `password` too"]);
    wrong(
        "{url: \"redis://:p/w@a\"}",
        &[
            "2:22: this is no URL of Redis | such as `redis://127.0.0.1:6379`, or `rediss://user:password@redis.internal:6380/0` with TLS; a `/`",
        ],
    );
    wrong("{url: redis://a, tls: {}}", &["2:33: `tls` is given, and `url` is one in the clear | begin it with `rediss://`"]);
    wrong("{url: redis://a, timeout: 1ms, spool: 1KiB}", &["2:42: `store.redis.timeout` must be 10ms to 3s", "2:54: `store.redis.spool`"]);
    for bad in ["a", ":1", "a:0", "a:99999", "a:b", "redis://a:1", "::1:2", "[a]:1", "[::1]"] {
        wrong(&format!("{{servers: [\"{bad}\"]}}"), &[&format!("2:27: `{bad}` is no host and port | such as `servers: [")]);
    }
    for bad in ["a", "http://a", "redis://", "redis://a:x", "redis://a/0?x=1", "redis://a/x"] {
        assert_eq!(problems(&format!("store: {{redis: {{url: \"{bad}\"}}}}\n")).len(), 1, "{bad}");
    }
}

#[test]
fn no_password_of_redis_is_shown() {
    let shown = |text: &str| {
        for store in ["redis", "import"] {
            let found = problems_with(&format!("{TENANT}store: {{{store}: {text}}}\n"), &[("P", "hunter2")]).join("\n");
            assert!(!found.is_empty() && !found.contains("hunter2"), "{store}: {text}: {found}");
        }
    };
    for text in [
        "{url: \"redis://:hunter2@a:x\"}",
        "{url: \"hunter2\"}",
        "{url: [\"redis://:hunter2@a\"]}",
        "\"redis://:hunter2@a\"",
        "\"rediss://u:h@/hunter2@a\"",
        "{\"redis://:hunter2@a\": }",
        "{servers: [\"redis://:hunter2@a:1\"]}",
        "{servers: \"redis://:hunter2@a:1\"}",
        "{url: redis://a, cluster: \"redis://:hunter2@a\"}",
        "{servers: [\"${P}\"]}",
        "{url: redis://a, password: [hunter2]}",
        "{url: redis://a, sentinel: m, sentinel_password: [hunter2]}",
        "{url: rediss://a, tls: {cert: a, key: hunter2}}",
    ] {
        shown(text);
    }
    let link = redis("{url: \"redis://:hunter2@a\"}", &[]);
    assert!(!format!("{link:?}").contains("hunter2"), "{link:?}");
}

#[test]
fn a_certificate_for_redis_comes_with_its_key() {
    let dir = Dir::new();
    std::fs::write(dir.0.join("ca.pem"), "no certificate").unwrap();
    let found = |tls: &str| {
        let text = format!("{TENANT}store: {{redis: {{url: rediss://a, tls: {tls}}}}}\n");
        dir.parse(&text, &[]).map_err(|e| e.to_string()).err().unwrap_or_default()
    };
    assert!(found("{ca: ca.pem}").contains(":2:44: the file holds no certificate"), "{}", found("{ca: ca.pem}"));
    assert!(found("{ca: none.pem}").contains(":2:44: the key file `"), "{}", found("{ca: none.pem}"));
    assert!(found("{cert: ca.pem}").contains(":2:34: `cert` without `key`"), "{}", found("{cert: ca.pem}"));
    assert!(found("{key: ca.pem, cert: ca.pem}").contains("there is no certificate in it"));
    assert_eq!(found("{}"), "");
}

#[test]
fn only_redis_has_replicas_to_wait_for() {
    let tenant = |wait: &str| TENANT.replace("keys:", &format!("wait: {wait}, keys:"));
    let redis = "store: {redis: {url: redis://a}}\n";
    let dir = Dir::new();
    let wait = |wait: &str| dir.parse(&format!("{}{redis}", tenant(wait)), &[]).unwrap().tenants[0].wait;
    assert_eq!(wait("{}"), Some(Wait { replicas: 1, timeout: Duration::from_millis(100) }));
    assert_eq!(wait("{replicas: 2, timeout: 50ms}"), Some(Wait { replicas: 2, timeout: Duration::from_millis(50) }));
    let found = problems_with(&format!("{}{redis}", tenant("{replicas: 0, timeout: 501ms}")), &[]);
    assert!(found[0].contains("must be 1 to 16") && found[1].contains("must be 1ms to 500ms"), "{found:?}");
    let found = problems_with(&tenant("{}"), &[]);
    assert!(found.len() == 1 && found[0].contains("`wait` is for replicas of `store.redis` | remove it"), "{found:?}");
}

#[test]
fn what_is_there_with_nothing_in_it_is_there() {
    expect("store:\n  redis:\n", &["3:3: `redis` needs a `url`, or `servers`"]);
    expect("store: {redis: ~}\n", &["2:16: `redis` needs a `url`, or `servers`"]);
    expect("store:\n  import:\n", &["3:3: `import` needs a `url`, or `servers`: the store is `embedded`"]);
    assert!(redis("{servers: [\"a:1\"], tls: }", &[]).tls.is_some(), "not in the clear");
    let filled = "fill it in, or remove the key";
    expect(
        "store: {redis: {url: redis://a, password: }}\n",
        &[&format!("2:33: expected a secret as text, in quotes if it looks like a number, found nothing | {filled}")],
    );
    expect("threads:\n", &[&format!("2:1: expected a whole number from 0, found nothing | {filled}")]);
    let of_tenant = |key: &str| problems_with(&TENANT.replace("keys:", &format!("{key}: , keys:")), &[]);
    assert!(of_tenant("wait")[0].contains("`wait` is for replicas of `store.redis`"), "{:?}", of_tenant("wait"));
    assert!(of_tenant("import")[0].contains(&format!("expected text, found nothing | {filled}")), "{:?}", of_tenant("import"));
    // All of these have defaults, none of which is changed.
    expect("store: {embedded: , cache: , history: }\nlimits:\nlog:\n", &[]);
}

#[test]
fn older_conversations_are_in_a_redis_of_their_own_or_in_the_store_s() {
    let dir = Dir::new();
    let import = |text: &str| dir.parse(&format!("{TENANT}store: {text}\n"), &[]).unwrap_or_else(|e| panic!("{e}")).store.import;
    assert_eq!(import("{}"), None);
    assert_eq!(import("{redis: {url: redis://a}}"), Some(Import { link: None, wait: Duration::from_millis(250) }));
    let own = import("{import: {url: redis://u:p@old/3, cluster: false, timeout: 1s}}").unwrap();
    let link = own.link.unwrap();
    assert_eq!((own.wait, link.servers, link.database), (Duration::from_secs(1), vec![("old".into(), 6379)], 3));
    let own = import("{redis: {url: redis://a}, import: {url: redis://old, cluster: true}}").unwrap();
    assert_eq!(own.link.unwrap().mode, Mode::Cluster);
    expect("store: {import: {timeout: 1ms, url: redis://a}}\n", &["2:27: `store.import.timeout` must be 10ms to 2s"]);
    expect(
        "store: {import: {}}\n",
        &["2:9: `import` needs a `url`, or `servers`: the store is `embedded` | such as `redis://127.0.0.1:6379`"],
    );
    expect("store: {import: {url: nowhere}}\n", &["2:23: this is no URL of Redis"]);
    let stray = "store: {redis: {url: redis://a}, import: {cluster: true, sentinel: m, username: u, password: p, tls: {}}}\n";
    let said = |place: &str, key: &str| {
        format!("2:{place}: `{key}` is about a `url` or `servers`, and there are none | `store.redis` has a `{key}` of its own")
    };
    let keys = [("52", "cluster"), ("68", "sentinel"), ("81", "username"), ("94", "password"), ("97", "tls")];
    let said = keys.map(|(place, key)| said(place, key));
    expect(stray, &said.each_ref().map(String::as_str));
}

#[test]
fn older_conversations_are_reached_as_the_store_s_redis_is() {
    let dir = Dir::new();
    let link = |text: &str| {
        let text = format!("{TENANT}store: {{import: {text}}}\n");
        dir.parse(&text, &[]).unwrap_or_else(|e| panic!("{e}")).store.import.unwrap().link.unwrap()
    };
    let older = link("{servers: [\"a:1\", \"b:2\"], sentinel: mymaster, username: u, password: p, tls: {}}");
    let same = redis("{servers: [\"a:1\", \"b:2\"], sentinel: mymaster, username: u, password: p, tls: {}}", &[]);
    assert_eq!(older, same);
    // A turn may wait for longer than a command takes by default, and connecting may take longer than a turn waits.
    let timeout = |text: &str| link(text).timeout;
    assert_eq!(timeout("{url: redis://a, timeout: 10ms}"), Duration::from_millis(500));
    assert_eq!(timeout("{url: redis://a, timeout: 1500ms}"), Duration::from_millis(1500));
    let found = |import: &str| problems_with(&format!("{TENANT}store: {{import: {import}}}\n"), &[("P", "hunter2")]).join("\n");
    assert!(found("{servers: [\"a:1\", \"b:1\"]}").contains("2:18: several servers, and nothing that joins them"));
    assert!(found("{url: redis://a, tls: {}}").contains("`tls` is given, and `url` is one in the clear"));
    let missing = found("{url: rediss://a, tls: {ca: none.pem}}");
    assert!(missing.contains("2:45: the key file `") && missing.contains("none.pem"), "{missing}");
    let pasted = found("{url: rediss://a, tls: {cert: a, key: hunter2}}");
    assert!(pasted.contains("that `store.import.tls.key` names") && !pasted.contains("hunter2"), "{pasted}");
}

#[test]
fn a_tenant_s_older_conversations_have_keys_of_their_own() {
    let tenant = |import: &str| TENANT.replace("keys:", &format!("import: \"{import}\", keys:"));
    let older = "store: {import: {url: redis://old}}\n";
    let dir = Dir::new();
    let config = dir.parse(&format!("{}{older}", tenant("chat:{user_id}")), &[]).unwrap();
    assert_eq!(config.imports().into_values().collect::<Vec<_>>(), ["chat:{user_id}".parse().unwrap()]);
    let found = problems_with(&format!("{}{older}", tenant("chat:{user}")), &[]);
    assert!(found.len() == 1 && found[0].contains("the pattern has a brace that is not part of {user_id}"), "{found:?}");
    let found = problems_with(&tenant("chat:{user_id}"), &[]);
    assert!(found.len() == 1 && found[0].contains("nothing says where the older deployment's conversations are | `store:"), "{found:?}");
    let of_store =
        |store: &str| problems_with(&format!("{}store: {store}\n", tenant("chat:{user_id}").replace("keys:", "wait: {}, keys:")), &[]);
    for (wrong, follows) in [("{redis: redis://a}", 0), ("{import: redis://a}", 1), ("{import: {}}", 1)] {
        let found = of_store(wrong);
        assert!(found.len() == 1 + follows && !found.iter().any(|found| found.contains("nothing says where")), "{wrong}: {found:?}");
    }
    let other = |import: &str| {
        format!(
            "  harbor-bank: {{flow: tenant-flows/harbor-bank/main.lua, import: \"{import}\", keys: [{{alg: HS256, secret: another-secret-that-is-long-enough-1}}]}}\n"
        )
    };
    let two = |one: &str, two: &str| {
        let one = tenant(one).replacen("{acme-shop", "\n  acme-shop", 1).replacen("]}}", "]}", 1);
        problems_with(&format!("{one}{}{older}", other(two)), &[])
    };
    assert_eq!(two("shop:{user_id}", "bank:{user_id}"), Vec::<String>::new());
    let found = two("chat:{user_id}", "chat:bank:{user_id}");
    assert!(
        found.len() == 1 && found[0].contains("3:") && found[0].contains("of `acme-shop` and of `harbor-bank` | each tenant"),
        "{found:?}"
    );
}
