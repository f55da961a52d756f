//! Copies of all ages on many gateways: whatever becomes of the conversations, what a gateway is sent for a copy makes it what there is.

use std::{sync::Arc, time::Duration};

use super::{RedisStore, send, store};
use crate::{
    api::{Change, Claim, Clock, Commit, SessionKey, SessionState, SlotDelta, SlotValue, Turn, TurnError},
    context::{
        BeginRequest, Limits, Store, StoreBegin,
        conformance::{clock, commit, journal, user},
        settle,
    },
    redis::server::Server,
};

/// Gateways by the turns and the time that they keep, which differ while a new configuration is rolled out.
const GATEWAYS: [(usize, u64); 4] = [(4, 3600), (4, 3600), (3, 3600), (6, 600)];
/// Copies that a gateway remembers of a session.
const COPIES: usize = 12;

/// All that stands under the keys of a user, as a replica that is behind would have it.
type Dump = Vec<(Vec<u8>, Vec<u8>)>;

struct Fleet {
    server: Server,
    clock: Clock,
    gateways: Vec<RedisStore>,
    sessions: Vec<SessionKey>,
    /// By gateway and session.
    copies: Vec<Vec<Vec<Arc<SessionState>>>>,
    dumps: Vec<Dump>,
    rng: fastrand::Rng,
    next: u64,
    /// How often a copy was sent no more than what it lacked.
    parts: usize,
}

impl Fleet {
    async fn new(seed: u64) -> Self {
        let (server, clock) = (Server::start(), clock());
        let mut gateways = Vec::new();
        for (turns, keep) in GATEWAYS {
            gateways.push(store(&server, Limits { turns, keep: Duration::from_secs(keep) }, &clock).await);
        }
        let user = user("bank", "u");
        let sessions: Vec<_> = ["s1", "s2"].map(|id| user.session(id).unwrap()).into();
        let copies = vec![vec![Vec::new(); sessions.len()]; gateways.len()];
        Self { server, clock, gateways, sessions, copies, dumps: Vec::new(), rng: fastrand::Rng::with_seed(seed), next: 0, parts: 0 }
    }

    async fn step(&mut self) {
        let (g, s) = (self.rng.usize(..self.gateways.len()), self.rng.usize(..self.sessions.len()));
        let key = self.sessions[s].clone();
        match self.rng.u32(..100) {
            0..60 => self.turn(g, s).await,
            60..68 => self.dump(),
            68..74 => self.fail_over(),
            74..78 => self.gateways[g].erase_session(&key, None).await.unwrap(),
            78..80 => self.gateways[g].erase_user(key.user(), None).await.unwrap(),
            80..94 => self.clock.advance(Duration::from_secs(self.rng.u64(1..40))),
            94..97 => self.clock.advance(Duration::from_secs(self.rng.u64(500..700))),
            97..98 => self.clock.advance(Duration::from_secs(3500)),
            _ => self.contact(g, s).await,
        }
        self.compare().await;
    }

    fn id(&mut self) -> String {
        self.next += 1;
        format!("m{}", self.next)
    }

    fn keep(&mut self, g: usize, s: usize, state: Arc<SessionState>) {
        let copies = &mut self.copies[g][s];
        if copies.len() == COPIES {
            copies.swap_remove(self.rng.usize(..COPIES));
        }
        copies.push(state);
    }

    /// Some copy that a gateway has, or none.
    fn copy(&mut self, g: usize, s: usize) -> Option<Arc<SessionState>> {
        self.rng.choice(&self.copies[g][s]).cloned().filter(|_| self.rng.u8(..8) > 0)
    }

    async fn begin(&mut self, g: usize, s: usize, id: &str) -> Option<(Claim, Arc<SessionState>)> {
        let known = self.copy(g, s);
        let (message_id, q, until) = (id.into(), format!("q {id}").into(), self.clock.now().after(Duration::from_secs(60)));
        let key = self.sessions[s].clone();
        let request =
            BeginRequest { key: &key, message_id: &message_id, q: &q, until, wait: Duration::ZERO, known: known.as_ref(), limits: &[] };
        match settle(self.gateways[g].begin(request)).await {
            Ok(StoreBegin::Claimed { claim, state }) => {
                let base = state.or(known).unwrap_or_default();
                self.same(g, s, &base).await;
                self.keep(g, s, base.clone());
                Some((claim, base))
            }
            Ok(_) | Err(TurnError::InProgress) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// A turn of the first session on the first gateway, and the session after it.
    async fn plain_turn(&mut self) -> Arc<SessionState> {
        let id = self.id();
        let (claim, base) = self.begin(0, 0, &id).await.unwrap();
        self.gateways[0].commit(&claim, &base, commit(&id)).await.unwrap().state
    }

    async fn turn(&mut self, g: usize, s: usize) {
        let id = self.id();
        let Some((claim, base)) = self.begin(g, s, &id).await else { return };
        let add = SlotDelta { name: "n".into(), change: Change::Add(1.0) };
        let set = SlotDelta { name: "last".into(), change: Change::Set(SlotValue::Text(id.as_str().into())) };
        let user_slots = if self.rng.u8(..3) == 0 { vec![set] } else { Vec::new() };
        let kept = if self.rng.bool() { journal(&id) } else { None };
        let awaits_past = base.seq == 0 && base.version.session == 0 && self.rng.bool();
        let commit = Commit { slots: vec![add], user_slots, journal: kept, awaits_past, ..commit(&id) };
        match self.rng.u8(..16) {
            0 => return self.gateways[g].release(&claim),
            1 => return, // dies
            2 => {
                // It stands in the middle of its turn while something happens.
                let other = self.rng.usize(..self.gateways.len());
                match self.rng.u8(..4) {
                    0 => self.fail_over(),
                    1 => self.gateways[other].erase_session(&self.sessions[s], None).await.unwrap(),
                    2 => self.gateways[other].erase_user(self.sessions[s].user(), None).await.unwrap(),
                    _ => self.clock.advance(Duration::from_secs(self.rng.u64(1..4000))),
                }
            }
            _ => {}
        }
        let mut stored = self.gateways[g].commit(&claim, &base, commit.clone()).await;
        if self.rng.u8(..6) == 0 {
            if self.rng.bool() {
                self.fail_over();
            }
            stored = self.gateways[g].commit(&claim, &base, commit).await;
        }
        if let Ok(stored) = stored {
            self.same(g, s, &stored.state).await;
            self.keep(g, s, stored.state);
        }
    }

    /// Puts what was said elsewhere before a session that is new or awaits it.
    async fn contact(&mut self, g: usize, s: usize) {
        let id = self.id();
        let Some((claim, base)) = self.begin(g, s, &id).await else { return };
        let older = (0..self.rng.u64(..4)).map(|n| Turn { seq: n, ..commit(&format!("old {id} {n}")).turn(0) }).collect();
        if let Ok(Some(imported)) = self.gateways[g].import(&claim, &base, older).await {
            self.same(g, s, &imported).await;
            self.keep(g, s, imported);
        }
        self.gateways[g].release(&claim);
    }

    fn names(&self) -> Vec<Vec<u8>> {
        send(&self.server, "KEYS", &[b"fengda:*"])
    }

    fn dump(&mut self) {
        let dump = self.names().into_iter().filter_map(|key| Some((key.clone(), send::<Option<Vec<u8>>>(&self.server, "DUMP", &[&key])?)));
        let dump = dump.collect();
        if self.dumps.len() == 8 {
            self.dumps.remove(self.rng.usize(..8));
        }
        self.dumps.push(dump);
    }

    /// What a replica had that was behind, maybe far behind, is what there is now.
    fn fail_over(&mut self) {
        let Some(dump) = self.rng.choice(&self.dumps).cloned() else { return };
        send::<()>(&self.server, "FLUSHDB", &[]);
        for (key, value) in dump {
            send::<()>(&self.server, "RESTORE", &[&key, b"10000000", &value]);
        }
    }

    async fn full(&self, g: usize, s: usize) -> Arc<SessionState> {
        settle(self.gateways[g].load(&self.sessions[s], None)).await.unwrap().unwrap()
    }

    async fn same(&self, g: usize, s: usize, state: &SessionState) {
        let full = self.full(g, s).await;
        assert_eq!(shown(state), shown(&full));
        assert_eq!(state.user_slots, full.user_slots);
    }

    /// Asks with every copy there is.
    async fn compare(&mut self) {
        for (g, gateway) in self.gateways.iter().enumerate() {
            for (s, key) in self.sessions.iter().enumerate() {
                let full = self.full(g, s).await;
                for copy in &self.copies[g][s] {
                    let newer = settle(gateway.load(key, Some(copy))).await.unwrap();
                    let state = newer.as_ref().unwrap_or(copy);
                    assert_eq!(shown(state), shown(&full), "for version {:?}, number {}", copy.version, copy.seq);
                    assert_eq!(state.user_slots, full.user_slots);
                    let is_shared = |turn: &Arc<Turn>| copy.turns.iter().any(|known| Arc::ptr_eq(known, turn));
                    self.parts += usize::from(newer.as_ref().is_some_and(|newer| newer.turns.iter().any(is_shared)));
                }
                if self.rng.u8(..8) == 0 {
                    let copies = &mut self.copies[g][s];
                    if copies.len() < COPIES {
                        copies.push(full);
                    }
                }
            }
        }
    }
}

fn shown(state: &SessionState) -> impl PartialEq + std::fmt::Debug + use<'_> {
    (state.version, state.epoch, state.seq, &state.turns, &state.flow)
}

#[tokio::test]
async fn a_copy_of_any_age_becomes_what_there_is() {
    let mut fleet = Fleet::new(3).await;
    for _ in 0..100 {
        fleet.step().await;
    }
    assert!(fleet.parts > 20, "copies are completed: {}", fleet.parts);
}

#[tokio::test]
async fn an_erasure_that_a_failover_lost_keeps_no_gateway_from_the_conversation() {
    let mut fleet = Fleet::new(0).await;
    let (before, user) = (fleet.plain_turn().await, fleet.sessions[0].user().clone());
    fleet.dumps.clear();
    fleet.dump();
    fleet.gateways[1].erase_user(&user, None).await.unwrap();
    let erased = fleet.full(0, 0).await;
    assert_eq!((erased.seq, erased.turns.len()), (before.seq, 0));
    fleet.fail_over();
    let again = settle(fleet.gateways[0].load(&fleet.sessions[0], Some(&erased))).await.unwrap().unwrap();
    assert_eq!(shown(&again), shown(&before));
}

#[tokio::test]
async fn what_was_erased_is_no_current_copy_when_that_is_forgotten() {
    let mut fleet = Fleet::new(0).await;
    let (before, user) = (fleet.plain_turn().await, fleet.sessions[0].user().clone());
    fleet.gateways[3].erase_user(&user, None).await.unwrap(); // known for a shorter time than the session is kept
    for seconds in [0, 599, 2] {
        fleet.clock.advance(Duration::from_secs(seconds));
        let newer = settle(fleet.gateways[0].load(&fleet.sessions[0], Some(&before))).await.unwrap();
        assert!(newer.is_some_and(|newer| newer.turns.is_empty()), "after {seconds} s");
    }
}
