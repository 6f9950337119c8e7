//! What of Lua's libraries scripts have.

use mlua::{Function, Lua, LuaOptions, StdLib, chunk::ChunkMode};

/// What LuaJIT has always, and scripts do not: the way to files and to bytecode, which LuaJIT does not verify;
/// finalizers, which run uncounted; and the collector, which is ours. `load` takes text alone. The handler of
/// `xpcall` runs when the error is done with: LuaJIT counts nothing while the error is on its way, nor may
/// an error that is no text say what it is then. What C calls of a script's is counted: LuaJIT does not, and the
/// thread's stack ends.
const PRELUDE: &str = r#"
local raw_load, raw_count, select, type, pcall = load, collectgarbage, select, type, pcall
function load(chunk, name, _, ...)
  if select('#', ...) > 0 then return raw_load(chunk, name, "t", (...)) end
  return raw_load(chunk, name, "t")
end
function collectgarbage(what)
  if what == "count" then return raw_count("count") end
  return 0
end
dofile, loadfile, newproxy, gcinfo, require, module = nil, nil, nil, nil, nil, nil
string.dump = nil
os = { time = os.time, date = os.date, clock = os.clock, difftime = os.difftime, getenv = os.getenv }

local function handled(handler, ok, ...)
  if ok then return true, ... end
  return false, select(2, pcall(handler, ...))
end
function xpcall(f, handler, ...)
  return handled(handler, pcall(f, ...))
end

local yield, error = coroutine.yield, error
local depth = 0
local function leave(ok, ...)
  depth = depth - 1
  if ok then return ... end
  error((...), 0)
end
local function nested(raw, ...)
  if depth >= 100 then error("C stack overflow", 3) end
  depth = depth + 1
  return leave(pcall(raw, ...))
end
local function reset() depth = 0 end
local raw_gsub, raw_format = string.gsub, string.format
local raw_wrap, raw_resume = coroutine.wrap, coroutine.resume
local checked_load = load
function string.gsub(text, pattern, by, ...)
  if type(by) == "function" or type(by) == "table" then
    return nested(raw_gsub, text, pattern, by, ...)
  end
  return raw_gsub(text, pattern, by, ...)
end
function string.format(...)
  for i = 2, select('#', ...) do
    local kind = type((select(i, ...)))
    if kind == "table" or kind == "userdata" then return nested(raw_format, ...) end
  end
  return raw_format(...)
end
function load(chunk, ...)
  if type(chunk) == "function" then return nested(checked_load, chunk, ...) end
  return checked_load(chunk, ...)
end
loadstring = load
function coroutine.resume(...) return nested(raw_resume, ...) end
function coroutine.wrap(f)
  local raw = raw_wrap(f)
  return function(...) return nested(raw, ...) end
end

local function finish(status, ...)
  if status then return ... end
  if status == nil then return finish(yield()) end
  error((...), 2)
end
local function guard(raw)
  return function(...) return finish(raw(...)) end
end
local function run(f, ...)
  local ok, e = pcall(f, ...)
  if ok then return end
  local kind = type(e)
  if kind == "table" or kind == "function" or kind == "thread" then e = nil end
  error(e, 0)
end
return guard, run, reset
"#;

/// Of the prelude.
#[derive(Clone, Debug)]
struct Prelude {
    /// Makes a function of a method.
    guard: Function,
    /// Calls a function of the script.
    run: Function,
    /// Forgets how deep the run before went that was ended.
    reset: Function,
}

/// A state with nothing of a script yet. The compiler to machine code is a library that is not loaded.
pub(crate) fn open() -> mlua::Result<Lua> {
    let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH | StdLib::BIT | StdLib::OS;
    let lua = Lua::new_with(libraries, LuaOptions::new())?;
    let prelude = lua.load(PRELUDE).set_name("=prelude");
    let (guard, run, reset) = prelude.set_mode(ChunkMode::Text).eval()?;
    lua.set_app_data(Prelude { guard, run, reset });
    Ok(lua)
}

/// A function that scripts call: its results have a status before them. `true`: the results; `false`: an
/// error's text; `nil`: the caller waits, and its results come when it is resumed.
pub(crate) fn guarded(lua: &Lua, raw: Function) -> mlua::Result<Function> {
    prelude(lua)?.guard.call(raw)
}

/// Calls its first argument with the others.
pub(crate) fn runner(lua: &Lua) -> mlua::Result<Function> {
    Ok(prelude(lua)?.run)
}

/// To be called where no script runs.
pub(crate) fn reset(lua: &Lua) -> mlua::Result<()> {
    prelude(lua)?.reset.call(())
}

fn prelude(lua: &Lua) -> mlua::Result<Prelude> {
    let prelude = lua.app_data_ref::<Prelude>().map(|it| it.clone());
    prelude.ok_or_else(|| mlua::Error::runtime("no prelude"))
}
