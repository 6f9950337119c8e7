//! Access loggers that are services: `envoy.access_loggers.http_grpc`, `tcp_grpc` and `open_telemetry`.
//!
//! What only such a service would miss is left out with a warning. A cluster that is not there is no
//! mistake yet: entries for it are dropped and counted until it comes.

use std::{sync::Arc, time::Duration};

use ithildin_proto::pb::{
    envoy::{
        config::core::v3::{ApiVersion, GrpcService},
        extensions::access_loggers::{
            grpc::v3::{
                CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
            },
            open_telemetry::v3::OpenTelemetryAccessLogConfig,
        },
        service::accesslog::v3::stream_access_logs_message::Identifier,
    },
    google::protobuf::{self, UInt32Value},
};
use prost::Message;

use super::{
    Compiler, access_log_records,
    collector::{self, Place},
    custom_tags,
};
use crate::{
    access_log::service::{
        AccessReport, Common, Entries, Envelope, HttpEntries, Peer, Records, Service,
    },
    control::report::At,
    http::collector::{Batch, Collector},
};

/// Envoy's.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_BYTES: usize = 16 << 10;

/// What comes before the names of counters.
const GRPC_STATS: &str = "grpc_access_log";
const OPEN_TELEMETRY_STATS: &str = "open_telemetry_access_log";

/// What tells collectors of one kind from others, and the messages that they get.
type Kind = (&'static str, fn(&Identifier) -> Envelope);

const HTTP: Kind = ("http", Envelope::http);
const TCP: Kind = ("tcp", Envelope::tcp);

const STREAM_ACCESS_LOGS: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";
const EXPORT_LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

pub(super) fn http(
    config: &HttpGrpcAccessLogConfig,
    compiler: &Compiler,
    at: &At<'_>,
) -> Option<Service> {
    let HttpGrpcAccessLogConfig {
        common_config,
        additional_request_headers_to_log,
        additional_response_headers_to_log,
        additional_response_trailers_to_log,
    } = config;
    let at = at.field("common_config");
    let (collector, common) = stream(common_config.as_ref(), HTTP, compiler, &at)?;
    let lower = |names: &[String]| {
        let names = names.iter();
        names.map(|name| name.to_ascii_lowercase().into()).collect()
    };
    let entries = HttpEntries {
        common,
        request_headers: lower(additional_request_headers_to_log),
        response_headers: lower(additional_response_headers_to_log),
        response_trailers: lower(additional_response_trailers_to_log),
    };
    Some(Service::new(collector, Entries::Http(entries)))
}

pub(super) fn tcp(
    config: &TcpGrpcAccessLogConfig,
    compiler: &Compiler,
    at: &At<'_>,
) -> Option<Service> {
    let TcpGrpcAccessLogConfig { common_config } = config;
    let at = at.field("common_config");
    let (collector, common) = stream(common_config.as_ref(), TCP, compiler, &at)?;
    Some(Service::new(collector, Entries::Tcp(common)))
}

pub(super) fn open_telemetry(
    config: &OpenTelemetryAccessLogConfig,
    compiler: &Compiler,
    at: &At<'_>,
) -> Option<Service> {
    let OpenTelemetryAccessLogConfig {
        common_config,
        http_service: _,
        grpc_service: _,
        disable_builtin_labels,
        resource_attributes,
        resource_detectors,
        body,
        attributes,
        stat_prefix,
        // As those of formats for files: what they add is always there, or an unknown operator.
        formatters: _,
        log_name,
        buffer_flush_interval,
        buffer_size_bytes,
        filter_state_objects_to_log,
        custom_tags,
    } = config;
    if !resource_detectors.is_empty() {
        at.field("resource_detectors")
            .warn("is not supported; they are left out");
    }
    let errors = at.errors();
    let none = CommonGrpcAccessLogConfig::default();
    let old = common_config.as_ref().unwrap_or(&none);
    let at_common = at.field("common_config");
    if common_config.is_some() {
        at_common.text("log_name", &old.log_name);
    }
    api_version(old.transport_api_version, &at_common);
    let place = log_place(config, old, at);
    let interval = buffer_flush_interval.as_ref();
    let bytes = buffer_size_bytes.as_ref();
    let batch = batch(
        interval.or(old.buffer_flush_interval.as_ref()),
        bytes.or(old.buffer_size_bytes.as_ref()),
        at,
    );
    let body = body.as_ref().filter(|it| it.value.is_some());
    let attributes = attributes.as_ref();
    let records = Records {
        body: body.and_then(|it| access_log_records::value(it, &at.field("body"))),
        attributes: attributes.map_or_else(Vec::new, |it| {
            access_log_records::fields(it, &at.field("attributes"))
        }),
        // As in Envoy, those of the old message do not count.
        peers: peers(filter_state_objects_to_log),
        tags: custom_tags::tags(custom_tags, false, at),
    };
    if at.errors() > errors {
        return None;
    }
    let name = match log_name.as_str() {
        "" => old.log_name.as_str(),
        name => name,
    };
    let builtin = (!disable_builtin_labels).then_some((name, &*compiler.node));
    let resource = access_log_records::resource(builtin, resource_attributes.as_ref());
    let scope = match stat_prefix.as_str() {
        "" => OPEN_TELEMETRY_STATS.into(),
        prefix => format!("{OPEN_TELEMETRY_STATS}.{}", prefix.trim_end_matches('.')),
    };
    let report = AccessReport {
        envelope: Envelope::open_telemetry(resource),
        stats: compiler.stats.access_service(&scope),
    };
    // How records look is each logger's own.
    let shared = OpenTelemetryAccessLogConfig {
        body: None,
        attributes: None,
        ..config.clone()
    };
    let key = [OPEN_TELEMETRY_STATS.as_bytes(), &shared.encode_to_vec()].concat();
    let collector = place?.collector(key, batch?, Box::new(report), compiler);
    Some(Service::new(collector, Entries::OpenTelemetry(records)))
}

/// Of three fields that may say where records go, one does.
fn log_place(
    config: &OpenTelemetryAccessLogConfig,
    old: &CommonGrpcAccessLogConfig,
    at: &At<'_>,
) -> Option<Place> {
    let grpc = |config: &Option<GrpcService>, at: At<'_>| {
        let config = config.as_ref();
        config.map(|config| collector::grpc(config, EXPORT_LOGS, &at))
    };
    let at_common = at.field("common_config");
    let http = config.http_service.as_ref();
    let places = [
        grpc(&config.grpc_service, at.field("grpc_service")),
        grpc(&old.grpc_service, at_common.field("grpc_service")),
        http.map(|config| collector::otlp(config, &at.field("http_service"))),
    ];
    let mut places = places.into_iter().flatten();
    match (places.next(), places.next()) {
        (Some(place), None) => place,
        (Some(_), Some(_)) => {
            at.error("only one of http_service, grpc_service and common_config can be set");
            None
        }
        (None, _) => {
            at.error("one of http_service, grpc_service and common_config is required");
            None
        }
    }
}

/// A service that gets messages with our name, and what it is told besides what all are.
fn stream(
    config: Option<&CommonGrpcAccessLogConfig>,
    (kind, envelope): Kind,
    compiler: &Compiler,
    at: &At<'_>,
) -> Option<(Arc<Collector>, Common)> {
    let Some(config) = config else {
        at.error("is required");
        return None;
    };
    let CommonGrpcAccessLogConfig {
        log_name,
        grpc_service,
        transport_api_version,
        buffer_flush_interval,
        buffer_size_bytes,
        filter_state_objects_to_log,
        grpc_stream_retry_policy,
        custom_tags,
    } = config;
    let errors = at.errors();
    if grpc_stream_retry_policy.is_some() {
        at.field("grpc_stream_retry_policy")
            .warn("is not supported; what a service does not get is dropped");
    }
    at.text("log_name", log_name);
    api_version(*transport_api_version, at);
    let common = Common {
        peers: peers(filter_state_objects_to_log),
        tags: custom_tags::tags(custom_tags, false, at),
    };
    let batch = batch(
        buffer_flush_interval.as_ref(),
        buffer_size_bytes.as_ref(),
        at,
    );
    if batch.is_some_and(|it| it.interval.is_zero()) {
        at.field("buffer_flush_interval")
            .error("must be greater than zero");
    }
    let at_service = at.field("grpc_service");
    let place = match grpc_service {
        Some(service) => collector::grpc(service, STREAM_ACCESS_LOGS, &at_service),
        None => {
            at_service.error("is required");
            None
        }
    };
    if at.errors() > errors {
        return None;
    }
    let identifier = Identifier {
        node: Some(compiler.node.told.clone()),
        log_name: log_name.clone(),
    };
    let report = AccessReport {
        envelope: envelope(&identifier),
        stats: compiler.stats.access_service(GRPC_STATS),
    };
    let key = [kind.as_bytes(), &config.encode_to_vec()].concat();
    Some((
        place?.collector(key, batch?, Box::new(report), compiler),
        common,
    ))
}

fn batch(
    interval: Option<&protobuf::Duration>,
    bytes: Option<&UInt32Value>,
    at: &At<'_>,
) -> Option<Batch> {
    let interval = match interval {
        None => DEFAULT_INTERVAL,
        Some(_) => at.duration("buffer_flush_interval", &interval.copied())?,
    };
    Some(Batch {
        interval,
        bytes: bytes.map_or(DEFAULT_BYTES, |it| it.value as usize),
        items: u64::MAX,
    })
}

/// Of names that nothing sets nothing is told, as in Envoy.
fn peers(names: &[String]) -> Vec<(Box<str>, Peer)> {
    let names = names.iter();
    names
        .filter_map(|name| Some((name.as_str().into(), Peer::named(name)?)))
        .collect()
}

fn api_version(version: i32, at: &At<'_>) {
    match at.enumeration("transport_api_version", version) {
        // There is one version left: 3.
        Some(ApiVersion::Auto | ApiVersion::V3) | None => {}
        Some(ApiVersion::V2) => at.field("transport_api_version").error("must be V3"),
    }
}
