//! A limit that several gateways keep together: an account for each key, spent from without a wait, and talked over with Redis in the
//! background.
//!
//! An account takes 96 bytes and its places in the table, 230 at worst: 20 to 46 MB for 200,000 keys.

use std::sync::{Arc, Weak};

use super::{
    config::{LimitConfig, Without},
    lease::{Ask, Lease, Whole},
    lessor::{Lessor, Subject},
    limit::{Left, nanos},
    table::{Key, Table},
};
use crate::api::Clock;

/// Tokens a nanosecond that clients are told of where none come until Redis is back: try again in a second.
const CLOSED: f64 = 1e-9;

/// The accounts of one limit.
pub(super) struct Leases {
    whole: Whole,
    accounts: Table<Lease>,
    lessor: Arc<Lessor>,
    holder: String,
    clock: Clock,
    /// Itself, for what it does in the background.
    me: Weak<Self>,
}

impl Leases {
    pub(super) fn new(config: &LimitConfig, max_keys: u32, clock: Clock, lessor: Arc<Lessor>) -> Arc<Self> {
        let whole = Whole { rate: 1.0 / config.cell().as_nanos() as f64, burst: f64::from(config.burst().get()) };
        let (accounts, holder) = (Table::new(max_keys), lessor.holder());
        Arc::new_cyclic(|me| Self { whole, accounts, lessor, holder, clock, me: me.clone() })
    }

    /// Counts a request; whether it may pass. `name` makes the key's name in Redis, which is seldom needed.
    pub(super) fn take(&self, key: Key, without: Without, name: impl FnOnce() -> Vec<u8>) -> bool {
        let now = self.now();
        let mut shard = self.accounts.shard(key);
        let account = match shard.get_mut(key) {
            Some(account) => account,
            None => shard.insert(key, Lease::new(now, &self.whole), |account| account.used(now, &self.whole)),
        };
        if self.lessor.is_gone() {
            return match without {
                Without::Share => account.take_alone(now, &self.whole.part(self.lessor.gateways())),
                Without::Open => account.take_alone(now, &self.whole),
                Without::Closed => false,
            };
        }
        let passes = account.take(now, &self.whole);
        let ask = account.ask(now, &self.whole);
        drop(shard);
        if let Some((ask, me)) = ask.zip(self.me.upgrade()) {
            let name = name();
            self.lessor.spawn(async move { me.talk_over(key, &name, ask).await });
        }
        passes
    }

    /// What is left for a key at this gateway. Counts nothing.
    pub(super) fn left(&self, key: Key, without: Without) -> Left {
        let now = self.now();
        let account = self.accounts.shard(key).get(key).cloned().unwrap_or_else(|| Lease::new(now, &self.whole));
        let (level, rate) = match (self.lessor.is_gone(), without) {
            (false, _) => account.left(now, &self.whole),
            (true, Without::Share) => account.left_alone(now, &self.whole.part(self.lessor.gateways())),
            (true, Without::Open) => account.left_alone(now, &self.whole),
            (true, Without::Closed) => (0.0, CLOSED),
        };
        Left::of(level, rate)
    }

    /// How many keys it keeps.
    pub(super) fn keys(&self) -> usize {
        self.accounts.len()
    }

    async fn talk_over(&self, key: Key, name: &[u8], ask: Ask) {
        let subject = Subject { key: name, holder: &self.holder, whole: &self.whole, time: "" };
        let answer = self.lessor.exchange(&subject, Some(&ask)).await;
        if let Some(account) = self.accounts.shard(key).get_mut(key) {
            match answer {
                Ok(grant) => account.granted(&ask, &grant, self.now(), &self.whole),
                Err(_) => account.failed(&ask),
            }
        }
    }

    fn now(&self) -> u64 {
        nanos(self.clock.monotonic())
    }
}
