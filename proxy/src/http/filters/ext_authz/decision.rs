//! What a service's answer means. Names and values are checked here: what could not be sent makes the
//! whole answer invalid.

// Deprecated fields are still in answers.
#![allow(deprecated)]

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method,
    uri::{Authority, PathAndQuery},
};
use ithildin_proto::{
    json,
    pb::{
        envoy::{
            config::core::v3::{
                HeaderValueOption, QueryParameter, header_value_option::HeaderAppendAction,
            },
            service::auth::v3::{
                CheckResponse, DeniedHttpResponse, OkHttpResponse, check_response::HttpResponse,
            },
        },
        google::protobuf::Struct,
    },
};
use serde_json::{Map, Value};

use crate::{
    config::{
        ext_authz::{HttpService, NameMatches},
        route::AppendAction,
    },
    ext_authz::is_ok,
    http::{call::Answer, headers::is_of_connection},
};

/// Names headers that are taken from the request, in an answer of plain HTTP.
const TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";

/// Headers of a denial that the client gets with any list of others.
const ALWAYS: &[&str] = &["www-authenticate", "location"];

/// A decision, and what is left for those behind, whatever it is.
#[derive(Debug)]
pub(super) struct Judgement {
    pub(super) decision: Decision,
    pub(super) metadata: Map<String, Value>,
}

impl From<Decision> for Judgement {
    fn from(decision: Decision) -> Self {
        Self {
            decision,
            metadata: Map::new(),
        }
    }
}

#[derive(Debug)]
pub(super) enum Decision {
    Allowed(Box<Allowance>),
    Denied(Box<Denial>),
    /// It has a header, or a parameter, that could not be sent.
    Invalid,
    /// There is no decision; the service may have said with what the client is answered.
    Error(Option<Box<Denial>>),
}

/// What changes in a request that may pass.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    pub(super) headers: Vec<(Change, Target, Bytes)>,
    pub(super) remove: Vec<HeaderName>,
    pub(super) parameters: Vec<(String, String)>,
    pub(super) remove_parameters: Vec<String>,
    pub(super) response: ResponseHeaders,
}

impl Allowance {
    pub(super) fn changes_request(&self) -> bool {
        let unchanged = self.headers.is_empty()
            && self.remove.is_empty()
            && self.parameters.is_empty()
            && self.remove_parameters.is_empty();
        !unchanged
    }
}

/// What the response of a request that passed gets.
#[derive(Debug, Default)]
pub(in crate::http) struct ResponseHeaders(pub(super) Vec<(AppendAction, HeaderName, Bytes)>);

/// With what the client is answered.
#[derive(Debug, Default)]
pub(super) struct Denial {
    pub(super) status: Option<u16>,
    pub(super) headers: Vec<(HeaderName, Bytes)>,
    pub(super) body: Bytes,
}

/// What becomes of a header of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Set,
    /// Behind its values, as a header of its own.
    Add,
    /// Behind its values in one list, where there are any.
    AppendIfThere,
}

/// A header of a request, or what stands for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Method,
    Authority,
    Path,
    Header(HeaderName),
}

pub(super) fn of_grpc(mut answer: CheckResponse) -> Judgement {
    let allowed = is_ok(&answer);
    if let Some(HttpResponse::OkResponse(ok)) = &mut answer.http_response
        && let Some(inner) = ok.dynamic_metadata.take()
    {
        answer.dynamic_metadata = Some(inner);
    }
    let said = match (allowed, answer.http_response) {
        (_, Some(HttpResponse::ErrorResponse(error))) => {
            denial(error).map(|it| Decision::Error(Some(it.into())))
        }
        (true, Some(HttpResponse::OkResponse(ok))) => {
            allowance(ok).map(|it| Decision::Allowed(it.into()))
        }
        (true, _) => Some(Decision::Allowed(Box::default())),
        (false, Some(HttpResponse::DeniedResponse(denied))) => {
            denial(denied).map(|it| Decision::Denied(it.into()))
        }
        (false, _) => Some(Decision::Denied(Box::default())),
    };
    Judgement {
        decision: said.unwrap_or(Decision::Invalid),
        metadata: object(answer.dynamic_metadata),
    }
}

pub(super) fn of_http(service: &HttpService, answer: Answer) -> Judgement {
    let metadata = metadata_of(&service.metadata_headers, &answer);
    let decision = match answer.status {
        200 => Decision::Allowed(allowed_plainly(service, &answer).into()),
        500..600 => return Decision::Error(None).into(),
        _ => Decision::Denied(denied_plainly(service, answer).into()),
    };
    Judgement { decision, metadata }
}

fn denied_plainly(service: &HttpService, answer: Answer) -> Denial {
    let told = |name: &str| match &service.client_headers {
        None => true,
        Some(list) => ALWAYS.contains(&name) || list.admit(name),
    };
    let headers = answer.headers.iter().filter_map(|it| {
        let name = HeaderName::from_bytes(it.name.as_bytes()).ok()?;
        told(name.as_str()).then(|| (name, it.value.clone()))
    });
    Denial {
        status: Some(answer.status),
        headers: headers.collect(),
        body: answer.body,
    }
}

fn allowed_plainly(service: &HttpService, answer: &Answer) -> Allowance {
    let mut allowance = Allowance::default();
    for field in answer.headers.iter() {
        let Ok(name) = HeaderName::from_bytes(field.name.as_bytes()) else {
            continue;
        };
        let value = &field.value;
        let mut change = |list: &NameMatches, change| {
            if list.admit(name.as_str()) {
                let target = Target::Header(name.clone());
                allowance.headers.push((change, target, value.clone()));
            }
        };
        change(&service.upstream_headers, Change::Set);
        change(&service.upstream_headers_to_append, Change::Add);
        if service.client_headers_on_success.admit(name.as_str()) {
            let add = (AppendAction::AppendOrAdd, name.clone(), value.clone());
            allowance.response.0.push(add);
        }
        if name == TO_REMOVE {
            let names = value.split(|byte| *byte == b',');
            let names = names.filter_map(|it| HeaderName::from_bytes(it.trim_ascii()).ok());
            allowance.remove.extend(names);
        }
    }
    allowance
}

fn metadata_of(wanted: &NameMatches, answer: &Answer) -> Map<String, Value> {
    let headers = answer.headers.iter().map(|field| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            text(field.name.as_bytes()),
            Value::String(text(&field.value)),
        )
    });
    headers.filter(|(name, _)| wanted.admit(name)).collect()
}

fn allowance(ok: OkHttpResponse) -> Option<Allowance> {
    let mut allowance = Allowance::default();
    for option in &ok.headers {
        let (name, value) = key_and_value(option)?;
        let change = match option.append.is_some_and(|it| it.value) {
            true => Change::AppendIfThere,
            false => Change::Set,
        };
        let target = target(name, &value)?;
        if !matches!(&target, Target::Header(name) if is_of_connection(name)) {
            allowance.headers.push((change, target, value));
        }
    }
    // What is no header is on no request.
    let remove = ok.headers_to_remove.iter();
    allowance.remove = remove
        .filter_map(|it| HeaderName::try_from(it).ok())
        .collect();
    for option in &ok.response_headers_to_add {
        let (name, value) = key_and_value(option)?;
        let name = HeaderName::try_from(name).ok()?;
        if !is_of_connection(&name) {
            let action = response_action(option)?;
            allowance.response.0.push((action, name, value));
        }
    }
    for QueryParameter { key, value } in ok.query_parameters_to_set {
        let is_clean = is_query(&key) && is_query(&value) && !key.contains('=');
        allowance.parameters.push(is_clean.then_some((key, value))?);
    }
    allowance.remove_parameters = ok.query_parameters_to_remove;
    Some(allowance)
}

fn denial(denied: DeniedHttpResponse) -> Option<Denial> {
    let status = denied.status.map(|it| it.code).filter(|it| *it != 0);
    let status = match status {
        // What is no status of a whole response would not end one.
        Some(code) => Some(
            u16::try_from(code)
                .ok()
                .filter(|it| (200..600).contains(it))?,
        ),
        None => None,
    };
    let mut headers = Vec::new();
    for option in &denied.headers {
        let (name, value) = key_and_value(option)?;
        let name = HeaderName::try_from(name).ok()?;
        // As in Envoy, nothing is appended to an answer of our own.
        let appends = option.append.is_some_and(|it| it.value);
        if !appends && !is_of_connection(&name) {
            headers.push((name, value));
        }
    }
    Some(Denial {
        status,
        headers,
        body: denied.body.into(),
    })
}

/// A header's name as the service wrote it, and its value, which can be sent.
fn key_and_value(option: &HeaderValueOption) -> Option<(&str, Bytes)> {
    let header = option.header.as_ref()?;
    HeaderValue::from_str(&header.value).ok()?;
    Some((&header.key, Bytes::copy_from_slice(header.value.as_bytes())))
}

fn target(name: &str, value: &Bytes) -> Option<Target> {
    match name.to_ascii_lowercase().as_str() {
        ":method" => Method::from_bytes(value).ok().map(|_| Target::Method),
        ":authority" | "host" => Authority::try_from(&value[..])
            .ok()
            .map(|_| Target::Authority),
        ":path" => {
            let is_path = value.first() == Some(&b'/') && !value.contains(&b'#');
            let path = PathAndQuery::try_from(&value[..]).ok().filter(|_| is_path);
            path.map(|_| Target::Path)
        }
        name => HeaderName::try_from(name).ok().map(Target::Header),
    }
}

fn response_action(option: &HeaderValueOption) -> Option<AppendAction> {
    if let Some(append) = &option.append {
        return Some(match append.value {
            true => AppendAction::AppendOrAdd,
            false => AppendAction::OverwriteOrAdd,
        });
    }
    Some(
        match HeaderAppendAction::try_from(option.append_action).ok()? {
            HeaderAppendAction::AppendIfExistsOrAdd => AppendAction::AppendOrAdd,
            HeaderAppendAction::AddIfAbsent => AppendAction::AddIfAbsent,
            HeaderAppendAction::OverwriteIfExistsOrAdd => AppendAction::OverwriteOrAdd,
            HeaderAppendAction::OverwriteIfExists => AppendAction::OverwriteIfExists,
        },
    )
}

/// Whether it can stand in a query, between `&`.
fn is_query(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'&' | b'#');
    text.bytes().all(is_part)
}

fn object(fields: Option<Struct>) -> Map<String, Value> {
    let fields = fields.unwrap_or_default().fields.into_iter();
    fields.map(|(name, value)| (name, json(value))).collect()
}
