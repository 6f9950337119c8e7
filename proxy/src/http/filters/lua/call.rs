//! `httpCall`: what a script asks of another service, and what it gets for an answer.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, uri};
use ithildin_http1::Known;
use ithildin_lua::{Call, Failure, Lua, MultiValue, Reply, Value};

use super::{
    handle::StreamHandle,
    header_map::{field, room},
    scene::{Facts, Wish},
};
use crate::http::{
    ask::{AskError, ask},
    call::{Answer, CallError},
    failure::LocalReply,
    headers::{Headers, is_of_connection},
    request::{BodyLength, Protocol, Request},
};
use crate::worker::{Share, Worker};

/// Calls of one run; a script that asks for ever would hold its request for ever.
const MAX_CALLS: usize = 64;

/// Of a call whose answer nobody waits for.
const LONGEST: Duration = Duration::from_secs(60);

/// A request of a script's.
pub(super) struct Question {
    cluster: String,
    request: Request,
    body: Bytes,
    _share: Share,
    limit: Option<Duration>,
    /// Whether the answer has all values of a header, and not the last one.
    all_values: bool,
    /// Whether the script goes on without the answer.
    pub(super) detached: bool,
}

/// What is set beside the request itself.
struct Options {
    limit: Option<Duration>,
    all_values: bool,
    detached: bool,
    tells_address: bool,
}

/// `httpCall(cluster, headers, body, timeout or options, asynchronous)`.
pub(super) fn http_call(call: &Call<'_, StreamHandle>) -> Result<Reply, Failure> {
    let scene = &call.this().0;
    let facts = scene.facts()?;
    let cluster = call.string(1)?.to_string_lossy();
    if !facts.worker.snapshot().clusters.contains_key(&*cluster) {
        return Err("http call cluster invalid. Must be configured".into());
    }
    let calls = &scene.effects.calls;
    calls.set(calls.get() + 1);
    if calls.get() > MAX_CALLS {
        return scene.gives_up();
    }
    let body = match call.argument(3) {
        Value::Nil => Bytes::new(),
        _ => Bytes::copy_from_slice(&call.string(3)?.as_bytes()),
    };
    let Some(share) = facts.worker.asked.take(body.len()) else {
        return scene.gives_up();
    };
    let options = options(call)?;
    let question = Question {
        cluster,
        request: request(call, &facts, &options, &body)?,
        body,
        _share: share,
        limit: match options.detached {
            true => options.limit.or(Some(LONGEST)),
            false => options.limit,
        },
        all_values: options.all_values,
        detached: options.detached,
    };
    scene.wishes(Wish::Call(Box::new(question)))
}

fn options(call: &Call<'_, StreamHandle>) -> Result<Options, Failure> {
    let limit = |milliseconds: i64| match u64::try_from(milliseconds) {
        Err(_) => Err(Failure::new("http call timeout must be >= 0")),
        Ok(0) => Ok(None),
        Ok(milliseconds) => Ok(Some(Duration::from_millis(milliseconds))),
    };
    let mut options = Options {
        limit: None,
        all_values: false,
        detached: false,
        tells_address: true,
    };
    let Value::Table(table) = call.argument(4) else {
        options.limit = limit(call.integer(4)?)?;
        options.detached = matches!(call.argument(5), Value::Boolean(true));
        return Ok(options);
    };
    for pair in table.pairs::<String, Value>() {
        let (name, value) = pair?;
        match (&*name, &value) {
            ("timeout_ms", value) => {
                let number = call.lua.coerce_number(value.clone())?;
                let number = number.ok_or("timeout_ms is no number")?;
                options.limit = limit(number as i64)?;
            }
            ("asynchronous", Value::Boolean(value)) => options.detached = *value,
            ("return_duplicate_headers", Value::Boolean(value)) => options.all_values = *value,
            ("send_xff", Value::Boolean(value)) => options.tells_address = *value,
            ("trace_sampled", _) => {}
            (name, _) => return Err(Failure(format!("\"{name}\" is not a supported option"))),
        }
    }
    Ok(options)
}

fn request(
    call: &Call<'_, StreamHandle>,
    facts: &Facts,
    options: &Options,
    body: &Bytes,
) -> Result<Request, Failure> {
    let mut headers = Headers::default();
    let (mut method, mut path, mut authority, mut scheme) = (None, None, None, "http");
    for (name, value) in fields(call.table(2)?)? {
        let text = std::str::from_utf8(&value);
        let text = text.map_err(|_| Failure(format!("invalid value of {name}")));
        match &*name {
            ":method" => method = Method::from_bytes(&value).ok().map(|_| value),
            ":path" => {
                let parsed = uri::PathAndQuery::try_from(text?).ok();
                path = parsed
                    .filter(|it| it.path().starts_with('/'))
                    .map(|_| value);
            }
            ":authority" | "host" => {
                authority = uri::Authority::try_from(text?).ok().map(|_| value);
            }
            ":scheme" if value == "https" => scheme = "https",
            ":scheme" => {}
            name => {
                let (name, value) = field(name, &value)?;
                if !is_of_connection(&name) {
                    headers.append(name, value);
                }
            }
        }
    }
    let (Some(method), Some(path), Some(authority)) = (method, path, authority) else {
        return Err("http call headers must include ':path', ':method', and ':authority'".into());
    };
    if method == "CONNECT" {
        return Err("a CONNECT cannot be sent".into());
    }
    headers.set(Known::XEnvoy, "x-envoy-internal", "true");
    if options.tells_address {
        let address = facts.connection.local.ip().to_string();
        headers.set(Known::XForwardedFor, "x-forwarded-for", address);
    }
    if let Some(limit) = options.limit {
        let limit = limit.as_millis().to_string();
        headers.set(Known::XEnvoy, "x-envoy-expected-rq-timeout-ms", limit);
    }
    Ok(Request {
        method,
        scheme: Some(scheme),
        authority,
        path,
        headers,
        body: match body.len() {
            0 => BodyLength::Empty,
            length => BodyLength::Known(length as u64),
        },
        upgrade: None,
        protocol: Protocol::Http11,
        metadata: None,
    })
}

/// The fields of a table: each value is a text, or a list of them.
pub(super) fn fields(table: &ithildin_lua::Table) -> Result<Vec<(String, Bytes)>, Failure> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(Bytes::copy_from_slice(&text.as_bytes())),
        Value::Integer(number) => Ok(number.to_string().into()),
        Value::Number(number) => Ok(number.to_string().into()),
        _ => Err(Failure::new("a header's value is no text")),
    };
    let mut fields: Vec<(String, Bytes)> = Vec::new();
    let add = |fields: &mut Vec<_>, name: String, value: Bytes| {
        let size = |(name, value): &(String, Bytes)| name.len() + value.len();
        room(fields.iter().map(size), name.len() + value.len())?;
        fields.push((name, value));
        Ok::<_, Failure>(())
    };
    for pair in table.pairs::<String, Value>() {
        let (name, value) = pair?;
        let name = name.to_ascii_lowercase();
        match value {
            Value::Table(values) => {
                for value in values.sequence_values::<Value>() {
                    add(&mut fields, name.clone(), text(&value?)?)?;
                }
            }
            value => add(&mut fields, name, text(&value)?)?,
        }
    }
    Ok(fields)
}

impl Question {
    /// Asks, and makes what the script gets: headers and a body, also where there is no answer.
    pub(super) async fn answer(&self, worker: &Worker) -> Answer {
        let asked = Instant::now();
        let asking = ask(worker, &self.cluster, self.limit, &self.request, &self.body);
        match asking.await {
            Ok(mut answer) => {
                let time = asked.elapsed().as_millis().to_string();
                let name = "x-envoy-upstream-service-time";
                answer.headers.set(Known::XEnvoy, name, time);
                answer
            }
            Err(error) => in_place_of_answer(&error),
        }
    }

    /// What the script gets.
    pub(super) fn results(&self, lua: &Lua, answer: &Answer) -> Result<MultiValue, Failure> {
        let table = lua.create_table()?;
        table.raw_set(":status", answer.status.to_string())?;
        for field in answer.headers.iter() {
            let name = lua.create_string(field.name.as_bytes().to_ascii_lowercase())?;
            let value = lua.create_string(&field.value)?;
            match table.raw_get::<Value>(&name)? {
                Value::String(first) if self.all_values => {
                    table.raw_set(name, lua.create_sequence_from([first, value])?)?;
                }
                Value::Table(values) if self.all_values => values.raw_push(value)?,
                _ => table.raw_set(name, value)?,
            }
        }
        table.raw_set("content-length", answer.body.len().to_string())?;
        let body = Value::String(lua.create_string(&answer.body)?);
        Ok(MultiValue::from_iter([Value::Table(table), body]))
    }
}

/// As of an upstream that does not answer.
fn in_place_of_answer(error: &AskError) -> Answer {
    let reply = match error {
        AskError::Slow => LocalReply::timeout(),
        AskError::NoCluster => LocalReply::no_cluster(503),
        AskError::Call(CallError::Unavailable(failure)) => LocalReply::unavailable(failure),
        _ => LocalReply::upstream_closed(None),
    };
    let mut headers = Headers::default();
    headers.push(Known::ContentType, "content-type", "text/plain");
    Answer {
        status: reply.status,
        headers,
        body: reply.body,
        trailers: Headers::default(),
        from: None,
    }
}
