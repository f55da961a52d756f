//! The turn that is running now, for the functions that scripts call.
//!
//! Nothing in a VM belongs to one turn: the objects scripts see are made once per VM, and what is behind them is looked up here. A poll
//! puts its turn in and takes it out again, so the turn itself is plain data that its task owns.

use std::{cell::RefCell, time::Duration};

use fengda_plugins::api::{Text, Turn as PastTurn};
use mlua::{Lua, LuaString, VmState, debug::Debug};

use super::{AnswerId, ErrorKind, Input, Level, LogLine, budget::Switch, error::PRELUDE, lib_slots::Pending};

/// Longest log line in bytes; the rest is cut off.
pub(super) const MAX_LOG_LINE: usize = 4096;

/// Everything of one turn that its script can see or change.
pub(super) struct Turn {
    pub(super) input: Input,
    /// The returned function has been called: before, there is no turn to speak of.
    pub(super) handling: bool,
    pub(super) said: Vec<Text>,
    /// Bytes of `said`, with a separator each.
    pub(super) output: usize,
    pub(super) handoff: bool,
    pub(super) session: Pending,
    pub(super) user: Pending,
    pub(super) logs: Vec<LogLine>,
    pub(super) log_lines: u32,
    pub(super) effects: u32,
    pub(super) answers: Vec<AnswerId>,
    /// A model call gave no answer.
    pub(super) call_failed: bool,
    /// CPU time so far.
    pub(super) spent: Duration,
    /// How much of the memory allowance is used up by the polls that are over.
    pub(super) grown: usize,
    /// Why the turn is lost, whatever the script still does: a script can catch an error, but not this.
    pub(super) stop: Option<Stop>,
}

/// The end of a turn that no script can catch.
#[derive(Clone, Copy)]
pub(super) struct Stop {
    pub(super) kind: ErrorKind,
    pub(super) why: &'static str,
    /// Where the script was, if known.
    pub(super) line: Option<u32>,
}

impl Turn {
    pub(super) fn new(input: Input) -> Self {
        let (session, user) = (Pending::default(), Pending::default());
        let (said, logs, answers) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            input,
            handling: false,
            said,
            output: 0,
            handoff: false,
            session,
            user,
            logs,
            log_lines: 0,
            effects: 0,
            answers,
            call_failed: false,
            spent: Duration::ZERO,
            grown: 0,
            stop: None,
        }
    }

    /// A past turn by its place: from 1 for the oldest kept one, or from -1 for the newest.
    pub(super) fn past(&self, place: i64) -> Option<&PastTurn> {
        let turns = &self.input.state.turns;
        let at = match place {
            1.. => usize::try_from(place - 1).ok()?,
            _ => turns.len().checked_sub(usize::try_from(place.unsigned_abs()).ok()?)?,
        };
        turns.get(at).map(AsRef::as_ref)
    }

    /// Adds a text to the answer.
    pub(super) fn say(&mut self, text: &str) -> mlua::Result<()> {
        self.charge_output(text.len())?;
        self.said.push(text.into());
        Ok(())
    }

    /// Counts `len` bytes of answer and the separator before or after them.
    pub(super) fn charge_output(&mut self, len: usize) -> mlua::Result<()> {
        self.output += len + 1;
        if self.output > self.input.limits.output { Err(self.stop(ErrorKind::Output, "the answer is too long", None)) } else { Ok(()) }
    }

    /// Counts an effect.
    pub(super) fn charge_effect(&mut self) -> mlua::Result<()> {
        self.effects += 1;
        if self.effects > self.input.limits.effects {
            return Err(self.stop(ErrorKind::Effects, "the turn asked for too many effects", None));
        }
        Ok(())
    }

    /// Keeps a log line while there is room, then one line that says that more were dropped.
    pub(super) fn log(&mut self, level: Level, text: &str, line: Option<u32>) {
        self.log_lines = self.log_lines.saturating_add(1);
        let text = match self.log_lines.checked_sub(self.input.limits.log_lines) {
            None | Some(0) => &text[..text.floor_char_boundary(MAX_LOG_LINE)],
            Some(1) => "further log lines of this turn are dropped",
            Some(_) => return,
        };
        self.logs.push(LogLine { level, text: text.into(), line });
    }

    /// Ends the turn for good.
    fn stop(&mut self, kind: ErrorKind, why: &'static str, line: Option<u32>) -> mlua::Error {
        self.stop.get_or_insert(Stop { kind, why, line });
        error(why)
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Box<Turn>>> = const { RefCell::new(None) };
}

/// Puts a turn in for a poll. It is taken out by [`Occupied::leave`], or dropped with the guard if the poll panics.
pub(super) fn occupy(turn: Box<Turn>) -> Occupied {
    let before = CURRENT.replace(Some(turn));
    debug_assert!(before.is_none(), "polls do not nest");
    Occupied(())
}

/// The running turn is in.
pub(super) struct Occupied(());

impl Occupied {
    pub(super) fn leave(self) -> Box<Turn> {
        CURRENT.take().expect("put in by `occupy`, taken out only here")
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        CURRENT.take();
    }
}

/// Works on the current turn, at the script's top level too.
pub(super) fn with_any<R>(f: impl FnOnce(&mut Turn) -> mlua::Result<R>) -> mlua::Result<R> {
    CURRENT.with_borrow_mut(|turn| {
        let turn = turn.as_mut().ok_or_else(|| error("no turn is running"))?;
        if let Some(stop) = turn.stop {
            return Err(error(stop.why));
        }
        let bomb = Bomb(turn);
        let result = f(bomb.0);
        bomb.defuse();
        result
    })
}

/// Works on the current turn, of which there is none while the script's top level runs.
pub(super) fn with<R>(f: impl FnOnce(&mut Turn) -> mlua::Result<R>) -> mlua::Result<R> {
    with_any(|turn| {
        if !turn.handling {
            return Err(error("this works only inside the function that the script returns, not at the script's top level"));
        }
        f(turn)
    })
}

/// A panic in a host function reaches the script as an error it might catch: the turn must fail all the same.
struct Bomb<'a>(&'a mut Turn);

impl Bomb<'_> {
    fn defuse(self) {
        std::mem::forget(self);
    }
}

impl Drop for Bomb<'_> {
    fn drop(&mut self) {
        self.0.stop(ErrorKind::Internal, "a host function panicked", None);
    }
}

/// What Luau's interrupt does after another stretch of `time`: gives way to other tasks, or ends the turn.
pub(super) fn interrupted(lua: &Lua, switch: Switch, time: Duration) -> mlua::Result<VmState> {
    CURRENT.with_borrow_mut(|turn| {
        let Some(turn) = turn else { return Ok(VmState::Continue) };
        if let Some(stop) = turn.stop {
            return Err(error(stop.why));
        }
        turn.spent += time;
        if turn.spent > turn.input.limits.cpu {
            return Err(turn.stop(ErrorKind::CpuBudget, "the turn used up its CPU time", line(lua)));
        }
        switch.off();
        Ok(VmState::Yield)
    })
}

/// The line that the script is at, seen from a host function or the interrupt.
pub(super) fn line(lua: &Lua) -> Option<u32> {
    let of_script = |frame: &Debug<'_>| if frame.source().short_src? == PRELUDE { None } else { frame.current_line() };
    let line = (0..8).find_map(|up| lua.inspect_stack(up, of_script).flatten())?;
    u32::try_from(line).ok()
}

/// An error for the script.
pub(super) fn error(message: impl Into<String>) -> mlua::Error {
    mlua::Error::RuntimeError(message.into())
}

/// Makes values with the memory limit off: with it on, every string made costs a protected call. What was made still counts.
pub(super) fn unlimited<R>(lua: &Lua, make: impl FnOnce() -> mlua::Result<R>) -> mlua::Result<R> {
    let limit = lua.set_memory_limit(0)?;
    let made = make();
    lua.set_memory_limit(limit)?;
    made
}

/// Makes one string with the memory limit off.
pub(super) fn string(lua: &Lua, text: &Text) -> mlua::Result<LuaString> {
    unlimited(lua, || lua.create_string(text.expose()))
}
