//! Two gateways' stores on one Redis against the model.

use std::sync::Arc;

use super::{
    super::{erase, keys, scripts::ERASE_USER},
    RedisStore, all_expire, send, shared, store,
};
use crate::{
    api::UserKey,
    context::conformance::{
        LIMITS, Subject, clock,
        model::{World, run},
    },
    redis::server::Server,
};

struct TwoGateways {
    server: &'static Server,
    stores: [Arc<RedisStore>; 2],
    subjects: [Subject; 2],
    rng: fastrand::Rng,
}

impl TwoGateways {
    async fn new(seed: u64) -> Self {
        let (server, clock) = (shared(), clock());
        let stores = [Arc::new(store(server, LIMITS, &clock).await), Arc::new(store(server, LIMITS, &clock).await)];
        let first = Subject::new(stores[0].clone(), clock.clone(), ()).apart();
        let second = first.beside(stores[1].clone());
        Self { server, stores, subjects: [first, second], rng: fastrand::Rng::with_seed(seed) }
    }
}

impl World for TwoGateways {
    fn subject(&mut self) -> &Subject {
        &self.subjects[self.rng.usize(..2)]
    }

    /// The server forgets the scripts, or, as a failover would have it, claims.
    async fn upset(&mut self, dice: u8) -> bool {
        if dice < 32 {
            send::<()>(self.server, "SCRIPT", &[b"FLUSH"]);
        }
        for id in ["u1", "u2"] {
            let user = self.subjects[0].user("bank", id);
            all_expire(self.server, &user);
            let claim = keys::session(&user.session("s1").unwrap()).get(4).to_vec();
            send::<()>(self.server, "DEL", &[&claim]);
        }
        false
    }

    async fn erase_and_die(&mut self, user: &UserKey) {
        let inner = &self.stores[0].0;
        inner.run(&ERASE_USER, &keys::user(user), &erase::first_step(inner)).await.unwrap();
    }
}

#[tokio::test]
async fn a_random_run_over_two_gateways_never_differs_from_the_model() {
    for seed in 0..4 {
        run(&mut TwoGateways::new(seed).await, seed, 600).await;
    }
}
