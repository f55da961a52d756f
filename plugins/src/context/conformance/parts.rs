//! What the behaviours of the suite are put together from.

use std::sync::Arc;

use crate::api::{Change, SessionState, SlotDelta, SlotValue, Timestamp, Turn};

pub(super) fn ids(state: &Arc<SessionState>) -> Vec<&str> {
    state.turns.iter().map(|t| t.message_id.expose()).collect()
}

pub(super) fn set(name: &str, value: SlotValue) -> SlotDelta {
    SlotDelta { name: name.into(), change: Change::Set(value) }
}

pub(super) fn add(name: &str, by: f64) -> SlotDelta {
    SlotDelta { name: name.into(), change: Change::Add(by) }
}

pub(super) fn number(state: &Arc<SessionState>, name: &str) -> Option<f64> {
    match state.user_slots.0.get(name) {
        Some(SlotValue::Number(n)) => Some(*n),
        _ => None,
    }
}

/// So many turns from before the session began here.
pub(super) fn elsewhere(count: u64) -> Vec<Turn> {
    let old = |n: u64| {
        let text = |what: &str| format!("{what} {n}").into();
        Turn {
            seq: n,
            message_id: text("old"),
            q: text("q"),
            a: text("a"),
            at: Timestamp(n),
            fallback: false,
            handoff: n == 6,
            awaits_past: false,
        }
    };
    (1..=count).map(old).collect()
}

/// Runs futures side by side on one task, each polled first in order.
pub(super) async fn join_all(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut running: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        running.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if running.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
