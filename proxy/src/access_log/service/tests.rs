#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, SystemTime};

use ::http::HeaderMap;
use ithildin_proto::{
    opentelemetry::logs::ExportLogsServiceRequest,
    pb::{
        envoy::{
            config::core::v3::Node,
            data::accesslog::v3::HttpAccessLogEntry,
            service::accesslog::v3::{
                StreamAccessLogsMessage,
                stream_access_logs_message::{Identifier, LogEntries},
            },
        },
        google::protobuf::Struct,
        opentelemetry::proto::common::v1::{AnyValue, KeyValue, any_value::Value as ValueProto},
    },
};
use prost::Message;

use super::*;
use crate::{
    access_log::{Protocol, ResponseFlags, Template},
    config::custom_tag::TagValue,
    http::collector::{Fate, Report},
    istio::Workload,
    stats::Registry,
};

fn entry() -> Entry<'static> {
    Entry::new(SystemTime::UNIX_EPOCH + Duration::new(3, 4))
}

fn http_entries() -> HttpEntries {
    HttpEntries {
        common: Common::default(),
        request_headers: vec!["x-many".into(), ":path".into(), "x-none".into()],
        response_headers: vec!["x-many".into()],
        response_trailers: Vec::new(),
    }
}

fn text_of(value: &str) -> AnyValue {
    AnyValue {
        value: Some(ValueProto::StringValue(value.into())),
    }
}

#[test]
fn entries_of_one_batch_are_one_message() {
    let identifier = Identifier {
        node: Some(Node {
            id: "node".into(),
            ..Node::default()
        }),
        log_name: "log".into(),
    };
    let mut items = Vec::new();
    let entries = Entries::Tcp(Common::default());
    entries.append(&entry(), &mut items);
    entries.append(&entry(), &mut items);
    let mut body = Vec::new();
    let stats = Registry::new(1).access_service("a");
    let envelope = Envelope::tcp(&identifier);
    AccessReport { envelope, stats }.write(&items, &mut body);
    let message = StreamAccessLogsMessage::decode(&*body).unwrap();
    assert_eq!(message.identifier, Some(identifier.clone()));
    let Some(LogEntries::TcpLogs(logs)) = message.log_entries else {
        panic!("{message:?}");
    };
    assert_eq!(logs.log_entry.len(), 2);
    let common = logs.log_entry[1].common_properties.as_ref().unwrap();
    let start = common.start_time.unwrap();
    assert_eq!((start.seconds, start.nanos), (3, 4));

    let mut items = Vec::new();
    Entries::Http(http_entries()).append(&entry(), &mut items);
    let mut body = Vec::new();
    Envelope::http(&identifier).write(&items, &mut body);
    let message = StreamAccessLogsMessage::decode(&*body).unwrap();
    assert!(
        matches!(message.log_entries, Some(LogEntries::HttpLogs(logs)) if logs.log_entry.len() == 1)
    );
}

#[test]
fn records_have_the_shape_that_is_configured() {
    let text = |format| Value::Text(Template::parse(format).unwrap());
    let records = Records {
        body: Some(text("%PROTOCOL% %REQ(x)%")),
        attributes: vec![(
            "nest".into(),
            Value::Fields(vec![(
                "list".into(),
                Value::List(vec![text("a"), text("%RESPONSE_CODE%")]),
            )]),
        )],
        peers: vec![(
            "upstream_peer".into(),
            Peer::named("upstream_peer").unwrap(),
        )],
        tags: [CustomTag {
            name: "tag".into(),
            value: TagValue::Text("value".into()),
            default: "".into(),
        }]
        .into(),
    };
    let peer = Workload {
        name: "w".into(),
        ..Workload::default()
    };
    let mut entry = entry();
    entry.protocol = Some(Protocol::Http2);
    entry.response_code = Some(204);
    entry.upstream_peer = Some(&peer);
    let mut items = Vec::new();
    let entries = Entries::OpenTelemetry(records);
    entries.append(&entry, &mut items);
    entries.append(&entry, &mut items);
    let resource = vec![KeyValue {
        key: "of".into(),
        value: Some(text_of("all")),
        ..KeyValue::default()
    }];
    let mut body = Vec::new();
    Envelope::open_telemetry(resource.clone()).write(&items, &mut body);
    let message = ExportLogsServiceRequest::decode(&*body).unwrap();
    let [logs] = &message.resource_logs[..] else {
        panic!("{message:?}");
    };
    assert_eq!(logs.resource.as_ref().unwrap().attributes, resource);
    let records = &logs.scope_logs[0].log_records;
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].time_unix_nano, 3_000_000_004);
    assert_eq!(records[0].body, Some(text_of("HTTP/2 -")));
    let attributes = format!("{:?}", records[0].attributes);
    for part in [
        r#"key: "nest", value: Some(AnyValue { value: Some(KvlistValue("#,
        r#"key: "list", value: Some(AnyValue { value: Some(ArrayValue("#,
        r#"StringValue("a")"#,
        r#"StringValue("204")"#,
        r#"{\"@type\":\"type.googleapis.com/google.protobuf.Struct\",\"value\":{\"workload\":\"w\"}}"#,
        r#"key: "tag", value: Some(AnyValue { value: Some(StringValue("value"))"#,
    ] {
        assert!(attributes.contains(part), "{part} in {attributes}");
    }
}

#[test]
fn each_flag_has_its_field() {
    let told = |flags| {
        let mut entry = entry();
        entry.flags = flags;
        let properties = Common::default().properties(&entry);
        properties.response_flags
    };
    assert_eq!(told(ResponseFlags::NONE), None);
    // There are no fields for these.
    assert_eq!(told(ResponseFlags::DROP_OVERLOAD), None);
    assert_eq!(told(ResponseFlags::UNCONDITIONAL_DROP_OVERLOAD), None);
    let mut seen = Vec::new();
    for code in [
        "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE",
        "DC", "URX", "SI", "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF",
        "DR",
    ] {
        let message = told(ResponseFlags::from_code(code).unwrap()).unwrap();
        let bytes = message.encode_to_vec();
        // A field's number and one byte, but for the one that says why.
        let length = if code == "UAEX" {
            4
        } else {
            2 + usize::from(seen.len() >= 15)
        };
        assert_eq!(bytes.len(), length, "{code}: {message:?}");
        assert!(!seen.contains(&bytes), "{code}");
        seen.push(bytes);
    }
}

#[test]
fn only_what_is_asked_for_is_told_and_made_utf8() {
    let mut headers = HeaderMap::new();
    for value in [&b"a"[..], b"b\xffc\xc3\xa9"] {
        headers.append("x-many", ::http::HeaderValue::from_bytes(value).unwrap());
    }
    headers.append("x-other", "o".parse().unwrap());
    let mut entry = entry();
    entry.method = Some(b"GET");
    entry.path = Some(b"/\xff");
    entry.request_headers = Some(&headers);
    entry.response_headers = Some(&headers);
    let HttpAccessLogEntry {
        request, response, ..
    } = http_entries().entry(&entry);
    let request = request.unwrap();
    assert_eq!(request.request_method, 1);
    assert_eq!(request.path, "/!");
    assert_eq!(request.request_headers.len(), 2);
    assert_eq!(request.request_headers[":path"], "/!");
    assert_eq!(request.request_headers["x-many"], "a,b!cé");
    assert_eq!(response.unwrap().response_headers["x-many"], "a,b!cé");
}

#[test]
fn peers_are_told_under_the_names_of_filter_state() {
    let peer = Workload {
        namespace: "n".into(),
        labels: vec![("role".into(), "front".into())],
        ..Workload::default()
    };
    let names = [
        "downstream_peer",
        "downstream_peer_obj",
        "upstream_peer",
        "wasm.downstream_peer",
    ];
    let known = names
        .iter()
        .filter_map(|name| Some(((*name).into(), Peer::named(name)?)));
    let common = Common {
        peers: known.collect(),
        tags: Box::default(),
    };
    let mut entry = entry();
    entry.downstream_peer = Some(&peer);
    let told = common.properties(&entry).filter_state_objects;
    assert_eq!(told.len(), 2);
    for name in &names[..2] {
        let any = &told[*name];
        assert_eq!(any.type_url, "type.googleapis.com/google.protobuf.Struct");
        let fields = Struct::decode(&*any.value).unwrap().fields;
        assert_eq!(fields.len(), 2);
        assert!(format!("{:?}", fields["labels"]).contains("front"));
    }
}

#[test]
fn only_what_a_service_took_is_written() {
    let stats = Registry::new(2).access_service("a");
    let envelope = Envelope::open_telemetry(Vec::new());
    let report = AccessReport { envelope, stats };
    for fate in [
        Fate::Due,
        Fate::Sent,
        Fate::Dropped,
        Fate::NoCluster,
        Fate::Failed,
        Fate::Refused,
    ] {
        report.count(1, fate, 3);
    }
    let stats = report.stats.worker(1);
    assert_eq!(
        (stats.logs_written.get(), stats.logs_dropped.get()),
        (3, 12)
    );
}
