//! A long random run against a plain model of what a store of conversations is.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{LIMITS, Subject, commit, journal};
use crate::{
    api::{Change, Claim, Commit, Journal, SessionKey, SessionState, SlotDelta, SlotValue, Slots, Timestamp, TurnError, UserKey},
    context::StoreBegin,
};

/// Stores of one kind on one set of data, and what can happen to them besides being used.
pub trait World {
    /// One of the stores.
    fn subject(&mut self) -> &Subject;

    /// Something happens to the stores, by this random number. Says whether all claims are lost with it.
    fn upset(&mut self, dice: u8) -> impl Future<Output = bool>;

    /// Erases a user as far as one does who is killed over it.
    fn erase_and_die(&mut self, user: &UserKey) -> impl Future<Output = ()>;
}

#[derive(Default, Clone)]
struct Session {
    seq: u64,
    turns: Vec<String>,
    n: f64,
    journal: Option<Journal>,
    expires: Timestamp,
}

struct Held {
    claim: Claim,
    base: Arc<SessionState>,
    id: String,
    /// The session was erased, or the store opened again, since.
    lost: bool,
}

/// The stores, the model of them, and those who use them.
struct Run<'a, W> {
    world: &'a mut W,
    rng: fastrand::Rng,
    keys: Vec<SessionKey>,
    sessions: Vec<Session>,
    users: HashMap<Vec<u8>, (f64, Timestamp)>,
    held: Vec<Option<Held>>,
    /// Some copy of each session, maybe an old one.
    copies: Vec<Option<Arc<SessionState>>>,
    next_id: u64,
}

impl<'a, W: World> Run<'a, W> {
    fn new(world: &'a mut W, seed: u64) -> Self {
        let users = ["u1", "u2"].map(|id| world.subject().user("bank", id));
        let keys: Vec<_> = users.iter().flat_map(|user| ["s1", "s2", "s3"].map(|id| user.session(id).unwrap())).collect();
        let n = keys.len();
        let held = std::iter::repeat_with(|| None).take(n).collect();
        let rng = fastrand::Rng::with_seed(seed);
        Self { world, rng, keys, sessions: vec![Session::default(); n], users: HashMap::new(), held, copies: vec![None; n], next_id: 0 }
    }

    async fn step(&mut self) {
        let i = self.rng.usize(..self.keys.len());
        match self.rng.u32(..100) {
            0..40 => self.begin(i).await,
            40..75 => self.commit(i).await,
            75..80 => {
                if let Some(held) = self.held[i].take() {
                    self.s().store().release(&held.claim);
                }
            }
            80..84 => {
                self.world.subject().store().erase_session(&self.keys[i], None).await.unwrap();
                self.erased(i);
            }
            84..86 => {
                let user = self.keys[i].user().clone();
                if self.rng.bool() {
                    self.world.erase_and_die(&user).await;
                } else {
                    self.s().store().erase_user(&user, None).await.unwrap();
                }
                self.users.remove(user.as_bytes());
                (0..self.keys.len()).filter(|i| *self.keys[*i].user() == user).collect::<Vec<_>>().into_iter().for_each(|i| self.erased(i));
            }
            86..94 => {
                let by = Duration::from_secs(self.rng.u64(1..40));
                self.s().clock.advance(by);
            }
            94..95 => {
                let by = LIMITS.keep - Duration::from_secs(self.rng.u64(0..60));
                self.s().clock.advance(by);
            }
            95..98 => {
                let dice = self.rng.u8(..);
                if self.world.upset(dice).await {
                    self.held.iter_mut().flatten().for_each(|held| held.lost = true);
                }
            }
            _ => self.compare(i).await,
        }
    }

    fn s(&mut self) -> &Subject {
        self.world.subject()
    }

    fn now(&mut self) -> Timestamp {
        self.s().clock.now()
    }

    fn live(&mut self, i: usize) -> Session {
        let now = self.now();
        let session = &self.sessions[i];
        if session.expires > now { session.clone() } else { Session::default() }
    }

    fn user_n(&mut self, i: usize) -> f64 {
        let now = self.now();
        self.users.get(self.keys[i].user().as_bytes()).filter(|(_, expires)| *expires > now).map_or(0.0, |(n, _)| *n)
    }

    fn erased(&mut self, i: usize) {
        let Session { seq, expires, .. } = self.live(i);
        self.sessions[i] = Session { seq, expires, ..Session::default() };
        if let Some(held) = &mut self.held[i] {
            held.lost = true;
        }
    }

    async fn begin(&mut self, i: usize) {
        let model = self.live(i);
        let repeated = self.rng.bool().then(|| self.rng.choice(&model.turns).cloned()).flatten();
        let now = self.now();
        let free = self.held[i].as_ref().is_none_or(|held| held.lost || held.claim.until <= now);
        if repeated.is_none() && !free {
            return; // would wait
        }
        let id = repeated.clone().unwrap_or_else(|| {
            self.next_id += 1;
            format!("m{}", self.next_id)
        });
        let known = self.copies[i].clone();
        match self.world.subject().begin(&self.keys[i], &id, known.as_ref()).await.unwrap() {
            StoreBegin::Answered(turn) => assert_eq!(Some(turn.message_id.expose()), repeated.as_deref()),
            StoreBegin::Limited(limited) => panic!("{limited:?}"),
            StoreBegin::Claimed { claim, state } => {
                assert_eq!(repeated, None);
                let base = state.or(known).unwrap();
                self.check(i, &base);
                self.copies[i] = Some(base.clone());
                self.held[i] = Some(Held { claim, base, id, lost: false });
            }
        }
    }

    async fn commit(&mut self, i: usize) {
        let Some(held) = self.held[i].take() else { return };
        let add = SlotDelta { name: "n".into(), change: Change::Add(1.0) };
        let user_slots = if self.rng.bool() { vec![add.clone()] } else { Vec::new() };
        let adds = if user_slots.is_empty() { 0.0 } else { 1.0 };
        let journal = if self.rng.bool() { journal(&held.id) } else { None };
        let commit = Commit { slots: vec![add], user_slots, journal: journal.clone(), ..commit(&held.id) };
        let now = self.now();
        let done = self.s().store().commit(&held.claim, &held.base, commit.clone()).await;
        if held.lost || held.claim.until <= now {
            assert_eq!(done.unwrap_err(), TurnError::ClaimLost);
            return;
        }
        let stored = done.unwrap();
        // What the turn began with has not expired for it, even if it has by now.
        let mut model = if held.base.version.session == 0 { Session::default() } else { self.sessions[i].clone() };
        model.seq += 1;
        model.n += 1.0;
        model.journal = journal;
        model.turns.push(held.id.clone());
        model.turns.drain(..model.turns.len().saturating_sub(LIMITS.turns));
        model.expires = now.after(LIMITS.keep);
        self.sessions[i] = model;
        let n = self.user_n(i) + adds;
        if n > 0.0 {
            self.users.insert(self.keys[i].user().as_bytes().into(), (n, now.after(LIMITS.keep)));
        }
        self.check(i, &stored.state);
        if self.rng.bool() {
            self.copies[i] = Some(stored.state);
        }
        let again = self.s().store().commit(&held.claim, &held.base, commit).await.unwrap();
        assert_eq!(again.turn, stored.turn);
    }

    async fn compare(&mut self, i: usize) {
        let state = self.world.subject().state(&self.keys[i]).await;
        self.check(i, &state);
        self.copies[i] = Some(state);
    }

    fn check(&mut self, i: usize, state: &SessionState) {
        let model = self.live(i);
        let ids: Vec<_> = state.turns.iter().map(|t| t.message_id.expose()).collect();
        assert_eq!((state.seq, ids), (model.seq, model.turns.iter().map(String::as_str).collect()));
        assert!(state.turns.iter().rev().zip(0..).all(|(turn, back)| turn.seq == state.seq - back), "numbers without gaps");
        assert_eq!((stored_n(&state.flow.slots), stored_n(&state.user_slots)), (model.n, self.user_n(i)));
        assert_eq!(state.flow.journal, model.journal);
    }
}

fn stored_n(slots: &Slots) -> f64 {
    match slots.0.get("n") {
        Some(SlotValue::Number(n)) => *n,
        _ => 0.0,
    }
}

/// Runs `steps` random steps, a different run for each `seed`. Says how many turns the stores keep in the end.
///
/// # Panics
/// A store does otherwise than the model.
pub async fn run(world: &mut impl World, seed: u64, steps: usize) -> usize {
    let mut run = Run::new(world, seed);
    for step in 0..steps {
        run.step().await;
        if step % 50 == 49 {
            for i in 0..run.keys.len() {
                run.compare(i).await;
            }
        }
    }
    (0..run.keys.len()).map(|i| run.live(i).turns.len()).sum()
}
