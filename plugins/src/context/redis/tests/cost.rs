//! What a turn costs: round trips and bytes.

use std::sync::Arc;

use super::{Subject, send, store};
use crate::{
    api::{Clock, Commit, SessionState},
    context::{
        Limits, StoreBegin,
        conformance::{LIMITS, commit},
        settle,
    },
    redis::server::Server,
};

const TEXT: usize = 1000;
const TURNS: usize = 100;

/// Calls of scripts, and bytes to and from the server, since it started.
#[derive(Debug, Clone, Copy)]
struct Traffic {
    calls: u64,
    to: u64,
    from: u64,
}

fn traffic(server: &Server) -> Traffic {
    let number = |section: &str, name: &str| {
        let info = server.info(section);
        let digits = info.split_once(name).map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
    };
    let calls = number("commandstats", "cmdstat_evalsha:calls=") + number("commandstats", "cmdstat_eval:calls=");
    Traffic { calls, to: number("stats", "total_net_input_bytes:"), from: number("stats", "total_net_output_bytes:") }
}

/// What `work` costs, apart from what looking costs.
async fn cost(server: &Server, work: impl AsyncFnOnce()) -> Traffic {
    let (first, before) = (traffic(server), traffic(server));
    work().await;
    let after = traffic(server);
    let of = |get: fn(&Traffic) -> u64| (get(&after) - get(&before)).saturating_sub(get(&before) - get(&first));
    Traffic { calls: after.calls - before.calls, to: of(|t| t.to), from: of(|t| t.from) }
}

async fn turn(s: &Subject, id: &str, known: Option<&Arc<SessionState>>) -> Arc<SessionState> {
    let StoreBegin::Claimed { claim, state } = s.begin(&s.session("a"), id, known).await.unwrap() else { panic!() };
    let base = state.or(known.cloned()).unwrap();
    s.store().commit(&claim, &base, full(id)).await.unwrap().state
}

fn full(id: &str) -> Commit {
    Commit { q: format!("q {id}").into(), a: "x".repeat(TEXT).into(), ..commit(id) }
}

#[tokio::test]
async fn a_turn_is_two_calls_and_a_hot_one_carries_no_history() {
    let server = Server::start();
    let limits = Limits { turns: TURNS, ..LIMITS };
    let s = Subject::new(Arc::new(store(&server, limits, &Clock::system()).await), Clock::system(), ());
    let mut state = turn(&s, "m0", None).await;
    for i in 1..TURNS + 10 {
        state = turn(&s, &format!("m{i}"), Some(&state)).await;
    }
    settle(s.store().load(&s.session("a"), None)).await.unwrap(); // every script is there
    let known = state.clone();
    let hot = cost(&server, async || state = turn(&s, "hot", Some(&known)).await).await;
    assert_eq!(hot.calls, 2);
    assert!(hot.to < 4096 + TEXT as u64 && hot.from < 1024, "{hot:?}");
    let cold = cost(&server, async || state = turn(&s, "cold", None).await).await;
    assert_eq!(cold.calls, 2);
    let history = (TURNS * TEXT) as u64;
    assert!(cold.to < 4096 + TEXT as u64 && (history..history * 3 / 2).contains(&cold.from), "{cold:?}");
    let behind = state.clone();
    for id in ["elsewhere1", "elsewhere2"] {
        state = turn(&s, id, Some(&state)).await;
    }
    let stale = cost(&server, async || state = turn(&s, "here", Some(&behind)).await).await;
    assert!(stale.calls == 2 && stale.from < 1024 + 2 * (TEXT + 256) as u64, "what is new: {stale:?}");
    assert_eq!(state.turns, s.state(&s.session("a")).await.turns);
    let repeated = cost(&server, async || {
        assert!(matches!(s.begin(&s.session("a"), "cold", None).await.unwrap(), StoreBegin::Answered(_)));
    })
    .await;
    assert!(repeated.calls == 1 && repeated.from < 1024 + TEXT as u64, "{repeated:?}");
    let unchanged = cost(&server, async || assert!(settle(s.store().load(&s.session("a"), Some(&state))).await.unwrap().is_none()));
    let unchanged = unchanged.await;
    assert!(unchanged.calls == 1 && unchanged.from < 512, "{unchanged:?}");
    println!("hot {hot:?}, two turns behind {stale:?}, cold {cold:?}, memory {}", memory(&server));
}

/// Bytes of everything that is kept, as Redis counts them.
fn memory(server: &Server) -> u64 {
    let keys: Vec<Vec<u8>> = send(server, "KEYS", &[b"*"]);
    keys.iter().map(|key| send::<u64>(server, "MEMORY", &[b"USAGE", key, b"SAMPLES", b"0"])).sum()
}
