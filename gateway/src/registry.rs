//! The plugins a configuration may name: the built-in ones and one's own.

use fengda_plugins::{api::Registry, context::Slot};

/// The built-in plugins, and those that `own` adds.
pub fn builtin(slot: &Slot, own: fn(&mut Registry)) -> Registry {
    let mut registry = fengda_plugins::builtin(slot.clone());
    own(&mut registry);
    registry
}
