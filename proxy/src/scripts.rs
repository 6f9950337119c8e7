//! Scripts of filters: checked once, and run by each worker in a state of its own.
//!
//! Invariant: a worker makes a script's state when a request first needs it, and lets go of it soon after the
//! last configuration that names the script is gone.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, Weak},
    time::Duration,
};

use ithildin_lua::{Limits, LoadError, Lua, State, Value};

use crate::io::LogLimit;

/// The functions that scripts define.
pub(crate) const ON_REQUEST: &str = "envoy_on_request";
pub(crate) const ON_RESPONSE: &str = "envoy_on_response";

/// Envoy has no limits. Memory: bodies of some MiB as texts and tables. Instructions: a tenth of a second;
/// meanwhile the worker's other connections wait. Time: for calls that take long, and on a busy machine.
const LIMITS: Limits = Limits {
    memory: 32 << 20,
    instructions: 10_000_000,
    time: Duration::from_millis(500),
};

/// A script that compiles.
#[derive(Debug)]
pub struct Script {
    source: Box<str>,
    /// Which functions it defines.
    pub on_request: bool,
    pub on_response: bool,
}

impl Script {
    pub fn new(source: &str) -> Result<Self, LoadError> {
        let state = load(source)?;
        Ok(Self {
            on_request: state.defines(ON_REQUEST),
            on_response: state.defines(ON_RESPONSE),
            source: source.into(),
        })
    }
}

/// The states of one worker.
#[derive(Debug, Default)]
pub struct Scripts {
    states: RefCell<Vec<(Weak<Script>, Rc<State>)>>,
    /// Of what scripts log, and of their errors.
    pub(crate) log: LogLimit,
}

impl Scripts {
    pub(crate) fn state(&self, script: &Arc<Script>) -> Result<Rc<State>, LoadError> {
        let mut states = self.states.borrow_mut();
        let wanted = Arc::as_ptr(script);
        let known = states.iter().find(|(known, _)| known.as_ptr() == wanted);
        if let Some((_, state)) = known {
            return Ok(Rc::clone(state));
        }
        let state = Rc::new(load(&script.source)?);
        states.retain(|(script, _)| script.strong_count() > 0);
        states.push((Arc::downgrade(script), Rc::clone(&state)));
        Ok(state)
    }

    /// Lets go of the states whose scripts are gone.
    pub(crate) fn prune(&self) {
        let mut states = self.states.borrow_mut();
        states.retain(|(script, _)| script.strong_count() > 0);
    }

    /// The next request gets a new one.
    pub(crate) fn forget(&self, state: &Rc<State>) {
        let mut states = self.states.borrow_mut();
        states.retain(|(_, known)| !Rc::ptr_eq(known, state));
    }
}

fn load(source: &str) -> Result<State, LoadError> {
    State::new(source, LIMITS, |lua| {
        let unit = lua.create_table()?;
        unit.raw_set("MILLISECOND", "MILLISECOND")?;
        unit.raw_set("MICROSECOND", "MICROSECOND")?;
        let globals = lua.globals();
        globals.raw_set("EnvoyTimestampResolution", unit)?;
        // Nobody reads our standard output.
        globals.raw_set("print", lua.create_function(|_: &Lua, _: Value| Ok(()))?)
    })
}
