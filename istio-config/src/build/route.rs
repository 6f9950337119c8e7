//! Routes of VirtualServices.

mod actions;
mod matches;

#[cfg(test)]
mod tests;

use ithildin_proto::pb::envoy::config::route::v3::{
    Decorator, Route, RouteMatch, route, route_action::ClusterSpecifier, route_match::PathSpecifier,
};

pub(super) use actions::base_action;

use super::wire::{config_path, istio_metadata};
use crate::{
    model::{HttpMatch, HttpRoute, Object, VirtualService, selects},
    node::Node,
    registry::Registry,
};

/// Name of the gateway that stands for every sidecar.
pub(super) const MESH: &str = "mesh";

/// For whom routes are made.
#[derive(Clone, Copy)]
pub(super) struct RouteContext<'a> {
    pub node: &'a Node,
    pub registry: &'a Registry,
    /// `namespace/name`, or [`MESH`].
    pub gateway: &'a str,
    /// Port of the gateway's server or of the service.
    pub port: u16,
}

/// The routes of one VirtualService, in its order, up to the first that takes everything.
pub(super) fn routes(context: RouteContext<'_>, object: &Object<VirtualService>) -> Vec<Route> {
    let mut routes = Vec::new();
    for http in &object.spec.http {
        for matching in alternatives(http) {
            if !matching.is_none_or(|matching| applies(context, object, matching)) {
                continue;
            }
            let route = route(context, object, http, matching);
            let last = is_catch_all(&route);
            routes.push(route);
            if last {
                return routes;
            }
        }
    }
    routes
}

/// Whether nothing after this route is ever reached.
pub(super) fn is_catch_all(route: &Route) -> bool {
    let Some(matching) = &route.r#match else {
        return false;
    };
    let any_path = match &matching.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => prefix == "/",
        Some(PathSpecifier::SafeRegex(regex)) => regex.regex == ".*",
        _ => false,
    };
    any_path && matching.headers.is_empty() && matching.query_parameters.is_empty()
}

/// Whether `object` is bound to `gateway`.
pub(super) fn is_bound(object: &Object<VirtualService>, gateway: &str) -> bool {
    let names = &object.spec.gateways;
    (names.is_empty() && gateway == MESH) || names_gateway(names, object.namespace(), gateway)
}

/// No condition is one alternative that always holds.
fn alternatives(http: &HttpRoute) -> impl Iterator<Item = Option<&HttpMatch>> {
    let always = http.matches.is_empty().then_some(None);
    http.matches.iter().map(Some).chain(always)
}

/// Whether `matching` concerns this proxy and port at all.
fn applies(
    context: RouteContext<'_>,
    object: &Object<VirtualService>,
    matching: &HttpMatch,
) -> bool {
    if matching.port.is_some_and(|port| port != context.port) {
        return false;
    }
    if !matching.gateways.is_empty() {
        return names_gateway(&matching.gateways, object.namespace(), context.gateway);
    }
    let namespace = &matching.source_namespace;
    selects(&matching.source_labels, &context.node.labels)
        && (namespace.is_empty() || *namespace == context.node.namespace)
}

fn names_gateway(names: &[String], namespace: &str, gateway: &str) -> bool {
    names.iter().any(|name| {
        if name == MESH || name.contains('/') {
            name == gateway
        } else {
            gateway.split_once('/') == Some((namespace, name.as_str()))
        }
    })
}

fn route(
    context: RouteContext<'_>,
    object: &Object<VirtualService>,
    http: &HttpRoute,
    matching: Option<&HttpMatch>,
) -> Route {
    let mut route = Route {
        name: match matching {
            Some(matching) if !matching.name.is_empty() => {
                format!("{}.{}", http.name, matching.name)
            }
            _ => http.name.clone(),
        },
        r#match: Some(matching.map_or_else(any_request, matches::route_match)),
        metadata: Some(istio_metadata([(
            "config",
            config_path("virtual-service", object.namespace(), object.name()),
        )])),
        ..Route::default()
    };
    actions::apply(context, object.namespace(), http, &mut route);
    route.decorator = Some(Decorator {
        operation: operation(&route, object.name(), context.port),
        ..Decorator::default()
    });
    route
}

/// The match of everything.
pub(super) fn any_request() -> RouteMatch {
    RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
        ..RouteMatch::default()
    }
}

/// Name of the operation in traces: `host:port/path`.
pub(super) fn operation(route: &Route, virtual_service: &str, port: u16) -> String {
    let specifier = route
        .r#match
        .as_ref()
        .and_then(|matching| matching.path_specifier.as_ref());
    let path = match specifier {
        Some(PathSpecifier::Prefix(prefix)) => format!("{prefix}*"),
        Some(PathSpecifier::Path(path)) => path.clone(),
        Some(PathSpecifier::SafeRegex(regex)) => regex.regex.clone(),
        _ => "/*".to_owned(),
    };
    if let Some(route::Action::Route(action)) = &route.action
        && let Some(ClusterSpecifier::Cluster(cluster)) = &action.cluster_specifier
        && let [_, port, _, host] = cluster.split('|').collect::<Vec<_>>()[..]
    {
        return format!("{host}:{port}{path}");
    }
    format!("{virtual_service}:{port}{path}")
}
