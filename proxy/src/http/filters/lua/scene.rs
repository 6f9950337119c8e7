//! What one run of a script sees of its request, shared between the script's objects and us.
//!
//! Invariant: the messages are here only while the script runs; whenever it waits, or has ended, they are
//! back where they belong. An object that a script kept finds nothing then, and holds nothing: Lua does not
//! know how large that would be.

use std::{
    cell::{Cell, Ref, RefCell, RefMut},
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use ithildin_lua::{Failure, Reply};
use serde_json::{Map, Value};

use super::{call::Question, run::beyond_bounds};
use crate::{
    config::route::Route,
    http::{
        failure::LocalReply,
        headers::Headers,
        request::{BodyLength, Request},
    },
    worker::{Connection, Worker},
};

/// Waits of one run, each of which begins a new share of time: a script that waits for ever would hold its
/// request, and a worker with waits that are over at once.
const MAX_WAITS: usize = 80;

/// What an object says whose request is elsewhere.
const OUT_OF_SCOPE: &str = "object used outside of proper scope";

pub(super) struct Scene {
    messages: RefCell<Option<Messages>>,
    facts: RefCell<Option<Rc<Facts>>>,
    /// What the script waits for.
    pub(super) wish: RefCell<Option<Wish>>,
    pub(super) effects: Effects,
    pub(super) body: RefCell<Body>,
    /// What `pairs` goes through, of each of the messages.
    pub(super) listed: [RefCell<Option<Fields>>; 3],
}

/// Names and values.
pub(super) type Fields = Vec<(Bytes, Bytes)>;

/// What does not change.
pub(super) struct Facts {
    pub(super) worker: Rc<Worker>,
    pub(super) connection: Rc<Connection>,
    /// The client, as far as headers tell of it.
    pub(super) client: std::net::SocketAddr,
    pub(super) route: Option<Arc<Route>>,
    /// The filter's own.
    pub(super) name: Box<str>,
    pub(super) context: Option<Arc<Map<String, Value>>>,
    pub(super) is_response: bool,
}

/// What the script works on.
pub(super) struct Messages {
    pub(super) request: Request,
    pub(super) response: Option<ResponseHead>,
    pub(super) trailers: Headers,
}

/// The head of a response.
#[derive(Default)]
pub(super) struct ResponseHead {
    pub(super) status: u16,
    pub(super) headers: Headers,
    pub(super) body: Option<BodyLength>,
    /// After it nothing of HTTP follows.
    pub(super) opens_tunnel: bool,
}

/// What is left of a run besides headers.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) changed_request: Cell<bool>,
    pub(super) clears_route: Cell<bool>,
    pub(super) drains: Cell<bool>,
    pub(super) waits: Cell<usize>,
    /// Requests to others so far.
    pub(super) calls: Cell<usize>,
    /// What was left in metadata so far, in bytes.
    pub(super) metadata: Cell<usize>,
}

/// What a script waits for.
pub(super) enum Wish {
    /// To be the answer.
    Reply(Box<LocalReply>),
    Body(Shape),
    Call(Box<Question>),
}

/// How the script gets a body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `true`: also an empty one.
    Whole(bool),
    Chunks,
    Trailers,
}

#[derive(Default)]
pub(super) enum Body {
    #[default]
    Unread,
    Read(Bytes),
    Replaced(Bytes),
}

impl Scene {
    pub(super) fn new(facts: &Rc<Facts>) -> Rc<Self> {
        Rc::new(Self {
            messages: RefCell::default(),
            facts: RefCell::new(Some(Rc::clone(facts))),
            wish: RefCell::default(),
            effects: Effects::default(),
            body: RefCell::default(),
            listed: Default::default(),
        })
    }

    /// Lets go of everything.
    pub(super) fn end(&self) {
        self.leave();
        self.facts.take();
        self.wish.take();
        self.body.take();
    }

    pub(super) fn facts(&self) -> Result<Rc<Facts>, Failure> {
        let facts = self.facts.borrow().clone();
        facts.ok_or_else(|| Failure::new(OUT_OF_SCOPE))
    }

    pub(super) fn enter(&self, messages: Messages) {
        *self.messages.borrow_mut() = Some(messages);
    }

    pub(super) fn leave(&self) -> Option<Messages> {
        for listed in &self.listed {
            listed.take();
        }
        self.messages.take()
    }

    pub(super) fn messages(&self) -> Result<RefMut<'_, Messages>, Failure> {
        let messages = self.messages.try_borrow_mut();
        let messages = messages.map_err(|_| Failure::new(OUT_OF_SCOPE))?;
        RefMut::filter_map(messages, Option::as_mut).map_err(|_| Failure::new(OUT_OF_SCOPE))
    }

    pub(super) fn has_body(&self) -> bool {
        !matches!(*self.body.borrow(), Body::Unread)
    }

    /// The body, once it is read.
    pub(super) fn bytes(&self) -> Result<Ref<'_, Bytes>, Failure> {
        drop(self.messages()?);
        Ref::filter_map(self.body.borrow(), |body| match body {
            Body::Unread => None,
            Body::Read(bytes) | Body::Replaced(bytes) => Some(bytes),
        })
        .map_err(|_| Failure::new(OUT_OF_SCOPE))
    }

    /// Puts `bytes` in the place of the body.
    pub(super) fn replace(&self, bytes: Bytes) -> Result<(), Failure> {
        let mut messages = self.messages()?;
        if messages.request.asks_for_tunnel() {
            return Err("a tunnel has no body".into());
        }
        let length = BodyLength::Known(bytes.len() as u64);
        match &mut messages.response {
            Some(response) => response.body = Some(length),
            None => messages.request.body = length,
        }
        *self.body.borrow_mut() = Body::Replaced(bytes);
        Ok(())
    }

    pub(super) fn wishes(&self, wish: Wish) -> Result<Reply, Failure> {
        let waits = self.effects.waits.get() + 1;
        if waits > MAX_WAITS {
            return self.gives_up();
        }
        self.effects.waits.set(waits);
        *self.wish.borrow_mut() = Some(wish);
        Ok(Reply::Wait)
    }

    /// The run ends here: it would need more than it may have.
    pub(super) fn gives_up(&self) -> Result<Reply, Failure> {
        *self.wish.borrow_mut() = Some(Wish::Reply(Box::new(beyond_bounds())));
        Ok(Reply::Wait)
    }
}
