//! Waiting for a session that another gateway holds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{all_expire, gateways::two, send, store};
use crate::{
    api::Clock,
    context::{
        StoreBegin,
        conformance::{LIMITS, Subject, commit},
        redis::keys,
    },
    redis::server::Server,
};

/// How often scripts were called so far.
fn calls(server: &Server) -> u64 {
    let stats = server.info("commandstats");
    let of = |name: &str| {
        let line = stats.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(":calls=")?.split(',').next()?.parse::<u64>().ok()
    };
    of("cmdstat_evalsha").unwrap_or(0) + of("cmdstat_eval").unwrap_or(0)
}

#[tokio::test]
async fn one_who_waits_at_another_gateway_is_woken_and_does_not_poll() {
    let server = Server::start();
    let (first, second) = two(&server).await;
    let key = first.session("a");
    first.turn(&key, "m0").await;
    for i in 1..20 {
        let (held, base) = first.claim(&key, &format!("m{i}")).await;
        let before = calls(&server);
        let waits = format!("w{i}");
        let mut waiting = Box::pin(second.claim(&key, &waits));
        assert!(tokio::time::timeout(Duration::from_millis(if i == 1 { 300 } else { 5 }), &mut waiting).await.is_err());
        assert!(calls(&server) - before <= 2, "asked once, with the script's source if need be: {}", calls(&server) - before);
        if i % 2 == 0 {
            first.store().release(&held);
        } else {
            first.store().commit(&held, &base, commit(&format!("m{i}"))).await.unwrap();
        }
        let woken = tokio::time::timeout(Duration::from_millis(500), waiting).await;
        let (claim, _) = woken.expect("sooner than they would ask by themselves");
        second.store().release(&claim);
        all_expire(&server, key.user());
    }
}

#[tokio::test]
async fn gateways_that_wait_are_served_in_order() {
    let server = Server::start();
    let (first, second) = two(&server).await;
    let third = first.beside(Arc::new(store(&server, LIMITS, &Clock::system()).await));
    let key = first.session("a");
    let (held, _) = first.claim(&key, "m0").await;
    let served = std::sync::Mutex::new(Vec::new());
    let wait = async |s: &Subject, name: &'static str| {
        let (claim, base) = s.claim(&key, name).await;
        served.lock().unwrap().push(name);
        s.store().commit(&claim, &base, commit(name)).await.unwrap();
    };
    let registered = async |n: u64| {
        let waiting = keys::session(&key).get(5).to_vec();
        while send::<u64>(&server, "LLEN", &[&waiting]) < n {
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(wait(&second, "second"), async {
        registered(1).await;
        tokio::join!(wait(&third, "third"), async {
            registered(2).await;
            first.store().release(&held);
        });
    });
    assert_eq!(*served.lock().unwrap(), ["second", "third"]);
}

#[tokio::test]
async fn one_who_is_woken_and_gone_lets_the_next_gateway_by() {
    let server = Server::start();
    let (first, second) = two(&server).await;
    let key = first.session("a");
    let waiting = keys::session(&key).get(5).to_vec();
    let (held, _) = first.claim(&key, "m0").await;
    let mut gone = Box::pin(first.begin(&key, "m1", None));
    while send::<u64>(&server, "LLEN", &[&waiting]) < 1 {
        let _ = tokio::time::timeout(Duration::from_millis(1), &mut gone).await;
    }
    drop(gone); // and still named first
    let next = second.claim(&key, "m2");
    let release = async {
        while send::<u64>(&server, "LLEN", &[&waiting]) < 2 {
            tokio::task::yield_now().await;
        }
        first.store().release(&held);
    };
    let next = async { tokio::time::timeout(Duration::from_millis(900), next).await.expect("sooner than they would ask by themselves") };
    let ((claim, _), ()) = tokio::join!(next, release);
    second.store().release(&claim);
}

#[tokio::test]
async fn a_begin_that_is_given_up_on_its_way_leaves_no_claim() {
    let server = Server::start();
    let (first, second) = two(&server).await;
    let key = first.session("a");
    for i in 0..50 {
        let id = format!("m{i}");
        let mut gone = Box::pin(first.begin(&key, &id, None));
        let sent = Duration::from_micros(20 * i);
        let answered = tokio::time::timeout(sent, &mut gone).await; // or not sent, or on its way
        drop(gone);
        if let Ok(Ok(StoreBegin::Claimed { claim, .. })) = answered {
            first.store().release(&claim);
        }
        let next = tokio::time::timeout(Duration::from_millis(900), second.claim(&key, &id)).await;
        let (claim, _) = next.expect("sooner than they would ask by themselves");
        second.store().release(&claim);
    }
}

#[test]
fn a_session_has_one_holder_at_any_time_among_all_gateways() {
    let server = Server::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (first, second) = runtime.block_on(two(&server));
    let (held, committed) = (AtomicBool::new(false), AtomicU64::new(0));
    let work = async |s: &Subject, thread: usize| {
        for i in 0..40 {
            let id = format!("m{thread}-{i}");
            let (claim, state) = s.claim(&first.session("a"), &id).await;
            assert!(!held.swap(true, Ordering::AcqRel), "two holders");
            assert_eq!(state.seq, committed.load(Ordering::Acquire), "not the present state");
            let gives_up = (thread + i).is_multiple_of(5);
            committed.fetch_add(u64::from(!gives_up), Ordering::AcqRel);
            held.store(false, Ordering::Release);
            if gives_up {
                s.store().release(&claim);
            } else {
                s.store().commit(&claim, &state, commit(&id)).await.unwrap();
            }
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (work, s) = (&work, if thread % 2 == 0 { &first } else { &second });
            scope.spawn(move || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work(s, thread)));
        }
    });
    assert_eq!(committed.into_inner(), 6 * 32);
}
