//! What the node's data plane cannot honour, although Istio can.

use crate::{
    error::ConfigError,
    model::{DestinationRule, Object, TrafficPolicy, VirtualService},
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
        for rule in &resources.destination_rules {
            destination_rule(rule, &mut errors);
        }
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
        (_, Interception::Tproxy, _) => {
            Some("interception mode TPROXY is not supported, expected REDIRECT or NONE")
        }
        (_, Interception::Redirect, DataPlane::Envoy) => None,
        (_, Interception::Redirect, DataPlane::Builtin) => Some(
            "interception mode REDIRECT is not supported by the built-in data plane, expected NONE",
        ),
    }
}

fn destination_rule(rule: &Object<DestinationRule>, errors: &mut Vec<ConfigError>) {
    let whole = rule.spec.traffic_policy.iter();
    let whole = whole.map(|policy| ("spec.trafficPolicy".to_owned(), policy));
    let subsets = rule.spec.subsets.iter().enumerate();
    let subsets = subsets.filter_map(|(index, subset)| {
        let policy = subset.traffic_policy.as_ref()?;
        Some((format!("spec.subsets[{index}].trafficPolicy"), policy))
    });
    for (at, policy) in whole.chain(subsets) {
        for field in outlier_fields(policy, &at) {
            errors.push(rule.error(field, NOT_BUILTIN));
        }
    }
}

fn outlier_fields(policy: &TrafficPolicy, at: &str) -> Vec<String> {
    let own = policy.outlier_detection.iter();
    let own = own.map(|_| format!("{at}.outlierDetection"));
    let ports = policy.port_level_settings.iter().enumerate();
    let ports = ports
        .filter(|(_, port)| port.outlier_detection.is_some())
        .map(|(index, _)| format!("{at}.portLevelSettings[{index}].outlierDetection"));
    own.chain(ports).collect()
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
