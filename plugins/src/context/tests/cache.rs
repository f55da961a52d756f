//! The cache by itself: its size, the tenants' shares of it, and that what it counts is what it holds.

use std::{thread, time::Instant};

use super::{
    super::{cache::SessionCache, conformance::user},
    *,
};
use crate::api::{Tenant, Turn};

const KIB: u64 = 1024;

fn cache(size: u64, share: u32) -> (SessionCache, Meters) {
    let meters = Meters::default();
    (SessionCache::new(CacheConfig { size, share: Percent(share), idle: Duration::from_secs(3600) }, &meters), meters)
}

fn key(tenant: &str, i: usize) -> SessionKey {
    user(tenant, &format!("u{}", i % 7)).session(&i.to_string()).unwrap()
}

fn tenant(name: &str) -> Tenant {
    Tenant::from_config(name).unwrap()
}

/// A conversation of at least so many bytes.
fn state(bytes: usize) -> Arc<SessionState> {
    let turn = |seq, bytes| {
        let at = clock().now();
        Arc::new(Turn {
            seq,
            message_id: "m".into(),
            q: "q".into(),
            a: "x".repeat(bytes).into(),
            at,
            fallback: false,
            handoff: false,
            awaits_past: false,
        })
    };
    Arc::new(SessionState { turns: vec![turn(1, bytes / 2), turn(2, bytes / 2)], ..SessionState::default() })
}

fn put(cache: &SessionCache, key: &SessionKey, bytes: usize) {
    cache.insert(key, &state(bytes), cache.mark());
}

fn evictions(meters: &Meters, cause: &str) -> u64 {
    counted(meters, "fengda_context_cache_evictions_total", Some(cause))
}

#[test]
fn the_cache_stays_within_its_size_and_keeps_the_newest() {
    let (cache, meters) = cache(64 * KIB, 100);
    let tenants = ["a", "b", "c"];
    for i in 0..300 {
        put(&cache, &key(tenants[i % 3], i), 1000);
    }
    cache.tidy();
    let held = tenants.map(|name| cache.held_by(&tenant(name)));
    let (bytes, sessions) = held.into_iter().fold((0, 0), |(bytes, sessions), held| (bytes + held.0, sessions + held.1 as u64));
    assert!(bytes <= 64 * KIB && sessions > 25, "{bytes} bytes of {sessions}");
    let there: Vec<_> = (0..300).filter(|i| cache.get(&key(tenants[i % 3], *i)).is_some()).collect();
    assert_eq!(there.len() as u64, sessions);
    assert_eq!(there.last(), Some(&299));
    assert_eq!(evictions(&meters, "size") + evictions(&meters, "share"), 300 - sessions);
}

#[test]
fn whoever_floods_the_cache_drops_only_conversations_of_their_own() {
    let size = 1024 * KIB;
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let share = random.u32(30..=100);
        let (cache, meters) = cache(size, share);
        let mut quiet = 0;
        while cache.held_by(&tenant("quiet")).0 < (size * 7 / 16).min(size * u64::from(share) / 100) - 10 * KIB {
            put(&cache, &key("quiet", quiet), random.usize(100..9000));
            quiet += 1;
        }
        for i in 0..3000 {
            let again = if random.bool() { i } else { random.usize(0..=i) };
            put(&cache, &key("flood", again), random.usize(10..9000));
        }
        cache.tidy();
        assert!((0..quiet).all(|i| cache.get(&key("quiet", i)).is_some()), "seed {seed}");
        let (bytes, _) = cache.held_by(&tenant("flood"));
        let bound = size * u64::from(share) / 100;
        assert!(bytes <= bound && bytes > bound.min(size / 2) - 20 * KIB, "seed {seed}: {bytes} of {bound}");
        assert_eq!(evictions(&meters, "size"), 0, "seed {seed}");
        assert!(evictions(&meters, "share") > 1000, "seed {seed}");
    }
}

#[test]
fn many_who_flood_it_together_leave_an_equal_part_to_who_does_not() {
    let size = 1024 * KIB;
    let (cache, _) = cache(size, 50);
    let (mut random, floods) = (fastrand::Rng::with_seed(7), ["a", "b", "c"]);
    (0..100).for_each(|i| put(&cache, &key("quiet", i), 1000));
    assert!(cache.held_by(&tenant("quiet")).0 > size / 8);
    for i in 0..10_000 {
        put(&cache, &key(floods[random.usize(0..3)], i), random.usize(10..5000));
    }
    cache.tidy();
    assert!((0..100).all(|i| cache.get(&key("quiet", i)).is_some()));
    assert!(floods.iter().all(|name| cache.held_by(&tenant(name)).0 > size / 5), "and the floods share the rest");
}

#[test]
fn a_tenant_alone_fills_its_share_and_no_more() {
    let (cache, meters) = cache(1024 * KIB, 25);
    (0..1000).for_each(|i| put(&cache, &key("a", i), 1000));
    cache.tidy();
    let (bytes, sessions) = cache.held_by(&tenant("a"));
    assert!(bytes <= 256 * KIB && bytes > 250 * KIB, "{bytes}");
    let newest = 1000 - sessions..1000;
    assert!((0..1000).all(|i| cache.get(&key("a", i)).is_some() == newest.contains(&i)), "the oldest went");
    assert_eq!(evictions(&meters, "share"), 1000 - sessions as u64);
}

#[test]
fn a_conversation_too_large_for_its_share_is_not_cached_and_drops_only_its_own_old_copy() {
    let (cache, meters) = cache(1024 * KIB, 50);
    (0..100).for_each(|i| put(&cache, &key("a", i), 1000));
    put(&cache, &key("a", 3), 60 * 1024);
    assert_eq!(cache.get(&key("a", 3)).unwrap().turns[0].a.len(), 30 * 1024, "not too large");
    put(&cache, &key("a", 3), 70 * 1024);
    assert!((0..100).all(|i| cache.get(&key("a", i)).is_some() == (i != 3)));
    assert_eq!((evictions(&meters, "large"), evictions(&meters, "share"), cache.held_by(&tenant("a")).1), (1, 0, 99));
}

#[test]
fn what_is_counted_is_what_is_held_whatever_threads_do_at_a_time() {
    let (cache, _) = cache(128 * KIB, 50);
    let tenants = ["a", "b", "c"];
    thread::scope(|scope| {
        for seed in 0..4 {
            let cache = &cache;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                for _ in 0..5000 {
                    let key = key(tenants[random.usize(0..3)], random.usize(0..100));
                    match random.u8(0..20) {
                        0 => cache.remove(&key),
                        1 => cache.remove_user(key.user()),
                        2..8 => drop(cache.get(&key)),
                        _ => put(cache, &key, random.usize(10..12_000)),
                    }
                }
            });
        }
    });
    let deadline = Instant::now() + Duration::from_secs(30);
    for name in tenants {
        let there = || (0..100).filter(|i| cache.get(&key(name, *i)).is_some()).count();
        let settled = || {
            cache.tidy();
            cache.held_by(&tenant(name)).1 == there()
        };
        while !settled() {
            assert!(Instant::now() < deadline, "{name}: {:?} counted, {} there", cache.held_by(&tenant(name)), there());
            thread::yield_now();
        }
        assert!(cache.held_by(&tenant(name)).0 <= 64 * KIB);
        (0..100).for_each(|i| cache.remove(&key(name, i)));
        assert_eq!(cache.held_by(&tenant(name)), (0, 0), "{name}");
    }
}

#[test]
fn what_nobody_uses_leaves_with_its_part_of_the_share() {
    let meters = Meters::default();
    let cache = SessionCache::new(CacheConfig { idle: Duration::from_millis(20), ..CACHE }, &meters);
    (0..10).for_each(|i| put(&cache, &key("gone", i), 100));
    let deadline = Instant::now() + Duration::from_secs(30);
    while cache.held_by(&tenant("gone")) != (0, 0) {
        assert!(Instant::now() < deadline);
        cache.tidy();
        thread::yield_now();
    }
    assert_eq!(evictions(&meters, "idle"), 10);
}
