//! What the node's data plane cannot honour, although Istio can.

use crate::{
    error::ConfigError,
    model::{Object, VirtualService},
    node::{DataPlane, Interception, Node, NodeKind},
    resources::Resources,
};

const NOT_BUILTIN: &str = "not supported by the built-in data plane";

/// Retry conditions that need more of the response than the built-in data plane looks at.
const ENVOY_ONLY_RETRIES: [&str; 2] = ["envoy-ratelimited", "retriable-headers"];

pub(super) fn check(resources: &Resources, node: &Node) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    if let Some(message) = interception(node) {
        errors.push(ConfigError {
            file: None,
            object: None,
            field: String::new(),
            message: message.to_owned(),
        });
    }
    if node.data_plane == DataPlane::Builtin {
        for service in &resources.virtual_services {
            virtual_service(service, &mut errors);
        }
    }
    errors
}

/// Why connections cannot reach the proxy in the way that the node says.
fn interception(node: &Node) -> Option<&'static str> {
    match (node.kind, node.interception, node.data_plane) {
        (NodeKind::Router, _, _) | (_, Interception::None, _) => None,
        (_, Interception::Tproxy, _) => Some(
            "ISTIO_META_INTERCEPTION_MODE: TPROXY needs istiod; without it set REDIRECT or NONE",
        ),
        (_, Interception::Redirect, DataPlane::Envoy) => None,
        (_, Interception::Redirect, DataPlane::Builtin) => Some(
            "ISTIO_META_INTERCEPTION_MODE: REDIRECT, the default of a sidecar, needs istiod or the data plane envoy; set NONE",
        ),
    }
}

fn virtual_service(service: &Object<VirtualService>, errors: &mut Vec<ConfigError>) {
    for (index, http) in service.spec.http.iter().enumerate() {
        let Some(retries) = &http.retries else {
            continue;
        };
        let conditions = retries.retry_on.split(',').map(str::trim);
        for condition in conditions.filter(|name| ENVOY_ONLY_RETRIES.contains(name)) {
            errors.push(service.error(
                format!("spec.http[{index}].retries.retryOn"),
                format!("{condition:?} is {NOT_BUILTIN}"),
            ));
        }
    }
}
