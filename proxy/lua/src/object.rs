//! Objects that scripts get from us: userdata with methods.

use mlua::{
    AnyUserData, Function, Lua, LuaString, MultiValue, Table, UserData, UserDataFields,
    UserDataRef, Value,
};

use crate::{error::Failure, sandbox::guarded};

/// What a script calls methods of.
pub trait Object: Sized + 'static {
    /// Each under its name.
    const METHODS: &'static [(&'static str, Method<Self>)];

    /// What `pairs` asks for each pair: gets a number from 1 on, and answers without values at the end.
    const PAIRS: Option<Method<Self>> = None;
}

pub type Method<T> = fn(&Call<'_, T>) -> Result<Reply, Failure>;

/// What a method answers.
#[derive(Debug)]
pub enum Reply {
    Values(MultiValue),
    /// The script waits: see [`Run::resume`](crate::Run::resume).
    Wait,
}

impl Reply {
    pub fn nothing() -> Self {
        Self::Values(MultiValue::new())
    }

    pub fn value(value: Value) -> Self {
        Self::Values(MultiValue::from_iter([value]))
    }
}

/// One call of a method.
pub struct Call<'c, T: 'static> {
    pub lua: &'c Lua,
    this: UserDataRef<Handle<T>>,
    name: &'static str,
    arguments: MultiValue,
}

impl<T: Object> Call<'_, T> {
    /// What the method is called of.
    pub fn this(&self) -> &T {
        &self.this.0
    }

    /// Counts from 1; what is not there is nil.
    pub fn argument(&self, index: usize) -> &Value {
        self.arguments.get(index - 1).unwrap_or(&Value::Nil)
    }

    /// A number is a text, too.
    pub fn string(&self, index: usize) -> Result<LuaString, Failure> {
        let value = self.argument(index);
        match value {
            Value::String(_) | Value::Integer(_) | Value::Number(_) => {
                let text = self.lua.coerce_string(value.clone())?;
                text.ok_or_else(|| self.expected(index, "string"))
            }
            _ => Err(self.expected(index, "string")),
        }
    }

    /// A text is a number if it reads as one. What is beyond `i64` is its nearest end.
    pub fn integer(&self, index: usize) -> Result<i64, Failure> {
        let number = self.lua.coerce_number(self.argument(index).clone())?;
        let number = number.ok_or_else(|| self.expected(index, "number"))?;
        Ok(number as i64)
    }

    pub fn table(&self, index: usize) -> Result<&Table, Failure> {
        let table = self.argument(index).as_table();
        table.ok_or_else(|| self.expected(index, "table"))
    }

    /// That an argument is not what it should be, in Lua's words.
    pub fn expected(&self, index: usize, what: &str) -> Failure {
        let got = match self.arguments.get(index - 1) {
            None => "no value",
            Some(value) => value.type_name(),
        };
        let name = self.name;
        Failure(format!(
            "bad argument #{index} to '{name}' ({what} expected, got {got})"
        ))
    }

    /// That a method is not built.
    pub fn unsupported(&self) -> Failure {
        Failure(format!("{} is not supported", self.name))
    }

    pub fn text(&self, text: impl AsRef<[u8]>) -> Result<Reply, Failure> {
        Ok(Reply::value(Value::String(self.lua.create_string(text)?)))
    }

    /// Hands an object out.
    pub fn object<O: Object>(&self, object: O) -> Result<Reply, Failure> {
        Ok(Reply::value(self::object(self.lua, object)?))
    }
}

/// An object as Lua has it.
#[derive(Debug)]
pub(crate) struct Handle<T>(pub(crate) T);

impl<T: Object> UserData for Handle<T> {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_meta_field_with("__index", |lua| {
            let methods = lua.create_table()?;
            for (name, method) in T::METHODS {
                methods.raw_set(*name, function(lua, name, *method)?)?;
            }
            Ok(methods)
        });
        if let Some(next) = T::PAIRS {
            fields.add_meta_field_with("__pairs", move |lua| {
                let next = function(lua, "pairs", next)?;
                lua.load(PAIRS).set_name("=prelude").call::<Function>(next)
            });
        }
    }
}

/// Makes `__pairs` of a function that gives the pair of a number.
const PAIRS: &str = r#"
local next = ...
return function(self)
  local i = 0
  return function()
    i = i + 1
    return next(self, i)
  end
end
"#;

fn function<T: Object>(lua: &Lua, name: &'static str, method: Method<T>) -> mlua::Result<Function> {
    let raw = lua.create_function(move |lua, mut arguments: MultiValue| {
        let this = arguments.pop_front();
        match answer(lua, name, method, this.as_ref(), arguments) {
            Ok(Reply::Values(mut values)) => {
                values.push_front(Value::Boolean(true));
                Ok(values)
            }
            Ok(Reply::Wait) => Ok(MultiValue::from_iter([Value::Nil])),
            Err(Failure(text)) => {
                let text = Value::String(lua.create_string(text)?);
                Ok(MultiValue::from_iter([Value::Boolean(false), text]))
            }
        }
    })?;
    guarded(lua, raw)
}

fn answer<T: Object>(
    lua: &Lua,
    name: &'static str,
    method: Method<T>,
    this: Option<&Value>,
    arguments: MultiValue,
) -> Result<Reply, Failure> {
    let this = this.and_then(Value::as_userdata);
    let this = this.and_then(|it: &AnyUserData| it.borrow::<Handle<T>>().ok());
    let this = this.ok_or_else(|| Failure(format!("calling '{name}' on bad self")))?;
    method(&Call {
        lua,
        this,
        name,
        arguments,
    })
}

/// An object for a script that waits.
pub fn object<T: Object>(lua: &Lua, object: T) -> Result<Value, Failure> {
    Ok(Value::UserData(lua.create_userdata(Handle(object))?))
}

/// A function that gives one value after the other, for a `for` of the script's.
pub fn iterator(lua: &Lua, values: Vec<Value>) -> Result<Value, Failure> {
    let mut values = values.into_iter();
    let next = lua.create_function_mut(move |_, _: MultiValue| Ok(values.next()))?;
    Ok(Value::Function(next))
}
