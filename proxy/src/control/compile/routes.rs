//! Route configurations: virtual hosts and how routes match. What a route does: `route_action`.

use std::sync::Arc;

use ithildin_proto::pb::envoy::config::route::v3::{
    Route as RouteProto, RouteConfiguration, RouteMatch as RouteMatchProto,
    VirtualHost as VirtualHostProto, route::Action, route_match::PathSpecifier,
    virtual_host::TlsRequirementType,
};

use super::{
    filter_overrides, headers, limit_rules, matchers, metadata,
    route_action::{self, Level},
    route_answer, trace,
};
use crate::{
    config::{
        Map,
        route::{PathMatch, Route, RouteMatch, RouteTable, VirtualHost, Wildcards},
    },
    control::report::{At, no_effect, refuse},
};

/// Longest body of a direct response in bytes, unless the configuration says otherwise; Envoy's.
const DEFAULT_MAX_DIRECT_RESPONSE_BODY: u32 = 4096;

/// Compiles a whole route configuration.
pub(super) fn table(config: &RouteConfiguration, at: &At<'_>) -> RouteTable {
    let RouteConfiguration {
        name,
        virtual_hosts,
        vhds,
        internal_only_headers,
        response_headers_to_add,
        response_headers_to_remove,
        request_headers_to_add,
        request_headers_to_remove,
        most_specific_header_mutations_wins,
        validate_clusters,
        max_direct_response_body_size_bytes,
        cluster_specifier_plugins,
        request_mirror_policies,
        ignore_port_in_host_matching,
        vhost_header,
        ignore_path_parameters_in_path_matching,
        typed_per_filter_config,
        metadata,
        route_specifiers,
    } = config;
    // Clusters are validated by whoever knows them all: see `cluster_references`.
    no_effect!(metadata, validate_clusters);
    refuse!(
        at;
        vhds, internal_only_headers, most_specific_header_mutations_wins,
        cluster_specifier_plugins, request_mirror_policies, vhost_header,
        ignore_path_parameters_in_path_matching, route_specifiers,
    );
    let max_body = max_direct_response_body_size_bytes
        .map_or(DEFAULT_MAX_DIRECT_RESPONSE_BODY, |value| value.value);
    let hosts = virtual_hosts.iter().enumerate();
    let mut table = RouteTable {
        name: name.as_str().into(),
        ignore_port_in_host_matching: *ignore_port_in_host_matching,
        exact: Map::default(),
        suffixes: Wildcards::default(),
        prefixes: Wildcards::default(),
        any: None,
        hosts: hosts
            .map(|(i, host)| virtual_host(host, max_body, &at.index("virtual_hosts", i)))
            .collect(),
        request_headers: headers::request(request_headers_to_add, request_headers_to_remove, at),
        response_headers: headers::response(
            response_headers_to_add,
            response_headers_to_remove,
            at,
        ),
        filters: filter_overrides::overrides(typed_per_filter_config, at),
    };
    for (index, host) in virtual_hosts.iter().enumerate() {
        domains(&mut table, index, host, &at.index("virtual_hosts", index));
    }
    table
}

/// The clusters that routes name, with the place of each, in the order of the configuration.
pub(super) fn cluster_references(table: &RouteTable) -> impl Iterator<Item = (String, &Arc<str>)> {
    table.hosts.iter().enumerate().flat_map(|(h, host)| {
        let routes = host.routes.iter().enumerate();
        routes.flat_map(move |(r, route)| {
            let path = format!("virtual_hosts[{h}].routes[{r}].route");
            route_action::cluster_names(&route.action).map(move |name| (path.clone(), name))
        })
    })
}

fn domains(table: &mut RouteTable, index: usize, host: &VirtualHostProto, at: &At<'_>) {
    for (i, domain) in host.domains.iter().enumerate() {
        let at = at.index("domains", i);
        let lower = domain.to_ascii_lowercase();
        let previous = if lower == "*" {
            table.any.replace(index)
        } else if let Some(suffix) = lower.strip_prefix('*') {
            table.suffixes.insert(suffix, index)
        } else if let Some(prefix) = lower.strip_suffix('*') {
            table.prefixes.insert(prefix, index)
        } else {
            table.exact.insert(lower.as_str().into(), index)
        };
        if domain.is_empty() {
            at.error("is empty");
        } else if domain
            .get(1..domain.len() - 1)
            .is_some_and(|d| d.contains('*'))
        {
            at.error("a wildcard may only be the first or the last character");
        } else if let Some(previous) = previous {
            at.error(format_args!(
                "domain {domain:?} is also in virtual_hosts[{previous}]; domains must be unique"
            ));
        }
    }
}

fn virtual_host(config: &VirtualHostProto, max_body: u32, at: &At<'_>) -> VirtualHost {
    let VirtualHostProto {
        name,
        domains,
        routes,
        matcher,
        require_tls,
        virtual_clusters,
        rate_limits,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        cors,
        typed_per_filter_config,
        include_request_attempt_count,
        include_attempt_count_in_response,
        retry_policy,
        retry_policy_typed_config,
        hedge_policy,
        include_is_timeout_retry_header,
        per_request_buffer_limit_bytes,
        request_body_buffer_limit,
        request_mirror_policies,
        metadata,
        route_specifiers,
    } = config;
    // Virtual clusters are statistics only.
    no_effect!(metadata, virtual_clusters);
    refuse!(
        at;
        matcher, cors, retry_policy_typed_config,
        hedge_policy, include_is_timeout_retry_header, per_request_buffer_limit_bytes,
        request_body_buffer_limit, request_mirror_policies, route_specifiers,
    );
    if name.is_empty() {
        at.field("name").error("is empty");
    }
    if domains.is_empty() {
        at.field("domains")
            .error("is empty; \"*\" matches every host");
    }
    let level = Level {
        retry_policy: retry_policy.as_ref(),
        max_direct_response_body: max_body,
    };
    if let Some(policy) = retry_policy {
        route_action::retry_policy(policy, &at.field("retry_policy"));
    }
    let routes = routes.iter().enumerate();
    VirtualHost {
        name: name.as_str().into(),
        require_tls: requires_tls(*require_tls, at),
        include_request_attempt_count: *include_request_attempt_count,
        include_attempt_count_in_response: *include_attempt_count_in_response,
        request_headers: headers::request(request_headers_to_add, request_headers_to_remove, at),
        response_headers: headers::response(
            response_headers_to_add,
            response_headers_to_remove,
            at,
        ),
        filters: filter_overrides::overrides(typed_per_filter_config, at),
        limits: limit_rules::of_route(rate_limits, at),
        routes: routes
            .filter_map(|(i, config)| route(config, &level, &at.index("routes", i)))
            .map(Arc::new)
            .collect(),
    }
}

fn requires_tls(value: i32, at: &At<'_>) -> bool {
    match at.enumeration("require_tls", value) {
        Some(TlsRequirementType::All) => true,
        Some(TlsRequirementType::ExternalOnly) => {
            at.field("require_tls")
                .error("EXTERNAL_ONLY is not supported; use ALL or NONE");
            false
        }
        Some(TlsRequirementType::None) | None => false,
    }
}

fn route(config: &RouteProto, level: &Level<'_>, at: &At<'_>) -> Option<Route> {
    let RouteProto {
        name,
        r#match,
        metadata,
        decorator,
        typed_per_filter_config,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        tracing,
        per_request_buffer_limit_bytes,
        stat_prefix,
        request_body_buffer_limit,
        route_specifiers,
        action,
    } = config;
    no_effect!(stat_prefix);
    refuse!(at; per_request_buffer_limit_bytes, request_body_buffer_limit, route_specifiers);
    let matches = match r#match {
        Some(config) => route_match(config, &at.field("match")),
        None => {
            at.field("match").error("is required");
            None
        }
    };
    let action = match action {
        Some(Action::Route(config)) => route_action::forward(config, level, &at.field("route")),
        Some(Action::Redirect(config)) => route_answer::redirect(config, &at.field("redirect")),
        Some(Action::DirectResponse(config)) => {
            route_answer::direct(config, level, &at.field("direct_response"))
        }
        Some(Action::FilterAction(_)) => {
            at.field("filter_action").error("is not supported");
            None
        }
        Some(Action::NonForwardingAction(_)) => {
            at.field("non_forwarding_action").error("is not supported");
            None
        }
        None => {
            at.error("one of route, redirect and direct_response is required");
            None
        }
    };
    Some(Route {
        name: name.as_str().into(),
        request_headers: headers::request(request_headers_to_add, request_headers_to_remove, at),
        response_headers: headers::response(
            response_headers_to_add,
            response_headers_to_remove,
            at,
        ),
        filters: filter_overrides::overrides(typed_per_filter_config, at),
        metadata: metadata::of_route(metadata.as_ref()),
        decorator: decorator
            .as_ref()
            .and_then(|config| trace::decorator(config, &at.field("decorator")))
            .map(Box::new),
        tracing: tracing
            .as_ref()
            .map(|config| Box::new(trace::of_route(config, &at.field("tracing")))),
        matches: matches?,
        action: action?,
    })
}

pub(super) fn route_match(config: &RouteMatchProto, at: &At<'_>) -> Option<RouteMatch> {
    let RouteMatchProto {
        case_sensitive,
        runtime_fraction,
        headers,
        query_parameters,
        cookies,
        grpc,
        tls_context,
        dynamic_metadata,
        filter_state,
        path_specifier,
    } = config;
    refuse!(at; runtime_fraction, cookies, tls_context, filter_state);
    let path = path_match(path_specifier.as_ref(), at);
    let headers = headers.iter().enumerate();
    let query = query_parameters.iter().enumerate();
    let metadata = dynamic_metadata.iter().enumerate();
    Some(RouteMatch {
        case_sensitive: case_sensitive.is_none_or(|value| value.value),
        headers: headers
            .filter_map(|(i, config)| matchers::header(config, &at.index("headers", i)))
            .collect(),
        query: query
            .filter_map(|(i, config)| matchers::query(config, &at.index("query_parameters", i)))
            .collect(),
        grpc_only: grpc.is_some(),
        metadata: metadata
            .filter_map(|(i, config)| metadata::matcher(config, &at.index("dynamic_metadata", i)))
            .collect(),
        path: path?,
    })
}

fn path_match(specifier: Option<&PathSpecifier>, at: &At<'_>) -> Option<PathMatch> {
    match specifier {
        Some(PathSpecifier::Prefix(prefix)) => Some(PathMatch::Prefix(prefix.as_str().into())),
        Some(PathSpecifier::Path(path)) => Some(PathMatch::Exact(path.as_str().into())),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            if !prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', '#']) {
                at.field("path_separated_prefix").error(format_args!(
                    "{prefix:?} must start with a slash, not end with one, and hold no '?' and no '#'"
                ));
                return None;
            }
            Some(PathMatch::SeparatedPrefix(prefix.as_str().into()))
        }
        Some(PathSpecifier::SafeRegex(regex)) => {
            matchers::full_regex(regex, &at.field("safe_regex")).map(PathMatch::Regex)
        }
        Some(PathSpecifier::ConnectMatcher(_)) => Some(PathMatch::Connect),
        Some(PathSpecifier::PathMatchPolicy(policy)) => {
            at.field("path_match_policy")
                .error(format_args!("{:?} is not supported", policy.name));
            None
        }
        None => {
            at.error("one of prefix, path, path_separated_prefix, safe_regex and connect_matcher is required");
            None
        }
    }
}
