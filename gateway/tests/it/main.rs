//! The gateway as its users meet it: real sockets, real clients, real scripts, the real store. One binary for all of it.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a test binary has no interface, and its helpers are tests too")]

mod app;
mod auth;
mod away;
mod bad_clients;
mod bad_input;
mod bad_upstreams;
mod breaker;
mod cache;
mod chat;
mod cli;
mod client;
mod config;
mod cors;
mod documents;
mod edge;
mod flows;
mod forward;
mod frames;
mod harness;
mod history;
mod import;
mod isolation;
mod keys;
mod limits;
mod logs;
mod metrics;
mod model;
mod models;
mod operating;
mod operations;
mod origin;
mod overload;
mod process;
mod prometheus;
mod reload;
mod schema;
mod speaker;
mod tls;
mod tool;
mod try_page;
mod turns;
mod words;
