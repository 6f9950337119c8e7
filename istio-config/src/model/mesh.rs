//! `MeshConfig`: the key `mesh` of the ConfigMap `istio`.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use super::value::{Ignored, Interval, Unsupported};

/// Istio's `connectTimeout` where the mesh sets none.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct MeshConfig {
    pub trust_domain: Option<String>,
    pub trust_domain_aliases: Vec<String>,
    root_namespace: Option<String>,
    connect_timeout: Option<Interval>,
    enable_auto_mtls: Option<bool>,
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// Empty: no access log.
    pub access_log_file: String,
    pub access_log_encoding: AccessLogEncoding,
    /// Empty: Istio's own.
    pub access_log_format: String,
    pub proxy_http_port: Option<u16>,
    // The agent's business, or of programs that we do not replace.
    #[serde(rename = "defaultConfig")]
    _default_config: Ignored,
    #[serde(rename = "defaultProviders")]
    _default_providers: Ignored,
    #[serde(rename = "extensionProviders")]
    _extension_providers: Ignored,
    #[serde(rename = "enablePrometheusMerge")]
    _enable_prometheus_merge: Ignored,
    #[serde(rename = "enableTracing")]
    _enable_tracing: Ignored,
    #[serde(rename = "ingressClass")]
    _ingress_class: Ignored,
    #[serde(rename = "ingressControllerMode")]
    _ingress_controller_mode: Ignored,
    #[serde(rename = "ingressSelector")]
    _ingress_selector: Ignored,
    #[serde(rename = "ingressService")]
    _ingress_service: Ignored,
    #[serde(rename = "configSources")]
    _config_sources: Ignored,
    #[serde(rename = "discoverySelectors")]
    _discovery_selectors: Option<Unsupported>,
    #[serde(rename = "caCertificates")]
    _ca_certificates: Option<Unsupported>,
    #[serde(rename = "defaultServiceExportTo")]
    _default_service_export_to: Option<Unsupported>,
    #[serde(rename = "defaultVirtualServiceExportTo")]
    _default_virtual_service_export_to: Option<Unsupported>,
    #[serde(rename = "defaultDestinationRuleExportTo")]
    _default_destination_rule_export_to: Option<Unsupported>,
    #[serde(rename = "localityLbSetting")]
    _locality_lb_setting: Option<Unsupported>,
    #[serde(rename = "protocolDetectionTimeout")]
    _protocol_detection_timeout: Option<Unsupported>,
    #[serde(rename = "defaultHttpRetryPolicy")]
    _default_http_retry_policy: Option<Unsupported>,
    #[serde(rename = "pathNormalization")]
    _path_normalization: Option<Unsupported>,
    #[serde(rename = "meshMTLS")]
    _mesh_mtls: Option<Unsupported>,
    #[serde(rename = "tlsDefaults")]
    _tls_defaults: Option<Unsupported>,
    #[serde(rename = "tcpKeepalive")]
    _tcp_keepalive: Option<Unsupported>,
    #[serde(rename = "h2UpgradePolicy")]
    _h2_upgrade_policy: Option<Unsupported>,
    #[serde(rename = "inboundTrafficPolicy")]
    _inbound_traffic_policy: Option<Unsupported>,
    #[serde(rename = "serviceSettings")]
    _service_settings: Option<Unsupported>,
}

impl MeshConfig {
    /// Where policies for the whole mesh live.
    pub(crate) fn root_namespace(&self) -> &str {
        self.root_namespace.as_deref().unwrap_or("istio-system")
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
            .map_or(DEFAULT_CONNECT_TIMEOUT, |timeout| timeout.0)
    }

    /// The fields of an access log in JSON, if the mesh sets its own.
    pub(crate) fn json_access_log(&self) -> Option<BTreeMap<String, String>> {
        serde_json::from_str(&self.access_log_format).ok()
    }

    pub(crate) fn auto_mtls(&self) -> bool {
        self.enable_auto_mtls.unwrap_or(true)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct OutboundTrafficPolicy {
    pub mode: OutboundMode,
}

/// What happens to traffic for hosts that nobody declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum OutboundMode {
    RegistryOnly,
    #[default]
    AllowAny,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum AccessLogEncoding {
    #[default]
    Text,
    Json,
}
