//! `networking.istio.io` VirtualService.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::value::{Interval, OneOf, StringMatch, Unsupported};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct VirtualService {
    pub hosts: Vec<String>,
    /// `mesh` is every sidecar, and the default.
    pub gateways: Vec<String>,
    pub http: Vec<HttpRoute>,
    pub export_to: Vec<String>,
    #[serde(rename = "tls")]
    _tls: Option<Unsupported>,
    #[serde(rename = "tcp")]
    _tcp: Option<Unsupported>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct HttpRoute {
    pub name: String,
    #[serde(rename = "match")]
    pub matches: Vec<HttpMatch>,
    pub route: Vec<HttpRouteDestination>,
    pub redirect: Option<HttpRedirect>,
    pub direct_response: Option<DirectResponse>,
    pub rewrite: Option<HttpRewrite>,
    pub timeout: Option<Interval>,
    pub retries: Option<HttpRetry>,
    pub headers: Headers,
    #[serde(rename = "delegate")]
    _delegate: Option<Unsupported>,
    #[serde(rename = "fault")]
    _fault: Option<Unsupported>,
    #[serde(rename = "mirror")]
    _mirror: Option<Unsupported>,
    #[serde(rename = "mirrors")]
    _mirrors: Option<Unsupported>,
    #[serde(rename = "mirrorPercent")]
    _mirror_percent: Option<Unsupported>,
    #[serde(rename = "mirrorPercentage")]
    _mirror_percentage: Option<Unsupported>,
    #[serde(rename = "corsPolicy")]
    _cors_policy: Option<Unsupported>,
}

/// All conditions must hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct HttpMatch {
    pub name: String,
    pub uri: Option<StringMatch>,
    pub scheme: Option<StringMatch>,
    pub method: Option<StringMatch>,
    pub authority: Option<StringMatch>,
    pub headers: BTreeMap<String, StringMatch>,
    pub without_headers: BTreeMap<String, StringMatch>,
    pub query_params: BTreeMap<String, StringMatch>,
    pub ignore_uri_case: bool,
    /// Port of the listener, that is of the gateway's server or of the service.
    pub port: Option<u16>,
    pub source_labels: BTreeMap<String, String>,
    pub source_namespace: String,
    pub gateways: Vec<String>,
    #[serde(rename = "statPrefix")]
    _stat_prefix: Option<Unsupported>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct HttpRouteDestination {
    pub destination: Destination,
    pub weight: u32,
    pub headers: Headers,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Destination {
    pub host: String,
    pub subset: String,
    pub port: Option<PortSelector>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct PortSelector {
    pub number: u16,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct HttpRewrite {
    pub uri: Option<String>,
    pub authority: Option<String>,
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct RegexRewrite {
    #[serde(rename = "match")]
    pub pattern: String,
    pub rewrite: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct HttpRedirect {
    pub uri: Option<String>,
    /// Replaces the matched prefix only.
    pub uri_prefix: Option<String>,
    pub authority: Option<String>,
    pub port: Option<u16>,
    pub derive_port: Option<DerivePort>,
    pub scheme: Option<String>,
    pub redirect_code: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum DerivePort {
    FromProtocolDefault,
    FromRequestPort,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct DirectResponse {
    pub status: u16,
    pub body: Option<DirectBody>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "RawBody")]
pub(crate) enum DirectBody {
    Text(String),
    /// Base64.
    Bytes(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBody {
    string: Option<String>,
    bytes: Option<String>,
}

impl TryFrom<RawBody> for DirectBody {
    type Error = OneOf;

    fn try_from(raw: RawBody) -> Result<Self, OneOf> {
        match (raw.string, raw.bytes) {
            (Some(_), Some(_)) => Err(OneOf("string and bytes")),
            (_, Some(bytes)) => Ok(Self::Bytes(bytes)),
            (text, None) => Ok(Self::Text(text.unwrap_or_default())),
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct HttpRetry {
    pub attempts: u32,
    pub per_try_timeout: Option<Interval>,
    pub retry_on: String,
    /// Whether to leave out hosts that were tried; on unless it is switched off.
    pub retry_ignore_previous_hosts: Option<bool>,
    pub backoff: Option<Interval>,
    #[serde(rename = "retryRemoteLocalities")]
    _retry_remote_localities: Option<Unsupported>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Headers {
    pub request: HeaderOperations,
    pub response: HeaderOperations,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct HeaderOperations {
    pub set: BTreeMap<String, String>,
    pub add: BTreeMap<String, String>,
    pub remove: Vec<String>,
}
