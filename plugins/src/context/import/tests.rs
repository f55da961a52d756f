//! Lists of an older deployment in real Redis servers, brought over into the embedded store.

mod contact;
mod sources;

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{Bulk, BulkError, Flaw, KeyError, Left, Lists, News, Tally};
use crate::{
    api::{Begin, BeginTurn, Begun, Clock, Committed, Meters, SessionKey, SessionState, Tenant, TurnPhase},
    context::{
        Context, ContextConfig, Durability, Limits, Store,
        conformance::{TempDir, clock, commit, user},
        embedded::Embedded,
        settle,
        tests::config,
    },
    redis::{
        Mode, Redis, RedisConfig,
        server::{Cluster, Server, wait_until},
    },
};

const LIMITS: Limits = Limits { turns: 100, keep: Duration::from_hours(24) };
const WAIT: Duration = Duration::from_millis(300);

fn tenant() -> Tenant {
    Tenant::from_config("bank").unwrap()
}

fn session(user_id: &str) -> SessionKey {
    user("bank", user_id).session("default").unwrap()
}

fn redis(ports: &[u16], mode: Mode) -> Arc<Redis> {
    let servers = ports.iter().map(|port| ("127.0.0.1".into(), *port)).collect();
    let config = RedisConfig { servers, mode, database: 0, login: None, tls: None, timeout: Duration::from_secs(2) };
    let redis = Redis::open_source(config).unwrap();
    wait_until("there is a connection", || redis.is_up());
    redis
}

/// An older deployment, and an embedded store to bring it over to.
struct Move {
    server: Server,
    store: Arc<Embedded>,
    clock: Clock,
    dir: TempDir,
}

impl Move {
    fn new() -> Self {
        let (dir, clock) = (TempDir::new(), clock());
        let store = Arc::new(Embedded::open(dir.path(), Durability::Os, LIMITS, clock.clone()).unwrap());
        Self { server: Server::start(), store, clock, dir }
    }

    fn lists(&self) -> Lists {
        Lists::new(redis(&[self.server.port()], Mode::Standalone))
    }

    fn bulk(&self, pattern: &str) -> Bulk {
        Bulk {
            lists: self.lists(),
            pattern: pattern.parse().unwrap(),
            tenant: tenant(),
            store: Some(self.store.clone()),
            limits: LIMITS,
            clock: self.clock.clone(),
            most: u64::MAX,
            patience: Duration::ZERO,
        }
    }

    /// As the older deployment did: the newest first.
    fn say(&self, key: &str, q: &str, a: &str) {
        self.push(key, &serde_json::json!({ "q": q, "a": a }).to_string());
    }

    fn push(&self, key: &str, element: &str) {
        self.server.cli::<()>(&["LPUSH", key, element]).unwrap();
    }

    async fn state(&self, key: &SessionKey) -> Arc<SessionState> {
        settle(self.store.load(key, None)).await.unwrap().unwrap_or_default()
    }

    /// All that the older deployment holds, so that it can be seen to stay as it is.
    fn digest(&self) -> String {
        self.server.cli(&["DEBUG", "DIGEST"]).unwrap()
    }

    fn context(&self, pattern: &str, meters: &Meters) -> Arc<Context> {
        let config = ContextConfig { history_keep: LIMITS.keep, import: Some((self.lists(), WAIT)), ..config(self.dir.path()) };
        let context = Context::new(self.store.clone(), &config, self.clock.clone(), meters).unwrap();
        context.import(HashMap::from([(tenant(), pattern.parse().unwrap())]));
        context
    }

    /// How often a list was read.
    fn reads(&self) -> u64 {
        let stats = self.server.info("commandstats");
        let calls = |command: &str| {
            let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls="))?.split(',').next());
            line.map_or(0, |calls| calls.parse::<u64>().unwrap())
        };
        calls("type")
    }
}

async fn run(bulk: &Bulk) -> Tally {
    bulk.run(|_, _| {}).await.unwrap()
}

fn questions(state: &SessionState) -> Vec<(u64, &str, &str)> {
    state.turns.iter().map(|turn| (turn.seq, turn.q.expose(), turn.a.expose())).collect()
}

#[tokio::test]
async fn ten_thousand_users_come_over_once_and_their_lists_stay() {
    let moving = Move::new();
    let client = redis::Client::open(("127.0.0.1", moving.server.port())).unwrap();
    let mut filling = redis::pipe();
    for n in 0..10_000 {
        // As Python's json.dumps writes it.
        let element = |i| format!(r#"{{"q": "\u7b2c{i}\u95ee {n}", "a": "\u7b54 \ud83d\ude00"}}"#);
        filling.lpush(format!("chat:用户{n}"), element(1)).lpush(format!("chat:用户{n}"), element(2));
    }
    filling.query::<()>(&mut client.get_connection().unwrap()).unwrap();
    moving.say("talk:u", "another", "one");
    let before = moving.digest();
    let bulk = moving.bulk("chat:{user_id}");
    let tally = run(&bulk).await;
    assert_eq!(tally, Tally { keys: 10_000, imported: 10_000, turns: 20_000, ..Tally::default() });
    for n in [0, 4711, 9999] {
        let state = moving.state(&session(&format!("用户{n}"))).await;
        let (first, second) = (format!("第1问 {n}"), format!("第2问 {n}"));
        assert_eq!(questions(&state), [(1, &*first, "答 😀"), (2, &*second, "答 😀")]);
    }
    let read = moving.reads();
    assert_eq!(run(&bulk).await, Tally { keys: 10_000, there: 10_000, ..Tally::default() });
    assert_eq!((moving.reads(), moving.digest()), (read, before), "a second run reads no list, and neither changes any");
}

#[tokio::test]
async fn the_newest_turns_of_a_long_list_come_over() {
    let moving = Move::new();
    (1..=130).for_each(|n| moving.say("chat:u:web", &n.to_string(), "a"));
    run(&moving.bulk("chat:{user_id}:{session_id}")).await;
    let state = moving.state(&user("bank", "u").session("web").unwrap()).await;
    assert_eq!((state.turns.len(), state.turns[0].q.expose(), state.turns[99].q.expose(), state.seq), (100, "31", "130", 100));
    assert_eq!(state.turns[0].message_id.expose(), "import:1");
}

#[tokio::test]
async fn damage_of_every_kind_is_told_and_nothing_is_lost_to_it() {
    let moving = Move::new();
    let cli = |words: &[&str]| moving.server.cli::<()>(words).unwrap();
    moving.say("chat:good", "q1", "a1");
    for bad in ["{\"q\":\"cut", "\u{0}\u{1}binary", "[1]", "{\"q\":7,\"a\":\"x\"}"] {
        moving.push("chat:good", bad);
    }
    moving.push("chat:good", &"x".repeat(300_000));
    moving.push("chat:good", "{\"q\":\"old\",\"a\":\"a\",\"ts\":1600000000}");
    moving.say("chat:good", "q2", "a2");
    moving.push("chat:bad", "nothing");
    cli(&["SET", "chat:string", "x"]);
    cli(&["HSET", "chat:hash", "a", "b"]);
    cli(&["XADD", "chat:stream", "*", "a", "b"]);
    let long = format!("chat:{}", "x".repeat(200));
    moving.say(&long, "q", "a");
    moving.say("chat:", "q", "a");
    let large = format!("{{\"q\":\"{}\",\"a\":\"\"}}", "x".repeat(200_000));
    (0..30).for_each(|_| moving.push("chat:large", &large));

    let mut told = Vec::new();
    let mut hear = |_: &Tally, news: News<'_>| match news {
        News::Left(key, why) => told.push((String::from_utf8(key.to_vec()).unwrap(), None, why.to_string())),
        News::Element(key, index, flaw) => told.push((String::from_utf8(key.to_vec()).unwrap(), Some(index), flaw.to_string())),
        News::Progress(..) => {}
    };
    let tally = moving.bulk("chat:{user_id}").run(&mut hear).await.unwrap();
    assert_eq!(tally, Tally { keys: 8, imported: 2, turns: 22, left: 6, elements: 8, ..Tally::default() });
    assert_eq!(questions(&*moving.state(&session("good")).await), [(1, "q1", "a1"), (2, "q2", "a2")]);
    assert_eq!(moving.state(&session("large")).await.turns.len(), 20);
    let form = Flaw::Form.to_string();
    let mut expected: Vec<(String, Option<usize>, String)> = [
        ("chat:good", Some(1), Flaw::Old.to_string()),
        ("chat:good", Some(2), Flaw::Giant(300_000).to_string()),
        ("chat:good", Some(3), form.clone()),
        ("chat:good", Some(4), form.clone()),
        ("chat:good", Some(5), form.clone()),
        ("chat:good", Some(6), form.clone()),
        ("chat:bad", Some(0), form),
        ("chat:bad", None, Left::Empty.to_string()),
        ("chat:string", None, Left::Other.to_string()),
        ("chat:hash", None, Left::Other.to_string()),
        ("chat:stream", None, Left::Other.to_string()),
        ("chat:", None, KeyError::Id(crate::api::IdError::Empty).to_string()),
        (&long, None, KeyError::Id(crate::api::IdError::TooLong { len: 200, max: 128 }).to_string()),
        ("chat:large", Some(20), Flaw::Rest.to_string()),
    ]
    .map(|(key, index, why)| (key.to_owned(), index, why))
    .into();
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn how_far_a_run_is_is_told_from_key_to_key() {
    let moving = Move::new();
    (0..2500).for_each(|n| moving.say(&format!("chat:{n}"), "q", "a"));
    let mut steps = Vec::new();
    let hear = |tally: &Tally, news: News<'_>| {
        let News::Progress(walked, all) = news else { return };
        steps.push((tally.imported, walked, all));
    };
    moving.bulk("chat:{user_id}").run(hear).await.unwrap();
    assert!(steps.is_sorted_by_key(|(imported, walked, _)| (*imported, *walked)), "it only grows");
    assert!(steps.iter().all(|(imported, walked, all)| imported <= walked && *all == Some(2500)));
    let some = steps.iter().filter(|(imported, ..)| (250..2250).contains(imported)).count();
    assert!(some > 1000, "{some} of {} on the way", steps.len());
    assert!(steps.last().unwrap().1 >= 2500, "all keys were walked");
}

#[tokio::test]
async fn two_runs_at_once_double_nothing_and_a_session_in_use_is_left_to_its_turn() {
    let moving = Move::new();
    (0..300).for_each(|n| moving.say(&format!("chat:{n}"), "q", "a"));
    let (one, two) = (moving.bulk("chat:{user_id}"), moving.bulk("chat:{user_id}"));
    let (one, two) = tokio::join!(run(&one), run(&two));
    assert_eq!((one.imported + two.imported, one.there + two.there), (300, 300));
    assert_eq!(moving.state(&session("7")).await.seq, 1);

    moving.say("chat:busy", "q", "a");
    let context = moving.context("other:{user_id}", &Meters::default());
    let begun = begin(&context, &session("busy")).await;
    let tally = run(&moving.bulk("chat:{user_id}")).await;
    assert_eq!((tally.busy, tally.imported, tally.there), (1, 0, 300));
    assert_eq!(seq(context.commit(&begun, commit("m1")).await.unwrap()), 1);
}

#[tokio::test]
async fn a_run_brings_as_many_as_asked_for_and_without_a_store_none() {
    let moving = Move::new();
    (0..50).for_each(|n| moving.say(&format!("chat:{n}"), "q", "a"));
    let some = Bulk { most: 7, ..moving.bulk("chat:{user_id}") };
    assert_eq!(run(&some).await.imported, 7);
    assert_eq!(run(&some).await.imported, 7);
    let dry = Bulk { store: None, ..moving.bulk("chat:{user_id}") };
    assert_eq!(run(&dry).await.imported, 50);
    let rest = run(&moving.bulk("chat:{user_id}")).await;
    assert_eq!((rest.imported, rest.there), (36, 14));
}

#[tokio::test]
async fn lists_on_every_primary_of_a_cluster_come_over() {
    let cluster = Cluster::shared();
    let moving = Move::new();
    for n in 0..60 {
        let key = format!("import-{{{n}}}");
        cluster.primary_of(&key).cli::<()>(&["LPUSH", &key, "{\"q\":\"q\",\"a\":\"a\"}"]).unwrap();
    }
    let lists = Lists::new(redis(&cluster.ports(), Mode::Cluster));
    let tally = run(&Bulk { lists, ..moving.bulk("import-{{{user_id}}}") }).await;
    assert_eq!((tally.keys, tally.imported), (60, 60));
    assert_eq!(moving.state(&session("59")).await.seq, 1);
}

#[tokio::test]
async fn a_source_that_goes_away_ends_the_run_and_the_next_one_goes_on() {
    let moving = Move { server: Server::with(&["appendonly yes", "appendfsync always"]), ..Move::new() };
    (0..50).for_each(|n| moving.say(&format!("chat:{n}"), "q", "a"));
    let bulk = moving.bulk("chat:{user_id}");
    assert_eq!(run(&Bulk { most: 20, ..bulk.clone() }).await.imported, 20);
    moving.server.kill();
    assert!(matches!(bulk.run(|_, _| {}).await, Err(BulkError::Lists(_))));
    moving.server.restart();
    let rest = run(&moving.bulk("chat:{user_id}")).await;
    assert_eq!((rest.imported, rest.there), (30, 20));
}

#[tokio::test]
async fn a_source_that_is_back_in_time_ends_no_run() {
    let moving = Move { server: Server::with(&["appendonly yes", "appendfsync always"]), ..Move::new() };
    (0..50).for_each(|n| moving.say(&format!("chat:{n}"), "q", "a"));
    let bulk = Bulk { patience: Duration::from_secs(10), ..moving.bulk("chat:{user_id}") };
    moving.server.kill();
    let running = tokio::spawn(async move { run(&bulk).await });
    tokio::task::yield_now().await;
    moving.server.restart();
    assert_eq!(running.await.unwrap().imported, 50);
}

async fn begin(context: &Context, key: &SessionKey) -> Begun {
    begin_as(context, key, "m1").await
}

async fn begin_as(context: &Context, key: &SessionKey, id: &str) -> Begun {
    let (message_id, q, until) = (id.into(), format!("q {id}").into(), clock().now().after(Duration::from_secs(60)));
    let turn = BeginTurn { key, message_id: &message_id, q: &q, until, wait: Duration::from_secs(5), seen: None, limits: &[] };
    match context.begin(turn).await.unwrap() {
        Begin::Run(begun) => begun,
        other => panic!("{other:?}"),
    }
}

fn seq(committed: Committed) -> u64 {
    match committed {
        Committed::Stored(turn) => turn.seq,
        other => panic!("{other:?}"),
    }
}
