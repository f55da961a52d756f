//! Conversations in Redis, seen through whole gateways: what one of them stores, every other one knows.

use std::sync::Arc;

use fengda_plugins::{
    api::Clock,
    redis::server::{Cluster, Sentinels, Server},
};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{
    client::until,
    harness::{Gateway, Site},
    model::{Behaviour, Model},
};

/// A gateway beside others on one Redis, with a data directory of its own.
fn site(model: &Model) -> Site {
    let mut site = Site::new().model(model);
    site.clock = Clock::system();
    site
}

fn on(redis: &Server, model: &Model) -> Gateway {
    site(model).redis(redis).start()
}

pub fn at(yaml: &str, model: &Model) -> Gateway {
    site(model).store(&format!("redis: {{ {yaml} }}")).start()
}

pub fn ports(ports: &[u16]) -> String {
    format!("servers: [{}]", ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect::<Vec<_>>().join(", "))
}

fn questions(history: &Value) -> Vec<&str> {
    history["turns"].as_array().unwrap().iter().map(|t| t["q"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_user_goes_on_at_another_gateway_and_after_a_restart() {
    let (redis, model) = (Server::start(), Model::start().await);
    let (one, two) = (on(&redis, &model), on(&redis, &model));
    for (n, gateway) in [&one, &two, &one, &two, &two].into_iter().enumerate() {
        let reply = gateway.ask("alpha", "u", "q").await;
        assert_eq!((&reply["answer"], &reply["seq"], &reply["stored"]), (&json!(format!("{n}:q")), &json!(n + 1), &json!(true)));
    }
    let one = one.stop().start();
    assert_eq!(one.ask("alpha", "u", "last").await["answer"], "5:last");
    for gateway in [&one, &two] {
        let history = gateway.history("GET", "alpha", "u", "").await.json();
        assert_eq!((questions(&history).len(), questions(&history)[5]), (6, "last"));
        assert_eq!(questions(&gateway.history("GET", "beta", "u", "").await.json()), [""; 0], "of the same name, of another tenant");
    }
}

#[tokio::test]
async fn what_is_erased_at_one_gateway_is_gone_at_all_and_its_numbers_go_on() {
    let (redis, model) = (Server::start(), Model::start().await);
    let (one, two) = (on(&redis, &model), on(&redis, &model));
    for session in ["a", "b"] {
        one.say("alpha", "u", json!({ "query": "secret", "session_id": session })).await;
        two.history("GET", "alpha", "u", &format!("?session_id={session}")).await;
    }
    assert_eq!(one.history("DELETE", "alpha", "u", "?session_id=a").await.status, 204);
    assert_eq!(questions(&two.history("GET", "alpha", "u", "?session_id=a").await.json()), [""; 0]);
    assert_eq!(questions(&two.history("GET", "alpha", "u", "?session_id=b").await.json()), ["secret"]);
    assert_eq!(two.history("DELETE", "alpha", "u", "").await.status, 204);
    let reply = one.say("alpha", "u", json!({ "query": "q", "session_id": "b" })).await.json();
    assert_eq!((&reply["answer"], &reply["seq"]), (&json!("0:q"), &json!(2)));
}

#[tokio::test]
async fn a_message_that_comes_to_two_gateways_runs_once() {
    let (redis, model) = (Server::start(), Model::start().await);
    let (one, two) = (Arc::new(on(&redis, &model)), Arc::new(on(&redis, &model)));
    let release = Arc::new(Notify::new());
    model.plan([Behaviour::Hold(release.clone())]);
    let say = |gateway: &Arc<Gateway>, id: &'static str| {
        let gateway = gateway.clone();
        tokio::spawn(async move { gateway.say("alpha", "u", json!({ "query": id, "message_id": id })).await.json() })
    };
    let first = say(&one, "m");
    model.wait_for(1).await;
    let (copy, next) = (say(&two, "m"), say(&two, "next"));
    until("both are at the other gateway", async || two.running().gateway.lanes.len() == 2).await;
    release.notify_one();
    let (first, copy, next) = (first.await.unwrap(), copy.await.unwrap(), next.await.unwrap());
    assert_eq!((&first["answer"], &copy["answer"], &copy["seq"]), (&json!("0:m"), &json!("0:m"), &json!(1)));
    assert_eq!((&next["answer"], model.asked().len()), (&json!("1:next"), 2));
    let reused = one.say("alpha", "u", json!({ "query": "other", "message_id": "next" })).await;
    reused.error(409, "message_id_reused");
}

#[tokio::test]
async fn a_gateway_starts_without_its_redis_says_so_and_is_ready_when_it_comes() {
    let (redis, model) = (Server::start(), Model::start().await);
    redis.kill();
    let gateway = on(&redis, &model);
    let ready = gateway.admin("GET", "/readyz").await;
    assert!(ready.status == 503 && ready.text().starts_with("the context store failed: "), "{}", ready.text());
    assert_eq!(gateway.admin("GET", "/status").await.json()["redis"]["up"], false);
    redis.restart();
    until("it is ready", async || gateway.admin("GET", "/readyz").await.status == 200).await;
    assert_eq!(gateway.admin("GET", "/status").await.json()["redis"]["up"], true);
    assert_eq!(gateway.ask("alpha", "u", "q").await["stored"], true);
}

#[tokio::test]
async fn a_reload_keeps_the_store_and_refuses_another_one() {
    let (redis, other, model) = (Server::start(), Server::start(), Model::start().await);
    let gateway = on(&redis, &model);
    gateway.ask("alpha", "u", "q").await;
    let (config, port) = (gateway.site.config(), redis.port().to_string());
    gateway.site.write(&config.replace("alpha is busy", "changed"));
    assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
    assert_eq!(gateway.ask("alpha", "u", "q").await["answer"], "1:q");
    gateway.site.write(&config.replace(&port, &other.port().to_string()));
    let refused = gateway.admin("POST", "/reload").await;
    assert!(refused.status == 422 && refused.text().contains("`store` differs from the running gateway's"), "{}", refused.text());
    assert_eq!(gateway.ask("alpha", "u", "q").await["answer"], "2:q");
}

/// Everything that a gateway does with a store.
pub async fn whole_life(gateway: &Gateway) {
    for n in 0..3 {
        let reply = gateway.ask("alpha", "u", "q").await;
        assert_eq!((&reply["answer"], &reply["stored"]), (&json!(format!("{n}:q")), &json!(true)));
    }
    assert_eq!(gateway.history("GET", "alpha", "u", "").await.json()["seq"], 3);
    assert_eq!(gateway.history("DELETE", "alpha", "u", "?session_id=default").await.status, 204);
    assert_eq!(gateway.history("DELETE", "alpha", "u", "").await.status, 204);
    assert_eq!(gateway.ask("alpha", "u", "q").await["answer"], "0:q");
}

#[tokio::test]
async fn a_tenant_s_turns_and_erasures_wait_for_replicas_and_a_reload_changes_for_how_many() {
    let (redis, model) = (Server::start(), Model::start().await);
    let _replica = redis.replica();
    let gateway = site(&model).redis(&redis).tenant_beta("wait: { replicas: 1, timeout: 500ms }").start();
    let short = async || gateway.metric("fengda_redis_wait_short_total{tenant=\"beta\"}").await;
    assert_eq!((gateway.ask("beta", "u", "q").await["stored"].clone(), short().await), (json!(true), 0.0));
    gateway.site.write(&gateway.site.config().replace("replicas: 1, timeout: 500ms", "replicas: 2, timeout: 50ms"));
    assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
    assert_eq!((gateway.ask("beta", "u", "q").await["stored"].clone(), short().await), (json!(true), 1.0));
    for (query, missed) in [("?session_id=default", 2.0), ("", 3.0)] {
        let erased = gateway.history("DELETE", "beta", "u", query).await;
        assert_eq!((erased.status.as_u16(), short().await), (204, missed));
    }
    assert_eq!(gateway.ask("alpha", "u", "q").await["stored"], true);
}

#[tokio::test]
async fn a_cluster_is_one_store() {
    let (cluster, model) = (Cluster::shared(), Model::start().await);
    let gateways = [0, 1].map(|_| at(&format!("{}, cluster: true", ports(&cluster.ports()[..2])), &model));
    for gateway in &gateways {
        until("it is ready", async || gateway.admin("GET", "/readyz").await.status == 200).await;
    }
    // Enough users for all primaries to have some.
    for user in 0..12 {
        for (n, gateway) in gateways.iter().enumerate() {
            assert_eq!(gateway.ask("alpha", &format!("cluster {user}"), "q").await["answer"], format!("{n}:q"));
        }
    }
    assert_eq!(gateways[0].history("DELETE", "alpha", "cluster 0", "").await.status, 204);
    assert_eq!(gateways[1].ask("alpha", "cluster 0", "q").await["answer"], "0:q");
}

/// A replica may be behind. It runs what its primary's scripts wrote, but no script: all that a gateway reads is read by scripts.
#[tokio::test]
async fn nothing_is_read_from_replicas() {
    let (cluster, sentinels, model) = (Cluster::shared(), Sentinels::start(), Model::start().await);
    let of_cluster = format!("{}, cluster: true", ports(&cluster.ports()));
    let of_sentinels = format!("{}, sentinel: {}", ports(&sentinels.ports()), Sentinels::MASTER);
    for redis in [of_cluster, of_sentinels] {
        let [warm, cold] = [0, 1].map(|_| at(&redis, &model));
        for gateway in [&warm, &cold] {
            until("it is ready", async || gateway.admin("GET", "/readyz").await.status == 200).await;
        }
        for user in (0..12).map(|user| format!("reader {user}")) {
            warm.ask("alpha", &user, "q").await;
            assert_eq!(cold.history("GET", "alpha", &user, "").await.json()["seq"], 1);
            assert_eq!(cold.ask("alpha", &user, "q").await["seq"], 2);
            assert_eq!(warm.history("DELETE", "alpha", &user, "").await.status, 204);
        }
    }
    let is_replica = |node: &&Server| node.info("replication").contains("role:slave");
    let replicas: Vec<_> = cluster.nodes.iter().chain(&sentinels.servers).filter(is_replica).collect();
    assert_eq!(replicas.len(), 3 + 2);
    for replica in replicas {
        let commands = replica.info("commandstats");
        let asked = commands.lines().find(|line| ["cmdstat_eval", "cmdstat_readonly"].iter().any(|asked| line.starts_with(asked)));
        assert_eq!(asked, None);
    }
    assert!(sentinels.primary().info("commandstats").contains("cmdstat_evalsha"));
}

#[tokio::test]
async fn sentinels_say_where_the_store_is() {
    let (sentinels, model) = (Sentinels::start(), Model::start().await);
    let gateway = at(&format!("{}, sentinel: {}", ports(&sentinels.ports()), Sentinels::MASTER), &model);
    until("it is ready", async || gateway.admin("GET", "/readyz").await.status == 200).await;
    whole_life(&gateway).await;
}

/// It is the store that works: no turn is put aside for it, and nothing of it reaches a client.
#[tokio::test]
async fn what_is_damaged_in_redis_is_refused_reported_and_left_to_its_user() {
    let (redis, model) = (Server::start(), Model::start().await);
    let [warm, cold] = [(); 2].map(|()| on(&redis, &model));
    for user in ["foreign", "hurt", "well"] {
        warm.ask("alpha", user, "q").await;
    }
    let key = |kind: &str, user: &str| format!("fengda:{{alpha/{user}}}:{kind}:default");
    for kind in ["s", "t"] {
        redis.cli::<u64>(&["COPY", &key(kind, "well"), &key(kind, "foreign"), "REPLACE"]).unwrap();
    }
    redis.cli::<()>(&["LSET", &key("t", "hurt"), "-1", "no record"]).unwrap();
    for user in ["foreign", "hurt"] {
        let refused = cold.say("alpha", user, json!({ "query": "q" })).await;
        assert!(refused.error(503, "context_unavailable").contains("damaged"), "{}", refused.text());
    }
    assert_eq!(cold.metric("fengda_store_failures_total{step=\"begin\"}").await, 2.0);
    assert_eq!(cold.admin("GET", "/readyz").await.text(), "ok\n");
    assert_eq!(redis.cli::<String>(&["LINDEX", &key("t", "hurt"), "-1"]).unwrap(), "no record", "left as it is");
    assert_eq!(cold.ask("alpha", "well", "q").await["seq"], 2);
    assert_eq!(cold.history("DELETE", "alpha", "hurt", "").await.status, 204);
    assert_eq!(cold.ask("alpha", "hurt", "q").await["stored"], true);
}
