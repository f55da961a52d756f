//! News from other gateways.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{PATIENCE, config, open, standalone};
use crate::redis::{
    Listener, Mode, Redis,
    server::{Cluster, Sentinels, Server},
};

#[derive(Default)]
struct Heard {
    messages: Mutex<Vec<String>>,
    connected: Mutex<u32>,
    news: Notify,
}

impl Listener for Heard {
    fn woken(&self, message: &[u8]) {
        self.messages.lock().unwrap().push(String::from_utf8(message.into()).unwrap());
        self.news.notify_one();
    }

    fn reconnected(&self) {
        *self.connected.lock().unwrap() += 1;
        self.news.notify_one();
    }
}

impl Heard {
    fn listen(redis: &Redis) -> Arc<Self> {
        let heard = Arc::new(Self::default());
        let listener: Arc<dyn Listener> = heard.clone();
        redis.listen(Arc::downgrade(&listener));
        heard
    }

    /// Says `message` until somebody hears it: a listener may be there before its channel is.
    async fn hears(&self, redis: &Redis, by: &Server, message: &str) {
        let channel = format!("fengda:wake:{}", redis.name());
        let said = async {
            let heard = || self.messages.lock().unwrap().iter().any(|heard| heard == message);
            while by.cli::<u64>(&["PUBLISH", &channel, message]).is_err() || !heard() {
                let _ = tokio::time::timeout(Duration::from_millis(50), self.news.notified()).await;
            }
        };
        tokio::time::timeout(PATIENCE, said).await.expect("it is heard");
    }
}

#[tokio::test]
async fn messages_are_heard_again_after_the_server_was_away() {
    let server = Server::start();
    let redis = open(standalone(server.port())).await;
    let heard = Heard::listen(&redis);
    heard.hears(&redis, &server, "one").await;
    server.kill();
    let before = *heard.connected.lock().unwrap();
    server.restart();
    let again = async {
        while *heard.connected.lock().unwrap() == before {
            heard.news.notified().await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("told that messages may have been missed");
    heard.hears(&redis, &server, "two").await;
}

#[tokio::test]
async fn a_channel_that_is_cut_again_and_again_is_not_rushed() {
    let server = Server::start();
    let redis = open(standalone(server.port())).await;
    let heard = Heard::listen(&redis);
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        server.cli::<u64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).unwrap();
    }
    let connected = *heard.connected.lock().unwrap();
    assert!(connected < 12, "{connected} times in a second");
    heard.hears(&redis, &server, "one").await;
}

#[tokio::test]
async fn every_node_of_a_cluster_reaches_every_gateway() {
    let cluster = Cluster::shared();
    let redis = open(config(Mode::Cluster, cluster.ports())).await;
    let heard = Heard::listen(&redis);
    for node in &cluster.nodes {
        heard.hears(&redis, node, &node.port().to_string()).await;
    }
}

#[tokio::test]
async fn gateways_listen_where_the_primary_is_also_if_the_old_one_lives_on() {
    let sentinels = Sentinels::start();
    let mode = Mode::Sentinel { master: Sentinels::MASTER.into(), login: None };
    let redis = open(config(mode, sentinels.ports())).await;
    let heard = Heard::listen(&redis);
    heard.hears(&redis, sentinels.primary(), "one").await;
    // Another one, of which the first is no replica: nobody told it.
    let other = Server::start();
    sentinels.watch(&other);
    heard.hears(&redis, &other, "two").await;
    assert!(sentinels.servers[0].info("replication").contains("role:master"));
}
