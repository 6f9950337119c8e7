//! One run of a script: it goes on while the messages are lent to it.

use std::{mem, rc::Rc, sync::Arc};

use bytes::Bytes;
use ithildin_lua::{Failure, Lua, MultiValue, Run, ScriptError, Step, Value, iterator, object};
use tracing::Level;

use super::{
    buffer::Buffer,
    header_map::{HeaderMap, Of},
    scene::{Body, Facts, Messages, ResponseHead, Scene, Shape, Wish},
};
use crate::{
    access_log::ResponseFlags,
    http::{failure::LocalReply, headers::Headers, request::Request},
    io::LogLimit,
    scripts::{ON_REQUEST, ON_RESPONSE, Script},
    stats::LuaStats,
};

/// The longest line of a script's, in bytes.
const MAX_LINE: usize = 2 << 10;

/// What a waiting script gets: values, or the text of an error.
pub(super) type Results = Result<MultiValue, String>;

pub(super) struct ScriptRun {
    pub(super) scene: Rc<Scene>,
    pub(super) facts: Rc<Facts>,
    run: Run,
    stats: Arc<LuaStats>,
}

impl ScriptRun {
    /// `None` if there is nothing to run. An error is what to answer: without the bounds it would have run.
    pub(super) fn begin(
        facts: Facts,
        script: &Arc<Script>,
        stats: &Arc<LuaStats>,
    ) -> Result<Option<Self>, LocalReply> {
        let (function, defines) = match facts.is_response {
            true => (ON_RESPONSE, script.on_response),
            false => (ON_REQUEST, script.on_request),
        };
        if !defines {
            return Ok(None);
        }
        let facts = Rc::new(facts);
        let worker = &facts.worker;
        let counts = stats.worker(worker.index);
        counts.executions.inc();
        let scene = Scene::new(&facts);
        let failed = |error: &str| {
            counts.errors.inc();
            write(&worker.scripts.log, Level::ERROR, error);
            beyond_bounds()
        };
        let state = worker.scripts.state(script);
        let state = state.map_err(|error| failed(&error.to_string()))?;
        let handle = super::handle::StreamHandle(Rc::clone(&scene));
        let run = match state.start(function, handle) {
            None => return Ok(None),
            Some(Ok(run)) => run,
            Some(Err(error)) => {
                scene.end();
                if state.is_full() {
                    worker.scripts.forget(&state);
                }
                return Err(failed(&error.to_string()));
            }
        };
        Ok(Some(Self {
            scene,
            run,
            facts: Rc::clone(&facts),
            stats: Arc::clone(stats),
        }))
    }

    /// Goes on with what the script waited for. `None`: it is over.
    pub(super) fn resume(&mut self, lent: Lent<'_>, results: Results) -> Option<Wish> {
        self.scene.enter(Messages {
            request: mem::replace(lent.request, Request::unreadable()),
            response: lent.response.take(),
            trailers: mem::take(lent.trailers),
        });
        let step = self.run.resume(results);
        if let Some(messages) = self.scene.leave() {
            *lent.request = messages.request;
            *lent.response = messages.response;
            *lent.trailers = messages.trailers;
        }
        let wish = self.scene.wish.take();
        match (step, wish) {
            (Ok(Step::Done), _) => None,
            (Ok(Step::Waits), Some(wish)) => Some(wish),
            (Ok(Step::Waits), None) => self.failed(&ScriptError::Yield),
            (Err(error), _) => self.failed(&error),
        }
    }

    fn failed(&self, error: &ScriptError) -> Option<Wish> {
        let worker = &self.facts.worker;
        self.stats.worker(worker.index).errors.inc();
        write(&worker.scripts.log, Level::ERROR, &error.to_string());
        let state = self.run.state();
        if *error == ScriptError::Memory && state.is_full() {
            worker.scripts.forget(state);
        }
        // Envoy has no bounds: what the script would have done is not known.
        let is_ours = matches!(error, ScriptError::TooLong | ScriptError::Memory);
        is_ours.then(|| Wish::Reply(Box::new(beyond_bounds())))
    }

    pub(super) fn has_body(&self) -> bool {
        self.scene.has_body()
    }

    /// The script's body in the shape that it asked for.
    pub(super) fn body(&self, shape: Shape, trailers: &Headers) -> Results {
        let lua = self.run.state().lua();
        results(shaped(lua, &self.scene, shape, !trailers.is_empty()))
    }

    /// What an answer is to the script.
    pub(super) fn called(&self, made: impl FnOnce(&Lua) -> Made) -> Results {
        results(made(self.run.state().lua()))
    }

    /// The body, if the script put another one in its place.
    pub(super) fn replaced(&self) -> Option<Bytes> {
        match self.scene.body.take() {
            Body::Replaced(bytes) => Some(bytes),
            Body::Unread | Body::Read(_) => None,
        }
    }
}

/// In the place of what a script would have made, had it had more time or memory.
pub(super) fn beyond_bounds() -> LocalReply {
    let none = ResponseFlags::NONE;
    LocalReply::new(500, "Internal Server Error", none, "lua_bounds")
}

/// Until Lua collects its objects, they hold nothing.
impl Drop for ScriptRun {
    fn drop(&mut self) {
        self.scene.end();
    }
}

type Made = Result<MultiValue, Failure>;

/// The body of a message in the shape that a script asks for.
pub(super) fn shaped(lua: &Lua, scene: &Rc<Scene>, shape: Shape, has_trailers: bool) -> Made {
    let is_empty = match &*scene.body.borrow() {
        Body::Unread => true,
        Body::Read(bytes) | Body::Replaced(bytes) => bytes.is_empty(),
    };
    let buffer = || object(lua, Buffer(Rc::clone(scene)));
    let value = match shape {
        Shape::Whole(always) if is_empty && !always => Ok(Value::Nil),
        Shape::Whole(_) => buffer(),
        Shape::Chunks if is_empty => iterator(lua, Vec::new()),
        Shape::Chunks => buffer().and_then(|it| iterator(lua, vec![it])),
        Shape::Trailers if !has_trailers => Ok(Value::Nil),
        Shape::Trailers => object(lua, HeaderMap::new(scene, Of::Trailers)),
    };
    value.map(|value| MultiValue::from_iter([value]))
}

fn results(made: Made) -> Results {
    made.map_err(|Failure(text)| text)
}

/// What a run works on, and gives back.
pub(super) struct Lent<'l> {
    pub(super) request: &'l mut Request,
    pub(super) response: &'l mut Option<ResponseHead>,
    pub(super) trailers: &'l mut Headers,
}

/// Writes a line of a script's, or of an error in it: without what would end the line.
pub(super) fn write(logs: &LogLimit, level: Level, text: &str) {
    // By the name of Envoy's component. What nobody reads takes no room from what is read.
    macro_rules! line {
        ($level:expr) => {
            if tracing::enabled!(target: "ithildin_proxy::lua", $level)
                && let Some(suppressed) = logs.admit()
            {
                let end = text.floor_char_boundary(MAX_LINE);
                let text = text[..end].replace(char::is_control, " ");
                tracing::event!(target: "ithildin_proxy::lua", $level, suppressed, "script log: {text}");
            }
        };
    }
    match level {
        Level::TRACE => line!(Level::TRACE),
        Level::DEBUG => line!(Level::DEBUG),
        Level::INFO => line!(Level::INFO),
        Level::WARN => line!(Level::WARN),
        Level::ERROR => line!(Level::ERROR),
    }
}
