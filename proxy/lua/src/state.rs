//! One script's state, and its runs.

use std::rc::Rc;

use mlua::{
    AnyUserData, Function, Lua, MultiValue, Thread, Value, chunk::ChunkMode, thread::ThreadStatus,
};

use crate::{
    budget::{Budget, Limits},
    error::{LoadError, ScriptError, is_of_memory, text_of},
    object::{Handle, Object},
    sandbox,
};

/// What a script defined, and what it keeps from run to run.
#[derive(Debug)]
pub struct State {
    lua: Lua,
    budget: Rc<Budget>,
    limits: Limits,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Done,
    /// A method answered [`Reply::Wait`](crate::Reply::Wait).
    Waits,
}

impl State {
    /// Loads a script and runs its outermost part. `prepare` may add globals before.
    pub fn new(
        source: &str,
        limits: Limits,
        prepare: impl FnOnce(&Lua) -> mlua::Result<()>,
    ) -> Result<Self, LoadError> {
        let broken = |error: mlua::Error| LoadError::Lua(text_of(&error));
        let lua = sandbox::open().map_err(broken)?;
        prepare(&lua).map_err(broken)?;
        lua.set_memory_limit(limits.memory).map_err(broken)?;
        let budget = Budget::new(&lua, limits).map_err(broken)?;
        // The name is what Lua makes the place in a message of.
        let chunk = lua.load(source).set_name(source).set_mode(ChunkMode::Text);
        let loaded = chunk.into_function();
        let loaded = loaded.and_then(|it| sandbox::runner(&lua)?.call::<()>(it));
        loaded.map_err(|error| LoadError::Script(text_of(&error)))?;
        Ok(Self {
            lua,
            budget,
            limits,
        })
    }

    /// Whether the script defines a global function of this name.
    pub fn defines(&self, function: &str) -> bool {
        self.function(function).is_some()
    }

    fn function(&self, name: &str) -> Option<Function> {
        let value = self.lua.globals().raw_get::<Value>(name).ok()?;
        value.as_function().cloned()
    }

    /// A run of a global function with `object`; `None` if the script defines none.
    pub fn start<O: Object>(
        self: &Rc<Self>,
        function: &str,
        object: O,
    ) -> Option<Result<Run, ScriptError>> {
        let function = self.function(function)?;
        let run = || {
            let object = self.lua.create_userdata(Handle(object))?;
            Ok(Run {
                thread: self.lua.create_thread(sandbox::runner(&self.lua)?)?,
                first: Some((function, object)),
                state: Rc::clone(self),
            })
        };
        Some(run().map_err(|error| self.failed(&error)))
    }

    /// For values that a run is resumed with.
    pub fn lua(&self) -> &Lua {
        &self.lua
    }

    /// Whether a script keeps so much that little is left for the next run: it is to be loaded anew.
    pub fn is_full(&self) -> bool {
        // What cannot be collected now can be later.
        let _ = self.lua.gc_collect();
        self.lua.used_memory() > self.limits.memory / 2
    }

    fn failed(&self, error: &mlua::Error) -> ScriptError {
        if self.budget.is_spent() {
            ScriptError::TooLong
        } else if is_of_memory(error) {
            ScriptError::Memory
        } else {
            ScriptError::Script(text_of(error))
        }
    }
}

/// One call of a script's function, in a coroutine of its own.
#[derive(Debug)]
pub struct Run {
    thread: Thread,
    /// What is called with what, before it is.
    first: Option<(Function, AnyUserData)>,
    state: Rc<State>,
}

impl Run {
    pub fn state(&self) -> &Rc<State> {
        &self.state
    }

    /// Goes on until the script ends or waits. `answer` is what the method returns that it waits in: values,
    /// or the text of an error.
    pub fn resume(&mut self, answer: Result<MultiValue, String>) -> Result<Step, ScriptError> {
        let state = &self.state;
        let resumed = || {
            let arguments = match self.first.take() {
                Some((function, object)) => {
                    MultiValue::from_iter([Value::Function(function), Value::UserData(object)])
                }
                None => results(&state.lua, answer)?,
            };
            state.budget.begin(&state.lua)?;
            sandbox::reset(&state.lua)?;
            self.thread.resume::<MultiValue>(arguments)
        };
        let ended = { resumed }();
        // A script that catches what ends it, and ends at once, is no better.
        if let Err(error) = ended {
            return Err(state.failed(&error));
        }
        if state.budget.is_spent() {
            return Err(ScriptError::TooLong);
        }
        Ok(match self.thread.status() {
            ThreadStatus::Resumable => Step::Waits,
            _ => Step::Done,
        })
    }
}

fn results(lua: &Lua, answer: Result<MultiValue, String>) -> mlua::Result<MultiValue> {
    Ok(match answer {
        Ok(mut values) => {
            values.push_front(Value::Boolean(true));
            values
        }
        Err(text) => {
            let text = Value::String(lua.create_string(text)?);
            MultiValue::from_iter([Value::Boolean(false), text])
        }
    })
}
