use ithildin_proto::pb::envoy::config::route::v3::{
    RouteAction, header_matcher::HeaderMatchSpecifier, redirect_action::PathRewriteSpecifier,
    route::Action, route_action::HostRewriteSpecifier,
};

use super::*;
use crate::testing::{resources, router};

const GATEWAY: &str = "default/gw";

/// The routes of a VirtualService of gateway `default/gw` with these `http` routes.
fn of(http: &str) -> Vec<Route> {
    let resources = resources(&format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: vs}}
spec:
  hosts: ['*']
  gateways: [gw]
  http:
{http}
---
apiVersion: v1
kind: Service
metadata: {{name: one}}
spec: {{ports: [{{name: http, port: 8000}}]}}
"
    ));
    let node = router();
    let registry = Registry::new(&resources, "cluster.local", &mut Vec::new());
    let context = RouteContext {
        node: &node,
        registry: &registry,
        gateway: GATEWAY,
        port: 443,
    };
    routes(context, &resources.virtual_services[0])
}

fn action(route: &Route) -> &RouteAction {
    match &route.action {
        Some(Action::Route(action)) => action,
        other => panic!("{other:?}"),
    }
}

fn cluster(route: &Route) -> &str {
    match &action(route).cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => name,
        other => panic!("{other:?}"),
    }
}

#[test]
fn routes_keep_their_order_and_end_at_a_catch_all() {
    let routes = of("
  - match: [{uri: {exact: /a}}, {uri: {prefix: /b}}]
    route: [{destination: {host: a}}]
  - match: [{uri: {prefix: /}, headers: {x: {exact: y}}}]
    route: [{destination: {host: b}}]
  - route: [{destination: {host: c}}]
  - match: [{uri: {exact: /never}}]
    route: [{destination: {host: d}}]
");
    let paths: Vec<_> = routes
        .iter()
        .map(|route| {
            route
                .r#match
                .as_ref()
                .unwrap()
                .path_specifier
                .clone()
                .unwrap()
        })
        .collect();
    assert_eq!(
        paths,
        [
            PathSpecifier::Path("/a".into()),
            PathSpecifier::Prefix("/b".into()),
            PathSpecifier::Prefix("/".into()),
            PathSpecifier::Prefix("/".into()),
        ]
    );
    let hosts: Vec<_> = routes
        .iter()
        .map(|route| cluster(route).split('|').nth(3).unwrap())
        .collect();
    let full = |name: &str| format!("{name}.default.svc.cluster.local");
    assert_eq!(hosts, [full("a"), full("a"), full("b"), full("c")]);
}

#[test]
fn the_port_of_a_destination_has_three_sources() {
    let routes = of("
  - match: [{uri: {exact: /named}}]
    route: [{destination: {host: one, port: {number: 9}}}]
  - match: [{uri: {exact: /only}}]
    route: [{destination: {host: one, subset: v1}}]
  - match: [{uri: {exact: /listener}}]
    route: [{destination: {host: unknown.example.org}}]
");
    assert_eq!(
        routes.iter().map(cluster).collect::<Vec<_>>(),
        [
            "outbound|9||one.default.svc.cluster.local",
            "outbound|8000|v1|one.default.svc.cluster.local",
            "outbound|443||unknown.example.org",
        ]
    );
}

#[test]
fn conditions_on_gateway_port_and_source_are_decided_at_once() {
    let routes = of("
  - match:
    - {uri: {exact: /other-port}, port: 80}
    - {uri: {exact: /port}, port: 443}
    - {uri: {exact: /other-gateway}, gateways: [other]}
    - {uri: {exact: /gateway}, gateways: [gw]}
    - {uri: {exact: /full-gateway}, gateways: [default/gw]}
    - {uri: {exact: /mesh}, gateways: [mesh]}
    - {uri: {exact: /other-labels}, sourceLabels: {istio: other}}
    - {uri: {exact: /labels}, sourceLabels: {istio: ingressgateway}}
    - {uri: {exact: /other-namespace}, sourceNamespace: default}
    - {uri: {exact: /namespace}, sourceNamespace: istio-system}
    route: [{destination: {host: one}}]
");
    let paths: Vec<_> = routes
        .iter()
        .filter_map(|route| match &route.r#match.as_ref()?.path_specifier {
            Some(PathSpecifier::Path(path)) => Some(path.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(
        paths,
        [
            "/port",
            "/gateway",
            "/full-gateway",
            "/labels",
            "/namespace"
        ]
    );
}

#[test]
fn conditions_become_envoys() {
    let routes = of("
  - match:
    - uri: {regex: '/a/.*'}
      ignoreUriCase: true
      method: {exact: GET}
      authority: {prefix: a.}
      headers: {X-Any: {}, x-regex: {regex: 'b+'}, x-star: {regex: '*'}}
      withoutHeaders: {x-not: {exact: v}, x-none: {}}
      queryParams: {q: {exact: '1'}, any: {}}
    route: [{destination: {host: one}}]
");
    let matching = routes[0].r#match.as_ref().unwrap();
    assert_eq!(
        matching.case_sensitive.as_ref().map(|value| value.value),
        Some(false)
    );
    let headers: Vec<_> = matching
        .headers
        .iter()
        .map(|header| {
            let present =
                header.header_match_specifier == Some(HeaderMatchSpecifier::PresentMatch(true));
            let empty = header.treat_missing_header_as_empty;
            (header.name.as_str(), present, header.invert_match, empty)
        })
        .collect();
    assert_eq!(
        headers,
        [
            ("x-any", true, false, false),
            ("x-regex", false, false, false),
            ("x-star", true, false, false),
            ("x-none", true, true, false),
            ("x-not", false, true, true),
            (":method", false, false, false),
            (":authority", false, false, false),
        ]
    );
    assert_eq!(matching.query_parameters.len(), 2);
}

#[test]
fn weights_of_nothing_are_left_out() {
    let routes = of("
  - route:
    - {destination: {host: one, subset: a}, weight: 75, headers: {request: {set: {host: x.org, h: v}}}}
    - {destination: {host: one, subset: b}, weight: 25}
    - {destination: {host: one, subset: c}}
");
    let Some(ClusterSpecifier::WeightedClusters(weighted)) = &action(&routes[0]).cluster_specifier
    else {
        panic!("{routes:?}");
    };
    let weights: Vec<_> = weighted
        .clusters
        .iter()
        .map(|cluster| {
            (
                cluster.name.as_str(),
                cluster.weight.as_ref().unwrap().value,
            )
        })
        .collect();
    assert_eq!(
        weights,
        [
            ("outbound|8000|a|one.default.svc.cluster.local", 75),
            ("outbound|8000|b|one.default.svc.cluster.local", 25),
        ]
    );
    assert!(weighted.clusters[0].host_rewrite_specifier.is_some());
    assert_eq!(weighted.clusters[0].request_headers_to_add.len(), 1);
    assert_eq!(routes[0].decorator.as_ref().unwrap().operation, "vs:443/*");
}

#[test]
fn rewrites_timeouts_and_headers_are_carried_over() {
    let routes = of("
  - name: r
    match: [{name: m, uri: {prefix: /a}}]
    rewrite: {uri: /b, authority: b.org}
    timeout: 1500ms
    retries: {attempts: 0}
    headers: {request: {add: {x: y}, remove: [z]}, response: {set: {s: t}}}
    route: [{destination: {host: one}, headers: {request: {set: {h: v}}}}]
");
    let (route, action) = (&routes[0], action(&routes[0]));
    assert_eq!(route.name, "r.m");
    assert_eq!(action.prefix_rewrite, "/b");
    assert_eq!(
        action.host_rewrite_specifier,
        Some(HostRewriteSpecifier::HostRewriteLiteral("b.org".into()))
    );
    let timeout = action.timeout.as_ref().unwrap();
    assert_eq!((timeout.seconds, timeout.nanos), (1, 500_000_000));
    assert!(action.retry_policy.is_none());
    let added: Vec<_> = route
        .request_headers_to_add
        .iter()
        .map(|option| {
            (
                option.header.as_ref().unwrap().key.as_str(),
                option.append_action,
            )
        })
        .collect();
    // 0 appends, 2 overwrites.
    assert_eq!(added, [("x", 0), ("h", 2)]);
    assert_eq!(route.request_headers_to_remove, ["z"]);
    assert_eq!(route.response_headers_to_add[0].append_action, 2);
}

#[test]
fn redirects_and_direct_responses_need_no_destination() {
    let routes = of("
  - match: [{uri: {exact: /a}}]
    redirect: {uri: /b, authority: b.org, redirectCode: 308, scheme: https, derivePort: FROM_REQUEST_PORT}
  - match: [{uri: {prefix: /c}}]
    redirect: {uriPrefix: /d}
  - match: [{uri: {exact: /e}}]
    directResponse: {status: 418, body: {bytes: dGVhcG90}}
");
    let Some(Action::Redirect(first)) = &routes[0].action else {
        panic!("{routes:?}");
    };
    assert_eq!((first.response_code, first.port_redirect), (4, 443));
    assert_eq!(first.host_redirect, "b.org");
    let Some(Action::Redirect(second)) = &routes[1].action else {
        panic!("{routes:?}");
    };
    assert_eq!(
        second.path_rewrite_specifier,
        Some(PathRewriteSpecifier::PrefixRewrite("/d".into()))
    );
    let Some(Action::DirectResponse(direct)) = &routes[2].action else {
        panic!("{routes:?}");
    };
    assert_eq!(direct.status, 418);
    assert!(direct.body.is_some());
}
