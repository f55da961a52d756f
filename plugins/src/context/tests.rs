//! The turn phase over the embedded store: what the cache saves, and what it must not hide.

mod cache;
mod stampede;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{
    Backend, BeginRequest, CacheConfig, Config, Context, ContextConfig, Durability, Store, StoreBegin, Stored,
    conformance::{LIMITS, TempDir, clock, commit, session},
    embedded::Embedded,
    settle, spec,
};
use crate::{
    api::{
        Begin, BeginTurn, Begun, BoxFuture, BuildCtx, Claim, Clock, Commit, Committed, Meters, Problem, Scope, SessionKey, SessionState,
        Step, TenantBuild, Turn, TurnError, TurnPhase, UserKey, WaitFor, parse_config,
    },
    units::Percent,
};

const CACHE: CacheConfig = CacheConfig { size: 1 << 20, share: Percent(50), idle: Duration::from_secs(60) };

/// The embedded store with a count of how often it moved a history. Its loads can be held up and made to fail.
struct Counting {
    inner: Embedded,
    moved: AtomicUsize,
    /// How often it was asked for a load.
    asked: AtomicUsize,
    /// Loads pass here when they have read the disk.
    gate: tokio::sync::Mutex<()>,
    failing: AtomicBool,
}

impl Counting {
    fn open(dir: &TempDir, clock: &Clock) -> Arc<Self> {
        let inner = Embedded::open(dir.path(), Durability::Os, LIMITS, clock.clone()).unwrap();
        Arc::new(Self { inner, moved: 0.into(), asked: 0.into(), gate: ().into(), failing: false.into() })
    }

    fn moved(&self) -> usize {
        self.moved.swap(0, Ordering::AcqRel)
    }

    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::AcqRel)
    }
}

impl Store for Counting {
    fn begin<'a>(&'a self, request: BeginRequest<'a>) -> Step<'a, Result<StoreBegin, TurnError>> {
        Step::Pending(Box::pin(async move {
            let begun = settle(self.inner.begin(request)).await?;
            if matches!(begun, StoreBegin::Claimed { state: Some(_), .. }) {
                self.moved.fetch_add(1, Ordering::AcqRel);
            }
            Ok(begun)
        }))
    }

    fn commit<'a>(&'a self, claim: &'a Claim, base: &'a Arc<SessionState>, commit: Commit) -> BoxFuture<'a, Result<Stored, TurnError>> {
        self.inner.commit(claim, base, commit)
    }

    fn release(&self, claim: &Claim) {
        self.inner.release(claim);
    }

    fn load<'a>(
        &'a self,
        key: &'a SessionKey,
        known: Option<&'a Arc<SessionState>>,
    ) -> Step<'a, Result<Option<Arc<SessionState>>, TurnError>> {
        Step::Pending(Box::pin(async move {
            let loaded = settle(self.inner.load(key, known)).await?;
            self.asked.fetch_add(1, Ordering::AcqRel);
            tokio::task::yield_now().await; // as when it goes over a network
            drop(self.gate.lock().await);
            if self.failing.load(Ordering::Acquire) {
                return Err(TurnError::Unavailable("told to fail".into()));
            }
            self.moved.fetch_add(usize::from(loaded.is_some()), Ordering::AcqRel);
            Ok(loaded)
        }))
    }

    fn is_new<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<bool, TurnError>> {
        self.inner.is_new(key)
    }

    fn import<'a>(
        &'a self,
        claim: &'a Claim,
        base: &'a Arc<SessionState>,
        older: Vec<Turn>,
    ) -> BoxFuture<'a, Result<Option<Arc<SessionState>>, TurnError>> {
        self.inner.import(claim, base, older)
    }

    fn erase_session<'a>(&'a self, key: &'a SessionKey, wait: Option<WaitFor>) -> BoxFuture<'a, Result<(), TurnError>> {
        self.inner.erase_session(key, wait)
    }

    fn erase_user<'a>(&'a self, key: &'a UserKey, wait: Option<WaitFor>) -> BoxFuture<'a, Result<(), TurnError>> {
        self.inner.erase_user(key, wait)
    }

    fn queued(&self) -> usize {
        self.inner.queued()
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), TurnError>> {
        self.inner.flush()
    }

    fn health(&self) -> BoxFuture<'_, Result<(), TurnError>> {
        self.inner.health()
    }
}

struct Opened {
    context: Arc<Context>,
    store: Arc<Counting>,
    clock: Clock,
    meters: Meters,
    dir: TempDir,
}

/// Conversations in this data directory.
pub(super) fn config(dir: &Path) -> ContextConfig {
    ContextConfig {
        backend: Backend::Embedded(Durability::Os),
        cache: CACHE,
        history_turns: LIMITS.turns,
        history_keep: LIMITS.keep,
        dir: dir.to_owned(),
        spool: None,
        import: None,
    }
}

fn opened() -> Opened {
    let (dir, clock) = (TempDir::new(), clock());
    let store = Counting::open(&dir, &clock);
    let meters = Meters::default();
    let context = Context::new(store.clone(), &config(dir.path()), clock.clone(), &meters).unwrap();
    Opened { context, store, clock, meters, dir }
}

impl Opened {
    /// With another cache, an empty one.
    fn cold(self) -> Self {
        let context = Context::new(self.store.clone(), &config(self.dir.path()), self.clock.clone(), &self.meters).unwrap();
        self.store.moved();
        Self { context, ..self }
    }

    async fn begin(&self, key: &SessionKey, id: &str, seen: Option<u64>) -> Begun {
        let (message_id, q) = (id.into(), format!("q {id}").into());
        let wait = Duration::from_secs(60);
        let until = self.clock.now().after(wait);
        match self.context.begin(BeginTurn { key, message_id: &message_id, q: &q, until, wait, seen, limits: &[] }).await.unwrap() {
            Begin::Run(begun) => begun,
            other => panic!("{other:?}"),
        }
    }

    async fn turn(&self, key: &SessionKey, id: &str) -> u64 {
        let begun = self.begin(key, id, None).await;
        self.context.commit(&begun, commit(id)).await.map(seq).unwrap()
    }
}

fn seq(committed: Committed) -> u64 {
    match committed {
        Committed::Stored(turn) => turn.seq,
        Committed::Aside => panic!("put aside"),
    }
}

#[tokio::test]
async fn a_hot_turn_moves_no_history() {
    let o = opened();
    let key = session("a");
    o.turn(&key, "m1").await;
    o.store.moved();
    for id in ["m2", "m3"] {
        o.turn(&key, id).await;
        assert_eq!(o.context.history(&key).await.unwrap().turns.last().unwrap().message_id.expose(), id);
    }
    assert_eq!(o.store.moved(), 0);
}

#[tokio::test]
async fn a_message_that_waited_sees_its_predecessors_turn_without_a_read() {
    let o = opened();
    let key = session("a");
    o.turn(&key, "m1").await;
    let first = o.begin(&key, "m2", None).await;
    let second = async {
        let begun = o.begin(&key, "m3", None).await;
        assert_eq!(begun.state.seq, 2);
        o.context.commit(&begun, commit("m3")).await.map(seq).unwrap()
    };
    let first = async { o.context.commit(&first, commit("m2")).await.map(seq).unwrap() };
    assert_eq!(tokio::join!(second, first), (3, 2));
}

#[tokio::test]
async fn what_is_erased_is_gone_from_memory_too() {
    let o = opened();
    let (a, b) = (session("a"), session("b"));
    for key in [&a, &b] {
        o.turn(key, "m1").await;
    }
    o.context.erase_session(&a, None).await.unwrap();
    assert!(o.context.cache.get(&a).is_none());
    assert_eq!(o.context.history(&a).await.unwrap().turns.len(), 0);
    o.context.erase_user(b.user(), None).await.unwrap();
    assert!(o.context.cache.get(&b).is_none());
    assert_eq!((o.context.history(&b).await.unwrap().turns.len(), o.turn(&b, "m1").await), (0, 2));
}

#[tokio::test]
async fn a_copy_from_before_an_erasure_does_not_come_back() {
    let o = opened();
    let (key, cache) = (session("a"), &o.context.cache);
    let begun = o.begin(&key, "m1", None).await;
    let mark = cache.mark();
    let stored = o.store.commit(begun.claim.as_ref().unwrap(), &begun.state, commit("m1")).await.unwrap(); // its caller is slow to take note
    for user in [false, true] {
        if user {
            o.context.erase_user(key.user(), None).await.unwrap();
        } else {
            o.context.erase_session(&key, None).await.unwrap();
        }
        cache.insert(&key, &stored.state, mark);
        assert!(cache.get(&key).is_none());
    }
    o.turn(&key, "m2").await;
    assert!(cache.get(&key).is_some());
}

#[tokio::test]
async fn a_client_that_saw_more_than_there_is_has_a_gap() {
    let o = opened();
    let key = session("a");
    o.turn(&key, "m1").await;
    for (seen, gap) in [(None, false), (Some(0), false), (Some(1), false), (Some(2), true)] {
        let begun = o.begin(&key, "m2", seen).await;
        assert_eq!(begun.gap, gap, "{seen:?}");
        o.context.release(begun.claim.as_ref().unwrap());
    }
}

/// What the series of a family with this label's value stands at, or the only one of a family without labels.
fn counted(meters: &Meters, name: &str, label: Option<&str>) -> u64 {
    let families = meters.gather();
    let series = families.iter().filter(|f| f.name() == name).flat_map(|f| f.get_metric());
    let values: Vec<_> = series.filter(|m| label.is_none_or(|label| m.get_label().iter().any(|l| l.value() == label))).collect();
    assert_eq!(values.len(), 1, "{name} {label:?}");
    format!("{}", values[0].get_counter().get_value()).parse().unwrap()
}

#[tokio::test]
async fn lookups_are_counted_by_what_the_cache_had() {
    let o = opened();
    let key = session("a");
    o.turn(&key, "m1").await;
    o.turn(&key, "m2").await;
    // A write past the cache.
    let begun = o.begin(&key, "m3", None).await;
    o.store.commit(begun.claim.as_ref().unwrap(), &begun.state, commit("m3")).await.unwrap();
    o.turn(&key, "m4").await;
    let lookups = |outcome| counted(&o.meters, "fengda_context_cache_lookups_total", Some(outcome));
    assert_eq!((lookups("miss"), lookups("hit"), lookups("stale")), (1, 2, 1));
}

#[tokio::test]
async fn a_directory_is_opened_from_its_configuration() {
    let dir = TempDir::new();
    let config = ContextConfig { backend: Backend::Embedded(Durability::Disk), ..config(&dir.path().join("data")) };
    let context = Context::open(&config, Clock::system(), &Meters::default()).unwrap();
    assert_eq!(context.history(&session("a")).await.unwrap().seq, 0);
    context.flush().await.unwrap();
}

#[test]
fn the_plugin_takes_no_keys_of_its_own() {
    let o = opened();
    let spec = spec(Arc::new(o.context.clone().into()));
    let (empty, wrong) = (serde_yaml::from_str("{}").unwrap(), serde_yaml::from_str("{ turns: 5 }").unwrap());
    let tenant = |config: &serde_yaml::Value| TenantBuild {
        tenant: session("a").tenant().clone(),
        config: config.clone(),
        keys: serde_yaml::Value::Null,
    };
    let build = |config, tenants: &[TenantBuild]| {
        (spec.build)(&BuildCtx { config, tenants, clock: &o.clock, meters: &Meters::default(), previous: None })
    };
    let plugin = build(&empty, &[tenant(&empty)]).unwrap();
    assert!(plugin.turn_phase().is_some());
    let in_plugin: Vec<Problem> = build(&wrong, &[tenant(&wrong)]).err().unwrap();
    assert_eq!(in_plugin.len(), 1, "said once");
    assert!(in_plugin[0].message.contains("turns") && in_plugin[0].scope == Scope::Plugin, "{in_plugin:?}");
    let in_tenant = build(&empty, &[tenant(&wrong)]).err().unwrap();
    assert!(matches!(in_tenant[0].scope, Scope::Tenant(_)));
    assert!(parse_config::<Config>(&Scope::Plugin, &serde_yaml::Value::Null).is_ok());
}
