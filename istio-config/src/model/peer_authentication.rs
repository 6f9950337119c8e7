//! `security.istio.io` PeerAuthentication.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::LabelSelector;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct PeerAuthentication {
    pub selector: Option<LabelSelector>,
    pub mtls: MutualTls,
    /// By workload port.
    pub port_level_mtls: BTreeMap<u16, MutualTls>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct MutualTls {
    pub mode: MutualTlsMode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum MutualTlsMode {
    /// Whatever the next wider policy says.
    #[default]
    Unset,
    Disable,
    Permissive,
    Strict,
}
