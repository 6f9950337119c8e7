//! Access logs that the mesh configuration asks for.

use std::collections::BTreeMap;

use ithildin_proto::pb::{
    envoy::config::accesslog::v3::{
        AccessLog, AccessLogFilter, ResponseFlagFilter, access_log::ConfigType,
        access_log_filter::FilterSpecifier,
    },
    google::protobuf::{Any, Value},
};
use prost::Message;

use super::wire::text;
use crate::model::{AccessLogEncoding, MeshConfig};

const FILE_LOG: &str = "envoy.access_loggers.file";
const FILE_LOG_TYPE: &str =
    "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";

/// Istio's line, when the mesh sets no format.
const TEXT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% \
    %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% \
    %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% \
    %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \
    \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" \
    %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% \
    %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// The same as fields of JSON.
const JSON_FIELDS: [(&str, &str); 24] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    (
        "connection_termination_details",
        "%CONNECTION_TERMINATION_DETAILS%",
    ),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    (
        "upstream_service_time",
        "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    ),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

/// For requests and TCP connections.
pub(super) fn of_traffic(mesh: &MeshConfig) -> Vec<AccessLog> {
    file_log(mesh, None)
}

/// For a listener: only connections that found no filter chain.
pub(super) fn of_listener(mesh: &MeshConfig) -> Vec<AccessLog> {
    let unmatched = AccessLogFilter {
        filter_specifier: Some(FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter {
            flags: vec!["NR".to_owned()],
        })),
    };
    file_log(mesh, Some(unmatched))
}

fn file_log(mesh: &MeshConfig, filter: Option<AccessLogFilter>) -> Vec<AccessLog> {
    if mesh.access_log_file.is_empty() {
        return Vec::new();
    }
    vec![AccessLog {
        name: FILE_LOG.to_owned(),
        filter,
        config_type: Some(ConfigType::TypedConfig(file_config(mesh))),
    }]
}

/// The messages are mirrored here with ordered maps. With the generated ones, which have hash
/// maps, equal configurations would encode to different bytes, and each reload would look like a
/// change of every listener.
fn file_config(mesh: &MeshConfig) -> Any {
    let format = match mesh.access_log_encoding {
        AccessLogEncoding::Text => OrderedFormat {
            text_format_source: Some(InlineText {
                inline_string: if mesh.access_log_format.is_empty() {
                    TEXT_FORMAT.to_owned()
                } else {
                    mesh.access_log_format.clone()
                },
            }),
            ..OrderedFormat::default()
        },
        AccessLogEncoding::Json => OrderedFormat {
            json_format: Some(OrderedStruct {
                fields: json_fields(mesh),
            }),
            json_format_options: Some(SortOptions {}),
            ..OrderedFormat::default()
        },
    };
    let log = OrderedFileLog {
        path: mesh.access_log_file.clone(),
        log_format: Some(format),
    };
    Any {
        type_url: FILE_LOG_TYPE.to_owned(),
        value: log.encode_to_vec(),
    }
}

/// A format of the mesh is a JSON object of templates, by validation.
fn json_fields(mesh: &MeshConfig) -> BTreeMap<String, Value> {
    match mesh.json_access_log() {
        Some(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, text(value)))
            .collect(),
        None => JSON_FIELDS
            .iter()
            .map(|(name, value)| ((*name).to_owned(), text(*value)))
            .collect(),
    }
}

/// `envoy.extensions.access_loggers.file.v3.FileAccessLog`.
#[derive(Clone, PartialEq, Message)]
struct OrderedFileLog {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(message, optional, tag = "5")]
    log_format: Option<OrderedFormat>,
}

/// `envoy.config.core.v3.SubstitutionFormatString`.
#[derive(Clone, PartialEq, Message)]
struct OrderedFormat {
    #[prost(message, optional, tag = "2")]
    json_format: Option<OrderedStruct>,
    #[prost(message, optional, tag = "5")]
    text_format_source: Option<InlineText>,
    #[prost(message, optional, tag = "7")]
    json_format_options: Option<SortOptions>,
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, Message)]
struct OrderedStruct {
    #[prost(btree_map = "string, message", tag = "1")]
    fields: BTreeMap<String, Value>,
}

/// `envoy.config.core.v3.DataSource` with `inline_string`.
#[derive(Clone, PartialEq, Message)]
struct InlineText {
    #[prost(string, tag = "3")]
    inline_string: String,
}

/// `envoy.config.core.v3.JsonFormatOptions`, left at its defaults.
#[derive(Clone, PartialEq, Message)]
struct SortOptions {}
