//! The way from limits to Redis: whom leases are asked of in the background, and whether anybody is there to ask. One for a process.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use redis::{FromRedisValue, Value};

use super::lease::{Ask, Grant, Whole};
use crate::{
    api::Incident,
    redis::{Fault, Health, Redis, Script},
};

/// How often it is looked whether Redis is there.
const LOOK: Duration = Duration::from_millis(250);
/// How often it must answer before it is trusted again.
const LOOKS: u32 = 4;
/// After so many looks, a minute, gateways that were not heard of since the last such time are forgotten.
const MEMORY: u32 = 240;

static LEASE: Script = Script::new("lease", include_str!("lease.lua"));
/// A limit that nobody has, to find out whether Redis answers again.
const NOBODYS: Whole = Whole { rate: 1e-9, burst: 1.0 };

/// Where leases come from.
pub(super) struct Lessor {
    redis: Arc<Redis>,
    /// How often it must be found there before it is trusted; 0 while it is.
    doubts: AtomicU32,
    /// The most gateways that shared a limit lately, and in the minute before.
    gateways: [AtomicU32; 2],
    holders: AtomicU32,
}

/// A key of a limit, as one gateway speaks of it.
pub(super) struct Subject<'a> {
    /// What it is called in Redis.
    pub(super) key: &'a [u8],
    /// Who asks: no two tables of accounts have one name.
    pub(super) holder: &'a str,
    /// The limit.
    pub(super) whole: &'a Whole,
    /// The time in seconds, if it is not Redis' own: empty.
    pub(super) time: &'a str,
}

impl Lessor {
    /// Asks this Redis, and keeps an eye on it for as long as somebody has the lessor.
    pub(super) fn new(redis: Arc<Redis>) -> Arc<Self> {
        let lessor = Arc::new(Self { redis, doubts: AtomicU32::new(0), gateways: Default::default(), holders: AtomicU32::new(0) });
        lessor.redis.spawn(watch(Arc::downgrade(&lessor)));
        lessor
    }

    /// A name for a table of accounts.
    pub(super) fn holder(&self) -> String {
        format!("{}.{}", self.redis.name(), self.holders.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether Redis does not answer.
    pub(super) fn is_gone(&self) -> bool {
        self.doubts.load(Ordering::Relaxed) > 0
    }

    /// How many gateways there were when Redis was last heard; at least 1. The most that shared any limit: few may share another.
    pub(super) fn gateways(&self) -> u32 {
        self.gateways.iter().map(|count| count.load(Ordering::Relaxed)).fold(1, u32::max)
    }

    /// Forgets gateways that have not been heard of for a minute, unless nobody has.
    fn forget(&self) {
        let [lately, before] = &self.gateways;
        let heard = lately.swap(0, Ordering::Relaxed);
        if heard > 0 {
            before.store(heard, Ordering::Relaxed);
        }
    }

    /// Does something with Redis in the background.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.redis.spawn(work);
    }

    /// Talks the share of a key over.
    ///
    /// # Errors
    /// Redis does not answer, or not as it should.
    pub(super) async fn exchange(&self, subject: &Subject<'_>, ask: &Ask) -> Result<Grant, Fault> {
        let &Subject { key, holder, whole, time } = subject;
        let text = |number: f64| format!("{number:.6}");
        let demand = ask.demand.map_or_else(String::new, text);
        let numbers = [whole.rate * 1e9, whole.burst, whole.stock(), ask.balance, ask.level].map(text);
        let [rate, burst, stock, balance, level] = numbers.each_ref().map(|text| text.as_bytes());
        let args = [holder.as_bytes(), rate, burst, stock, demand.as_bytes(), balance, level, time.as_bytes()];
        let answer = self.redis.run(&LEASE, &[key], &args).await.and_then(|value| read(&value));
        let (grant, gateways) = answer.inspect_err(|fault| self.doubt(fault))?;
        if ask.demand.is_some() {
            self.gateways[0].fetch_max(gateways, Ordering::Relaxed);
        }
        Ok(grant)
    }

    /// Redis has not answered.
    fn doubt(&self, fault: &Fault) {
        if self.doubts.swap(LOOKS, Ordering::Relaxed) == 0 {
            let fault = match fault {
                Fault::Down(_) => "down",
                Fault::Unknown(_) => "unanswered",
                Fault::Refused { .. } => "refused",
            };
            Incident::LimitsAlone { fault }.log();
        }
    }

    /// Nobody may be asking just now; while it is gone nobody does.
    async fn look(&self) {
        let health = self.redis.health().borrow().clone();
        if !health.is_up() || (self.is_gone() && health != Health::Up) {
            self.doubt(&Fault::Down("it does not answer".into()));
        } else if self.is_gone() {
            let nobody = Subject { key: b"fengda:{limit}", holder: self.redis.name(), whole: &NOBODYS, time: "" };
            if self.exchange(&nobody, &Ask::NOTHING).await.is_ok() && self.doubts.fetch_sub(1, Ordering::Relaxed) == 1 {
                Incident::LimitsTogether.log();
            }
        }
    }
}

async fn watch(lessor: Weak<Lessor>) {
    let mut looks = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(lessor) = lessor.upgrade() else { return };
        lessor.look().await;
        looks = (looks + 1) % MEMORY;
        if looks == 0 {
            lessor.forget();
        }
    }
}

/// The script's answer: a grant, and how many gateways there are.
fn read(value: &Value) -> Result<(Grant, u32), Fault> {
    let (share, stock, life, gateways, patience, more): (u64, i64, u64, u32, u32, u8) =
        FromRedisValue::from_redis_value_ref(value).map_err(|e| Fault::Refused { code: "ANSWER".into(), detail: e.to_string() })?;
    let grant = Grant { share: share as f64 / 1e6, stock: stock as f64 / 1e6, life: life * 1000, patience, more: more > 0 };
    Ok((grant, gateways.max(1)))
}
