//! What `envoy_on_request` and `envoy_on_response` are called with.

use std::{
    rc::Rc,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use ithildin_lua::{Call, Failure, Method, Object, Reply, Value};
use tracing::Level;

use super::{
    buffer::Buffer,
    call::{fields, http_call},
    header_map::{HeaderMap, Of, field, status},
    metadata::Configured,
    run::{shaped, write},
    scene::{Scene, Shape, Wish},
    stream_info::{Client, ConnectionInfo, StreamInfo},
};
use crate::{
    access_log::ResponseFlags,
    http::{failure::LocalReply, headers::is_of_connection},
};

pub(super) struct StreamHandle(pub(super) Rc<Scene>);

type Stream<'c> = Call<'c, StreamHandle>;

impl Object for StreamHandle {
    const METHODS: &'static [(&'static str, Method<Self>)] = &[
        ("headers", |call| {
            let of = match call.this().0.facts()?.is_response {
                true => Of::Response,
                false => Of::Request,
            };
            headers(call, of)
        }),
        ("requestHeaders", |call| headers(call, Of::Request)),
        ("respond", respond),
        ("body", |call| {
            let always = matches!(call.argument(1), Value::Boolean(true));
            match call.this().0.has_body() {
                false => scene(call)?.wishes(Wish::Body(Shape::Whole(always))),
                true => call.object(Buffer(scene(call)?)),
            }
        }),
        ("bodyChunks", |call| read(call, Shape::Chunks)),
        ("trailers", |call| read(call, Shape::Trailers)),
        ("httpCall", http_call),
        ("metadata", |call| {
            call.object(Configured::Route(scene(call)?))
        }),
        ("streamInfo", |call| call.object(StreamInfo(scene(call)?))),
        ("connection", |call| call.object(Client(scene(call)?))),
        ("connectionStreamInfo", |call| call.object(ConnectionInfo)),
        ("filterContext", |call| {
            call.object(Configured::Context(scene(call)?))
        }),
        ("clearRouteCache", |call| {
            scene(call)?.effects.clears_route.set(true);
            Ok(Reply::nothing())
        }),
        ("logTrace", |call| log(call, Level::TRACE)),
        ("logDebug", |call| log(call, Level::DEBUG)),
        ("logInfo", |call| log(call, Level::INFO)),
        ("logWarn", |call| log(call, Level::WARN)),
        ("logErr", |call| log(call, Level::ERROR)),
        ("logCritical", |call| log(call, Level::ERROR)),
        ("base64Escape", |call| {
            call.text(STANDARD.encode(&*call.string(1)?.as_bytes()))
        }),
        ("base64Decode", |call| {
            match STANDARD.decode(&*call.string(1)?.as_bytes()) {
                Ok(bytes) => call.text(bytes),
                Err(_) => Ok(Reply::nothing()),
            }
        }),
        ("timestamp", |call| {
            if !matches!(call.argument(1), Value::Nil)
                && *call.string(1)?.as_bytes() != *b"MILLISECOND"
            {
                return Err("timestamp format must be MILLISECOND.".into());
            }
            let milliseconds = since_1970().as_millis();
            Ok(Reply::value(Value::Number(milliseconds as f64)))
        }),
        ("timestampString", timestamp_text),
        ("importPublicKey", |call| Err(call.unsupported())),
        ("verifySignature", |call| Err(call.unsupported())),
        ("setUpstreamOverrideHost", |call| Err(call.unsupported())),
        ("stats", |call| Err(call.unsupported())),
        ("route", |call| Err(call.unsupported())),
        ("virtualHost", |call| Err(call.unsupported())),
    ];
}

/// While its script runs.
fn scene(call: &Stream<'_>) -> Result<Rc<Scene>, Failure> {
    let scene = &call.this().0;
    drop(scene.messages()?);
    Ok(Rc::clone(scene))
}

fn headers(call: &Stream<'_>, of: Of) -> Result<Reply, Failure> {
    call.object(HeaderMap::new(&scene(call)?, of))
}

fn read(call: &Stream<'_>, shape: Shape) -> Result<Reply, Failure> {
    let scene = scene(call)?;
    if !scene.has_body() {
        return scene.wishes(Wish::Body(shape));
    }
    let has_trailers = !scene.messages()?.trailers.is_empty();
    shaped(call.lua, &scene, shape, has_trailers).map(Reply::Values)
}

fn respond(call: &Stream<'_>) -> Result<Reply, Failure> {
    let scene = scene(call)?;
    if scene.facts()?.is_response {
        return Err("respond not currently supported in the response path".into());
    }
    let fields = fields(call.table(1)?)?;
    let body = match call.argument(2) {
        Value::Nil => Bytes::new(),
        _ => Bytes::copy_from_slice(&call.string(2)?.as_bytes()),
    };
    let told = fields.iter().find(|(name, _)| name == ":status");
    let status = told.and_then(|(_, value)| status(value));
    let status = status.ok_or(":status must be between 200-599")?;
    let mut reply = LocalReply::new(status, "", ResponseFlags::NONE, "lua_response");
    reply.body = body;
    for (name, value) in fields.iter().filter(|(name, _)| name != ":status") {
        let (name, value) = field(name, value)?;
        let describes_nothing = reply.body.is_empty() && name == http::header::CONTENT_TYPE;
        if !is_of_connection(&name) && !describes_nothing {
            reply.headers.push((name, value));
        }
    }
    scene.wishes(Wish::Reply(Box::new(reply)))
}

fn log(call: &Stream<'_>, level: Level) -> Result<Reply, Failure> {
    let text = call.string(1)?;
    let text = text.as_bytes();
    let text = String::from_utf8_lossy(&text);
    write(&call.this().0.facts()?.worker.scripts.log, level, &text);
    Ok(Reply::nothing())
}

fn timestamp_text(call: &Stream<'_>) -> Result<Reply, Failure> {
    let since = since_1970();
    let unit = match call.argument(1) {
        Value::Nil => return call.text(since.as_millis().to_string()),
        _ => call.string(1)?,
    };
    match &*unit.as_bytes() {
        b"MILLISECOND" => call.text(since.as_millis().to_string()),
        b"MICROSECOND" => call.text(since.as_micros().to_string()),
        _ => Err("timestamp format must be MILLISECOND or MICROSECOND.".into()),
    }
}

fn since_1970() -> std::time::Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
