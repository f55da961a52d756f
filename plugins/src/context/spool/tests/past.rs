//! Conversations of an older deployment whose users come while neither it nor the store can be reached.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::rig::{FOREVER, Gateway, PATIENCE, Site};
use crate::{
    api::{SessionKey, TurnPhase},
    context::{
        conformance::{session, user},
        import::Lists,
    },
    redis::{
        Mode, Redis, RedisConfig,
        server::{Server, wait_until},
    },
};

/// A gateway that looks for older conversations on a server.
fn moving(site: &Site, server: &Server) -> Gateway {
    let servers = vec![("127.0.0.1".into(), server.port())];
    let timeout = Duration::from_millis(200);
    let link = RedisConfig { servers, mode: Mode::Standalone, database: 0, login: None, tls: None, timeout };
    let redis: Arc<Redis> = Redis::open_source(link).unwrap();
    wait_until("there is a connection", || redis.is_up());
    let mut gateway = site.gateway("a");
    gateway.close();
    gateway.config.import = Some((Lists::new(redis), timeout));
    gateway.open();
    let (tenant, pattern) = (session("s").tenant().clone(), "chat:{user_id}:{session_id}".parse().unwrap());
    gateway.context().import(HashMap::from([(tenant, pattern)]));
    gateway
}

/// Both are away at the first contact, of which the cache knows only that nothing is there.
async fn first_contact(gateway: &Gateway, server: &Server, key: &SessionKey) {
    server.pause();
    assert_eq!(gateway.context().history(key).await.unwrap().seq, 0);
    gateway.reach.cut(FOREVER);
    for id in ["m1", "m2"] {
        assert!(gateway.turn(key, id).await.is_none());
    }
    gateway.reach.cut(0);
    gateway.settled().await;
    server.resume();
}

#[tokio::test]
async fn a_past_that_nobody_could_look_for_comes_before_the_turns_that_waited() {
    let (site, server) = (Site::new(), Server::start());
    let (gateway, key) = (moving(&site, &server), session("s"));
    server.cli::<()>(&["LPUSH", "chat:u:s", "{\"q\":\"before\",\"a\":\"long ago\"}"]).unwrap();
    first_contact(&gateway, &server, &key).await;
    assert_eq!(site.ids(&key).await, ["m1", "m2"]);
    let end = Instant::now() + PATIENCE;
    while gateway.context().history(&key).await.unwrap().seq < 3 {
        assert!(Instant::now() < end, "what was said before is lost");
    }
    assert_eq!(site.ids(&key).await, ["import:1", "m1", "m2"]);
}

#[tokio::test]
async fn what_was_erased_before_both_were_away_is_not_looked_for() {
    let (site, server) = (Site::new(), Server::start());
    let gateway = moving(&site, &server);
    let (one, other) = (session("s"), user("bank", "v").session("s").unwrap());
    gateway.context().erase_session(&one, None).await.unwrap();
    gateway.context().erase_user(other.user(), None).await.unwrap();
    for key in [&one, &other] {
        first_contact(&gateway, &server, key).await;
        assert!(site.ids(key).await == ["m1", "m2"] && !site.stored(key).await.awaits_past());
    }
}
