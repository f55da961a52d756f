//! `json.encode` and `json.decode`, bounded, and the conversion that slots of tables share.

use mlua::{IntoLua, Lua, LuaString, Table, Value};
use serde_json::{Map, Number, Value as Json};

use super::host::{error, unlimited};

/// Longest JSON text in bytes, either way.
const MAX_BYTES: usize = 256 * 1024;
/// Deepest nesting.
const MAX_DEPTH: usize = 32;

pub(super) fn install(lua: &Lua, host: &Table) -> mlua::Result<()> {
    host.raw_set("null", Value::NULL)?;
    host.raw_set(
        "encode",
        lua.create_function(|lua, value: Value| {
            let text = encode(&value, MAX_BYTES)?;
            unlimited(lua, || lua.create_string(text))
        })?,
    )?;
    host.raw_set("decode", lua.create_function(|lua, text: LuaString| decode(lua, &text.as_bytes(), false))?)
}

/// Writes a value as JSON of at most `max` bytes. A table with items 1 to n and nothing else is an array; an empty one is an object.
pub(super) fn encode(value: &Value, max: usize) -> mlua::Result<String> {
    let mut left = max;
    let json = to_json(value, 0, &mut left)?;
    let text = serde_json::to_string(&json).map_err(|_| error("json: the value cannot be written"))?;
    if text.len() > max { Err(too_large(max)) } else { Ok(text) }
}

/// Reads JSON. With `frozen`, tables are read-only.
pub(super) fn decode(lua: &Lua, text: &[u8], frozen: bool) -> mlua::Result<Value> {
    if text.len() > MAX_BYTES {
        return Err(too_large(MAX_BYTES));
    }
    let json: Json =
        serde_json::from_slice(text).map_err(|e| error(format!("json: not valid at line {} column {}", e.line(), e.column())))?;
    unlimited(lua, || to_lua(lua, &json, 0, frozen))
}

fn too_large(max: usize) -> mlua::Error {
    error(format!("json: more than {max} bytes"))
}

fn to_json(value: &Value, depth: usize, left: &mut usize) -> mlua::Result<Json> {
    match value {
        Value::Nil | Value::LightUserData(_) => Ok(Json::Null),
        Value::Boolean(b) => Ok(Json::Bool(*b)),
        Value::Integer(i) => Ok(Json::from(*i)),
        Value::Number(n) => Number::from_f64(*n).map(Json::Number).ok_or_else(|| error("json: NaN and infinity have no JSON")),
        Value::String(text) => {
            charge(left, text.as_bytes().len())?;
            Ok(Json::String(text.to_str().map_err(|_| error("json: a text is not UTF-8"))?.to_owned()))
        }
        Value::Table(_) if depth == MAX_DEPTH => Err(error(format!("json: nested more than {MAX_DEPTH} deep"))),
        Value::Table(table) => {
            plain(table)?;
            table_to_json(table, depth + 1, left)
        }
        other => Err(error(format!("json: a {} has no JSON", other.type_name()))),
    }
}

/// Refuses an object: what it is to the script is not in its fields, and what it does would be lost.
fn plain(table: &Table) -> mlua::Result<()> {
    let Some(meta) = table.metatable() else { return Ok(()) };
    let answer = meta.raw_get::<Value>("__type")?.as_string().is_some_and(|name| name == "answer");
    Err(error(if answer {
        "an answer can be neither kept nor written: call :text() on it"
    } else {
        "a table with a metatable can be neither kept nor written: copy what is in it into a plain table"
    }))
}

fn table_to_json(table: &Table, depth: usize, left: &mut usize) -> mlua::Result<Json> {
    let len = table.raw_len();
    if len > 0 {
        let items = (1..=len).map(|i| {
            charge(left, 2)?;
            match table.raw_get(i)? {
                Value::Nil => Err(error("json: a list has no gaps; json.null stands for nothing")),
                item => to_json(&item, depth, left),
            }
        });
        let items = items.collect::<mlua::Result<_>>()?;
        let only_items = table.pairs::<Value, Value>().count() == len;
        return if only_items { Ok(Json::Array(items)) } else { Err(error("json: a table has items 1 to n or texts as keys, not both")) };
    }
    let mut fields = Map::new();
    for pair in table.pairs::<Value, Value>() {
        let (Value::String(key), value) = pair? else { return Err(error("json: the keys of a table are texts, or 1 to n")) };
        let key = key.to_str().map_err(|_| error("json: a key is not UTF-8"))?;
        charge(left, key.len() + 2)?;
        fields.insert(key.to_owned(), to_json(&value, depth, left)?);
    }
    Ok(Json::Object(fields))
}

/// Counts at least what a value will take in the text, so that neither time nor memory go far beyond the text's bound.
fn charge(left: &mut usize, bytes: usize) -> mlua::Result<()> {
    *left = left.checked_sub(bytes).ok_or_else(|| error("json: the value is too large"))?;
    Ok(())
}

fn to_lua(lua: &Lua, json: &Json, depth: usize, frozen: bool) -> mlua::Result<Value> {
    let table = match json {
        Json::Null => return Ok(Value::NULL),
        Json::Bool(b) => return Ok(Value::Boolean(*b)),
        Json::Number(n) => return n.as_f64().into_lua(lua),
        Json::String(text) => return lua.create_string(text).map(Value::String),
        _ if depth == MAX_DEPTH => return Err(error(format!("json: nested more than {MAX_DEPTH} deep"))),
        Json::Array(items) => {
            let table = lua.create_table_with_capacity(items.len(), 0)?;
            for (i, item) in items.iter().enumerate() {
                table.raw_set(i + 1, to_lua(lua, item, depth + 1, frozen)?)?;
            }
            table
        }
        Json::Object(fields) => {
            let table = lua.create_table_with_capacity(0, fields.len())?;
            for (key, value) in fields {
                table.raw_set(key.as_str(), to_lua(lua, value, depth + 1, frozen)?)?;
            }
            table
        }
    };
    table.set_readonly(frozen);
    Ok(Value::Table(table))
}
