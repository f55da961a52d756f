//! `session` and `user`: named values that outlive the turn. Writes are kept here until the turn commits, and later reads see them.

use std::collections::BTreeMap;

use fengda_plugins::api::{Change, MAX_SLOT_BYTES, MAX_SLOT_NAME, MAX_SLOTS, SlotDelta, SlotValue, Slots};
use mlua::{IntoLua, Lua, LuaString, Table, Value};

use super::{
    host::{self, Turn, error, string},
    lib_json,
};

/// Which slots.
#[derive(Clone, Copy)]
enum Scope {
    Session,
    User,
}

/// What a turn has changed of one kind of slots: at most one change for each name, so a script that writes in a loop adds nothing.
#[derive(Default)]
pub(super) struct Pending {
    /// The slots as the script sees them; made at the first write.
    view: Option<Slots>,
    changes: BTreeMap<Box<str>, Change>,
}

impl Pending {
    fn view<'a>(&'a self, stored: &'a Slots) -> &'a Slots {
        self.view.as_ref().unwrap_or(stored)
    }

    fn apply(&mut self, stored: &Slots, name: &str, change: Change) -> mlua::Result<()> {
        let view = self.view.get_or_insert_with(|| stored.clone());
        let delta = SlotDelta { name: name.into(), change };
        if !view.apply(&delta) {
            return Err(match delta.change {
                Change::Add(_) if view.0.contains_key(name) => error(format!("the slot `{name}` holds no number to add to")),
                _ => error(format!("there are {MAX_SLOTS} slots already; set one to nil first")),
            });
        }
        let change = match (self.changes.remove(name), delta.change) {
            (Some(Change::Add(before)), Change::Add(by)) => Change::Add(before + by),
            (Some(_), Change::Add(_)) => Change::Set(view.0[name].clone()),
            (_, Change::Remove) if !stored.0.contains_key(name) => return Ok(()),
            (_, change) => change,
        };
        self.changes.insert(delta.name, change);
        Ok(())
    }

    /// The changes, removals first: so there is room for what is added.
    pub(super) fn into_deltas(self) -> Vec<SlotDelta> {
        let mut deltas: Vec<_> = self.changes.into_iter().map(|(name, change)| SlotDelta { name, change }).collect();
        deltas.sort_by_key(|delta| !matches!(delta.change, Change::Remove));
        deltas
    }
}

pub(super) fn install(lua: &Lua, host: &Table) -> mlua::Result<()> {
    for (name, scope) in [("session", Scope::Session), ("user", Scope::User)] {
        let functions = lua.create_table()?;
        functions.raw_set("get", lua.create_function(move |lua, name: LuaString| get(lua, scope, &name))?)?;
        functions.raw_set("set", lua.create_function(move |_, (name, value): (LuaString, Value)| set(scope, &name, &value))?)?;
        functions.raw_set("incr", lua.create_function(move |_, (name, by): (LuaString, Option<f64>)| incr(scope, &name, by))?)?;
        host.raw_set(name, functions)?;
    }
    Ok(())
}

impl Turn {
    fn slots(&mut self, scope: Scope) -> (&mut Pending, &Slots) {
        match scope {
            Scope::Session => (&mut self.session, &self.input.state.flow.slots),
            Scope::User => (&mut self.user, &self.input.state.user_slots),
        }
    }
}

fn get(lua: &Lua, scope: Scope, name: &LuaString) -> mlua::Result<Value> {
    let found = host::with(|turn| {
        let (pending, stored) = turn.slots(scope);
        Ok(pending.view(stored).0.get(checked(name)?.as_ref()).cloned())
    })?;
    match found {
        None => Ok(Value::Nil),
        Some(SlotValue::Bool(b)) => Ok(Value::Boolean(b)),
        Some(SlotValue::Number(n)) => n.into_lua(lua),
        Some(SlotValue::Text(text)) => string(lua, &text).map(Value::String),
        // Frozen: a change to the table would not reach the slot, so it must not pass in silence.
        Some(SlotValue::Json(text)) => lib_json::decode(lua, text.expose().as_bytes(), true),
    }
}

fn set(scope: Scope, name: &LuaString, value: &Value) -> mlua::Result<()> {
    let value = match value {
        Value::Nil => None,
        Value::Boolean(b) => Some(SlotValue::Bool(*b)),
        #[expect(clippy::cast_precision_loss, reason = "Luau's numbers are doubles; mlua shows whole ones as integers")]
        Value::Integer(i) => Some(SlotValue::Number(*i as f64)),
        Value::Number(n) if n.is_finite() => Some(SlotValue::Number(*n)),
        Value::Number(_) => return Err(error("a slot cannot hold NaN or infinity")),
        Value::String(text) => Some(SlotValue::Text((&*text.to_str().map_err(|_| error("a slot's text must be UTF-8"))?).into())),
        table @ Value::Table(_) => Some(SlotValue::Json(lib_json::encode(table, MAX_SLOT_BYTES)?.into())),
        other => return Err(error(format!("a slot cannot hold a {}", other.type_name()))),
    };
    if value.as_ref().is_some_and(|v| v.size() > MAX_SLOT_BYTES) {
        return Err(error(format!("a slot holds at most {MAX_SLOT_BYTES} bytes")));
    }
    change(scope, name, value.map_or(Change::Remove, Change::Set)).map(drop)
}

fn incr(scope: Scope, name: &LuaString, by: Option<f64>) -> mlua::Result<Option<f64>> {
    let by = by.unwrap_or(1.0);
    if !by.is_finite() {
        return Err(error("incr takes a finite number"));
    }
    change(scope, name, Change::Add(by))
}

/// Buffers a change; returns the slot's number after it.
fn change(scope: Scope, name: &LuaString, change: Change) -> mlua::Result<Option<f64>> {
    host::with(|turn| {
        let (pending, stored) = turn.slots(scope);
        let name = checked(name)?;
        if let (Change::Add(by), Some(SlotValue::Number(n))) = (&change, pending.view(stored).0.get(name.as_ref()))
            && !(n + by).is_finite()
        {
            return Err(error("the sum is too large for a number"));
        }
        pending.apply(stored, &name, change)?;
        match pending.view(stored).0.get(name.as_ref()) {
            Some(SlotValue::Number(n)) => Ok(Some(*n)),
            _ => Ok(None),
        }
    })
}

fn checked(name: &LuaString) -> mlua::Result<Box<str>> {
    let name = name.to_str().map_err(|_| error("a slot's name must be UTF-8"))?;
    match name.len() {
        0 => Err(error("a slot's name must not be empty")),
        1..=MAX_SLOT_NAME if &*name == "incr" => Err(error("`incr` is a method of slots, not a slot")),
        1..=MAX_SLOT_NAME => Ok((&*name).into()),
        _ => Err(error(format!("a slot's name has at most {MAX_SLOT_NAME} bytes"))),
    }
}
