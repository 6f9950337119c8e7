//! What a route does.

use std::time::Duration;

use base64::Engine as _;
use ithildin_proto::pb::envoy::{
    config::{
        core::v3::{
            DataSource, HeaderValue, HeaderValueOption, data_source::Specifier,
            header_value_option::HeaderAppendAction,
        },
        route::v3::{
            DirectResponseAction, RedirectAction, Route, RouteAction, WeightedCluster,
            redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
            route::Action,
            route_action::{ClusterSpecifier, HostRewriteSpecifier},
            weighted_cluster::{ClusterWeight, cluster_weight},
        },
    },
    r#type::matcher::v3::RegexMatchAndSubstitute,
};

use super::{RouteContext, matches::regex};
use crate::{
    build::{
        cluster::outbound_name,
        retry,
        wire::{number, time},
    },
    host,
    model::{
        DerivePort, Destination, DirectBody, DirectResponse, HeaderOperations, Headers,
        HttpRedirect, HttpRewrite, HttpRoute, HttpRouteDestination,
    },
};

/// Sets the action of `route`, and the header operations that go with it.
pub(super) fn apply(
    context: RouteContext<'_>,
    namespace: &str,
    http: &HttpRoute,
    route: &mut Route,
) {
    let mut host = header_operations(&http.headers, Level::route(route));
    let action = if let Some(redirect) = &http.redirect {
        Action::Redirect(redirect_action(context, redirect))
    } else if let Some(response) = &http.direct_response {
        Action::DirectResponse(direct_response(response))
    } else {
        if let [only] = &http.route[..] {
            host = header_operations(&only.headers, Level::route(route)).or(host);
        }
        Action::Route(forward(context, namespace, http, host))
    };
    route.action = Some(action);
}

fn forward(
    context: RouteContext<'_>,
    namespace: &str,
    http: &HttpRoute,
    host: Option<String>,
) -> RouteAction {
    let timeout = http.timeout.map_or(Duration::ZERO, |timeout| timeout.0);
    let mut action = RouteAction {
        cluster_specifier: Some(clusters(context, namespace, &http.route)),
        host_rewrite_specifier: host.map(HostRewriteSpecifier::HostRewriteLiteral),
        retry_policy: retry::outbound(http.retries.as_ref()),
        ..base_action(timeout)
    };
    if let Some(rewrite) = &http.rewrite {
        apply_rewrite(rewrite, &mut action);
    }
    action
}

/// An action with Istio's timeouts; zero is no limit.
#[expect(
    deprecated,
    reason = "istiod sends max_grpc_timeout, not its successor"
)]
pub(in crate::build) fn base_action(timeout: Duration) -> RouteAction {
    RouteAction {
        timeout: time(timeout),
        max_grpc_timeout: time(timeout),
        ..RouteAction::default()
    }
}

fn clusters(
    context: RouteContext<'_>,
    namespace: &str,
    destinations: &[HttpRouteDestination],
) -> ClusterSpecifier {
    if let [only] = destinations {
        return ClusterSpecifier::Cluster(cluster(context, namespace, &only.destination));
    }
    let weighted = destinations.iter().filter(|entry| entry.weight > 0);
    ClusterSpecifier::WeightedClusters(WeightedCluster {
        clusters: weighted
            .map(|entry| {
                let mut weight = ClusterWeight {
                    name: cluster(context, namespace, &entry.destination),
                    weight: number(entry.weight),
                    ..ClusterWeight::default()
                };
                let host = header_operations(&entry.headers, Level::weight(&mut weight));
                weight.host_rewrite_specifier =
                    host.map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral);
                weight
            })
            .collect(),
        ..WeightedCluster::default()
    })
}

/// The port is the one that is named, else the service's only one, else the listener's.
fn cluster(context: RouteContext<'_>, namespace: &str, destination: &Destination) -> String {
    let host = host::resolve(&destination.host, namespace, &context.node.cluster_domain);
    let only_port = || match &context.registry.get(&host)?.ports[..] {
        [only] => Some(only.number),
        _ => None,
    };
    let named = destination.port.as_ref().map(|port| port.number);
    let port = named.or_else(only_port).unwrap_or(context.port);
    outbound_name(port, &destination.subset, &host)
}

fn apply_rewrite(rewrite: &HttpRewrite, action: &mut RouteAction) {
    if let Some(uri) = &rewrite.uri {
        action.prefix_rewrite.clone_from(uri);
    }
    if let Some(rule) = &rewrite.uri_regex_rewrite {
        action.regex_rewrite = Some(RegexMatchAndSubstitute {
            pattern: Some(regex(&rule.pattern)),
            substitution: rule.rewrite.clone(),
        });
    }
    if let Some(authority) = &rewrite.authority {
        action.host_rewrite_specifier =
            Some(HostRewriteSpecifier::HostRewriteLiteral(authority.clone()));
    }
}

fn redirect_action(context: RouteContext<'_>, redirect: &HttpRedirect) -> RedirectAction {
    let path = match (&redirect.uri, &redirect.uri_prefix) {
        (Some(uri), _) => Some(PathRewriteSpecifier::PathRedirect(uri.clone())),
        (None, Some(prefix)) => Some(PathRewriteSpecifier::PrefixRewrite(prefix.clone())),
        (None, None) => None,
    };
    let code = match redirect.redirect_code {
        Some(302) => RedirectResponseCode::Found,
        Some(303) => RedirectResponseCode::SeeOther,
        Some(307) => RedirectResponseCode::TemporaryRedirect,
        Some(308) => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::MovedPermanently,
    };
    let port = match (redirect.port, redirect.derive_port) {
        (Some(port), _) => port,
        (None, Some(DerivePort::FromRequestPort)) => context.port,
        // Without a port the scheme's own one is what a client takes.
        (None, Some(DerivePort::FromProtocolDefault) | None) => 0,
    };
    RedirectAction {
        host_redirect: redirect.authority.clone().unwrap_or_default(),
        port_redirect: port.into(),
        response_code: code.into(),
        scheme_rewrite_specifier: redirect
            .scheme
            .clone()
            .map(SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: path,
        ..RedirectAction::default()
    }
}

fn direct_response(response: &DirectResponse) -> DirectResponseAction {
    let specifier = response.body.as_ref().map(|body| match body {
        DirectBody::Text(text) => Specifier::InlineString(text.clone()),
        DirectBody::Bytes(encoded) => Specifier::InlineBytes(
            base64::engine::general_purpose::STANDARD
                .decode(encoded)
                .expect("validation decoded it before"),
        ),
    });
    DirectResponseAction {
        status: response.status.into(),
        body: specifier.map(|specifier| DataSource {
            specifier: Some(specifier),
            ..DataSource::default()
        }),
        ..DirectResponseAction::default()
    }
}

/// The four lists of a route or of a weighted cluster.
struct Level<'a> {
    request_add: &'a mut Vec<HeaderValueOption>,
    request_remove: &'a mut Vec<String>,
    response_add: &'a mut Vec<HeaderValueOption>,
    response_remove: &'a mut Vec<String>,
}

impl<'a> Level<'a> {
    fn route(route: &'a mut Route) -> Self {
        Self {
            request_add: &mut route.request_headers_to_add,
            request_remove: &mut route.request_headers_to_remove,
            response_add: &mut route.response_headers_to_add,
            response_remove: &mut route.response_headers_to_remove,
        }
    }

    fn weight(weight: &'a mut ClusterWeight) -> Self {
        Self {
            request_add: &mut weight.request_headers_to_add,
            request_remove: &mut weight.request_headers_to_remove,
            response_add: &mut weight.response_headers_to_add,
            response_remove: &mut weight.response_headers_to_remove,
        }
    }
}

/// Appends `headers` to the lists; returns the host that is to be set.
fn header_operations(headers: &Headers, level: Level<'_>) -> Option<String> {
    level.request_add.extend(additions(&headers.request));
    level
        .request_remove
        .extend_from_slice(&headers.request.remove);
    level.response_add.extend(additions(&headers.response));
    level
        .response_remove
        .extend_from_slice(&headers.response.remove);
    let set = headers.request.set.iter();
    set.filter(|(name, _)| is_host(name))
        .map(|(_, value)| value.clone())
        .next()
}

fn additions(operations: &HeaderOperations) -> impl Iterator<Item = HeaderValueOption> {
    let set = operations
        .set
        .iter()
        .filter(|(name, _)| !is_host(name))
        .map(|entry| (entry, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = operations
        .add
        .iter()
        .map(|entry| (entry, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add)
        .map(|((name, value), action)| HeaderValueOption {
            header: Some(HeaderValue {
                key: name.clone(),
                value: value.clone(),
                ..HeaderValue::default()
            }),
            append_action: action.into(),
            ..HeaderValueOption::default()
        })
}

fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name == ":authority"
}
