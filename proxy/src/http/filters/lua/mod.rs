//! `envoy.filters.http.lua`: scripts that see requests and their responses, and change them.
//!
//! Invariants: a script that fails changes nothing more, and its request goes on, as in Envoy; one that would need
//! more time or memory than it may have is none that failed, and its request is answered here; what a script
//! waits for is bounded in memory (`Worker::asked`) and in number, and so is what it logs.

mod buffer;
mod call;
mod handle;
mod header_map;
mod metadata;
mod run;
mod scene;
mod stream_info;
mod values;

use std::{net::SocketAddr, pin::pin, rc::Rc};

use ithildin_lua::MultiValue;

use self::{
    call::Question,
    run::{Lent, Results, ScriptRun, beyond_bounds},
    scene::{Body, Facts, ResponseHead, Wish},
};
use super::Verdict;
use crate::{
    access_log::ResponseFlags,
    config::{
        ext_authz::CheckBody,
        lua::{Lua, LuaOverride},
    },
    http::{
        body::{Ahead, Source},
        client::{Client, Response},
        exchange::Exchange,
        failure::LocalReply,
        headers::Headers,
        prepare,
        request::BodyLength,
    },
};

impl Exchange<'_> {
    /// Takes the request through the script; whether its route is to be found again.
    pub(super) async fn script_request(
        &mut self,
        (lua, own): (&Lua, Option<&LuaOverride>),
        name: &str,
        source: &mut Source<'_, '_>,
        client: &mut Client<'_, '_>,
    ) -> Result<bool, Verdict> {
        let run = self.begin_script((lua, own), name, false);
        let Some(mut run) = run.map_err(Verdict::Reply)? else {
            return Ok(false);
        };
        let mut trailers = Headers::default();
        let mut results = Ok(MultiValue::new());
        loop {
            let lent = Lent {
                request: &mut self.request,
                response: &mut None,
                trailers: &mut trailers,
            };
            results = match run.resume(lent, results) {
                None => break,
                Some(Wish::Reply(reply)) => {
                    self.filters.drains |= run.scene.effects.drains.get();
                    return Err(Verdict::Reply(*reply));
                }
                Some(Wish::Body(shape)) => {
                    let read = run.has_body();
                    if !read && !self.read_request(&run, source, client).await? {
                        return Err(Verdict::Reply(beyond_bounds()));
                    }
                    if let Some(told) = source.trailers_ahead().filter(|_| !read) {
                        trailers = std::mem::take(told);
                    }
                    run.body(shape, &trailers)
                }
                Some(Wish::Call(question)) => {
                    let is_complete = self.request.body == BodyLength::Empty || run.has_body();
                    let asked = self.ask(&run, *question, is_complete);
                    let asked = Self::unless_gone(client, pin!(asked)).await;
                    asked.ok_or(Verdict::Gone)?.map_err(Verdict::Reply)?
                }
            };
        }
        put_back(&run, source, trailers);
        let effects = &run.scene.effects;
        self.filters.drains |= effects.drains.get();
        Ok(effects.clears_route.get() || lua.clear_route_cache && effects.changed_request.get())
    }

    /// `false`: there is no memory for the body.
    async fn read_request(
        &mut self,
        run: &ScriptRun,
        source: &mut Source<'_, '_>,
        client: &mut Client<'_, '_>,
    ) -> Result<bool, Verdict> {
        if self.request.body != BodyLength::Empty && !self.request.asks_for_tunnel() {
            let body = CheckBody {
                max_bytes: self.context.connection.listener.buffer_limit as usize,
                allow_partial: false,
                pack_as_bytes: false,
            };
            if !self.hold_body(body, source, client).await? {
                return Ok(false);
            }
        }
        keep(run, source);
        Ok(true)
    }

    /// Takes the response through the script. An error is what to answer in its place.
    pub(super) async fn script_response(
        &mut self,
        (lua, own): (&Lua, Option<&LuaOverride>),
        name: &str,
        response: &mut Response,
        body: &mut Source<'_, '_>,
    ) -> Result<(), LocalReply> {
        let Some(mut run) = self.begin_script((lua, own), name, true)? else {
            return Ok(());
        };
        let mut trailers = Headers::default();
        let mut results = Ok(MultiValue::new());
        let mut answer = Some(ResponseHead {
            status: response.status,
            headers: std::mem::take(&mut response.headers),
            body: Some(response.body),
            opens_tunnel: response.switch.is_some(),
        });
        loop {
            let lent = Lent {
                request: &mut self.request,
                response: &mut answer,
                trailers: &mut trailers,
            };
            results = match run.resume(lent, results) {
                None => break,
                Some(Wish::Reply(reply)) => return Err(*reply),
                Some(Wish::Body(shape)) => {
                    let read = run.has_body();
                    if !read && !self.read_response(&run, response, body).await? {
                        return Err(beyond_bounds());
                    }
                    if let Some(told) = body.trailers_ahead().filter(|_| !read) {
                        trailers = std::mem::take(told);
                    }
                    run.body(shape, &trailers)
                }
                Some(Wish::Call(question)) => self.ask(&run, *question, true).await?,
            };
        }
        put_back(&run, body, trailers);
        self.filters.drains |= run.scene.effects.drains.get();
        if let Some(answer) = answer {
            response.status = answer.status;
            response.headers = answer.headers;
            response.body = answer.body.unwrap_or(response.body);
        }
        Ok(())
    }

    async fn read_response(
        &self,
        run: &ScriptRun,
        response: &Response,
        body: &mut Source<'_, '_>,
    ) -> Result<bool, LocalReply> {
        if !body.is_ended() && response.switch.is_none() {
            // Our own answers are as long as they are configured.
            let limit = match body {
                Source::Bytes(_) => usize::MAX,
                _ => self.context.connection.listener.buffer_limit as usize,
            };
            body.hold(self.context.worker.asked.none());
            loop {
                let read = body.read_ahead().await;
                match read.map_err(|_| LocalReply::upstream_closed(None))? {
                    Ahead::Whole => break,
                    Ahead::NoRoom => return Ok(false),
                    Ahead::More if body.ahead().len() > limit => return Err(too_large()),
                    Ahead::More => {}
                }
            }
        }
        keep(run, body);
        Ok(true)
    }

    /// What the script gets from another service. An error is what to answer when that takes longer than a
    /// stream may be idle.
    async fn ask(
        &self,
        run: &ScriptRun,
        question: Question,
        is_complete: bool,
    ) -> Result<Results, LocalReply> {
        let context = self.context;
        let idle = context.manager.timeouts.stream_idle;
        let asked = context.worker.timers.timeout(idle, ask(run, question));
        asked.await.ok_or_else(|| {
            context.stats.downstream_rq_idle_timeout.inc();
            LocalReply::idle_timeout(is_complete)
        })
    }

    fn begin_script(
        &self,
        (lua, own): (&Lua, Option<&LuaOverride>),
        name: &str,
        is_response: bool,
    ) -> Result<Option<ScriptRun>, LocalReply> {
        let Some(script) = lua.script(own) else {
            return Ok(None);
        };
        let connection = self.context.connection;
        let told = prepare::told_address(self.context.manager, &self.request.headers);
        let facts = Facts {
            worker: Rc::clone(self.context.worker),
            connection: Rc::clone(connection),
            client: told.map_or(connection.remote, |client| SocketAddr::new(client, 0)),
            route: self.outcome.route.clone(),
            name: name.into(),
            context: lua.context(own).cloned(),
            is_response,
        };
        ScriptRun::begin(facts, script, &lua.stats)
    }
}

/// What was read is the script's now.
fn keep(run: &ScriptRun, body: &Source<'_, '_>) {
    let read = bytes::Bytes::copy_from_slice(body.ahead());
    *run.scene.body.borrow_mut() = Body::Read(read);
}

fn put_back(run: &ScriptRun, body: &mut Source<'_, '_>, trailers: Headers) {
    // Where another filter read it, its trailers are where they were.
    let has_read = run.has_body();
    if let Some(bytes) = run.replaced() {
        body.replace(bytes);
    }
    if let Some(told) = body.trailers_ahead().filter(|_| has_read) {
        *told = trailers;
    }
}

async fn ask(run: &ScriptRun, question: Question) -> Results {
    let facts = &run.facts;
    if question.detached {
        let worker = Rc::clone(&facts.worker);
        tokio::task::spawn_local(async move { question.answer(&worker).await });
        return Ok(MultiValue::new());
    }
    let answer = Box::pin(question.answer(&facts.worker)).await;
    run.called(|lua| question.results(lua, &answer))
}

fn too_large() -> LocalReply {
    let none = ResponseFlags::NONE;
    let details = "response_payload_too_large";
    LocalReply::new(500, "Internal Server Error", none, details)
}
