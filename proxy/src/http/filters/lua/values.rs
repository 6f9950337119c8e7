//! Values of metadata, in Lua and in JSON.

use ithildin_lua::{Failure, Lua, Value as LuaValue};
use serde_json::{Map, Number, Value};

/// How deep a table may be that becomes metadata.
const MAX_DEPTH: usize = 32;

pub(super) fn to_lua(lua: &Lua, value: &Value) -> Result<LuaValue, Failure> {
    Ok(match value {
        Value::Null => LuaValue::Nil,
        Value::Bool(value) => LuaValue::Boolean(*value),
        Value::Number(number) => LuaValue::Number(number.as_f64().unwrap_or_default()),
        Value::String(text) => LuaValue::String(lua.create_string(text)?),
        Value::Array(list) => {
            let table = lua.create_table()?;
            for (index, value) in list.iter().enumerate() {
                table.raw_set(index + 1, to_lua(lua, value)?)?;
            }
            LuaValue::Table(table)
        }
        Value::Object(map) => object_to_lua(lua, map)?,
    })
}

pub(super) fn object_to_lua(lua: &Lua, map: &Map<String, Value>) -> Result<LuaValue, Failure> {
    let table = lua.create_table()?;
    for (key, value) in map {
        table.raw_set(key.as_str(), to_lua(lua, value)?)?;
    }
    Ok(LuaValue::Table(table))
}

/// What is neither text, number, truth nor a table of these is refused.
pub(super) fn from_lua(value: &LuaValue) -> Result<Value, Failure> {
    below(value, 0)
}

fn below(value: &LuaValue, depth: usize) -> Result<Value, Failure> {
    if depth > MAX_DEPTH {
        return Err("the table is too deep".into());
    }
    Ok(match value {
        LuaValue::Nil => Value::Null,
        LuaValue::Boolean(value) => Value::Bool(*value),
        LuaValue::Integer(number) => Number::from_f64(*number as f64).into(),
        LuaValue::Number(number) => Number::from_f64(*number).into(),
        LuaValue::String(text) => Value::String(text.to_string_lossy()),
        LuaValue::Table(table) => {
            let length = table.raw_len();
            let mut list = Vec::new();
            let mut map = Map::new();
            for pair in table.pairs::<LuaValue, LuaValue>() {
                let (key, value) = pair?;
                let value = below(&value, depth + 1)?;
                let is_next = key.as_i64().is_some_and(|key| key == list.len() as i64 + 1);
                if length > 0 && map.is_empty() && is_next {
                    list.push(value);
                    continue;
                }
                let LuaValue::String(key) = key else {
                    return Err("a key of a table is neither text nor the next number".into());
                };
                map.insert(key.to_string_lossy(), value);
            }
            match list.is_empty() {
                true => Value::Object(map),
                false if map.is_empty() => Value::Array(list),
                false => return Err("a table has both a list and names".into()),
            }
        }
        other => {
            let kind = other.type_name();
            return Err(Failure(format!(
                "unexpected type '{kind}' in dynamicMetadata"
            )));
        }
    })
}
