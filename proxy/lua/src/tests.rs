//! What scripts can and cannot do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{cell::RefCell, rc::Rc, time::Duration};

use crate::{
    Call, Failure, Limits, LoadError, Method, MultiValue, Object, Reply, ScriptError, State, Step,
    Value,
};

const LIMITS: Limits = Limits {
    memory: 8 << 20,
    instructions: 1_000_000,
    time: Duration::from_secs(2),
};

/// Keeps what a script says.
#[derive(Clone, Default)]
struct Ear(Rc<RefCell<Vec<String>>>);

impl Object for Ear {
    const METHODS: &'static [(&'static str, Method<Self>)] = &[
        ("say", |call| {
            let text = call.string(1)?.to_string_lossy();
            call.this().0.borrow_mut().push(text);
            Ok(Reply::nothing())
        }),
        ("wait", |_| Ok(Reply::Wait)),
        ("fail", |_| Err("no way".into())),
        ("add", add),
    ];
    const PAIRS: Option<Method<Self>> = Some(|call| match call.integer(1)? {
        index @ 1..=2 => Ok(Reply::Values(MultiValue::from_iter([
            Value::Integer(index as _),
            Value::Integer(10 * index),
        ]))),
        _ => Ok(Reply::nothing()),
    });
}

fn add(call: &Call<'_, Ear>) -> Result<Reply, Failure> {
    let sum = call.integer(1)? + call.integer(2)?;
    Ok(Reply::value(Value::Integer(sum)))
}

fn state(source: &str) -> Result<Rc<State>, LoadError> {
    State::new(source, LIMITS, |_| Ok(())).map(Rc::new)
}

/// What `run(ear)` says, and how it ends.
fn run(body: &str) -> (Vec<String>, Result<Step, ScriptError>) {
    let state = state(&format!("function run(ear) {body}\nend")).unwrap();
    let ear = Ear::default();
    let mut run = state.start("run", ear.clone()).unwrap().unwrap();
    let ended = run.resume(Ok(MultiValue::new()));
    let said = ear.0.borrow().clone();
    (said, ended)
}

fn says(body: &str) -> String {
    let (said, ended) = run(body);
    assert_eq!(ended, Ok(Step::Done), "{body}");
    said.join("|")
}

#[test]
fn methods_answer_and_fail_as_luas_own() {
    assert_eq!(says("ear:say(ear:add(1, '2'))"), "3");
    let place = "[string \"function run(ear) local ok, e = pcall(function() e...\"]:1: ";
    for (call, expected) in [
        ("ear:fail()", "no way"),
        (
            "ear:add(1)",
            "bad argument #2 to 'add' (number expected, got no value)",
        ),
        (
            "ear:say({})",
            "bad argument #1 to 'say' (string expected, got table)",
        ),
        ("ear.say('x')", "calling 'say' on bad self"),
        ("ear:none()", "attempt to call method 'none' (a nil value)"),
    ] {
        let said = says(&format!(
            "local ok, e = pcall(function() {call} end) ear:say(type(e)) ear:say(e)"
        ));
        let (kind, text) = said.split_once('|').unwrap();
        assert_eq!(kind, "string");
        let (_, text) = text.split_once(":1: ").unwrap();
        assert_eq!(text, expected, "{place}");
    }
    assert_eq!(
        says("for k, v in pairs(ear) do ear:say(k .. '=' .. v) end"),
        "1=10|2=20"
    );
    assert_eq!(says("ear:say(type(ear))"), "userdata");
}

#[test]
fn the_language_is_that_of_luajit() {
    assert_eq!(says("ear:say(bit.band(7, 12)) ear:say(#'a\\x41')"), "4|2");
    assert_eq!(
        says("do goto out end ear:say('no') ::out:: ear:say('out')"),
        "out"
    );
    assert_eq!(
        says("ear:say(os.date('!%Y', 0)) ear:say(type(os.time()))"),
        "1970|number"
    );
    assert_eq!(says("ear:say(load('return 1 + 1')())"), "2");
    assert_eq!(
        says(
            "local ok, e = xpcall(function(a) error(a, 0) end, function(e) return e .. '!' end, 'x') ear:say(tostring(ok) .. e)"
        ),
        "falsex!"
    );
    assert_eq!(
        says("ear:say(loadstring('return x', 'n', 't', {x = 5})())"),
        "5"
    );
}

#[test]
fn what_reaches_out_is_not_there() {
    for name in [
        "io",
        "debug",
        "package",
        "require",
        "ffi",
        "jit",
        "dofile",
        "loadfile",
        "newproxy",
        "os.execute",
        "os.exit",
        "os.remove",
        "os.rename",
        "os.tmpname",
        "os.setlocale",
        "string.dump",
        "module",
    ] {
        assert_eq!(says(&format!("ear:say(type({name}))")), "nil", "{name}");
    }
    assert_eq!(
        says("local f, e = load('\\27LJ\\2\\0') ear:say(tostring(f)) ear:say(e)"),
        "nil|attempt to load chunk with wrong mode"
    );
    assert_eq!(
        says("local f, e = load('\\27LJ\\2\\0', 'n', 'b') ear:say(tostring(f))"),
        "nil"
    );
    assert_eq!(says("ear:say(tostring(getmetatable(ear)))"), "false");
    assert_eq!(
        says("ear:say(collectgarbage()) ear:say(type(collectgarbage('count')))"),
        "0|number"
    );
}

#[test]
fn a_script_waits_and_goes_on_with_the_answer() {
    let state = state(
        "function run(ear)
           ear:say(ear:wait())
           local ok, e = pcall(ear.wait, ear)
           ear:say(tostring(ok) .. e)
           ear:say(tostring(ear:wait()))
         end",
    )
    .unwrap();
    let ear = Ear::default();
    let mut run = state.start("run", ear.clone()).unwrap().unwrap();
    assert_eq!(run.resume(Ok(MultiValue::new())), Ok(Step::Waits));
    let mut other = state.start("run", ear.clone()).unwrap().unwrap();
    assert_eq!(other.resume(Ok(MultiValue::new())), Ok(Step::Waits));
    let five = MultiValue::from_iter([Value::Integer(5)]);
    assert_eq!(run.resume(Ok(five)), Ok(Step::Waits));
    assert_eq!(run.resume(Err("late".into())), Ok(Step::Waits));
    assert_eq!(
        run.resume(Err("last".into()))
            .unwrap_err()
            .to_string()
            .split_once(":5: ")
            .unwrap()
            .1,
        "last"
    );
    assert_eq!(*ear.0.borrow(), ["5", "falselate"]);
    assert!(state.defines("run") && !state.defines("none"));
    assert!(state.start("none", Ear::default()).is_none());
}

#[test]
fn a_script_without_end_is_ended() {
    for body in [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "pcall(function() while true do end end)",
        "local c = coroutine.wrap(function() while true do end end) c()",
        "local c = coroutine.create(function() while true do end end) coroutine.resume(c)",
        "xpcall(function() while true do end end, function() while true do end end)",
        "for i = 1, 1e9 do local s = string.rep('x', 1e6) end",
        "local t = setmetatable({}, {__index = function(t, k) return t[k + 1] end}) while true do pcall(function() return t[1] end) end",
        "repeat until false",
        "pcall(error, setmetatable({}, {__tostring = function() while true do end end})) while true do end",
        "local function f() return f() end f()",
        "string.gsub(string.rep('a', 1e5), '.', function() while true do end end)",
    ] {
        assert_eq!(run(body).1, Err(ScriptError::TooLong), "{body}");
    }
    assert_eq!(
        state("while true do end").unwrap_err().to_string(),
        "the script ran for too long"
    );
}

#[test]
fn a_state_goes_on_after_a_run_that_was_ended() {
    let state = state("function run(ear) while true do end end function good(ear) local n = 0 for i = 1, 1e5 do n = n + i end ear:say(n) end").unwrap();
    let ear = Ear::default();
    let mut run = state.start("run", ear.clone()).unwrap().unwrap();
    assert_eq!(run.resume(Ok(MultiValue::new())), Err(ScriptError::TooLong));
    let mut good = state.start("good", ear.clone()).unwrap().unwrap();
    assert_eq!(good.resume(Ok(MultiValue::new())), Ok(Step::Done));
    assert_eq!(*ear.0.borrow(), ["5000050000"]);
}

#[test]
fn memory_is_bounded() {
    for body in [
        "local t = {} for i = 1, 1e9 do t[i] = {} end",
        "local s = 'x' while true do s = s .. s end",
        "string.rep('x', 1e9)",
        "all = {} for i = 1, 1e9 do all[i] = coroutine.create(function() end) end",
    ] {
        let ended = run(body).1;
        assert!(
            matches!(ended, Err(ScriptError::Memory | ScriptError::TooLong)),
            "{body}: {ended:?}"
        );
    }
    let state = state(
        "kept = {}
         function run(ear) for i = 1, 1e9 do kept[i] = string.rep('x', 1e5) .. i end end",
    )
    .unwrap();
    assert!(!state.is_full());
    let mut run = state.start("run", Ear::default()).unwrap().unwrap();
    assert_eq!(run.resume(Ok(MultiValue::new())), Err(ScriptError::Memory));
    assert!(state.is_full());
}

#[test]
fn what_c_calls_goes_only_so_deep() {
    for body in [
        "local function f() return (string.gsub('a', 'a', f)) end f()",
        "local function f() return (('a'):gsub('a', f)) end f()",
        "local function f() coroutine.wrap(f)() end f()",
        "local function f() assert(coroutine.resume(coroutine.create(f))) end f()",
        "local function f() assert(load(function() f() return nil end)) end f()",
        "local t t = setmetatable({}, {__tostring = function() return string.format('%s', t) end}) tostring(t)",
    ] {
        let error = run(body).1.unwrap_err().to_string();
        assert!(error.contains("stack overflow"), "{body}: {error}");
        let caught = format!(
            "pcall(function() {body} end) ear:say(('a'):gsub('a', function() return 'b' end))"
        );
        assert_eq!(says(&caught), "b", "{body}");
        state(body).unwrap_err();
    }
    assert_eq!(
        says(
            "local c = coroutine.wrap(function(a) local b = coroutine.yield(a + 1) return b * 2 end) ear:say(c(1)) ear:say(c(5))"
        ),
        "2|10"
    );
    assert_eq!(
        says(
            "ear:say(string.format('%d %s', 5, setmetatable({}, {__tostring = function() return 't' end})))"
        ),
        "5 t"
    );
    assert_eq!(says("ear:say((('hello'):gsub('l', {l = 'L'})))"), "heLLo");
}

#[test]
fn errors_have_luas_words() {
    for (body, expected) in [
        (
            "local x = nil; x.y = 1",
            "attempt to index local 'x' (a nil value)",
        ),
        ("error('mine', 0)", "mine"),
        ("error({1})", "unspecified lua error"),
        ("error()", "unspecified lua error"),
        (
            "error(setmetatable({}, {__tostring = function() while true do end end}))",
            "unspecified lua error",
        ),
    ] {
        let error = run(body).1.unwrap_err().to_string();
        assert!(error.ends_with(expected), "{body}: {error}");
    }
    assert_eq!(
        state("\nfunction f( end").unwrap_err(),
        LoadError::Script("[string \"...\"]:2: <name> or '...' expected near 'end'".into())
    );
    assert_eq!(
        state("\nlocal x = nil; x.y = 1").unwrap_err().to_string(),
        "[string \"...\"]:2: attempt to index local 'x' (a nil value)"
    );
    let state = state("\n\nfunction run(ear) coroutine.yield() end").unwrap();
    let mut run = state.start("run", Ear::default()).unwrap().unwrap();
    assert_eq!(run.resume(Ok(MultiValue::new())), Ok(Step::Waits));
}
