//! The process is killed, the disk takes no more: what was acknowledged is there, and work goes on.
//!
//! Both need a process of its own: this test binary, started again for one of the `child_…` tests.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use super::open;
use crate::context::{
    Durability, StoreBegin,
    conformance::{Subject, TempDir, clock, commit, session},
};

/// Says where a child shall open its store.
const DIR: &str = "FENGDA_TEST_DIR";

fn child(test: &str, dir: &Path) -> Child {
    let test = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
    // A write beyond the limit on file sizes is to be an error, not a signal that ends the process.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" --exact \"$1\" --nocapture --test-threads 1"]);
    command.arg(std::env::current_exe().unwrap()).arg(test).env(DIR, dir);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn subject(dir: &Path) -> Subject {
    let clock = clock();
    Subject::new(Arc::new(open(dir, Durability::Os, &clock)), clock, ())
}

/// Commits turn after turn over four sessions and says so after each.
#[tokio::test]
async fn child_that_commits_until_it_is_killed() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let s = subject(dir.as_ref());
    for i in 0.. {
        let name = format!("s{}", i % 4);
        let seq = s.state(&session(&name)).await.seq + 1;
        let stored = s.turn(&session(&name), &format!("m{seq}")).await;
        println!("committed {name} {}", stored.turn.seq);
    }
}

#[tokio::test]
async fn no_acknowledged_commit_is_lost_when_the_process_is_killed() {
    let dir = TempDir::new();
    for round in 1..=3 {
        let mut child = child("child_that_commits_until_it_is_killed", dir.path());
        let mut acknowledged = [0; 4];
        let mut count = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
            let Some((name, seq)) = line.strip_prefix("committed s").and_then(|rest| rest.split_once(' ')) else { continue };
            let Ok(seq) = seq.parse::<u64>() else { continue }; // the last line may be cut
            acknowledged[name.parse::<usize>().unwrap()] = seq;
            count += 1;
            if count == 200 {
                child.kill().unwrap(); // SIGKILL, while it goes on committing
            }
        }
        child.wait().unwrap();
        assert!(count >= 200, "the child ended by itself after {count}");
        let s = subject(dir.path());
        for (i, acknowledged) in acknowledged.into_iter().enumerate() {
            let state = s.state(&session(&format!("s{i}"))).await;
            assert!(state.seq >= acknowledged, "round {round}: {acknowledged} acknowledged, {} there", state.seq);
            let last = state.turns.last().unwrap();
            assert_eq!((last.seq, last.message_id.expose()), (state.seq, &*format!("m{}", state.seq)));
        }
    }
}

/// For each line of its input tries a turn, and says how that went.
#[tokio::test]
async fn child_that_commits_when_told() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let s = subject(dir.as_ref());
    let key = session("a");
    for id in std::io::stdin().lock().lines().map_while(Result::ok) {
        match s.begin(&key, &id, None).await {
            Ok(StoreBegin::Claimed { claim, state }) => {
                let done = s.store().commit(&claim, &state.unwrap_or_default(), commit(&id)).await;
                s.store().release(&claim);
                println!("{}", done.map_or_else(|e| format!("said {e}"), |stored| format!("said {}", stored.turn.seq)));
            }
            other => println!("said {other:?}"),
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_failed_write_is_reported_and_commits_work_again_when_the_disk_does() {
    let dir = TempDir::new();
    let mut child = child("child_that_commits_when_told", dir.path());
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut turn = |id: &str| {
        writeln!(input, "{id}").unwrap();
        output.by_ref().find_map(|line| line.split_once("said ").map(|(_, said)| said.to_owned())).unwrap()
    };
    let limit = |bytes: &str| {
        let limit = format!("--fsize={bytes}:unlimited");
        assert!(Command::new("prlimit").args(["--pid", &child.id().to_string(), &limit]).status().unwrap().success());
    };
    assert_eq!(turn("m1"), "1");
    limit("1");
    for id in ["m2", "m3", "m4"] {
        let said = turn(id);
        assert!(said.contains("the context store failed") || said.contains("Unavailable"), "{said}");
    }
    limit("unlimited");
    let first: u64 = turn("m5").parse().unwrap();
    assert!((2..=5).contains(&first), "one of the failed turns may have been written, and then has its number: {first}");
    assert_eq!(turn("m6"), (first + 1).to_string());
    assert_eq!(
        turn("m1"),
        "Ok(Answered(Turn { seq: 1, message_id: ‹2 bytes›, q: ‹4 bytes›, a: ‹4 bytes›, at: Timestamp(1700000000000), fallback: false, handoff: false, awaits_past: false }))"
    );
    drop(input);
    assert!(child.wait().unwrap().success());
    assert_eq!(subject(dir.path()).state(&session("a")).await.seq, first + 1);
}

#[tokio::test]
async fn a_directory_that_is_removed_while_in_use_is_noticed_and_made_anew() {
    let dir = TempDir::new();
    {
        let s = subject(dir.path());
        assert_eq!(s.turn(&session("a"), "m1").await.turn.seq, 1);
        std::fs::remove_dir_all(dir.path().join("context")).unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while s.state(&session("a")).await.seq != 0 {
            assert!(std::time::Instant::now() < until, "it goes on as if nothing had happened");
            tokio::task::yield_now().await;
        }
        assert_eq!(s.turn(&session("a"), "m2").await.turn.seq, 1);
    }
    // What was acknowledged after that is on the disk.
    assert_eq!(subject(dir.path()).state(&session("a")).await.seq, 1);
}
