//! One turn of a script, from start to end: the loop that resumes its coroutine under its limits.

use std::{
    collections::BTreeMap,
    fmt,
    ops::ControlFlow,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use fengda_plugins::api::{SessionState, Text, Timestamp};
use mlua::{IntoLuaMulti, Lua, MultiValue, Value};

use super::{
    AnswerId, Effect, End, ErrorKind, Input, Limits, LogLine, Reply, Resume, Script, ScriptError, Step,
    budget::Seat,
    error::with_article,
    host::{self, Stop, Turn},
    lib_turn::text_of,
    vm::{self, Coroutine, Place, Vm},
};
use crate::turnstile::Turnstile;

/// What the coroutine says when it stops: its end, or the effect it waits for. Known to `prelude.luau`.
const DONE: i64 = 0;
const ANSWER: i64 = 1;
const TEXT: i64 = 2;

/// One turn of a script. Dropping it abandons the turn.
///
/// It is plain data and `Send`. The coroutine behind it stays on the thread of the first [`Run::resume`]; resuming it on another thread
/// fails the run, and dropping it there leaves the coroutine behind until its thread ends. So it belongs on a current-thread runtime.
pub struct Run {
    /// `None` after the end.
    turn: Option<Box<Turn>>,
    place: Option<Place>,
    logs: Vec<LogLine>,
    grown: usize,
    paused: Duration,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("place", &self.place).finish_non_exhaustive()
    }
}

/// How one poll of the coroutine ended.
enum Polled {
    /// It ran long and gives way.
    Long,
    Effect(Effect),
    /// The script's function returned this.
    Returned(Value),
    Failed(ScriptError),
}

impl Run {
    /// Prepares a turn. Nothing runs before [`Run::resume`] with [`Resume::Start`].
    pub fn start(input: Input) -> Self {
        Self { turn: Some(Box::new(Turn::new(input))), place: None, logs: Vec::new(), grown: 0, paused: Duration::ZERO }
    }

    /// Runs the script until its next effect or its end.
    ///
    /// A script that computes for long gives way after a millisecond or two, and from then on runs in short slices: one at a time of
    /// all such scripts of its tenant, behind whatever else the thread has to do, and within the tenant's share of the thread's time.
    ///
    /// `with` is [`Resume::Start`] the first time, and then the outcome of the effect that was asked for.
    pub async fn resume(&mut self, with: Resume) -> Step {
        let mut polled = self.poll(Some(with));
        loop {
            match polled {
                ControlFlow::Break(step) => return step,
                ControlFlow::Continue(turnstile) => {
                    let since = Instant::now();
                    let _slice = turnstile.pass().await;
                    self.paused += since.elapsed();
                    polled = self.poll(None);
                }
            }
        }
    }

    /// Takes the log lines written so far; to be called at the end at the latest, failed or not.
    pub fn take_logs(&mut self) -> Vec<LogLine> {
        let running = self.turn.as_mut().map(|turn| std::mem::take(&mut turn.logs));
        let mut logs = std::mem::take(&mut self.logs);
        logs.extend(running.unwrap_or_default());
        logs
    }

    /// By how many bytes the turn made its VM grow so far, garbage included.
    pub fn grown(&self) -> usize {
        self.grown
    }

    /// How long it had given way so far.
    pub fn paused(&self) -> Duration {
        self.paused
    }

    /// Runs the coroutine once; says where to queue if it is to be run again.
    fn poll(&mut self, with: Option<Resume>) -> ControlFlow<Step, Arc<Turnstile>> {
        let Some(turn) = self.turn.take() else { return internal("the run is over") };
        if turn.input.key.tenant() != turn.input.script.tenant() {
            return internal("the script is another tenant's than the conversation");
        }
        let found = match self.place.take() {
            None => vm::local(|local| local.vm(&turn.input.script).and_then(Vm::coroutine)),
            Some(place) => vm::local(|local| local.take(place)).flatten().map(Ok),
        };
        let coroutine = match found {
            Some(Ok(coroutine)) => coroutine,
            Some(Err(e)) => return ControlFlow::Break(Step::Failed(ScriptError::from_lua(&e))),
            None => return internal("the run was resumed on another thread"),
        };
        let (mut turn, polled) = poll(&coroutine, turn, with, false);
        self.grown = turn.grown;
        let step = match polled {
            Polled::Long => ControlFlow::Continue(coroutine.vm.turnstile.clone()),
            Polled::Effect(effect) => ControlFlow::Break(Step::Effect(effect)),
            Polled::Returned(value) => ControlFlow::Break(finish(&coroutine.vm, &mut turn, &value).map_or_else(Step::Failed, Step::Done)),
            Polled::Failed(error) => ControlFlow::Break(Step::Failed(error)),
        };
        if matches!(step, ControlFlow::Continue(_) | ControlFlow::Break(Step::Effect(_))) {
            self.place = vm::local(|local| local.put(coroutine));
            self.turn = Some(turn);
        } else {
            self.logs = std::mem::take(&mut turn.logs);
            drop(turn); // and with it maybe the last hold on a replaced script
            vm::local(|local| local.end(coroutine, self.grown));
        }
        step
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.turn = None;
        let Some(place) = self.place else { return };
        let ended = vm::local(|local| local.take(place).map(|coroutine| local.end(coroutine, self.grown)));
        if ended.is_some_and(|ended| ended.is_none()) {
            log::error!("a flow's run was dropped on another thread than its own; its coroutine stays until that thread ends");
        }
    }
}

fn internal<C>(why: &str) -> ControlFlow<Step, C> {
    ControlFlow::Break(Step::Failed(ScriptError::new(ErrorKind::Internal, why)))
}

/// Runs the coroutine until it yields or ends, with the turn in place and its limits armed.
fn poll(coroutine: &Coroutine, mut turn: Box<Turn>, with: Option<Resume>, only_load: bool) -> (Box<Turn>, Polled) {
    let (vm, lua) = (&coroutine.vm, coroutine.vm.lua());
    let gave_way = with.is_none();
    let args = match arguments(vm, &mut turn, with, only_load) {
        Ok(args) => args,
        Err(e) => return (turn, Polled::Failed(ScriptError::from_lua(&e))),
    };
    let (before, spent) = (lua.used_memory(), turn.spent);
    let allowance = turn.input.limits.memory.saturating_sub(turn.grown);
    // While the tenant has scripts that compute for long, what it begins is expected to be one of them: many may begin at once.
    let long = !turn.spent.is_zero() || vm.turnstile.is_busy();
    let running = vm.seat.enter(vm.gate, lua, long);
    let occupied = host::occupy(turn);
    let result = Limited::to(lua, before + allowance).and_then(|_limited| coroutine.thread.resume::<(Option<i64>, Value, Value)>(args));
    let mut turn = occupied.leave();
    drop(running);
    turn.spent += vm.seat.charge();
    turn.grown += lua.used_memory().saturating_sub(before);

    let polled = match (result, turn.stop) {
        (result, Some(stop)) => Polled::Failed(stopped(stop, result.err().as_ref())),
        (Err(e), None) => Polled::Failed(ScriptError::from_lua(&e)),
        (Ok((None, ..)), None) => Polled::Long,
        (Ok((Some(DONE), value, _)), None) => Polled::Returned(value),
        (Ok((Some(code), a, b)), None) => effect(code, &a, &b).map_or_else(Polled::Failed, Polled::Effect),
    };
    vm.turnstile.charge(turn.spent - spent, turn.input.limits.share, gave_way || matches!(polled, Polled::Long));
    (turn, polled)
}

fn stopped(stop: Stop, last: Option<&mlua::Error>) -> ScriptError {
    let error = last.map_or_else(|| ScriptError::new(stop.kind, stop.why), ScriptError::from_lua);
    ScriptError { kind: stop.kind, message: stop.why.into(), line: stop.line.or(error.line), ..error }
}

/// A VM's memory limit, lifted when this is dropped: it makes every allocation by the host a protected call.
struct Limited<'a>(&'a Lua);

impl<'a> Limited<'a> {
    fn to(lua: &'a Lua, bytes: usize) -> mlua::Result<Self> {
        lua.set_memory_limit(bytes).map(|_| Self(lua))
    }
}

impl Drop for Limited<'_> {
    fn drop(&mut self) {
        self.0.set_memory_limit(0).expect("its limit was set before");
    }
}

/// What the coroutine is resumed with: made while the memory limit is off.
fn arguments(vm: &Vm, turn: &mut Turn, with: Option<Resume>, only_load: bool) -> mlua::Result<MultiValue> {
    let lua = vm.lua();
    match with {
        None => Ok(MultiValue::new()),
        Some(Resume::Start) => (vm.instance()?, only_load).into_lua_multi(lua),
        Some(Resume::Answer(Ok(id))) => {
            turn.answers.push(id);
            id.0.into_lua_multi(lua)
        }
        Some(Resume::Text(Ok(text))) => lua.create_string(text.expose())?.into_lua_multi(lua),
        Some(Resume::Answer(Err(e)) | Resume::Text(Err(e))) => {
            turn.call_failed = true;
            (Value::Nil, e.to_string()).into_lua_multi(lua)
        }
    }
}

fn effect(code: i64, a: &Value, b: &Value) -> Result<Effect, ScriptError> {
    let unknown = || ScriptError::new(ErrorKind::Internal, "the prelude yielded an effect that is not known here");
    match (code, a, b) {
        (ANSWER, Value::String(query), Value::Boolean(history)) => {
            let query = query.to_str().map_err(|_| ScriptError::new(ErrorKind::Runtime, "nlp.answer: the text is not UTF-8"))?;
            Ok(Effect::Answer { query: (&*query).into(), history: *history })
        }
        (TEXT, Value::Integer(id), _) => u32::try_from(*id).map(|id| Effect::AnswerText(AnswerId(id))).map_err(|_| unknown()),
        _ => Err(unknown()),
    }
}

/// Makes the reply of what the script's function returned.
fn finish(vm: &Vm, turn: &mut Turn, returned: &Value) -> Result<Reply, ScriptError> {
    let bad = |why: String| Err(ScriptError::new(ErrorKind::BadReturn, why));
    let end = match returned {
        Value::Nil if !turn.said.is_empty() => End::Said,
        Value::Nil if turn.call_failed => End::Fallback,
        Value::Nil => return bad("the flow returned nothing and said nothing".into()),
        Value::Table(table) if table.metatable().is_some_and(|meta| meta == vm.sandbox.answer_meta) => {
            let id = table.raw_get(1).ok().map(AnswerId).filter(|id| turn.answers.contains(id));
            let Some(id) = id else { return bad("the flow returned an answer that is not one of this turn's".into()) };
            End::Answer(id)
        }
        value @ (Value::String(_) | Value::Integer(_) | Value::Number(_)) => {
            let text = text_of("the flow's answer", value, |text| {
                turn.charge_output(text.len())?;
                Ok(Text::from(text))
            });
            End::Text(text.map_err(|e| {
                let kind = turn.stop.map_or(ErrorKind::BadReturn, |stop| stop.kind);
                ScriptError { kind, ..ScriptError::from_lua(&e) }
            })?)
        }
        other => return bad(format!("the flow returned {}; it returns a text or an answer", with_article(other.type_name()))),
    };
    Ok(Reply {
        said: std::mem::take(&mut turn.said),
        end,
        handoff: turn.handoff,
        slots: std::mem::take(&mut turn.session).into_deltas(),
        user_slots: std::mem::take(&mut turn.user).into_deltas(),
    })
}

/// See [`Script::check`].
pub(super) fn check(script: &Arc<Script>, limits: Limits, canned: &Arc<BTreeMap<String, Text>>) -> Result<(), ScriptError> {
    let key = script.tenant().user("check").and_then(|user| user.session("check")).expect("a short id is an id");
    let (query, message_id) = (Text::default(), Text::default());
    let (state, now) = (Arc::<SessionState>::default(), Timestamp::default());
    let (script, canned) = (script.clone(), canned.clone());
    let turnstile = Arc::new(Turnstile::new());
    let coroutine =
        Vm::new(&script, Seat::take(), turnstile).and_then(|vm| Rc::new(vm).coroutine()).map_err(|e| ScriptError::from_lua(&e))?;
    let input = Input { script, limits, canned, query, message_id, key, channel: None, lang: None, state, now };
    let mut turn = Box::new(Turn::new(input));
    let mut with = Some(Resume::Start);
    loop {
        match poll(&coroutine, turn, with.take(), true) {
            (_, Polled::Failed(error)) => return Err(ScriptError { kind: ErrorKind::Compile, ..error }),
            (_, Polled::Returned(_)) => return Ok(()),
            (back, _) => turn = back,
        }
    }
}
