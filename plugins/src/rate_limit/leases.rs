//! A limit that several gateways keep together: an account for each key, spent from without a wait, and talked over with Redis in the
//! background.
//!
//! An account takes 104 bytes, and about as much for its name once Redis was asked for it; with the places that a hash table leaves
//! empty, 200,000 keys take 24 to 70 MB.

use std::sync::{Arc, Weak};

use super::{
    config::{Fallback, LimitConfig},
    lease::{Ask, Lease, Whole},
    lessor::{Lessor, Subject},
    limit::{Left, nanos},
    table::{Key, SHARDS, Table},
};
use crate::api::Clock;

/// Tokens a nanosecond that clients are told of where none come until Redis is back: try again in a second.
const CLOSED: f64 = 1e-9;

/// The accounts of one limit.
pub(super) struct Leases {
    whole: Whole,
    accounts: Table<Account>,
    lessor: Arc<Lessor>,
    holder: String,
    clock: Clock,
    /// Itself, for what it does in the background.
    me: Weak<Self>,
}

/// The account of one key.
struct Account {
    lease: Lease,
    /// What it is called in Redis, once it has been asked for.
    name: Option<Arc<[u8]>>,
}

impl Leases {
    pub(super) fn new(config: &LimitConfig, max_keys: u32, clock: Clock, lessor: Arc<Lessor>) -> Arc<Self> {
        let whole = Whole { rate: 1.0 / config.cell().as_nanos() as f64, burst: f64::from(config.burst().get()) };
        let (accounts, holder) = (Table::new(max_keys), lessor.holder());
        Arc::new_cyclic(|me| Self { whole, accounts, lessor, holder, clock, me: me.clone() })
    }

    /// Counts a request; whether it may pass. `name` makes the key's name in Redis, which is seldom needed.
    pub(super) fn take(&self, key: Key, fallback: Fallback, name: impl FnOnce() -> Arc<[u8]>) -> bool {
        let now = self.now();
        let mut shard = self.accounts.shard(key);
        let account = match shard.get_mut(key) {
            Some(account) => account,
            None => {
                let account = Account { lease: Lease::new(now, &self.whole), name: None };
                shard.insert(key, account, |account| account.lease.used(now, &self.whole))
            }
        };
        let lease = &mut account.lease;
        if self.lessor.is_gone() {
            return fallback.part(&self.whole, self.lessor.gateways()).is_some_and(|part| lease.take_alone(now, &part));
        }
        let passes = lease.take(now, &self.whole);
        if let Some((ask, me)) = lease.ask(now, &self.whole).zip(self.me.upgrade()) {
            let name = account.name.get_or_insert_with(name).clone();
            self.lessor.spawn(async move { me.talk_over(key, &name, ask).await });
        }
        passes
    }

    /// What is left for a key at this gateway. Counts nothing.
    pub(super) fn left(&self, key: Key, fallback: Fallback) -> Left {
        let now = self.now();
        let account = self.accounts.shard(key).get(key).map(|account| account.lease.clone());
        let account = account.unwrap_or_else(|| Lease::new(now, &self.whole));
        let (level, rate) = if self.lessor.is_gone() {
            fallback.part(&self.whole, self.lessor.gateways()).map_or((0.0, CLOSED), |part| account.left_alone(now, &part))
        } else {
            account.left(now, &self.whole)
        };
        Left::of(level, rate)
    }

    /// How many keys it keeps.
    pub(super) fn keys(&self) -> usize {
        self.accounts.len()
    }

    /// Gives back what was leased, a key after the other; what there is no time for lapses.
    pub(super) async fn give_back(&self) {
        let now = self.now();
        for shard in 0..SHARDS {
            let mut leased = Vec::new();
            for Account { lease, name } in self.accounts.nth(shard).values_mut() {
                leased.extend(name.clone().zip(lease.leave(now, &self.whole)));
            }
            for (name, ask) in leased {
                if self.lessor.exchange(&self.subject(&name), &ask).await.is_err() {
                    return;
                }
            }
        }
    }

    fn subject<'a>(&'a self, key: &'a [u8]) -> Subject<'a> {
        Subject { key, holder: &self.holder, whole: &self.whole, time: "" }
    }

    async fn talk_over(&self, key: Key, name: &[u8], ask: Ask) {
        let answer = self.lessor.exchange(&self.subject(name), &ask).await;
        if let Some(account) = self.accounts.shard(key).get_mut(key) {
            match answer {
                Ok(grant) => account.lease.granted(&ask, &grant, self.now(), &self.whole),
                Err(_) => account.lease.failed(&ask),
            }
        }
    }

    fn now(&self) -> u64 {
        nanos(self.clock.monotonic())
    }
}
