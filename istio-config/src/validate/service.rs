//! Service, PeerAuthentication and the mesh configuration.

use super::Check;
use crate::{
    error::ConfigError,
    model::{AccessLogEncoding, MeshConfig, Object, PeerAuthentication, Service},
};

pub(crate) fn service(object: &Object<Service>) -> Vec<ConfigError> {
    let mut check = Check::new(object);
    let spec = &object.spec;
    let is = |value: &Option<String>, expected: &str| value.as_deref() == Some(expected);
    check.require(
        !is(&spec.kind, "ExternalName"),
        "spec.type",
        "ExternalName is not supported",
    );
    check.require(
        !is(&spec.session_affinity, "ClientIP"),
        "spec.sessionAffinity",
        "ClientIP is not supported",
    );
    check.require(
        !is(&spec.internal_traffic_policy, "Local"),
        "spec.internalTrafficPolicy",
        "Local is not supported",
    );
    for (index, port) in spec.ports.iter().enumerate() {
        check.required(port.port != 0, &format!("spec.ports[{index}].port"));
    }
    // Annotations of Istio's that change who sees the service or how it is reached.
    for name in object.metadata.annotations.keys() {
        check.require(
            !name.starts_with("networking.istio.io/") && !name.starts_with("traffic.istio.io/"),
            &format!("metadata.annotations.{name}"),
            "not supported",
        );
    }
    check.finish()
}

pub(crate) fn peer_authentication(object: &Object<PeerAuthentication>) -> Vec<ConfigError> {
    let mut check = Check::new(object);
    let spec = &object.spec;
    let selects = spec
        .selector
        .as_ref()
        .is_some_and(|selector| !selector.match_labels.is_empty());
    check.require(
        spec.port_level_mtls.is_empty() || selects,
        "spec.portLevelMtls",
        "needs a selector: the ports are those of a workload",
    );
    check.require(
        !spec.port_level_mtls.contains_key(&0),
        "spec.portLevelMtls.0",
        "invalid port 0",
    );
    check.finish()
}

/// The first field that is wrong, and why.
pub(crate) fn mesh(mesh: &MeshConfig) -> Result<(), (&'static str, &'static str)> {
    let json = mesh.access_log_encoding == AccessLogEncoding::Json;
    if json && !mesh.access_log_format.is_empty() && mesh.json_access_log().is_none() {
        return Err(("accessLogFormat", "expected a JSON object of texts"));
    }
    Ok(())
}
