//! A sidecar's listeners and routes for its own workload's requests.

mod hosts;

use std::{collections::BTreeMap, net::IpAddr};

use ithildin_proto::pb::envoy::config::{
    core::v3::TrafficDirection,
    listener::v3::{FilterChain, FilterChainMatch, Listener},
    route::v3::VirtualHost,
};

use super::{
    Build, access_log,
    cluster::{BLACK_HOLE, PASSTHROUGH, outbound_name},
    hcm::{self, Side},
    listener::{self, http_inspector, tls_inspector},
    vhost,
    wire::{address, number, on},
};
use crate::{
    model::OutboundMode,
    protocol::Protocol,
    registry::{Discovery, Port, Service},
};

const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

/// All that is reachable on one port without telling addresses apart.
#[derive(Default)]
struct SharedPort<'a> {
    /// Services that are told apart by the host of a request.
    http: Vec<(&'a Service, &'a Port)>,
    /// Services that are told apart by SNI.
    tls: Vec<&'a Service>,
    /// The one service that gets all other bytes.
    tcp: Option<&'a Service>,
}

impl<'a> Build<'a> {
    pub(super) fn outbound(&mut self) {
        let mut shared: BTreeMap<u16, SharedPort<'a>> = BTreeMap::new();
        for service in self.services() {
            if service.discovery == Discovery::OriginalDestination && !self.node.captures() {
                self.warn(format!(
                    "{}: resolution NONE needs traffic capture, the host is not reachable",
                    service.host
                ));
                continue;
            }
            for port in service.ports.iter().filter(|p| p.protocol != Protocol::Udp) {
                let apart = self.node.captures() && !port.protocol.is_http();
                if !(apart && self.listeners_by_address(service, port)) {
                    self.share(shared.entry(port.number).or_default(), service, port);
                }
            }
        }
        for (port, shared) in &shared {
            self.shared_listener(*port, shared);
        }
        if self.node.captures() {
            let listener = self.virtual_outbound();
            self.add_listener(listener);
        }
        self.http_proxy(&shared);
        self.check_destinations();
    }

    /// Listeners for the service's own addresses; whether it has any.
    fn listeners_by_address(&mut self, service: &'a Service, port: &'a Port) -> bool {
        let endpoints = service.endpoints.iter().filter(|_| service.headless);
        let endpoints = endpoints.filter_map(|endpoint| endpoint.address.parse::<IpAddr>().ok());
        let addresses: Vec<IpAddr> = service.addresses.iter().copied().chain(endpoints).collect();
        for address in &addresses {
            let listener = if port.protocol == Protocol::Unknown {
                self.sniffed_listener(*address, service, port)
            } else {
                let filter = self.tcp(service, port.number);
                self.captured(*address, port.number, vec![listener::chain(filter)])
            };
            self.add_listener(listener);
        }
        !addresses.is_empty()
    }

    /// HTTP or anything else, on an address that only this service has.
    fn sniffed_listener(&mut self, address: IpAddr, service: &Service, port: &Port) -> Listener {
        let routes = format!("{}:{}", service.host, port.number);
        let stat_prefix = format!("outbound_{address}_{};", port.number);
        let http = hcm::by_rds(self.mesh, Side::Outbound, &stat_prefix, &routes);
        let chains = vec![listener::sniffed_http_chain(http)];
        let host = VirtualHost {
            domains: vec!["*".to_owned()],
            ..self.service_host(service, port.number)
        };
        self.add_routes(vhost::configuration(routes, vec![host]));
        Listener {
            default_filter_chain: Some(listener::chain(self.tcp(service, port.number))),
            listener_filters: vec![http_inspector()],
            ..self.captured(address, port.number, chains)
        }
    }

    fn share(&mut self, shared: &mut SharedPort<'a>, service: &'a Service, port: &'a Port) {
        match port.protocol {
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => shared.http.push((service, port)),
            Protocol::Https | Protocol::Tls => shared.tls.push(service),
            Protocol::Tcp | Protocol::Udp | Protocol::Unknown => {
                if port.protocol == Protocol::Unknown {
                    shared.http.push((service, port));
                }
                if let Some(first) = shared.tcp {
                    self.warn(format!(
                        "{}: port {} has no address of its own, and {} has it already",
                        service.host, port.number, first.host
                    ));
                } else {
                    shared.tcp = Some(service);
                }
            }
        }
    }

    fn shared_listener(&mut self, port: u16, shared: &SharedPort<'a>) {
        let captures = self.node.captures();
        if !captures && !self.may_bind_locally(port) {
            return;
        }
        let bind = if captures {
            self.wildcard()
        } else {
            self.loopback()
        };
        let mut chains: Vec<FilterChain> = Vec::new();
        // With HTTP alone on a bound port there is nothing to find out, and nowhere else to go.
        let sniff = captures || shared.tcp.is_some() || !shared.tls.is_empty();
        if !shared.http.is_empty() {
            let stat_prefix = format!("outbound_{bind}_{port};");
            let http = hcm::by_rds(self.mesh, Side::Outbound, &stat_prefix, &port.to_string());
            chains.push(if sniff {
                listener::sniffed_http_chain(http)
            } else {
                listener::chain(http)
            });
            let hosts = self.port_hosts(port, shared);
            self.add_routes(vhost::configuration(port.to_string(), hosts));
        }
        chains.extend(
            shared
                .tls
                .iter()
                .map(|service| self.sni_chain(service, port)),
        );
        let tcp = shared
            .tcp
            .map(|service| listener::chain(self.tcp(service, port)));
        let (chains, default) = match (chains.is_empty(), tcp) {
            (true, Some(tcp)) => (vec![tcp], None),
            (_, tcp) => (chains, tcp.or_else(|| captures.then(|| self.elsewhere()))),
        };
        let mut filters = Vec::new();
        if !shared.tls.is_empty() {
            filters.push(tls_inspector());
        }
        if !shared.http.is_empty() && sniff {
            filters.push(http_inspector());
        }
        let listener = if captures {
            self.captured(bind, port, chains)
        } else {
            self.bound(bind, port, TrafficDirection::Outbound, chains)
        };
        self.add_listener(Listener {
            default_filter_chain: default,
            listener_filters: filters,
            ..listener
        });
    }

    /// Whether the proxy may open a port of its own for the workload.
    fn may_bind_locally(&mut self, port: u16) -> bool {
        let node = self.node;
        let workload = self
            .services()
            .filter_map(|service| service.ports_of(&node.namespace, &node.labels, &node.ips))
            .any(|ports| ports.values().any(|own| *own == port));
        let reason = if node.ports.reserved.contains(&port) {
            "it belongs to the proxy's own agent"
        } else if workload {
            "the workload itself listens there"
        } else if node.unprivileged && port < FIRST_UNPRIVILEGED_PORT {
            "the proxy may not bind it"
        } else {
            return true;
        };
        self.warn(format!("no outbound listener on port {port}: {reason}"));
        false
    }

    fn sni_chain(&self, service: &Service, port: u16) -> FilterChain {
        FilterChain {
            filter_chain_match: Some(FilterChainMatch {
                server_names: vec![service.host.clone()],
                transport_protocol: "tls".to_owned(),
                ..FilterChainMatch::default()
            }),
            ..listener::chain(self.tcp(service, port))
        }
    }

    fn tcp(
        &self,
        service: &Service,
        port: u16,
    ) -> ithildin_proto::pb::envoy::config::listener::v3::Filter {
        hcm::tcp_proxy(self.mesh, &outbound_name(port, "", &service.host), true)
    }

    /// For bytes that are for no service of the port.
    fn elsewhere(&self) -> FilterChain {
        FilterChain {
            name: "PassthroughFilterChain".to_owned(),
            filter_chain_match: Some(FilterChainMatch::default()),
            filters: vec![hcm::tcp_proxy(self.mesh, self.unknown_cluster(), true)],
            ..FilterChain::default()
        }
    }

    fn unknown_cluster(&self) -> &'static str {
        match self.mesh.outbound_traffic_policy.mode {
            OutboundMode::AllowAny => PASSTHROUGH,
            OutboundMode::RegistryOnly => BLACK_HOLE,
        }
    }

    /// The listener that captured connections arrive at, for those that no other one wants.
    fn virtual_outbound(&self) -> Listener {
        let port = self.node.ports.outbound;
        let to_itself = FilterChain {
            name: "virtualOutbound-blackhole".to_owned(),
            filter_chain_match: Some(FilterChainMatch {
                destination_port: number(port.into()),
                ..FilterChainMatch::default()
            }),
            filters: vec![hcm::tcp_proxy(self.mesh, BLACK_HOLE, false)],
            ..FilterChain::default()
        };
        let others = FilterChain {
            name: "virtualOutbound-catchall-tcp".to_owned(),
            filters: vec![hcm::tcp_proxy(self.mesh, self.unknown_cluster(), true)],
            ..FilterChain::default()
        };
        Listener {
            name: "virtualOutbound".to_owned(),
            address: address(&self.wildcard().to_string(), port),
            filter_chains: vec![to_itself, others],
            use_original_dst: on(true),
            traffic_direction: TrafficDirection::Outbound.into(),
            access_log: access_log::of_listener(self.mesh),
            max_connections_to_accept_per_socket_event: number(1),
            ..Listener::default()
        }
    }
}
