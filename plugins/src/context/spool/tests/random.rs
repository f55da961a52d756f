//! Long random runs of two gateways on one store: turns, outages, lost answers, sudden ends, erasures. In the end the store has what a
//! sequential model has.

use std::time::Duration;

use super::rig::{FOREVER, Gateway, Site};
use crate::{
    api::{Begin, SessionKey, SlotValue, TurnError, TurnPhase},
    context::conformance::user,
};

/// A message that got an answer.
struct Told {
    gateway: usize,
    session: usize,
    id: String,
    /// Of the state that the answer was made from: another one means that an erasure came after.
    epoch: u64,
}

struct Run {
    site: Site,
    gateways: [Gateway; 2],
    keys: Vec<SessionKey>,
    told: Vec<Told>,
    rng: fastrand::Rng,
    next: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let site = Site::new();
        let gateways = ["a", "b"].map(|name| site.gateway(name));
        let keys = ["u1", "u2"].iter().flat_map(|u| ["s1", "s2"].map(|s| user("bank", u).session(s).unwrap())).collect();
        Self { site, gateways, keys, told: Vec::new(), rng: fastrand::Rng::with_seed(seed), next: 0 }
    }

    async fn step(&mut self) {
        let (g, s) = (self.rng.usize(..2), self.rng.usize(..self.keys.len()));
        match self.rng.u32(..100) {
            0..60 => {
                self.next += 1;
                self.turn(g, s, format!("m{}", self.next)).await;
            }
            60..66 => self.repeat(g).await,
            66..76 => self.gateways[g].reach.cut(self.rng.choice([0, 1, 2, 5, FOREVER]).unwrap()),
            76..82 => self.gateways[g].reach.lose_answers(self.rng.u32(1..3)),
            82..86 => {
                self.gateways[g].close();
                self.gateways[g].open();
            }
            86..90 => self.erase(g, s).await,
            90..95 => self.site.clock.advance(Duration::from_secs(61)),
            _ if self.gateways[g].reach.is_cut() => {}
            _ => {
                self.site.clock.advance(Duration::from_secs(61)); // claims that nobody remembers
                self.gateways[g].settled().await;
            }
        }
    }

    async fn turn(&mut self, g: usize, s: usize, id: String) {
        let (gateway, key) = (&self.gateways[g], &self.keys[s]);
        let begun = match gateway.begin_seen(key, &id, None).await {
            Ok(Begin::Run(begun)) => begun,
            Ok(Begin::Answered(_) | Begin::Aside(_)) => return, // told before
            Ok(Begin::Limited(limited)) => panic!("{limited:?}"),
            Err(TurnError::InProgress | TurnError::Unavailable(_)) => return,
            Err(error) => panic!("{error}"),
        };
        let epoch = begun.state.epoch;
        match gateway.end(&begun, &id).await {
            Ok(_) => self.told.push(Told { gateway: g, session: s, id, epoch }),
            Err(TurnError::ClaimLost) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// A client sends a message again, to the gateway that answered it.
    async fn repeat(&mut self, g: usize) {
        let of_gateway: Vec<_> = self.told.iter().filter(|t| t.gateway == g).map(|t| (t.session, t.id.clone(), t.epoch)).collect();
        let Some((s, id, epoch)) = self.rng.choice(of_gateway) else { return };
        if epoch != self.site.epoch(&self.keys[s]) {
            return; // erased: it is a new message now
        }
        match self.gateways[g].begin_seen(&self.keys[s], &id, None).await {
            Ok(Begin::Answered(turn) | Begin::Aside(turn)) => assert_eq!(turn.a.expose(), format!("a {id}")),
            Err(TurnError::InProgress | TurnError::Unavailable(_)) => {}
            other => panic!("{id} runs a second time: {other:?}"),
        }
    }

    async fn erase(&mut self, g: usize, s: usize) {
        let (context, key) = (self.gateways[g].context(), &self.keys[s]);
        let erased = if self.rng.bool() { context.erase_session(key, None).await } else { context.erase_user(key.user(), None).await };
        assert!(matches!(erased, Ok(()) | Err(TurnError::Unavailable(_))));
    }

    async fn check(&mut self) {
        for gateway in &self.gateways {
            gateway.reach.cut(0);
            gateway.reach.lose_answers(0);
        }
        self.site.clock.advance(Duration::from_secs(61));
        for gateway in &self.gateways {
            gateway.settled().await;
        }
        for (s, key) in self.keys.iter().enumerate() {
            let (epoch, state, ids) = (self.site.epoch(key), self.site.stored(key).await, self.site.ids(key).await);
            let expected: Vec<_> = self.told.iter().filter(|t| t.session == s && t.epoch == epoch).collect();
            let mut sorted = [ids.clone(), expected.iter().map(|t| t.id.clone()).collect()];
            sorted.iter_mut().for_each(|ids| ids.sort_unstable());
            assert_eq!(sorted[0], sorted[1], "each answer that was not erased is stored once, and nothing else");
            for g in 0..2 {
                let of = |id: &String| expected.iter().any(|t| t.gateway == g && t.id == *id);
                let stored: Vec<_> = ids.iter().filter(|id| of(id)).collect();
                let told: Vec<_> = expected.iter().filter(|t| t.gateway == g).map(|t| &t.id).collect();
                assert_eq!(stored, told, "in the order of each gateway's answers");
            }
            assert!(state.turns.iter().rev().zip(0..).all(|(turn, back)| turn.seq == state.seq - back), "numbers without gaps");
            let n = state.flow.slots.0.get("n").cloned().unwrap_or(SlotValue::Number(0.0));
            assert_eq!(n, SlotValue::Number(ids.len() as f64), "so are the changes of slots");
        }
    }
}

#[tokio::test]
async fn two_gateways_leave_what_a_sequential_model_has() {
    for seed in 0..4 {
        let mut run = Run::new(seed);
        for _ in 0..2 {
            for _ in 0..100 {
                run.step().await;
            }
            run.check().await;
        }
        assert!(run.told.len() > 40, "{} answers, which prove little", run.told.len());
    }
}
