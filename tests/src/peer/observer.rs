//! Who is told of requests: a service of Envoy's access logs, of OpenTelemetry's logs and spans, and of Zipkin's spans.
//!
//! All are taken at one address, over HTTP/1 or HTTP/2. `GET /told` answers with what came, in order: objects of
//! JSON, each with its `kind`.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use ithildin_proto::{
    opentelemetry::{logs::ExportLogsServiceRequest, spans::ExportTraceServiceRequest},
    pb::{
        envoy::{
            data::accesslog::v3::{AccessLogCommon, HttpAccessLogEntry, TcpAccessLogEntry},
            service::accesslog::v3::{
                StreamAccessLogsMessage,
                stream_access_logs_message::{Identifier, LogEntries},
            },
        },
        opentelemetry::proto::common::v1::{AnyValue, KeyValue, any_value},
    },
};
use parking_lot::Mutex;
use prost::Message;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

const ACCESS_LOGS: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";
const LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
const SPANS: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const ZIPKIN: &str = "/api/v2/spans";

/// Before each message of gRPC: whether it is compressed, and its length.
const PREFIX: usize = 5;

type Body = BoxBody<Bytes, Infallible>;

/// Serves to its end.
pub async fn run(on: SocketAddr) -> anyhow::Result<()> {
    let observer = Observer::default();
    let listener = TcpListener::bind(on).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let observer = observer.clone();
        let service = service_fn(move |request| {
            let observer = observer.clone();
            async move { Ok::<_, Infallible>(observer.answer(request).await) }
        });
        tokio::spawn(async move {
            // A proxy may close whenever it likes.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

#[derive(Clone, Debug, Default)]
struct Observer {
    told: Arc<Mutex<Vec<Value>>>,
}

impl Observer {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let understood = match head.uri.path() {
            "/told" => {
                let told = Value::from(self.told.lock().clone());
                return Response::new(Full::from(told.to_string()).boxed());
            }
            ZIPKIN => self.zipkin(body).await,
            ACCESS_LOGS => self.messages(body, access_logs()).await,
            LOGS => self.messages(body, logs).await,
            SPANS => self.messages(body, spans).await,
            _ => None,
        };
        let is_grpc = head.headers.contains_key("te");
        match understood {
            Some(()) if is_grpc => done(),
            Some(()) => status(StatusCode::ACCEPTED),
            None => status(StatusCode::BAD_REQUEST),
        }
    }

    async fn zipkin(&self, body: Incoming) -> Option<()> {
        let body = body.collect().await.ok()?.to_bytes();
        let spans: Vec<Value> = serde_json::from_slice(&body).ok()?;
        let spans = spans.into_iter();
        let told = spans.map(|span| json!({"kind": "zipkin", "span": span}));
        self.told.lock().extend(told);
        Some(())
    }

    /// Takes messages as they come: a stream of access logs may never end.
    async fn messages<M: Message + Default>(
        &self,
        mut body: Incoming,
        mut read: impl FnMut(M) -> Vec<Value>,
    ) -> Option<()> {
        let mut buffer = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.ok()?.into_data() else {
                continue;
            };
            buffer.extend_from_slice(&data);
            while let Some((prefix, rest)) = buffer.split_first_chunk::<PREFIX>() {
                let [_, length @ ..] = *prefix;
                let length = u32::from_be_bytes(length) as usize;
                if rest.len() < length {
                    break;
                }
                buffer.advance(PREFIX);
                let message = M::decode(buffer.split_to(length)).ok()?;
                self.told.lock().extend(read(message));
            }
        }
        Some(())
    }
}

/// Only the first message of a stream says who speaks.
fn access_logs() -> impl FnMut(StreamAccessLogsMessage) -> Vec<Value> {
    let mut said = Identifier::default();
    move |message| {
        if let Some(identifier) = message.identifier {
            said = identifier;
        }
        let entries = match message.log_entries {
            Some(LogEntries::HttpLogs(logs)) => logs.log_entry.iter().map(of_request).collect(),
            Some(LogEntries::TcpLogs(logs)) => logs.log_entry.iter().map(of_session).collect(),
            None => Vec::new(),
        };
        let node = said.node.as_ref().map(|node| node.id.clone());
        let of_all = [("node", json!(node)), ("log", json!(said.log_name))];
        entries
            .into_iter()
            .map(|entry: Value| with(entry, of_all.clone()))
            .collect()
    }
}

fn of_request(entry: &HttpAccessLogEntry) -> Value {
    let request = entry.request.clone().unwrap_or_default();
    let response = entry.response.clone().unwrap_or_default();
    let code = response.response_code.map(|code| code.value);
    let of_request = [
        ("kind", json!("http")),
        ("method", json!(request.request_method().as_str_name())),
        ("path", json!(request.path)),
        ("authority", json!(request.authority)),
        ("headers", json!(request.request_headers)),
        ("code", json!(code)),
        ("details", json!(response.response_code_details)),
    ];
    with(common(entry.common_properties.as_ref()), of_request)
}

fn of_session(entry: &TcpAccessLogEntry) -> Value {
    let bytes = entry.connection_properties.unwrap_or_default();
    let of_session = [
        ("kind", json!("tcp")),
        ("received", json!(bytes.received_bytes)),
        ("sent", json!(bytes.sent_bytes)),
    ];
    with(common(entry.common_properties.as_ref()), of_session)
}

fn common(common: Option<&AccessLogCommon>) -> Value {
    let common = common.cloned().unwrap_or_default();
    let tls = common.tls_properties.unwrap_or_default();
    let certificate = tls.peer_certificate_properties.unwrap_or_default();
    let names = certificate.subject_alt_name.into_iter();
    let names: Vec<_> = names.filter_map(|name| name.san).collect();
    let state = common.filter_state_objects.keys();
    json!({
        "cluster": common.upstream_cluster,
        "route": common.route_name,
        "peer": format!("{names:?}"),
        "state": state.collect::<Vec<_>>(),
    })
}

fn logs(request: ExportLogsServiceRequest) -> Vec<Value> {
    let mut told = Vec::new();
    for of_resource in request.resource_logs {
        let resource = attributes(&of_resource.resource.unwrap_or_default().attributes);
        for record in of_resource.scope_logs.iter().flat_map(|it| &it.log_records) {
            told.push(json!({
                "kind": "log",
                "resource": resource,
                "trace": hex(&record.trace_id),
                "body": record.body.as_ref().map(value),
                "attributes": attributes(&record.attributes),
            }));
        }
    }
    told
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Value> {
    let mut told = Vec::new();
    for of_resource in request.resource_spans {
        let resource = attributes(&of_resource.resource.unwrap_or_default().attributes);
        for span in of_resource.scope_spans.iter().flat_map(|it| &it.spans) {
            told.push(json!({
                "kind": "span",
                "resource": resource,
                "name": span.name,
                "trace": hex(&span.trace_id),
                "id": hex(&span.span_id),
                "parent": hex(&span.parent_span_id),
                "role": span.kind,
                "attributes": attributes(&span.attributes),
            }));
        }
    }
    told
}

fn attributes(attributes: &[KeyValue]) -> Map<String, Value> {
    let values = attributes.iter();
    let values = values.map(|it| (it.key.clone(), it.value.as_ref().map_or(Value::Null, value)));
    values.collect()
}

fn value(it: &AnyValue) -> Value {
    match &it.value {
        Some(any_value::Value::StringValue(text)) => json!(text),
        Some(any_value::Value::IntValue(number)) => json!(number),
        Some(any_value::Value::BoolValue(is)) => json!(is),
        other => json!(format!("{other:?}")),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn with<const N: usize>(mut object: Value, fields: [(&str, Value); N]) -> Value {
    for (name, value) in fields {
        object[name] = value;
    }
    object
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::default().boxed());
    *response.status_mut() = status;
    response
}

/// A call that ends well, with an empty message.
fn done() -> Response<Body> {
    let trailers = HeaderMap::from_iter([(
        header::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let frames = [
        Frame::data(Bytes::from_static(&[0; PREFIX])),
        Frame::trailers(trailers),
    ];
    let mut response = Response::new(StreamBody::new(stream::iter(frames.map(Ok))).boxed());
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
