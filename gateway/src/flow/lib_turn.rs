//! What a script reads of its turn and adds to its answer: `turn`, `history`, `say`, `canned`, `handoff`, `log`.

use fengda_plugins::api::Text;
use mlua::{IntoLua, Lua, LuaString, Table, Value};

use super::{
    Level,
    error::{Parts, with_article},
    host::{self, MAX_LOG_LINE, error, string, unlimited},
    lib_json,
};

/// The fields of `turn`, as an error names them.
pub(super) const FIELDS: &str = "text, seq, session, user, message_id, since, channel, lang";

pub(super) fn install(lua: &Lua, host: &Table) -> mlua::Result<()> {
    host.raw_set("turn", lua.create_function(|lua, key: LuaString| field(lua, &key))?)?;
    host.raw_set("turns", lua.create_function(|_, ()| host::with(|turn| Ok(turn.input.state.turns.len())))?)?;
    host.raw_set("past", lua.create_function(|lua, place: Value| past(lua, &place))?)?;
    host.raw_set("say", lua.create_function(|_, text: Value| text_of("say", &text, |text| host::with(|turn| turn.say(text))))?)?;
    host.raw_set("canned", lua.create_function(|lua, name: LuaString| canned(lua, &name))?)?;
    host.raw_set(
        "handoff",
        lua.create_function(|_, ()| {
            host::with(|turn| {
                turn.handoff = true;
                Ok(())
            })
        })?,
    )?;
    for (name, level) in [("log_info", Level::Info), ("log_warn", Level::Warn), ("log_error", Level::Error)] {
        host.raw_set(name, lua.create_function(move |lua, what: Value| log(lua, level, &what))?)?;
    }
    host.raw_set("effect", lua.create_function(|_, ()| host::with(host::Turn::charge_effect))?)?;
    host.raw_set("known", lua.create_function(|_, id: u32| known(id))?)?;
    host.raw_set(
        "handle",
        lua.create_function(|_, ()| {
            host::with_any(|turn| {
                turn.handling = true;
                Ok(())
            })
        })?,
    )?;
    host.raw_set(
        "no_function",
        lua.create_function(|_, found: String| -> mlua::Result<()> {
            Err(error(format!("the script must return a function (turn) -> answer; it returned {}", with_article(&found))))
        })?,
    )?;
    host.raw_set(
        "find",
        lua.create_function(|_, (text, pattern, init): (LuaString, LuaString, Option<i64>)| Ok(find(&text, &pattern, init)))?,
    )?;
    host.raw_set("message", lua.create_function(message)?)
}

fn field(lua: &Lua, key: &LuaString) -> mlua::Result<Value> {
    host::with(|turn| {
        let input = &turn.input;
        let optional = |text: &Option<Text>| text.as_ref().map(|t| string(lua, t)).transpose()?.into_lua(lua);
        let words = |text: &str| Ok(Value::String(unlimited(lua, || lua.create_string(text))?));
        match &*key.as_bytes() {
            b"text" => words(input.query.expose()),
            b"seq" => (input.state.turns.last().map_or(0, |last| last.seq).max(input.state.seq) + 1).into_lua(lua),
            b"session" => words(input.key.id()),
            b"user" => words(input.key.user().id()),
            b"message_id" => words(input.message_id.expose()),
            b"since" => input.state.turns.last().map(|last| last.at.until(input.now).as_secs_f64()).into_lua(lua),
            b"channel" => optional(&input.channel),
            b"lang" => optional(&input.lang),
            _ => Err(error(format!("turn has no field `{}`; it has {FIELDS}", key.display()))),
        }
    })
}

/// One past turn as `seq, q, a, at, fallback`; nothing if there is none at that place.
type Past = (Option<u64>, Option<LuaString>, Option<LuaString>, Option<f64>, Option<bool>);

fn past(lua: &Lua, place: &Value) -> mlua::Result<Past> {
    let place = place
        .as_i64()
        .ok_or_else(|| error("history is a list: history[1] is the oldest turn kept, history[-1] the newest, #history their number"))?;
    host::with(|turn| {
        let Some(past) = turn.past(place) else { return Ok((None, None, None, None, None)) };
        let (q, a) = unlimited(lua, || Ok((lua.create_string(past.q.expose())?, lua.create_string(past.a.expose())?)))?;
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit a double for 285,000 years")]
        let at = past.at.0 as f64 / 1000.0;
        Ok((Some(past.seq), Some(q), Some(a), Some(at), Some(past.fallback)))
    })
}

fn canned(lua: &Lua, name: &LuaString) -> mlua::Result<LuaString> {
    host::with_any(|turn| {
        let texts = &turn.input.canned;
        let found = name.to_str().ok().and_then(|name| texts.get(&*name));
        found.map_or_else(
            || {
                let known = texts.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                Err(error(format!("there is no canned text `{}`; there are: {known}", name.display())))
            },
            |text| string(lua, text),
        )
    })
}

fn log(lua: &Lua, level: Level, what: &Value) -> mlua::Result<()> {
    let line = host::line(lua);
    let text = match what {
        Value::Table(table) if table.metatable().is_none() => {
            lib_json::encode(what, MAX_LOG_LINE).unwrap_or_else(|e| format!("a table that cannot be logged: {}", Parts::of(&e).text()))
        }
        _ => what.to_string()?,
    };
    host::with(|turn| {
        turn.log(level, &text, line);
        Ok(())
    })
}

fn known(id: u32) -> mlua::Result<()> {
    host::with(|turn| {
        let known = turn.answers.iter().any(|answer| answer.0 == id);
        if known { Ok(()) } else { Err(error("this answer is not one of this turn's")) }
    })
}

/// Hands on a value that is text, or a number as text.
pub(super) fn text_of<R>(function: &str, value: &Value, f: impl FnOnce(&str) -> mlua::Result<R>) -> mlua::Result<R> {
    match value {
        Value::String(text) => f(&text.to_str().map_err(|_| error(format!("{function}: the text is not UTF-8")))?),
        Value::Integer(_) | Value::Number(_) => f(&value.to_string()?),
        other => Err(error(format!("{function} takes a text, not {}", with_article(other.type_name())))),
    }
}

/// `string.find(text, pattern, init, true)` in linear time; Luau's own compares every place with all of the pattern.
fn find(text: &LuaString, pattern: &LuaString, init: Option<i64>) -> (Option<usize>, Option<usize>) {
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    let init = init.unwrap_or(1);
    let back = usize::try_from(init.unsigned_abs()).unwrap_or(usize::MAX);
    let skip = if init < 0 { text.len().saturating_sub(back) } else { back.saturating_sub(1) };
    let found = text.get(skip..).and_then(|rest| memchr::memmem::find(rest, &pattern));
    (found.map(|at| skip + at + 1), found.map(|at| skip + at + pattern.len()))
}

/// The error a script caught, as the text it would have been had the script raised it.
fn message(lua: &Lua, err: Value) -> mlua::Result<Value> {
    match err {
        Value::Error(err) => Parts::of(&err).text().into_lua(lua),
        other => Ok(other),
    }
}
