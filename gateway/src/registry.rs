//! The plugins a configuration may name: the built-in ones and one's own.

use fengda_plugins::{api::Registry, context, redis};

/// Where plugins find what the process has opened for them; all empty while a configuration is only checked.
#[derive(Clone, Default)]
pub struct Slots {
    /// Its conversations.
    pub conversations: context::Slot,
    /// Its Redis.
    pub redis: redis::Slot,
}

/// The built-in plugins, and those that `own` adds.
pub fn builtin(slots: &Slots, own: fn(&mut Registry)) -> Registry {
    let mut registry = fengda_plugins::builtin(slots.conversations.clone(), slots.redis.clone());
    own(&mut registry);
    registry
}
