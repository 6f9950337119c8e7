//! Lua for filters: scripts of LuaJIT's language that run in coroutines, within bounds.
//!
//! Knows nothing of HTTP. Who embeds it gives a script objects ([`Object`]), whose methods may let the
//! script wait for something; meanwhile others run in the same state.
//!
//! Invariants: a script has no way to files, processes, foreign functions or bytecode; nothing is compiled
//! to machine code, so that no memory is both writable and executable; every instruction counts, also those
//! of coroutines that scripts make, and all memory of a state does; what methods refuse is an error with a
//! text and a place, as Lua's own are.
//!
//! What it does not bound: one call into a library, which is one instruction, and `string.find` and its kin can
//! take long over a long text; and what who embeds it keeps for a script.

mod budget;
mod error;
mod object;
mod sandbox;
mod state;

#[cfg(test)]
mod tests;

pub use budget::Limits;
pub use error::{Failure, LoadError, ScriptError};
pub use mlua::{Lua, LuaString, MultiValue, Table, Value};
pub use object::{Call, Method, Object, Reply, iterator, object};
pub use state::{Run, State, Step};
