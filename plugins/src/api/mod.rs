//! The plugin contract: all that a plugin and the gateway know of each other.
//!
//! It imports no plugin, and no plugin imports another. A plugin takes part in up to five phases of a request:
//!
//! | phase | trait | when |
//! |---|---|---|
//! | `request` | [`Plugin::request`] | headers read, body not yet; may reject |
//! | `turn` | [`TurnPhase`] | around the run of a flow: begin, commit |
//! | `upstream_call` | [`CallPhase`] | around every attempt to call an upstream, 0 to n times a request |
//! | `response` | [`Plugin::response`] | the status is known, headers not yet sent |
//! | `log` | [`Plugin::log`] | after the last byte |
//!
//! A plugin returns decisions; only the gateway does I/O with clients and upstreams.

mod build;
mod call;
mod clock;
mod incident;
mod meter;
#[cfg(doctest)]
mod misuse;
mod plugin;
mod reject;
mod request;
mod tenant;
mod text;
mod turn;

pub use build::{BuildCtx, Builder, PluginSpec, Problem, Registry, RegistryError, Scope, TenantBuild, parse_config, parse_items};
pub use call::{Call, CallOutcome, CallPhase, Permit, Refusal, Switch, Verdict};
pub use clock::{Clock, Timestamp};
pub use incident::Incident;
pub use meter::{Family, Kind, Meters, Readings};
pub use plugin::{Decision, Plugin, Step, Summary};
pub use reject::{Code, Reject};
pub use request::{Identity, RequestCtx, RequestId, TraceParent};
pub use tenant::{IdError, MAX_ID, SessionKey, Tenant, UserKey, check_id};
pub use text::{Secret, Text};
pub use turn::{
    Begin, BeginTurn, Begun, COMMIT_TIME, Change, Claim, Commit, Committed, FlowState, Journal, Limited, MAX_JOURNAL, MAX_SLOT_BYTES,
    MAX_SLOT_NAME, MAX_SLOTS, SessionState, SlotDelta, SlotValue, Slots, Turn, TurnError, TurnPhase, UserLimit, Version, WaitFor,
};

/// A boxed future, as the phases that may wait return it.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
