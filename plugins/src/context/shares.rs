//! Whose conversations fill the cache, so that no tenant fills it at the cost of the others.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    api::{SessionKey, Tenant},
    units::Percent,
};

/// One conversation may fill this part of what its tenant's conversations may fill: a larger one is not cached.
const LARGEST: u64 = 8;
/// The cache is crowded when less than this part of it is free.
const FREE: u64 = 16;

/// What each tenant's conversations take of the cache's size.
///
/// A tenant may fill its share. While the cache is crowded it may not fill more than an equal part, which is the size divided by the
/// tenants that have anything in it. Whoever holds more makes room for its own next conversation, and those whose last turn or load is the
/// longest ago go: one tenant's flood drops nobody else's. What a tenant holds that is no longer configured leaves when it was idle for long enough. One short lock for each copy that comes or goes, none to look one up.
pub(super) struct Shares {
    size: u64,
    share: u64,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    bytes: u64,
    /// Copies that ever came: the next one's number.
    entered: u64,
    /// Those that hold something.
    tenants: HashMap<Tenant, Holding>,
}

#[derive(Default)]
struct Holding {
    bytes: u64,
    /// By number, so the oldest first.
    copies: BTreeMap<u64, (SessionKey, u32)>,
}

impl Shares {
    /// Of `size` bytes each tenant may fill `share`.
    pub(super) fn new(size: u64, Percent(share): Percent) -> Self {
        let share = u128::from(size) * u128::from(share) / 100;
        Self { size, share: u64::try_from(share).unwrap_or(size).min(size), held: Mutex::default() }
    }

    /// The size of a copy, if it is small enough to be cached.
    pub(super) fn admit(&self, bytes: usize) -> Option<u32> {
        u32::try_from(bytes).ok().filter(|bytes| u64::from(*bytes) <= self.share / LARGEST)
    }

    /// Counts a copy that is about to be cached. It gets a number, and those of its tenant have to go whose keys are returned; each counts
    /// until it [leaves](Self::leave).
    pub(super) fn enter(&self, key: &SessionKey, bytes: u32) -> (u64, Vec<SessionKey>) {
        let mut guard = self.held();
        let held = &mut *guard;
        let number = held.entered;
        held.entered += 1;
        held.bytes += u64::from(bytes);
        let holding = held.tenants.entry(key.tenant().clone()).or_default();
        holding.bytes += u64::from(bytes);
        holding.copies.insert(number, (key.clone(), bytes));
        let (mut all, mut own, tenants) = (held.bytes, holding.bytes, held.tenants.len() as u64);
        let mut leaving = Vec::new();
        for (key, bytes) in held.tenants[key.tenant()].copies.range(..number).map(|(_, copy)| copy) {
            let crowded = all > self.size - self.size / FREE;
            if own <= if crowded { self.share.min(self.size / tenants) } else { self.share } {
                break;
            }
            leaving.push(key.clone());
            (all, own) = (all - u64::from(*bytes), own - u64::from(*bytes));
        }
        (number, leaving)
    }

    /// A copy is no longer cached, whatever became of it.
    pub(super) fn leave(&self, key: &SessionKey, number: u64) {
        let mut guard = self.held();
        let held = &mut *guard;
        let Some(holding) = held.tenants.get_mut(key.tenant()) else { return };
        if let Some((_, bytes)) = holding.copies.remove(&number) {
            holding.bytes -= u64::from(bytes);
            held.bytes -= u64::from(bytes);
        }
        if holding.copies.is_empty() {
            held.tenants.remove(key.tenant());
        }
    }

    /// How many bytes a tenant holds, and how many conversations.
    pub(super) fn of(&self, tenant: &Tenant) -> (u64, usize) {
        self.held().tenants.get(tenant).map_or((0, 0), |holding| (holding.bytes, holding.copies.len()))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
