//! Headers as scripts see them: with what HTTP/2 tells by pseudo headers, and with the body's length.
//!
//! Invariant: nothing gets in here that another parser could read as anything else: names, values and
//! pseudo headers are checked when a script sets them, and what concerns a connection stays ours.

use std::{
    cell::{RefCell, RefMut},
    rc::Rc,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method as HttpMethod, uri};
use ithildin_lua::{Call, Failure, Method, MultiValue, Object, Reply, Value};

use super::scene::{Fields, Messages, Scene};
use crate::http::{
    headers::{Headers, is_of_connection},
    request::BodyLength,
};

const LENGTH: &str = "content-length";

/// What a script may make of the fields of one message: far more than peers take, and little beside what a state
/// of Lua may hold.
const MAX_FIELDS: usize = 1024;
const MAX_BYTES: usize = 256 << 10;

/// Statuses that a script may choose.
const STATUSES: std::ops::Range<i64> = 200..600;

/// The headers of a message of the scene.
pub(super) struct HeaderMap {
    scene: Rc<Scene>,
    of: Of,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Request,
    Response,
    Trailers,
}

impl HeaderMap {
    pub(super) fn new(scene: &Rc<Scene>, of: Of) -> Self {
        Self {
            scene: Rc::clone(scene),
            of,
        }
    }

    fn listed(&self) -> &RefCell<Option<Fields>> {
        &self.scene.listed[self.of as usize]
    }

    fn values(&self, name: &str) -> Result<Vec<Bytes>, Failure> {
        let name = name.to_ascii_lowercase();
        let listed = list(&*self.scene.messages()?, self.of);
        let name = match (self.of, &*name) {
            (Of::Request, "host") => ":authority",
            (_, name) => name,
        };
        let named = listed.into_iter().filter(|(known, _)| known == name);
        Ok(named.map(|(_, value)| value).collect())
    }

    /// Before a change.
    fn messages(&self) -> Result<RefMut<'_, Messages>, Failure> {
        if self.listed().borrow().is_some() {
            return Err("header map cannot be modified while iterating".into());
        }
        let messages = self.scene.messages()?;
        if self.of == Of::Request && !self.scene.facts()?.is_response {
            self.scene.effects.changed_request.set(true);
        }
        Ok(messages)
    }
}

impl Object for HeaderMap {
    const METHODS: &'static [(&'static str, Method<Self>)] = &[
        ("add", |call| put(call, false)),
        ("replace", |call| put(call, true)),
        ("get", get),
        ("getAtIndex", get_at),
        ("getNumValues", |call| {
            let name = call.string(1)?.to_string_lossy();
            let count = call.this().values(&name)?.len();
            Ok(Reply::value(Value::Integer(count as i64)))
        }),
        ("remove", remove),
        ("setHttp1ReasonPhrase", |call| {
            // A phrase of our own says the same to every client.
            call.string(1)?;
            drop(call.this().messages()?);
            Ok(Reply::nothing())
        }),
    ];

    const PAIRS: Option<Method<Self>> = Some(next);
}

type Map<'c> = Call<'c, HeaderMap>;

fn get(call: &Map<'_>) -> Result<Reply, Failure> {
    let name = call.string(1)?.to_string_lossy();
    match &call.this().values(&name)?[..] {
        [] => Ok(Reply::nothing()),
        values => call.text(values.join(&b","[..])),
    }
}

fn get_at(call: &Map<'_>) -> Result<Reply, Failure> {
    let name = call.string(1)?.to_string_lossy();
    let index = usize::try_from(call.integer(2)?);
    let values = call.this().values(&name)?;
    match index.ok().and_then(|index| values.get(index)) {
        None => Ok(Reply::nothing()),
        Some(value) => call.text(value),
    }
}

fn next(call: &Map<'_>) -> Result<Reply, Failure> {
    let map = call.this();
    let mut listed = map.listed().borrow_mut();
    let index = call.integer(1)?;
    if index == 1 {
        if listed.is_some() {
            return Err("cannot create a second iterator before completing the first".into());
        }
        *listed = Some(list(&*map.scene.messages()?, map.of));
    }
    let index = usize::try_from(index - 1).ok();
    let field = listed.as_ref().and_then(|listed| listed.get(index?));
    let Some((name, value)) = field else {
        *listed = None;
        return Ok(Reply::nothing());
    };
    let texts = [
        call.lua.create_string(name)?,
        call.lua.create_string(value)?,
    ];
    Ok(Reply::Values(MultiValue::from_iter(
        texts.map(Value::String),
    )))
}

fn put(call: &Map<'_>, replaces: bool) -> Result<Reply, Failure> {
    let (name, value) = (call.string(1)?, call.string(2)?);
    let name = name.to_string_lossy().to_ascii_lowercase();
    let map = call.this();
    let mut messages = map.messages()?;
    match &*name {
        name if name.starts_with(':') => {
            set_pseudo(&mut messages, map.of, name, &value.as_bytes())?
        }
        "host" if map.of == Of::Request => {
            set_pseudo(&mut messages, map.of, ":authority", &value.as_bytes())?;
        }
        name => {
            let (name, value) = field(name, &value.as_bytes())?;
            // How a body is sent is for us to say.
            if !is_of_connection(&name) {
                let headers = headers(&mut messages, map.of);
                if replaces {
                    headers.remove(name.as_str());
                }
                let fields = headers.iter();
                let sizes = fields.map(|it| it.name.as_bytes().len() + it.value.len());
                room(sizes, name.as_str().len() + value.len())?;
                headers.append(name, value);
            }
        }
    }
    Ok(Reply::nothing())
}

fn remove(call: &Map<'_>) -> Result<Reply, Failure> {
    let name = call.string(1)?.to_string_lossy().to_ascii_lowercase();
    let map = call.this();
    let mut messages = map.messages()?;
    match &*name {
        LENGTH => {
            if let Some(length @ BodyLength::Known(_)) = body_length(&mut messages, map.of) {
                *length = BodyLength::Unknown;
            }
        }
        name if name.starts_with(':') || name == "host" => {
            return Err(Failure(format!("{name} cannot be removed")));
        }
        name => headers(&mut messages, map.of).remove(name),
    }
    Ok(Reply::nothing())
}

/// Whether one more field of so many bytes fits beside those of these sizes.
pub(super) fn room(sizes: impl Iterator<Item = usize>, more: usize) -> Result<(), Failure> {
    let (fields, bytes) = sizes.fold((0, 0), |(fields, bytes), size| (fields + 1, bytes + size));
    match fields < MAX_FIELDS && bytes + more <= MAX_BYTES {
        true => Ok(()),
        false => Err("there are too many headers, or too large ones".into()),
    }
}

/// A header that can be sent.
pub(super) fn field(name: &str, value: &[u8]) -> Result<(HeaderName, Bytes), Failure> {
    let typed = HeaderName::from_bytes(name.as_bytes());
    let typed = typed.map_err(|_| Failure(format!("invalid header name {name:?}")))?;
    let value = value.trim_ascii();
    match HeaderValue::from_bytes(value) {
        Ok(_) => Ok((typed, Bytes::copy_from_slice(value))),
        Err(_) => Err(Failure(format!("invalid value of header {name:?}"))),
    }
}

/// A status in digits.
pub(super) fn status(value: &[u8]) -> Option<u16> {
    let status: i64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    STATUSES
        .contains(&status)
        .then_some(status)?
        .try_into()
        .ok()
}

fn set_pseudo(messages: &mut Messages, of: Of, name: &str, value: &[u8]) -> Result<(), Failure> {
    let invalid = || Failure(format!("invalid value of {name}"));
    let text = std::str::from_utf8(value).map_err(|_| invalid())?;
    let bytes = Bytes::copy_from_slice(value);
    match (of, &mut messages.response, name) {
        (Of::Response, Some(response), ":status") => {
            if response.opens_tunnel {
                return Err("the status of a tunnel stays".into());
            }
            let status = status(value);
            response.status = status.ok_or(":status must be between 200-599")?;
        }
        (Of::Request, _, ":path") => {
            let parsed = uri::PathAndQuery::try_from(text).map_err(|_| invalid())?;
            if !text.starts_with('/') || parsed.as_str() != text {
                return Err(invalid());
            }
            messages.request.path = bytes;
        }
        (Of::Request, _, ":authority") => {
            let parsed = uri::Authority::try_from(text).map_err(|_| invalid())?;
            if parsed.as_str() != text {
                return Err(invalid());
            }
            messages.request.authority = bytes;
        }
        (Of::Request, _, ":method") => {
            // A tunnel is another way through here.
            let is_tunnel = text == "CONNECT" || messages.request.is_connect();
            if HttpMethod::from_bytes(value).is_err() || is_tunnel {
                return Err(invalid());
            }
            messages.request.method = bytes;
        }
        (Of::Request, _, ":scheme") => {
            messages.request.scheme = match text {
                "http" => Some("http"),
                "https" => Some("https"),
                _ => return Err(invalid()),
            }
        }
        _ => return Err(Failure(format!("{name} cannot be set here"))),
    }
    Ok(())
}

fn headers(messages: &mut Messages, of: Of) -> &mut Headers {
    match (of, &mut messages.response) {
        (Of::Response, Some(response)) => &mut response.headers,
        (Of::Trailers, _) => &mut messages.trailers,
        _ => &mut messages.request.headers,
    }
}

fn body_length(messages: &mut Messages, of: Of) -> Option<&mut BodyLength> {
    match (of, &mut messages.response) {
        (Of::Response, Some(response)) => response.body.as_mut(),
        (Of::Request, _) => Some(&mut messages.request.body),
        _ => None,
    }
}

/// All of it, in Envoy's order.
fn list(messages: &Messages, of: Of) -> Fields {
    let named = |name: &'static str, value: Bytes| (Bytes::from_static(name.as_bytes()), value);
    let mut list = Vec::new();
    let (headers, length) = match (of, &messages.response) {
        (Of::Response, Some(response)) => {
            list.push(named(":status", response.status.to_string().into()));
            (&response.headers, response.body)
        }
        (Of::Trailers, _) => (&messages.trailers, None),
        _ => {
            let request = &messages.request;
            list.push(named(":authority", request.authority.clone()));
            list.push(named(":path", request.path.clone()));
            list.push(named(":method", request.method.clone()));
            if let Some(scheme) = request.scheme {
                list.push(named(":scheme", Bytes::from_static(scheme.as_bytes())));
            }
            (&request.headers, Some(request.body))
        }
    };
    list.extend(headers.iter().map(|field| {
        let name = field.name.as_bytes().to_ascii_lowercase();
        (name.into(), field.value.clone())
    }));
    if let Some(BodyLength::Known(length)) = length {
        list.push(named(LENGTH, length.to_string().into()));
    }
    list
}
