//! That the servers of the tests are what the tests take them for.

use std::time::Duration;

use super::{Cluster, Sentinels, Server, wait_until};

#[test]
fn a_server_is_killed_and_comes_back_with_what_it_kept() {
    for (lines, kept) in [(&["appendonly yes"][..], Some("1")), (&[], None)] {
        let server = Server::with(lines);
        server.cli::<()>(&["SET", "a", "1"]).unwrap();
        server.kill();
        assert!(server.cli::<()>(&["PING"]).is_err());
        server.restart();
        assert_eq!(server.cli::<Option<String>>(&["GET", "a"]).unwrap().as_deref(), kept);
    }
}

#[test]
fn a_paused_server_answers_later() {
    let server = Server::start();
    server.pause();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| server.cli::<String>(&["PING"]).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!asked.is_finished());
        server.resume();
        assert_eq!(asked.join().unwrap(), "PONG");
    });
}

#[test]
fn a_replica_has_what_its_primary_has() {
    let primary = Server::start();
    primary.cli::<()>(&["SET", "a", "1"]).unwrap();
    assert_eq!(primary.replica().cli::<String>(&["GET", "a"]).unwrap(), "1");
}

#[test]
fn sentinels_put_a_replica_in_the_place_of_a_dead_primary() {
    let sentinels = Sentinels::start();
    sentinels.fail_over();
    let old = sentinels.primary();
    old.kill();
    sentinels.wait_for_another_than(old.port());
    assert!(sentinels.primary().info("replication").contains("role:master"));
}

#[test]
fn a_cluster_moves_slots_and_replaces_a_dead_primary() {
    let cluster = Cluster::start();
    let (from, to) = (cluster.primary_of("{a}"), cluster.primary_of("{b}"));
    assert_ne!(from.port(), to.port());
    from.cli::<()>(&["SET", "{a}:1", "x"]).unwrap();
    from.cli::<()>(&["SET", "{a}:2", "x"]).unwrap();
    let mut moved = 0;
    cluster.migrate(cluster.slot("{a}"), to, || moved += 1);
    assert_eq!((moved, to.cli::<String>(&["GET", "{a}:1"]).unwrap().as_str()), (2, "x"));
    let replica = cluster.replica_of("{a}");
    cluster.primary_of("{a}").kill();
    wait_until("its replica is the primary", || replica.info("replication").contains("role:master"));
    wait_until("the slot is served again", || cluster.primary_of("{a}").port() == replica.port());
}
