//! A sidecar's listeners and routes for its own workload's requests.

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
    route::{self, MESH, RouteContext},
    vhost,
    wire::{address, number, on},
};
use crate::{
    host,
    model::{Object, OutboundMode, VirtualService},
    protocol::Protocol,
    registry::{Discovery, Port, Service, exported},
};

/// The port where hosts matter that no service has.
const HTTP_PORT: u16 = 80;
/// Route configuration of the explicit HTTP proxy.
const HTTP_PROXY_ROUTES: &str = "http_proxy";
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
        if service.discovery == Discovery::OriginalDestination && !self.node.captures() {
            self.warn(format!(
                "{}: resolution NONE needs traffic capture, the host is not reachable",
                service.host
            ));
            return;
        }
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

    /// A port that the workload names as its HTTP proxy, for all services.
    fn http_proxy(&mut self, shared: &BTreeMap<u16, SharedPort<'a>>) {
        let Some(port) = self.node.ports.http_proxy.or(self.mesh.proxy_http_port) else {
            return;
        };
        let bind = self.loopback();
        let stat_prefix = format!("outbound_{bind}_{port};");
        let filter = hcm::by_rds(self.mesh, Side::Proxy, &stat_prefix, HTTP_PROXY_ROUTES);
        let listener = self.bound(
            bind,
            port,
            TrafficDirection::Outbound,
            vec![listener::chain(filter)],
        );
        self.add_listener(listener);
        let mut hosts: Vec<VirtualHost> = shared
            .values()
            .flat_map(|shared| &shared.http)
            .map(|(service, port)| {
                let mut host = self.service_host(service, port.number);
                host.domains = with_port(&host.domains, port.number);
                host
            })
            .collect();
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        hosts.push(self.unknown_hosts());
        let mut routes = vhost::configuration(HTTP_PROXY_ROUTES.to_owned(), hosts);
        routes.ignore_port_in_host_matching = false;
        self.add_routes(routes);
    }

    fn port_hosts(&self, port: u16, shared: &SharedPort<'_>) -> Vec<VirtualHost> {
        let services = shared.http.iter();
        let mut hosts: Vec<VirtualHost> = services
            .map(|(service, port)| self.service_host(service, port.number))
            .collect();
        if port == HTTP_PORT {
            hosts.extend(self.hosts_without_service(shared));
        }
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        hosts.push(self.unknown_hosts());
        hosts
    }

    /// Without capture the original destination is this proxy itself: nothing can be passed on.
    fn unknown_hosts(&self) -> VirtualHost {
        let allowed = self.mesh.outbound_traffic_policy.mode == OutboundMode::AllowAny;
        if allowed && self.node.captures() {
            vhost::allow_any()
        } else {
            vhost::block_all()
        }
    }

    /// A port of a service, by its VirtualService if there is one.
    fn service_host(&self, service: &Service, port: u16) -> VirtualHost {
        let routes = match self.virtual_service(&service.host) {
            Some(object) => route::routes(self.route_context(port), object),
            None => vec![vhost::default_route(service, port)],
        };
        vhost::virtual_host(
            format!("{}:{port}", service.host),
            vhost::domains(service, &self.node.namespace, &self.node.cluster_domain),
            routes,
        )
    }

    /// Hosts of VirtualServices that no service has on this port.
    fn hosts_without_service(&self, shared: &SharedPort<'_>) -> Vec<VirtualHost> {
        let mut hosts: BTreeMap<String, VirtualHost> = BTreeMap::new();
        for object in self.mesh_virtual_services() {
            for name in self.full_hosts(object) {
                let known = shared.http.iter().any(|(service, _)| service.host == name);
                if known || hosts.contains_key(&name) {
                    continue;
                }
                let routes = route::routes(self.route_context(HTTP_PORT), object);
                let host =
                    vhost::virtual_host(format!("{name}:{HTTP_PORT}"), vec![name.clone()], routes);
                hosts.insert(name, host);
            }
        }
        hosts.into_values().collect()
    }

    /// The VirtualService with the most specific host for `name`; the oldest of several.
    fn virtual_service(&self, name: &str) -> Option<&'a Object<VirtualService>> {
        let candidates: Vec<(String, &'a Object<VirtualService>)> = self
            .mesh_virtual_services()
            .flat_map(|object| {
                let hosts = self.full_hosts(object);
                hosts.into_iter().map(move |host| (host, object))
            })
            .collect();
        let best = host::most_specific(name, candidates.iter().map(|(host, _)| host.as_str()))?;
        candidates
            .iter()
            .find(|(host, _)| host == best)
            .map(|(_, object)| *object)
    }

    fn mesh_virtual_services(&self) -> impl Iterator<Item = &'a Object<VirtualService>> + use<'a> {
        let namespace = &self.node.namespace;
        self.resources
            .virtual_services
            .iter()
            .filter(move |object| {
                route::is_bound(object, MESH)
                    && exported(&object.spec.export_to, object.namespace(), namespace)
            })
    }

    fn full_hosts(&self, object: &Object<VirtualService>) -> Vec<String> {
        let hosts = object.spec.hosts.iter();
        hosts
            .map(|name| host::resolve(name, object.namespace(), &self.node.cluster_domain))
            .collect()
    }

    fn route_context(&self, port: u16) -> RouteContext<'_> {
        RouteContext {
            node: self.node,
            registry: self.registry,
            gateway: MESH,
            port,
        }
    }

    /// Warns of routes to hosts and subsets that no resource declares: they answer 503.
    pub(super) fn check_destinations(&mut self) {
        for object in &self.resources.virtual_services {
            for (index, http) in object.spec.http.iter().enumerate() {
                for (entry, route) in http.route.iter().enumerate() {
                    let destination = &route.destination;
                    let at = format!("spec.http[{index}].route[{entry}].destination");
                    let name = host::resolve(
                        &destination.host,
                        object.namespace(),
                        &self.node.cluster_domain,
                    );
                    let Some(service) = self.registry.get(&name) else {
                        let message = format!("no Service or ServiceEntry declares {name}");
                        self.warnings
                            .push(object.error(format!("{at}.host"), message));
                        continue;
                    };
                    let port = destination.port.as_ref().map(|port| port.number);
                    if let Some(port) = port.filter(|port| service.port(*port).is_none()) {
                        let message = format!("{name} has no port {port}");
                        self.warnings
                            .push(object.error(format!("{at}.port.number"), message));
                    }
                    let subset = &destination.subset;
                    let known = subset.is_empty()
                        || self
                            .rules
                            .find(service)
                            .is_some_and(|rule| rule.subset(subset).is_some());
                    if !known {
                        let message = format!("no DestinationRule for {name} has this subset");
                        self.warnings
                            .push(object.error(format!("{at}.subset"), message));
                    }
                }
            }
        }
    }
}

/// Domains as they stand in an absolute URI: with the port, unless it is HTTP's own.
fn with_port(domains: &[String], port: u16) -> Vec<String> {
    let with = domains.iter().map(|domain| format!("{domain}:{port}"));
    if port == HTTP_PORT {
        domains.iter().cloned().chain(with).collect()
    } else {
        with.collect()
    }
}
