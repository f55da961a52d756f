//! Redis that asks for TLS, a certificate and a login, in each of its shapes, with the rights of `docs/redis.md` and no more.

use std::sync::Arc;

use fengda_plugins::redis::server::{Cluster, Guard, Sentinels, Server, pki};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{
    client::until,
    harness::{Gateway, Site},
    model::{Behaviour, Model},
    process::Process,
    redis::{at, ports, whole_life},
};

/// What a gateway that these guards let in has in `store.redis`.
pub fn past([servers, sentinels]: &[Guard; 2]) -> String {
    let mut keys = Vec::new();
    if servers.tls {
        let path = |name| pki(name).display().to_string();
        keys.push(format!("tls: {{ ca: {}, cert: {}, key: {} }}", path("ca.pem"), path("second.pem"), path("second-key.pem")));
    }
    for (guard, prefix) in [(servers, ""), (sentinels, "sentinel_")] {
        if let Some(login) = guard.login() {
            keys.push(format!("{prefix}username: {}, {prefix}password: {}", login.username.unwrap(), login.password.expose()));
        }
    }
    keys.iter().map(|key| format!(", {key}")).collect()
}

/// Two gateways do everything that gateways do with a store, and nothing that they are not allowed.
async fn serves(yaml: &str) {
    let model = Model::start().await;
    let gateways = [at(yaml, &model), at(yaml, &model)].map(Arc::new);
    for gateway in &gateways {
        until("it is ready", async || gateway.admin("GET", "/readyz").await.status == 200).await;
        until("it hears others", async || gateway.metric("fengda_redis_subscribed").await == 1.0).await;
    }
    whole_life(&gateways[0]).await;
    wakes(&gateways, &model).await;
    for gateway in &gateways {
        let metrics = gateway.admin("GET", "/metrics").await;
        assert!(!metrics.text().contains("result=\"refused\""), "a command that the rights do not allow:\n{}", metrics.text());
    }
}

/// A message waits at one gateway for another one's turn.
async fn wakes([one, two]: &[Arc<Gateway>; 2], model: &Model) {
    let (release, asked) = (Arc::new(Notify::new()), model.asked().len());
    model.plan([Behaviour::Hold(release.clone())]);
    let say = |gateway: &Arc<Gateway>, id: &'static str| {
        let gateway = gateway.clone();
        tokio::spawn(async move { gateway.say("alpha", "waits", json!({ "query": id, "message_id": id })).await.json() })
    };
    let first = say(one, "first");
    model.wait_for(asked + 1).await;
    let next = say(two, "next");
    until("it is at the other gateway", async || two.running().gateway.lanes.len() == 1).await;
    release.notify_one();
    assert_eq!((&first.await.unwrap()["answer"], &next.await.unwrap()["answer"]), (&json!("0:first"), &json!("1:next")));
}

#[tokio::test]
async fn one_server_serves_a_gateway_with_the_rights_of_the_document() {
    let [guard, _] = Guard::documented(true);
    let redis = Server::guarded(&guard, &[]);
    serves(&format!("url: \"rediss://localhost:{}\"{}", redis.port(), past(&[guard, Guard::default()]))).await;
}

#[tokio::test]
async fn a_cluster_serves_gateways_with_the_rights_of_the_document() {
    let [guard, _] = Guard::documented(true);
    let cluster = Cluster::guarded(&guard, &[]);
    serves(&format!("{}, cluster: true{}", ports(&cluster.ports()[..2]), past(&[guard, Guard::default()]))).await;
}

#[tokio::test]
async fn sentinels_serve_gateways_with_the_rights_of_the_document() {
    let guards = Guard::documented(true);
    let sentinels = Sentinels::guarded(&guards[0], &guards[1]);
    serves(&format!("{}, sentinel: {}{}", ports(&sentinels.ports()), Sentinels::MASTER, past(&guards))).await;
}

#[tokio::test]
async fn operators_are_told_what_a_login_lacks_and_no_password() {
    let [guard, _] = Guard::documented(false);
    let redis = Server::guarded(&guard, &[]);
    let change = |rule: &str| redis.cli::<()>(&["ACL", "SETUSER", "fengda", rule]).unwrap();
    let login = guard.login().unwrap();
    let site = Site::new().store(&format!("redis: {{ url: \"redis://fengda:{}@localhost:{}\" }}", login.password.expose(), redis.port()));
    change("-zadd");
    let mut gateway = Process::start(&site.write(&site.config())).await;
    let log = gateway.read_log();
    let all = || [&gateway.began[..], &log.lock().unwrap()].concat();
    let told = async |event: &str, reason: &str| {
        let is = |line: &Value| line["event"] == event && line["reason"].as_str().unwrap_or_default().contains(reason);
        until(&format!("{event} {reason}"), async || all().iter().any(is)).await;
    };
    let up =
        async |times: usize| until("it is up", async || all().iter().filter(|line| line["event"] == "redis_up").count() == times).await;
    told("redis_down", "NOPERM the user has no right to ZADD fengda:*").await;
    change("+zadd");
    up(1).await;
    change("-hset");
    told("redis_down", "NOPERM the user has no right to HSET fengda:*").await;
    change("+hset");
    up(2).await;
    for rule in ["resetpass", ">another-password"] {
        change(rule);
    }
    redis.cli::<()>(&["CLIENT", "KILL", "USER", "fengda"]).unwrap();
    told("redis_down", "WRONGPASS").await;
    let log = serde_json::to_string(&all()).unwrap();
    assert!(!log.contains(login.password.expose()) && !log.contains("another-password"), "{log}");
}

#[tokio::test]
async fn a_reload_takes_new_certificates_for_new_connections() {
    let guard = Guard { tls: true, user: None };
    let (redis, model) = (Server::guarded(&guard, &[]), Model::start().await);
    let site = Site::new().model(&model);
    let install = |site: &Site, from: &str, to: &str| {
        std::fs::copy(pki(from), site.path(to)).unwrap();
    };
    install(&site, "second.pem", "authority.pem"); // which signed nothing
    for name in ["second.pem", "second-key.pem"] {
        install(&site, name, name);
    }
    let gateway = site.store(&format!("redis: {{ url: \"rediss://localhost:{}\", tls: {{ ca: authority.pem }} }}", redis.port())).start();
    let is = async |status: u16, words: &str| {
        let says = async || gateway.admin("GET", "/readyz").await;
        until(words, async || matches!(says().await, reply if reply.status == status && reply.text().contains(words))).await;
    };
    is(503, "UnknownIssuer").await;
    install(&gateway.site, "ca.pem", "authority.pem");
    assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
    is(503, "CertificateRequired").await;
    let with_own = gateway.site.config().replace("authority.pem }", "authority.pem, cert: second.pem, key: second-key.pem }");
    gateway.site.write(&with_own);
    assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
    is(200, "ok").await;
    assert_eq!(gateway.ask("alpha", "u", "q").await["stored"], true);
    // Connections that are open go on, and those that are made later do not.
    install(&gateway.site, "second.pem", "authority.pem");
    assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
    assert_eq!(gateway.ask("alpha", "u", "q").await["stored"], true);
    redis.cli::<()>(&["CLIENT", "KILL", "TYPE", "normal"]).unwrap();
    is(200, "UnknownIssuer").await;
    let tls = ", tls: { ca: authority.pem, cert: second.pem, key: second-key.pem }";
    gateway.site.write(&with_own.replace("rediss:", "redis:").replace(tls, ""));
    let refused = gateway.admin("POST", "/reload").await;
    assert!(refused.status == 422 && refused.text().contains("`store` differs"), "{}", refused.text());
}
