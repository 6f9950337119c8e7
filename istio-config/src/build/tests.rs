use ithildin_proto::{
    pb::envoy::{
        config::{
            cluster::v3::{
                Cluster,
                cluster::{ClusterDiscoveryType, DiscoveryType},
            },
            core::v3::{TransportSocket, transport_socket},
            listener::v3::{FilterChain, Listener, filter},
            route::v3::{RouteConfiguration, route::Action, route_action::ClusterSpecifier},
        },
        extensions::{
            filters::network::http_connection_manager::v3::HttpConnectionManager,
            transport_sockets::tls::v3::{
                DownstreamTlsContext, UpstreamTlsContext, common_tls_context::ValidationContextType,
            },
            upstreams::http::v3::HttpProtocolOptions,
        },
    },
    unpack,
};
use ithildin_xds::NameMap;
use prost::{Message, Name};

use super::*;
use crate::{
    node::{DataPlane, Interception},
    testing::{built, resources, router, sidecar, warnings},
};

mod gateways;
mod inbound;
mod outbound;
mod upstream_tls;

fn cluster<'a>(built: &'a Built, name: &str) -> &'a Cluster {
    let clusters = &built.resources.clusters;
    clusters
        .get(name)
        .unwrap_or_else(|| panic!("no {name} in {:?}", names(clusters)))
}

fn listener<'a>(built: &'a Built, name: &str) -> &'a Listener {
    let listeners = &built.resources.listeners;
    listeners
        .get(name)
        .unwrap_or_else(|| panic!("no {name} in {:?}", names(listeners)))
}

fn routes<'a>(built: &'a Built, name: &str) -> &'a RouteConfiguration {
    let routes = &built.resources.routes;
    routes
        .get(name)
        .unwrap_or_else(|| panic!("no {name} in {:?}", names(routes)))
}

fn names<T>(map: &NameMap<T>) -> Vec<&str> {
    map.keys().map(String::as_str).collect()
}

fn tls<M: Message + Name + Default>(socket: Option<&TransportSocket>) -> M {
    match socket.and_then(|socket| socket.config_type.as_ref()) {
        Some(transport_socket::ConfigType::TypedConfig(any)) => unpack(any).unwrap(),
        None => panic!("no transport socket"),
    }
}

fn manager(chain: &FilterChain) -> HttpConnectionManager {
    match &chain.filters[0].config_type {
        Some(filter::ConfigType::TypedConfig(any)) => unpack(any).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// `name domains -> cluster of the first route` of each virtual host.
fn hosts(routes: &RouteConfiguration) -> Vec<String> {
    routes
        .virtual_hosts
        .iter()
        .map(|host| {
            let first = host.routes.first().and_then(|route| route.action.as_ref());
            let target = match first {
                Some(Action::Route(action)) => match &action.cluster_specifier {
                    Some(ClusterSpecifier::Cluster(cluster)) => cluster.clone(),
                    other => format!("{other:?}"),
                },
                Some(Action::DirectResponse(direct)) => direct.status.to_string(),
                Some(_) => "other".to_owned(),
                None => "nothing".to_owned(),
            };
            format!("{} {} -> {target}", host.name, host.domains.join(","))
        })
        .collect()
}

#[test]
fn the_built_in_data_plane_refuses_what_it_cannot_do() {
    let yaml = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: vs}
spec:
  hosts: [a.example.org]
  http: [{retries: {attempts: 1, retryOn: 'reset,retriable-headers'}, route: [{destination: {host: a.example.org}}]}]
";
    let resources = resources(yaml);
    let mut node = sidecar(Interception::None);
    assert!(build(&resources, &node).is_ok());
    node.data_plane = DataPlane::Builtin;
    let errors = build(&resources, &node).unwrap_err();
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "mesh.yaml: VirtualService default/vs: spec.http[0].retries.retryOn: \"retriable-headers\" is not supported by the built-in data plane",
        ]
    );
}

#[test]
fn interception_must_be_one_that_the_data_plane_knows() {
    let error = |interception, data_plane| {
        let mut node = sidecar(interception);
        node.data_plane = data_plane;
        let errors = build(&Resources::default(), &node).err()?;
        Some(errors[0].to_string())
    };
    use {
        DataPlane::{Builtin, Envoy},
        Interception::{None as Nothing, Redirect, Tproxy},
    };
    assert_eq!(error(Nothing, Builtin), None);
    assert_eq!(error(Nothing, Envoy), None);
    assert_eq!(error(Redirect, Envoy), None);
    assert_eq!(
        error(Redirect, Builtin).as_deref(),
        Some(
            "ISTIO_META_INTERCEPTION_MODE: REDIRECT, the default of a sidecar, needs istiod or the data plane envoy; set NONE"
        )
    );
    assert_eq!(
        error(Tproxy, Envoy).as_deref(),
        Some("ISTIO_META_INTERCEPTION_MODE: TPROXY needs istiod; without it set REDIRECT or NONE")
    );
}

#[test]
fn the_same_resources_give_the_same_configuration() {
    let yaml = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: '{accessLogFile: /dev/stdout, accessLogEncoding: JSON}'}
---
apiVersion: v1
kind: Service
metadata: {name: own}
spec: {clusterIP: 10.1.0.1, selector: {app: own}, ports: [{name: http, port: 80}]}
";
    let node = sidecar(Interception::Redirect);
    let (first, second) = (built(yaml, &node), built(yaml, &node));
    assert_eq!(first.resources.listeners, second.resources.listeners);
    assert_eq!(first.resources.clusters, second.resources.clusters);
    assert_eq!(first.resources.routes, second.resources.routes);
}

#[test]
fn access_logs_follow_the_mesh_configuration() {
    let log = |mesh: &str| {
        let yaml = format!(
            "
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data: {{mesh: '{mesh}'}}
"
        );
        let built = built(&yaml, &sidecar(Interception::Redirect));
        listener(&built, "virtualOutbound").access_log.len()
    };
    assert_eq!(log("{}"), 0);
    assert_eq!(log("{accessLogFile: /dev/stdout}"), 1);
    assert_eq!(
        log("{accessLogFile: /dev/stdout, accessLogFormat: \"%PROTOCOL%\"}"),
        1
    );
}
