//! Plugins of the Fengda gateway: the contract ([`api`]) and the built-in ones, one module each.
//!
//! A plugin of one's own is a type that implements [`api::Plugin`] and a [`api::PluginSpec`] put into the [`api::Registry`]
//! that a small binary hands to the gateway.

pub mod api;
