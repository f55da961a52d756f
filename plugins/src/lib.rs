//! Plugins of the Fengda gateway: the contract ([`api`]) and the built-in ones, one module each.
//!
//! A plugin of one's own is a type that implements [`api::Plugin`] and a [`api::PluginSpec`] put into the [`api::Registry`]
//! that a small binary hands to the gateway.

pub mod api;
pub mod auth;
pub mod circuit_breaker;
pub mod context;
pub mod rate_limit;
pub mod redis;
#[cfg(test)]
mod testing;
pub mod units;

/// A registry with the built-in plugins. `context` finds the process's conversations, and `rate_limit` its Redis, in slots that may be
/// filled later, or never: a configuration can be checked without opening anything.
///
/// # Panics
/// Never: the names differ.
pub fn builtin(conversations: context::Slot, redis: redis::Slot) -> api::Registry {
    let mut registry = api::Registry::default();
    for spec in [auth::spec(), rate_limit::spec(redis), context::spec(conversations), circuit_breaker::spec()] {
        registry.register(spec).expect("built-in names differ");
    }
    registry
}
