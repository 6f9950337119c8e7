//! Who is told of spans: services that speak OpenTelemetry's protocol, or Zipkin's.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};

use ithildin_proto::pb::{
    envoy::{
        config::{
            core::v3::{HttpService, TypedExtensionConfig, http_uri::HttpUpstreamType},
            trace::v3::{
                OpenTelemetryConfig, ZipkinConfig,
                tracing::{Http, http::ConfigType},
                zipkin_config::{CollectorEndpointVersion, TraceContextOption},
            },
        },
        extensions::tracers::opentelemetry::{
            resource_detectors::v3::{
                EnvironmentResourceDetectorConfig, StaticConfigResourceDetectorConfig,
            },
            samplers::v3::AlwaysOnSamplerConfig,
        },
    },
    google::protobuf::BoolValue,
};
use ithildin_sys::interfaces;
use prost::{Message, Name};

use super::{
    Compiler,
    collector::{self, Place},
    ext_authz_service::plain_authority,
};
use crate::{
    config::trace::{Dialect, Tracer, Zipkin},
    control::{
        any,
        report::{At, no_effect},
    },
    http::{
        collector::{Batch, Report},
        trace::{OtlpReport, ZipkinReport},
    },
};

/// Envoy's name of a service that has none.
const UNKNOWN_SERVICE: &str = "unknown_service:envoy";

/// Who writes the spans.
const SDK: [(&str, &str); 3] = [
    ("telemetry.sdk.language", "rust"),
    ("telemetry.sdk.name", "ithildin"),
    ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
];

const JSON: &str = "application/json";

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Envoy's: spans wait so long for others to go with, or until they are so many; and a report is this large at
/// most, in bytes, which are more spans than that.
const BATCH: Batch = Batch {
    interval: Duration::from_secs(5),
    bytes: 256 << 10,
    items: 5,
};

/// Attributes of a resource for those who run it (OpenTelemetry, "Environment Variable Specification").
const RESOURCE_ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";

/// `None` where nobody is told, and beside errors. Who has the same `config` tells the same collector.
pub(super) fn tracer(config: &Http, compiler: &Compiler, at: &At<'_>) -> Option<Arc<Tracer>> {
    let Http { name, config_type } = config;
    let Some(ConfigType::TypedConfig(config)) = config_type else {
        at.error(format_args!("provider {name:?} has no typed_config"));
        return None;
    };
    let at = at.field("typed_config");
    let config = any::resolve(config, &at)?;
    let tracer = if any::is::<OpenTelemetryConfig>(&config) {
        open_telemetry(&any::read(&config, &at)?, compiler, &at)
    } else if any::is::<ZipkinConfig>(&config) {
        zipkin(&any::read(&config, &at)?, compiler, &at)
    } else {
        at.warn(format_args!(
            "tracers of type {} are not supported; nobody is told of spans",
            any::type_name(&config)
        ));
        return None;
    };
    let (dialect, told) = tracer?;
    let told = told.map(|(place, report)| {
        let key = config.encode_to_vec();
        place.collector(key, BATCH, report, compiler)
    });
    Some(Arc::new(Tracer {
        dialect,
        collector: told,
    }))
}

/// In which words, where, and how what is gathered becomes a report.
type Provider = (Dialect, Option<(Place, Box<dyn Report>)>);

fn open_telemetry(
    config: &OpenTelemetryConfig,
    compiler: &Compiler,
    at: &At<'_>,
) -> Option<Provider> {
    let OpenTelemetryConfig {
        grpc_service,
        http_service,
        exporter,
        service_name,
        resource_detectors,
        sampler,
        max_cache_size,
        set_telemetry_sdk_resource_attributes,
        set_service_name_resource_attribute,
        set_instrumentation_scope,
    } = config;
    // What waits is bounded in bytes.
    no_effect!(max_cache_size);
    if let Some(exporter) = exporter {
        at.field("exporter").warn(format_args!(
            "{:?} is not supported; it is left out",
            exporter.name
        ));
    }
    let samples_all = match sampler {
        None => false,
        Some(sampler) if is::<AlwaysOnSamplerConfig>(sampler) => true,
        Some(sampler) => {
            at.field("sampler").warn(format_args!(
                "{:?} is not supported; nobody is told of spans",
                sampler.name
            ));
            return None;
        }
    };
    let mut resource = BTreeMap::new();
    let says = |flag: &Option<_>| flag.is_none_or(|value: BoolValue| value.value);
    if says(set_service_name_resource_attribute) {
        let name = match service_name.as_str() {
            "" => UNKNOWN_SERVICE,
            name => name,
        };
        resource.insert("service.name".to_owned(), name.to_owned());
    }
    if says(set_telemetry_sdk_resource_attributes) {
        for (key, value) in SDK {
            resource.insert(key.to_owned(), value.to_owned());
        }
    }
    for (i, detector) in resource_detectors.iter().enumerate() {
        detect(detector, &mut resource, &at.index("resource_detectors", i));
    }
    let resource: Vec<_> = resource.into_iter().collect();
    let stats = compiler.stats.open_telemetry();
    let report = OtlpReport::new(&resource, says(set_instrumentation_scope), stats);
    let place = match (grpc_service, http_service) {
        (Some(_), Some(_)) => {
            at.error("only one of grpc_service and http_service may be set");
            return None;
        }
        (Some(config), None) => collector::grpc(config, EXPORT, &at.field("grpc_service")),
        (None, Some(config)) => collector::otlp(config, &at.field("http_service")),
        (None, None) => None,
    };
    let told = place.map(|place| (place, Box::new(report) as _));
    Some((Dialect::OpenTelemetry { samples_all }, told))
}

/// What tells of us besides. Later ones go before earlier ones.
fn detect(config: &TypedExtensionConfig, resource: &mut BTreeMap<String, String>, at: &At<'_>) {
    let at = at.field("typed_config");
    let typed = config.typed_config.as_ref();
    if is::<EnvironmentResourceDetectorConfig>(config) {
        let attributes = std::env::var(RESOURCE_ATTRIBUTES).unwrap_or_default();
        for pair in attributes.split(',').filter(|pair| !pair.is_empty()) {
            let mut parts = pair.split('=').filter(|part| !part.is_empty());
            match (parts.next(), parts.next(), parts.next()) {
                (Some(key), Some(value), None) => {
                    resource.insert(key.to_owned(), value.to_owned());
                }
                _ => at.warn(format_args!(
                    "{pair:?} in {RESOURCE_ATTRIBUTES} is not key=value; it is left out"
                )),
            }
        }
    } else if is::<StaticConfigResourceDetectorConfig>(config) {
        let read = typed.and_then(|typed| any::read(typed, &at));
        let StaticConfigResourceDetectorConfig { attributes } = read.unwrap_or_default();
        let told = attributes.into_iter();
        resource.extend(told.filter(|(key, value)| !key.is_empty() && !value.is_empty()));
    } else {
        at.warn(format_args!(
            "resource detector {:?} is not supported; it is left out",
            config.name
        ));
    }
}

fn is<M: Name>(config: &TypedExtensionConfig) -> bool {
    config.typed_config.as_ref().is_some_and(any::is::<M>)
}

#[allow(deprecated)]
fn zipkin(config: &ZipkinConfig, compiler: &Compiler, at: &At<'_>) -> Option<Provider> {
    let ZipkinConfig {
        collector_cluster,
        collector_endpoint,
        trace_id_128bit,
        shared_span_context,
        collector_endpoint_version,
        collector_hostname,
        split_spans_for_request,
        trace_context_option,
        collector_service,
        timestamp_trace_ids,
    } = config;
    let version: CollectorEndpointVersion =
        at.enumeration("collector_endpoint_version", *collector_endpoint_version)?;
    if version != CollectorEndpointVersion::HttpJson {
        at.field("collector_endpoint_version").warn(format_args!(
            "{} is not supported; nobody is told of spans",
            version.as_str_name()
        ));
        return None;
    }
    let place = match collector_service {
        Some(service) => zipkin_service(service, &at.field("collector_service"))?,
        None => {
            let cluster = at.text("collector_cluster", collector_cluster)?;
            let endpoint = at.text("collector_endpoint", collector_endpoint)?;
            let host = match collector_hostname.as_str() {
                "" => cluster,
                host => host,
            };
            let authority = authority(host, &at.field("collector_hostname"));
            let path = path(endpoint, &at.field("collector_endpoint"));
            Place::post(cluster, authority?, path?, JSON)
        }
    };
    let option: TraceContextOption =
        at.enumeration("trace_context_option", *trace_context_option)?;
    let node = &compiler.node;
    let report = ZipkinReport::new(compiler.stats.zipkin());
    let dialect = Dialect::Zipkin(Zipkin {
        wide_ids: *trace_id_128bit,
        timed_ids: *timestamp_trace_ids,
        shares_context: shared_span_context.is_none_or(|value| value.value),
        own_hop: *split_spans_for_request,
        speaks_w3c: option == TraceContextOption::UseB3WithW3cPropagation,
        service: Arc::clone(&node.cluster),
        address: own_address(),
    });
    Some((dialect, Some((place, Box::new(report)))))
}

/// A URI without a scheme is a path.
fn zipkin_service(config: &HttpService, at: &At<'_>) -> Option<Place> {
    let uri = config.http_uri.as_ref();
    let plain = uri.filter(|uri| !uri.uri.contains("://"));
    let Some(HttpUpstreamType::Cluster(cluster)) =
        plain.and_then(|uri| uri.http_upstream_type.as_ref())
    else {
        return collector::json(config, at);
    };
    let mut whole = config.clone();
    if let Some(uri) = &mut whole.http_uri {
        uri.uri = format!("http://{}{}", plain_authority(cluster), uri.uri);
    }
    collector::json(&whole, at)
}

/// The first of this host that others can reach, as Envoy chooses it.
fn own_address() -> Option<IpAddr> {
    let addresses = interfaces::addresses().unwrap_or_default();
    let mut others = addresses.iter().filter(|it| it.up && !it.loopback);
    let found = others.find(|it| it.ip.is_ipv4());
    Some(found.map_or(IpAddr::from([127, 0, 0, 1]), |it| it.ip))
}

fn authority(host: &str, at: &At<'_>) -> Option<Bytes> {
    let host = plain_authority(host);
    if Authority::try_from(host).is_err() {
        at.error(format_args!("{host:?} is not an authority"));
        return None;
    }
    Some(Bytes::copy_from_slice(host.as_bytes()))
}

fn path(path: &str, at: &At<'_>) -> Option<Bytes> {
    if !path.starts_with('/') || PathAndQuery::try_from(path).is_err() {
        at.error(format_args!("{path:?} is not a path"));
        return None;
    }
    Some(Bytes::copy_from_slice(path.as_bytes()))
}
