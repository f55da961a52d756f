//! Turns while the store is away: a conversation that is in memory goes on, and its turns wait in the `spool`.

use std::sync::Arc;

use super::spool::{Entry, Spool};
use crate::api::{Begin, BeginTurn, Begun, SessionState, SlotDelta, Slots, TurnError};

/// What a message was answered whose turn waits for the store, if it is such a message.
pub(super) fn told(spool: &Spool, turn: &BeginTurn<'_>, cached: Option<&Arc<SessionState>>) -> Option<Result<Begin, TurnError>> {
    if !spool.waiting().has(turn.key) {
        return None;
    }
    let waiting = waiting(spool, turn, cached);
    let entry = waiting.iter().find(|e| e.key == *turn.key && e.commit.message_id == *turn.message_id)?;
    Some(if entry.commit.q == *turn.q { Ok(Begin::Aside(Arc::new(entry.as_told()))) } else { Err(TurnError::MessageIdReused) })
}

/// What waits of a turn's user.
fn waiting(spool: &Spool, turn: &BeginTurn<'_>, cached: Option<&Arc<SessionState>>) -> Vec<Arc<Entry>> {
    let mut waiting = spool.waiting().of(turn.key.user());
    if let Some(state) = cached {
        waiting.retain(|e| e.key != *turn.key || e.epoch == state.epoch); // what was erased meanwhile
    }
    waiting
}

/// Begins a turn without the store, which failed with `away`. `awaits_past` as in [`Begun`]; of a conversation there are `most` turns.
///
/// # Errors
/// `away` if the conversation is not in memory, or the client saw more of it than is; [`TurnError::MessageIdReused`].
pub(super) fn begin(
    spool: &Spool,
    turn: &BeginTurn<'_>,
    cached: Option<Arc<SessionState>>,
    (awaits_past, most): (bool, usize),
    away: TurnError,
) -> Result<Begin, TurnError> {
    if let Some(told) = told(spool, turn, cached.as_ref()) {
        return told;
    }
    let waiting = waiting(spool, turn, cached.as_ref());
    let Some(state) = cached.filter(|state| turn.seen.is_none_or(|seen| seen <= state.seq)) else { return Err(away) };
    match state.turn_of(turn.message_id.expose()) {
        Some(stored) if stored.q == *turn.q => return Ok(Begin::Answered(stored.clone())),
        Some(_) => return Err(TurnError::MessageIdReused),
        None => {}
    }
    let state = if waiting.is_empty() { state } else { Arc::new(with_waiting(&state, turn, &waiting, most)) };
    Ok(Begin::Run(Begun { key: turn.key.clone(), claim: None, state, gap: false, awaits_past }))
}

/// The conversation as it will be when what waits is stored, with as many turns as are kept. Its `seq` stays what is stored.
fn with_waiting(state: &SessionState, turn: &BeginTurn<'_>, waiting: &[Arc<Entry>], most: usize) -> SessionState {
    let mut state = state.clone();
    let mut seq = state.seq;
    for entry in waiting {
        let of_session = entry.key == *turn.key;
        // Stored while we looked.
        if of_session && state.turn_of(entry.commit.message_id.expose()).is_some() {
            continue;
        }
        apply(&mut state.user_slots, &entry.commit.user_slots);
        if of_session {
            seq += 1;
            state.flow = state.flow.after(&entry.commit);
            state.turns.push(Arc::new(entry.commit.turn(seq)));
        }
    }
    state.turns.drain(..state.turns.len().saturating_sub(most));
    state
}

fn apply(slots: &mut Slots, deltas: &[SlotDelta]) {
    for delta in deltas {
        slots.apply(delta); // the store drops the same ones
    }
}
