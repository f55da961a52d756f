//! Turns that are to be on replicas before they count as stored.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{LIMITS, Meters, Mode, RedisStore, Subject, redis, send};
use crate::{
    api::{Clock, Tenant},
    context::redis::{WaitFor, keys},
    redis::server::{Server, wait_until},
    testing::metric,
};

fn tenants(wait: WaitFor) -> HashMap<Tenant, WaitFor> {
    [(Tenant::from_config("bank").unwrap(), wait)].into()
}

#[tokio::test]
async fn a_turn_is_on_so_many_replicas_when_it_counts_as_stored() {
    let (server, meters) = (Server::start(), Meters::default());
    let replica = server.replica();
    let opened = redis(&[server.port()], Mode::Standalone).await;
    let store = Arc::new(RedisStore::new(opened, LIMITS, Clock::system(), &meters));
    let s = Subject::new(store.clone(), Clock::system(), ());
    let key = s.session("a");
    store.wait_for(tenants(WaitFor { replicas: 1, timeout: Duration::from_secs(5) }));
    for i in 1..20 {
        s.turn(&key, &format!("m{i}")).await;
        let seen: String = send(&replica, "LINDEX", &[keys::session(&key).get(3), b"-2"]);
        assert_eq!(seen, format!("m{i}"), "no sooner");
    }
    let short = |tenant| metric(&meters, "fengda_redis_wait_short_total", &[tenant]).unwrap_or_default();
    assert_eq!(short("bank"), 0.0);
}

#[tokio::test]
async fn a_turn_that_too_few_replicas_have_in_time_is_stored_and_counted() {
    let (server, meters) = (Server::start(), Meters::default());
    let replica = server.replica();
    let opened = redis(&[server.port()], Mode::Standalone).await;
    let store = Arc::new(RedisStore::new(opened, LIMITS, Clock::system(), &meters));
    let s = Subject::new(store.clone(), Clock::system(), ());
    let short = || metric(&meters, "fengda_redis_wait_short_total", &["bank"]).unwrap_or_default();
    replica.pause();
    let slow = WaitFor { replicas: 1, timeout: Duration::from_millis(50) };
    store.wait_for(tenants(slow));
    assert_eq!(s.turn(&s.session("a"), "m1").await.turn.seq, 1);
    assert_eq!(short(), 1.0);
    let other = s.user("shop", "u").session("a").unwrap();
    s.turn(&other, "m1").await;
    assert_eq!(short(), 1.0, "another tenant does not wait");
    replica.resume();
    wait_until("the replica goes on", || send::<u64>(&replica, "LLEN", &[keys::session(&other).get(3)]) == 2);
    store.wait_for(HashMap::new());
    s.turn(&s.session("a"), "m2").await;
    store.wait_for(tenants(WaitFor { replicas: 2, ..slow }));
    assert_eq!(s.turn(&s.session("a"), "m3").await.turn.seq, 3);
    assert_eq!(short(), 2.0, "there is only one");
}
