//! Route configurations and virtual hosts.

use std::time::Duration;

use ithildin_proto::pb::envoy::config::route::v3::{
    Decorator, DirectResponseAction, Route, RouteAction, RouteConfiguration, VirtualHost, route,
    route_action::ClusterSpecifier,
};

use super::{
    cluster::{PASSTHROUGH, outbound_name},
    retry,
    route::{any_request, base_action, operation},
    wire::{number, on},
};
use crate::registry::Service;

/// Largest body of a direct response, in bytes.
const MAX_DIRECT_BODY: u32 = 1024 * 1024;

pub(super) fn configuration(name: String, virtual_hosts: Vec<VirtualHost>) -> RouteConfiguration {
    RouteConfiguration {
        name,
        virtual_hosts,
        validate_clusters: on(false),
        max_direct_response_body_size_bytes: number(MAX_DIRECT_BODY),
        ignore_port_in_host_matching: true,
        ..RouteConfiguration::default()
    }
}

pub(super) fn virtual_host(name: String, domains: Vec<String>, routes: Vec<Route>) -> VirtualHost {
    VirtualHost {
        name,
        domains,
        routes,
        include_request_attempt_count: true,
        ..VirtualHost::default()
    }
}

/// The route to a port of a service that no VirtualService speaks of.
pub(super) fn default_route(service: &Service, port: u16) -> Route {
    let mut route = Route {
        name: "default".to_owned(),
        r#match: Some(any_request()),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(outbound_name(
                port,
                "",
                &service.host,
            ))),
            retry_policy: retry::outbound(None),
            ..base_action(Duration::ZERO)
        })),
        ..Route::default()
    };
    route.decorator = Some(Decorator {
        operation: operation(&route, "", port),
        ..Decorator::default()
    });
    route
}

/// For hosts that nobody declared: on to where the request was going.
pub(super) fn allow_any() -> VirtualHost {
    let action = route::Action::Route(RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(PASSTHROUGH.to_owned())),
        ..base_action(Duration::ZERO)
    });
    catch_all("allow_any", action)
}

/// For hosts that nobody declared: 502.
pub(super) fn block_all() -> VirtualHost {
    let action = route::Action::DirectResponse(DirectResponseAction {
        status: 502,
        ..DirectResponseAction::default()
    });
    catch_all("block_all", action)
}

fn catch_all(name: &str, action: route::Action) -> VirtualHost {
    let route = Route {
        name: name.to_owned(),
        r#match: Some(any_request()),
        action: Some(action),
        ..Route::default()
    };
    virtual_host(name.to_owned(), vec!["*".to_owned()], vec![route])
}

/// The names by which a proxy in `namespace` may call `service`: the full name with and without a
/// final dot, the short ones that are unambiguous there, and the addresses.
pub(super) fn domains(service: &Service, namespace: &str, cluster_domain: &str) -> Vec<String> {
    let mut domains = vec![service.host.clone()];
    if !service.host.starts_with('*') {
        domains.push(format!("{}.", service.host));
    }
    if service.headless {
        domains.push(format!("*.{}", service.host));
    }
    let short = service.host.strip_suffix(&format!(".svc.{cluster_domain}"));
    if let Some(short) = short {
        match short.split_once('.') {
            Some((name, own)) if own == namespace => {
                domains.push(name.to_owned());
                domains.push(format!("{short}.svc"));
                domains.push(short.to_owned());
            }
            _ => {
                domains.push(short.to_owned());
                domains.push(format!("{short}.svc"));
            }
        }
    }
    domains.extend(service.addresses.iter().map(|address| match address {
        std::net::IpAddr::V4(v4) => v4.to_string(),
        std::net::IpAddr::V6(v6) => format!("[{v6}]"),
    }));
    domains
}
