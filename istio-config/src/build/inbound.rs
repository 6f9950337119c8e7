//! A sidecar's listeners for requests to its own workload.

mod chains;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use ithildin_proto::pb::envoy::config::{
    cluster::v3::{
        Cluster,
        cluster::{CommonLbConfig, DiscoveryType, LbPolicy},
    },
    core::v3::{BindConfig, TrafficDirection},
    endpoint::v3::{
        ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
        lb_endpoint::HostIdentifier,
    },
    listener::v3::{FilterChain, FilterChainMatch, Listener},
    route::v3::{
        Decorator, Route, RouteAction, RouteConfiguration, route,
        route_action::{ClusterSpecifier, MaxStreamDuration},
    },
};

use self::chains::{ChainKind, chain_kinds, inspectors, needs_http, needs_tls};
use super::{
    Build, access_log,
    cluster::{BLACK_HOLE, circuit_breakers, http_options_for, services_metadata},
    hcm::{self, Side},
    listener::{self, http_inspector, tls_inspector},
    retry,
    route::any_request,
    tls, vhost,
    wire::{address, config_path, istio_metadata, number, on, socket_address, time},
};
use crate::{mtls::MtlsMode, protocol::Protocol, registry::Service};

const PASSTHROUGH: &str = "InboundPassthroughCluster";
/// Source address towards the workload: capture leaves it alone, so that no request loops.
const LOOP_GUARD_V4: &str = "127.0.0.6";
const LOOP_GUARD_V6: &str = "::6";
/// As good as never: the only endpoint is the workload itself.
const NEVER_CLEAN_UP: Duration = Duration::from_secs(9_223_372_035);

/// One port of the workload, or all that nobody declared.
struct InboundPort<'a> {
    /// `None`: every other port.
    number: Option<u16>,
    service_port: u16,
    protocol: Protocol,
    mode: MtlsMode,
    service: Option<&'a Service>,
}

impl<'a> Build<'a> {
    pub(super) fn inbound(&mut self) {
        let ports = self.own_ports();
        for port in &ports {
            if let Some(cluster) = self.inbound_cluster(port) {
                self.add_cluster(cluster);
            }
        }
        if self.node.captures() {
            let passthrough = Cluster {
                upstream_bind_config: self.loop_guard(),
                ..self.passthrough(PASSTHROUGH, super::cluster::PASSTHROUGH)
            };
            self.add_cluster(passthrough);
            let listener = self.virtual_inbound(ports);
            self.add_listener(listener);
        } else {
            for port in &ports {
                self.bound_inbound(port);
            }
        }
    }

    /// The ports of the services that the workload is behind; of several services on one port,
    /// the first by name.
    fn own_ports(&self) -> Vec<InboundPort<'a>> {
        let node = self.node;
        let mut ports = BTreeMap::new();
        for service in self.services() {
            let Some(targets) = service.ports_of(&node.namespace, &node.labels, &node.ips) else {
                continue;
            };
            for port in service.ports.iter().filter(|p| p.protocol != Protocol::Udp) {
                let Some(target) = targets.get(&port.number).copied() else {
                    continue;
                };
                ports.entry(target).or_insert_with(|| InboundPort {
                    number: Some(target),
                    service_port: port.number,
                    protocol: port.protocol,
                    mode: self.mode(Some(target)),
                    service: Some(service),
                });
            }
        }
        ports.into_values().collect()
    }

    fn mode(&self, port: Option<u16>) -> MtlsMode {
        self.mtls
            .of_workload(&self.node.namespace, &self.node.labels, port)
    }

    fn virtual_inbound(&self, mut ports: Vec<InboundPort<'a>>) -> Listener {
        let own = self.node.ports.inbound;
        let undeclared = |number| InboundPort {
            number,
            service_port: 0,
            protocol: Protocol::Unknown,
            mode: self.mode(number),
            service: None,
        };
        // A policy may name ports that no service has.
        for number in self.mtls.ports(&self.node.namespace, &self.node.labels) {
            if !ports.iter().any(|port| port.number == Some(number)) {
                ports.push(undeclared(Some(number)));
            }
        }
        ports.insert(0, undeclared(None));
        let to_itself = FilterChain {
            name: "virtualInbound-blackhole".to_owned(),
            filter_chain_match: Some(FilterChainMatch {
                destination_port: number(own.into()),
                ..FilterChainMatch::default()
            }),
            filters: vec![hcm::tcp_proxy(self.mesh, BLACK_HOLE, false)],
            ..FilterChain::default()
        };
        let chains = ports.iter().flat_map(|port| self.chains(port, "0.0.0.0"));
        let mut filters = vec![listener::original_dst()];
        filters.extend(inspectors(&ports, own));
        Listener {
            name: "virtualInbound".to_owned(),
            address: address(&self.wildcard().to_string(), own),
            filter_chains: std::iter::once(to_itself).chain(chains).collect(),
            listener_filters: filters,
            listener_filters_timeout: time(Duration::ZERO),
            continue_on_listener_filters_timeout: true,
            traffic_direction: TrafficDirection::Inbound.into(),
            access_log: access_log::of_listener(self.mesh),
            max_connections_to_accept_per_socket_event: number(1),
            ..Listener::default()
        }
    }

    /// Without capture: the node's own address and the workload's port; the workload itself
    /// listens on loopback.
    fn bound_inbound(&mut self, port: &InboundPort<'a>) {
        let Some(number) = port.number else {
            return;
        };
        let Some(bind) = self.node.ips.first().copied() else {
            self.warn(format!(
                "no inbound listener on port {number}: the node has no address"
            ));
            return;
        };
        let name = bind.to_string();
        let chains = self
            .chains(port, &name)
            .into_iter()
            .map(|mut chain| {
                if let Some(matching) = &mut chain.filter_chain_match {
                    matching.destination_port = None;
                }
                chain
            })
            .collect();
        let mut filters = Vec::new();
        if needs_tls(port) {
            filters.push(tls_inspector());
        }
        if needs_http(port) {
            filters.push(http_inspector());
        }
        let listener = self.bound(bind, number, TrafficDirection::Inbound, chains);
        self.add_listener(Listener {
            listener_filters: filters,
            listener_filters_timeout: time(Duration::ZERO),
            continue_on_listener_filters_timeout: true,
            ..listener
        });
    }

    fn chains(&self, port: &InboundPort<'_>, bind: &str) -> Vec<FilterChain> {
        let chain = |kind: &ChainKind| FilterChain {
            name: port.chain_name(kind.http, bind),
            filter_chain_match: Some(FilterChainMatch {
                destination_port: port.number.and_then(|port| number(port.into())),
                transport_protocol: kind.transport.to_owned(),
                application_protocols: kind.alpn.iter().map(|&alpn| alpn.to_owned()).collect(),
                ..FilterChainMatch::default()
            }),
            filters: vec![if kind.http {
                let stat_prefix = port.stat_prefix(bind);
                hcm::inline(self.mesh, Side::Inbound, &stat_prefix, port.routes())
            } else {
                hcm::tcp_proxy(self.mesh, &port.cluster(), true)
            }],
            transport_socket: kind
                .terminates
                .then(|| tls::inbound(&self.node.sds_cluster)),
            ..FilterChain::default()
        };
        chain_kinds(port.mode, port.protocol)
            .iter()
            .map(chain)
            .collect()
    }

    fn inbound_cluster(&self, port: &InboundPort<'a>) -> Option<Cluster> {
        let (service, target) = (port.service?, port.number?);
        let rule = self.rules.find(service);
        let pool = rule
            .as_ref()
            .and_then(|rule| rule.settings(port.service_port, None).connection_pool);
        let mut metadata = vec![("services", services_metadata(service))];
        if let Some(rule) = &rule {
            let (namespace, name) = (rule.source.namespace(), rule.source.name());
            metadata.push(("config", config_path("destination-rule", namespace, name)));
        }
        let cluster = Cluster {
            circuit_breakers: Some(circuit_breakers(pool)),
            metadata: Some(istio_metadata(metadata)),
            typed_extension_protocol_options: http_options_for(port.protocol),
            ..self.bare(&port.cluster(), DiscoveryType::OriginalDst)
        };
        Some(if self.node.captures() {
            Cluster {
                lb_policy: LbPolicy::ClusterProvided.into(),
                cleanup_interval: time(NEVER_CLEAN_UP),
                upstream_bind_config: self.loop_guard(),
                common_lb_config: Some(CommonLbConfig::default()),
                ..cluster
            }
        } else {
            self.to_loopback(cluster, target)
        })
    }

    fn to_loopback(&self, cluster: Cluster, port: u16) -> Cluster {
        let endpoint = LbEndpoint {
            host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
                address: address(&self.loopback().to_string(), port),
                ..Endpoint::default()
            })),
            ..LbEndpoint::default()
        };
        let endpoints = ClusterLoadAssignment {
            cluster_name: cluster.name.clone(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: vec![endpoint],
                ..LocalityLbEndpoints::default()
            }],
            ..ClusterLoadAssignment::default()
        };
        let fixed = self.bare(&cluster.name, DiscoveryType::Static);
        Cluster {
            cluster_discovery_type: fixed.cluster_discovery_type,
            load_assignment: Some(endpoints),
            ..cluster
        }
    }

    fn loop_guard(&self) -> Option<BindConfig> {
        let source = match self.wildcard() {
            IpAddr::V4(_) => LOOP_GUARD_V4,
            IpAddr::V6(_) => LOOP_GUARD_V6,
        };
        Some(BindConfig {
            source_address: Some(socket_address(source, 0)),
            ..BindConfig::default()
        })
    }
}

impl InboundPort<'_> {
    fn cluster(&self) -> String {
        match (self.service, self.number) {
            (Some(_), Some(number)) => format!("inbound|{number}||"),
            _ => PASSTHROUGH.to_owned(),
        }
    }

    fn chain_name(&self, http: bool, bind: &str) -> String {
        match self.number {
            Some(number) => format!("{bind}_{number}"),
            None if http => "virtualInbound-catchall-http".to_owned(),
            None => "virtualInbound".to_owned(),
        }
    }

    fn stat_prefix(&self, bind: &str) -> String {
        match (self.service, self.number) {
            (Some(_), Some(number)) => format!("inbound_{bind}_{number};"),
            _ => format!("{PASSTHROUGH};"),
        }
    }

    fn routes(&self) -> RouteConfiguration {
        let host = self.service.map_or("", |service| service.host.as_str());
        let action = RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(self.cluster())),
            timeout: time(Duration::ZERO),
            retry_policy: (self.protocol != Protocol::Grpc).then(retry::inbound),
            max_stream_duration: Some(MaxStreamDuration {
                max_stream_duration: time(Duration::ZERO),
                grpc_timeout_header_max: time(Duration::ZERO),
                ..MaxStreamDuration::default()
            }),
            ..RouteAction::default()
        };
        let route = Route {
            name: "default".to_owned(),
            r#match: Some(any_request()),
            decorator: Some(Decorator {
                operation: format!("{host}:{}/*", self.service_port),
                ..Decorator::default()
            }),
            action: Some(route::Action::Route(action)),
            ..Route::default()
        };
        let mut only = vhost::virtual_host(
            format!("inbound|http|{}", self.service_port),
            vec!["*".to_owned()],
            vec![route],
        );
        only.include_request_attempt_count = false;
        RouteConfiguration {
            name: self.cluster(),
            virtual_hosts: vec![only],
            validate_clusters: on(false),
            ..RouteConfiguration::default()
        }
    }
}
