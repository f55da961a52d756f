//! A gateway's conversations over a store that can be out of its reach.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    api::{
        Begin, BeginTurn, Begun, BoxFuture, Change, Claim, Clock, Commit, Committed, Meters, SessionKey, SessionState, SlotDelta, Step,
        Turn, TurnError, TurnPhase, UserKey, WaitFor,
    },
    context::{
        BeginRequest, Context, ContextConfig, Durability, Limits, SpoolConfig, Store, StoreBegin, Stored,
        conformance::{TempDir, clock, commit, journal, user},
        embedded::Embedded,
        settle,
        tests::config,
    },
};

pub(super) const LIMITS: Limits = Limits { turns: 1000, keep: Duration::from_secs(7 * 86_400) };
/// How long something may take that is bound to happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A store that gateways share, and what each of its erasures makes its epochs.
pub(super) struct Shared {
    inner: Embedded,
    epochs: Mutex<HashMap<Vec<u8>, u64>>,
}

impl Shared {
    fn epoch(&self, key: &SessionKey) -> u64 {
        let epochs = self.epochs.lock().unwrap();
        let of = |key: &[u8]| epochs.get(key).copied().unwrap_or_default();
        of(key.as_bytes()) << 32 | of(key.user().as_bytes())
    }

    fn erased(&self, key: &[u8]) {
        *self.epochs.lock().unwrap().entry(key.to_vec()).or_default() += 1;
    }

    fn dated(&self, key: &SessionKey, state: &SessionState) -> Arc<SessionState> {
        Arc::new(SessionState { epoch: self.epoch(key), ..state.clone() })
    }
}

/// One gateway's way to it.
pub(super) struct Reach {
    shared: Arc<Shared>,
    /// Calls to fail before they are made.
    down: AtomicU32,
    /// Calls whose answers are to be lost.
    deaf: AtomicU32,
}

pub(super) const FOREVER: u32 = u32::MAX;

impl Reach {
    pub(super) fn cut(&self, calls: u32) {
        self.down.store(calls, Ordering::SeqCst);
    }

    pub(super) fn lose_answers(&self, calls: u32) {
        self.deaf.store(calls, Ordering::SeqCst);
    }

    pub(super) fn is_cut(&self) -> bool {
        self.down.load(Ordering::SeqCst) > 0
    }

    fn take(count: &AtomicU32) -> bool {
        let less = |n| if n == FOREVER { Some(n) } else { u32::checked_sub(n, 1) };
        count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }

    async fn through<T>(&self, call: impl Future<Output = Result<T, TurnError>>) -> Result<T, TurnError> {
        if Self::take(&self.down) {
            return Err(TurnError::Unavailable("cut off".into()));
        }
        let answer = call.await;
        if Self::take(&self.deaf) { Err(TurnError::Unavailable("the answer was lost".into())) } else { answer }
    }
}

impl Store for Reach {
    fn begin<'a>(&'a self, request: BeginRequest<'a>) -> Step<'a, Result<StoreBegin, TurnError>> {
        Step::Pending(Box::pin(self.through(async move {
            let begun = settle(self.shared.inner.begin(request)).await?;
            let StoreBegin::Claimed { claim, state } = begun else { return Ok(begun) };
            let outdated = request.known.filter(|known| known.epoch != self.shared.epoch(request.key));
            let state = state.as_ref().or(outdated).map(|state| self.shared.dated(request.key, state));
            Ok(StoreBegin::Claimed { claim, state })
        })))
    }

    fn commit<'a>(&'a self, claim: &'a Claim, base: &'a Arc<SessionState>, commit: Commit) -> BoxFuture<'a, Result<Stored, TurnError>> {
        Box::pin(self.through(async move {
            let Stored { turn, state } = self.shared.inner.commit(claim, base, commit).await?;
            Ok(Stored { turn, state: self.shared.dated(&claim.key, &state) })
        }))
    }

    fn release(&self, claim: &Claim) {
        if !Self::take(&self.down) {
            self.shared.inner.release(claim);
        }
    }

    fn load<'a>(
        &'a self,
        key: &'a SessionKey,
        known: Option<&'a Arc<SessionState>>,
    ) -> Step<'a, Result<Option<Arc<SessionState>>, TurnError>> {
        Step::Pending(Box::pin(self.through(async move {
            let loaded = settle(self.shared.inner.load(key, known)).await?;
            Ok(loaded.map(|state| self.shared.dated(key, &state)))
        })))
    }

    fn is_new<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<bool, TurnError>> {
        Box::pin(self.through(self.shared.inner.is_new(key)))
    }

    fn import<'a>(
        &'a self,
        claim: &'a Claim,
        base: &'a Arc<SessionState>,
        older: Vec<Turn>,
    ) -> BoxFuture<'a, Result<Option<Arc<SessionState>>, TurnError>> {
        Box::pin(self.through(self.shared.inner.import(claim, base, older)))
    }

    fn erase_session<'a>(&'a self, key: &'a SessionKey, wait: Option<WaitFor>) -> BoxFuture<'a, Result<(), TurnError>> {
        Box::pin(self.through(async move {
            self.shared.erased(key.as_bytes());
            self.shared.inner.erase_session(key, wait).await
        }))
    }

    fn erase_user<'a>(&'a self, key: &'a UserKey, wait: Option<WaitFor>) -> BoxFuture<'a, Result<(), TurnError>> {
        Box::pin(self.through(async move {
            self.shared.erased(key.as_bytes());
            self.shared.inner.erase_user(key, wait).await
        }))
    }

    fn queued(&self) -> usize {
        0
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), TurnError>> {
        self.shared.inner.flush()
    }

    fn health(&self) -> BoxFuture<'_, Result<(), TurnError>> {
        self.shared.inner.health()
    }
}

/// The store that gateways share, the time, and where all of it lies.
pub(super) struct Site {
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Clock,
    dir: TempDir,
}

impl Site {
    pub(super) fn new() -> Self {
        let (dir, clock) = (TempDir::new(), clock());
        let inner = Embedded::open(&dir.path().join("store"), Durability::Os, LIMITS, clock.clone()).unwrap();
        Self { shared: Arc::new(Shared { inner, epochs: Mutex::default() }), clock, dir }
    }

    pub(super) fn gateway(&self, name: &str) -> Gateway {
        self.gateway_with(name, 1 << 20)
    }

    pub(super) fn gateway_with(&self, name: &str, size: u64) -> Gateway {
        let reach = Arc::new(Reach { shared: self.shared.clone(), down: AtomicU32::new(0), deaf: AtomicU32::new(0) });
        let tenants = ["bank", "shop"].map(|name| user(name, "u").tenant().clone()).to_vec();
        let dir = self.dir.path().join(name);
        let config = ContextConfig {
            history_turns: LIMITS.turns,
            history_keep: LIMITS.keep,
            spool: Some(SpoolConfig { size, tenants }),
            ..config(&dir)
        };
        let mut gateway = Gateway { reach, clock: self.clock.clone(), config, meters: Meters::default(), context: None };
        gateway.open();
        gateway
    }

    /// The session as the store has it.
    pub(super) async fn stored(&self, key: &SessionKey) -> Arc<SessionState> {
        settle(self.shared.inner.load(key, None)).await.unwrap().unwrap_or_default()
    }

    /// The ids of its stored turns.
    pub(super) async fn ids(&self, key: &SessionKey) -> Vec<String> {
        self.stored(key).await.turns.iter().map(|t| t.message_id.expose().to_owned()).collect()
    }

    pub(super) fn epoch(&self, key: &SessionKey) -> u64 {
        self.shared.epoch(key)
    }
}

/// A gateway's conversations.
pub(super) struct Gateway {
    pub(super) reach: Arc<Reach>,
    pub(super) config: ContextConfig,
    pub(super) meters: Meters,
    clock: Clock,
    context: Option<Arc<Context>>,
}

impl Gateway {
    pub(super) fn open(&mut self) {
        self.meters = Meters::default();
        let context = Context::new(self.reach.clone(), &self.config, self.clock.clone(), &self.meters);
        self.context = Some(context.unwrap_or_else(|e| panic!("{e}")));
    }

    /// Ends it without any goodbye; its folder stays.
    pub(super) fn close(&mut self) {
        self.context = None;
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        self.context.as_ref().unwrap()
    }

    pub(super) fn spool_folder(&self) -> PathBuf {
        self.config.dir.join("spool")
    }

    pub(super) async fn begin_seen(&self, key: &SessionKey, id: &str, seen: Option<u64>) -> Result<Begin, TurnError> {
        let (message_id, q) = (id.into(), format!("q {id}").into());
        let until = self.clock.now().after(Duration::from_secs(60));
        let turn = BeginTurn { key, message_id: &message_id, q: &q, until, wait: Duration::from_millis(20), seen, limits: &[] };
        self.context().begin(turn).await
    }

    pub(super) async fn begin(&self, key: &SessionKey, id: &str) -> Begun {
        match self.begin_seen(key, id, None).await.unwrap() {
            Begin::Run(begun) => begun,
            other => panic!("{other:?}"),
        }
    }

    /// A whole turn, which adds one to the slot `n` of its session and of its user, and leaves its id as journal. None if it was put aside.
    pub(super) async fn turn(&self, key: &SessionKey, id: &str) -> Option<Arc<Turn>> {
        let begun = self.begin(key, id).await;
        self.end(&begun, id).await.unwrap()
    }

    pub(super) async fn end(&self, begun: &Begun, id: &str) -> Result<Option<Arc<Turn>>, TurnError> {
        let add = || vec![SlotDelta { name: "n".into(), change: Change::Add(1.0) }];
        let (at, awaits_past) = (self.clock.now(), begun.awaits_past);
        let commit = Commit { at, awaits_past, slots: add(), user_slots: add(), journal: journal(id), ..commit(id) };
        Ok(match self.context().commit(begun, commit).await? {
            Committed::Stored(turn) => Some(turn),
            Committed::Aside => None,
        })
    }

    /// How many turns wait.
    pub(super) fn waiting(&self) -> u64 {
        self.context().spool().unwrap().turns
    }

    /// Until nothing waits any more.
    pub(super) async fn settled(&self) {
        let end = Instant::now() + PATIENCE;
        while self.waiting() > 0 {
            assert!(Instant::now() < end, "{} turns wait for ever", self.waiting());
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.clock.advance(Duration::from_millis(200)); // claims lapse whose answers were lost
        }
    }

    pub(super) fn outcomes(&self, outcome: &str) -> f64 {
        crate::testing::metric(&self.meters, "fengda_spool_outcomes_total", &[outcome, "bank"]).unwrap_or_default()
    }
}
