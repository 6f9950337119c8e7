//! Who is told of spans: by OTLP over HTTP and gRPC, and by Zipkin's JSON. What was told is kept, in one form.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use ithildin_proto::{
    opentelemetry::spans::{ExportTraceServiceRequest, Span as OtlpSpan, span::Kind},
    pb::opentelemetry::proto::common::v1::{KeyValue, any_value::Value as Any},
};
use parking_lot::Mutex;
use prost::Message;
use serde_json::Value;

use crate::support::{read_head, server};

/// A span as either protocol tells it.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// What tells of who sent it.
    pub(crate) resource: BTreeMap<String, String>,
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) state: String,
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) tags: BTreeMap<String, String>,
    /// Whether it is an error, or shared with the client.
    pub(crate) mark: String,
    /// Nanoseconds.
    pub(crate) started: u64,
    pub(crate) took: u64,
}

/// What collectors were told.
#[derive(Clone, Default)]
pub(crate) struct Told {
    spans: Arc<Mutex<Vec<Span>>>,
    /// Heads of HTTP/1 reports.
    pub(crate) heads: Arc<Mutex<Vec<String>>>,
}

impl Told {
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.spans.lock().clone()
    }

    /// All spans, once there are `count`.
    pub(crate) async fn wait(&self, count: usize) -> Vec<Span> {
        for _ in 0..3000 {
            if self.spans.lock().len() >= count {
                return self.spans();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{count} spans were expected: {:#?}", self.spans());
    }

    /// Over HTTP/1, in either protocol.
    pub(crate) fn over_http(&self) -> SocketAddr {
        let told = self.clone();
        server(move |mut stream| while told.take_report(&mut stream).is_some() {})
    }

    fn take_report(&self, stream: &mut TcpStream) -> Option<()> {
        let head = read_head(stream);
        if head.is_empty() {
            return None;
        }
        let body = read_body(&head, stream)?;
        let status = match head.starts_with("POST /api/v2/spans ") {
            true => {
                let host = head.lines().find_map(|line| line.strip_prefix("host: "));
                self.take_zipkin(&body, host.unwrap_or_default());
                202
            }
            false => {
                self.take_otlp(&body);
                200
            }
        };
        self.heads.lock().push(head);
        let answer = format!("HTTP/1.1 {status} OK\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).ok()
    }

    /// Over gRPC.
    pub(crate) async fn over_grpc(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let told = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(told.clone().serve_grpc(stream));
            }
        });
        address
    }

    async fn serve_grpc(self, stream: tokio::net::TcpStream) {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
            assert_eq!(request.uri().path(), path);
            let told = self.clone();
            tokio::spawn(async move {
                let mut body = Vec::new();
                let mut stream = request.into_body();
                while let Some(Ok(data)) = stream.data().await {
                    let _ = stream.flow_control().release_capacity(data.len());
                    body.extend_from_slice(&data);
                }
                // What has no message tells of none.
                told.take_otlp(body.get(5..).unwrap_or_default());
                let answer = http::Response::builder()
                    .header("content-type", "application/grpc")
                    .body(())
                    .unwrap();
                let mut send = respond.send_response(answer, false).unwrap();
                // A message of no fields.
                send.send_data(Bytes::from_static(&[0; 5]), false).unwrap();
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                send.send_trailers(trailers).unwrap();
            });
        }
    }

    fn take_otlp(&self, body: &[u8]) {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        for group in request.resource_spans {
            let resource = texts(group.resource.unwrap_or_default().attributes);
            for span in group.scope_spans.into_iter().flat_map(|it| it.spans) {
                self.spans.lock().push(of_otlp(span, resource.clone()));
            }
        }
    }

    /// The host tells which of the listeners reports.
    fn take_zipkin(&self, body: &[u8], host: &str) {
        let spans: Vec<Value> = serde_json::from_slice(body).unwrap();
        let spans = spans.iter().map(|span| of_zipkin(span, host));
        self.spans.lock().extend(spans);
    }
}

fn read_body(head: &str, stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    let mut exactly = |length: usize| {
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).ok()?;
        Some(bytes)
    };
    if let Some((_, length)) = lines.find(|(name, _)| *name == "content-length") {
        return exactly(length.parse().unwrap());
    }
    let mut body = Vec::new();
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(exactly(1)?);
        }
        let line = String::from_utf8(line).unwrap();
        let length = usize::from_str_radix(line.trim(), 16).unwrap();
        body.extend(exactly(length)?);
        exactly(2)?;
        if length == 0 {
            return Some(body);
        }
    }
}

fn of_otlp(span: OtlpSpan, resource: BTreeMap<String, String>) -> Span {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Span {
        resource,
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        kind: format!("{:?}", Kind::try_from(span.kind).unwrap()).to_uppercase(),
        mark: format!(
            "{:?} {:x}",
            span.status.unwrap_or_default().code(),
            span.flags
        ),
        state: span.trace_state,
        name: span.name,
        tags: texts(span.attributes),
        started: span.start_time_unix_nano,
        took: span.end_time_unix_nano - span.start_time_unix_nano,
    }
}

fn of_zipkin(span: &Value, host: &str) -> Span {
    let text = |key: &str| span[key].as_str().unwrap_or_default().to_owned();
    let tags = span["tags"].as_object().into_iter().flatten();
    let tag = |(key, value): (&String, &Value)| (key.clone(), value.as_str().unwrap().to_owned());
    let endpoint: BTreeMap<String, Value> =
        serde_json::from_value(span["localEndpoint"].clone()).unwrap();
    let endpoint = format!("{endpoint:?}");
    Span {
        resource: [("service.name", host), ("endpoint", &endpoint)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        trace: text("traceId"),
        id: text("id"),
        parent: text("parentId"),
        state: String::new(),
        name: text("name"),
        kind: text("kind"),
        tags: tags.map(tag).collect(),
        mark: format!(
            "shared: {}, {}",
            span["shared"], span["annotations"][0]["value"]
        ),
        started: span["timestamp"].as_u64().unwrap() * 1000,
        took: span["duration"].as_u64().unwrap_or_default() * 1000,
    }
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |it: KeyValue| {
        let value = it.value.and_then(|value| value.value);
        let Some(Any::StringValue(text)) = value else {
            panic!("{} is no text", it.key);
        };
        (it.key, text)
    };
    attributes.into_iter().map(text).collect()
}
