//! What was said and has no effect: one warning at the start names all of it.

use super::{Env, EnvoySettings};
use crate::proxy::{
    args::{Args, DataPlaneKind},
    proxy_config::{Layers, ProxyConfig, Tracer},
};

/// Variables of Istio's agent that nothing here acts on.
const VARIABLES: [&str; 8] = [
    "ISTIO_GPRC_MAXSTREAMS",
    "ISTIO_GPRC_MAXRECVMSGSIZE",
    "XDS_AUTH_PROVIDER",
    "TOKEN_AUDIENCES",
    "CREDENTIAL_IDENTITY_PROVIDER",
    "GCP_METADATA",
    "GCP_ZONE",
    "GCP_QUOTA_PROJECT",
];
/// Variables that matter to an Envoy alone.
const ENVOY_VARIABLES: [&str; 12] = [
    "ISTIO_BOOTSTRAP",
    "ISTIO_BOOTSTRAP_OVERRIDE",
    "ISTIO_ENVOY_ENABLE_CORE_DUMP",
    "HTTP_STRIP_FRAGMENT_FROM_PATH_UNSAFE_IF_DISABLED",
    "ISTIO_AGENT_ENABLE_WASM_REMOTE_LOAD_CONVERSION",
    "WASM_INSECURE_REGISTRIES",
    "WASM_MODULE_EXPIRY",
    "WASM_PURGE_INTERVAL",
    "WASM_HTTP_REQUEST_TIMEOUT",
    "WASM_HTTP_REQUEST_MAX_RETRIES",
    "BLOCKED_CIDRS_IN_WASM_FETCH",
    "ISTIO_WASM_MAX_BINARY_SIZE_BYTES",
];
/// Fields of the proxy configuration that nothing acts on: Istio deprecated them, or Envoy lost them.
const FIELDS: [&str; 6] = [
    "zipkinAddress",
    "discoveryRefreshDelay",
    "availabilityZone",
    "sds",
    "statNameLength",
    "privateKeyProvider",
];
/// Fields of services that only istiod asks a data plane to tell of requests.
const ISTIOD_FIELDS: [&str; 2] = ["tracing", "envoyAccessLogService"];
/// Fields that only Envoy's process or its bootstrap acts on.
const ENVOY_FIELDS: [&str; 10] = [
    "binaryPath",
    "customConfigFile",
    "proxyBootstrapTemplatePath",
    "statsdUdpAddress",
    "envoyMetricsServiceAddress",
    "envoyMetricsService",
    "runtimeValues",
    "statsCompression",
    "fileFlushInterval",
    "fileFlushMinSizeKb",
];

pub(super) fn without_effect(
    args: &Args,
    env: &Env,
    layers: &Layers,
    config: &ProxyConfig,
    envoy: &EnvoySettings,
) -> Vec<String> {
    let builtin = args.data_plane == DataPlaneKind::Builtin;
    let mut names = args.without_effect();
    let mut variables: Vec<&str> = VARIABLES.to_vec();
    let mut fields: Vec<&str> = FIELDS.to_vec();
    if builtin {
        variables.extend(ENVOY_VARIABLES);
        fields.extend(ENVOY_FIELDS);
    }
    if args.config_dir.is_some() {
        fields.extend(ISTIOD_FIELDS);
    }
    let set = variables
        .into_iter()
        .filter(|name| env.text(name).is_some());
    names.extend(set.map(str::to_owned));
    if env.text("CLOUD_PLATFORM").is_some_and(|it| it != "none") {
        names.push("CLOUD_PLATFORM (no platform is probed)".to_owned());
    }
    if builtin && envoy.compliance.is_some() {
        names.push("COMPLIANCE_POLICY".to_owned());
    }
    let given = fields.into_iter().filter(|name| layers.is_given(name));
    names.extend(given.map(|name| format!("{name} of the proxy configuration")));
    let tracer = match config.tracing.as_ref().map(|it| &it.tracer) {
        Some(Tracer::Other(name)) => Some(*name),
        Some(Tracer::Lightstep { .. }) if builtin => Some("lightstep"),
        Some(Tracer::Datadog { .. }) if builtin => Some("datadog"),
        _ => None,
    };
    names.extend(tracer.map(|name| format!("tracing.{name} of the proxy configuration")));
    let unknown = layers.unknown().iter();
    names.extend(unknown.map(|path| format!("{path} of the proxy configuration (unknown)")));
    names
}
