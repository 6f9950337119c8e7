//! Virtual hosts for a workload's requests.

use std::collections::BTreeMap;

use ithildin_proto::pb::envoy::config::{core::v3::TrafficDirection, route::v3::VirtualHost};

use super::SharedPort;
use crate::{
    build::{
        Build,
        hcm::{self, Side},
        listener,
        route::{self, MESH, RouteContext},
        vhost,
    },
    host,
    model::{Object, OutboundMode, VirtualService},
    registry::{Service, exported},
};

/// The port where hosts matter that no service has.
const HTTP_PORT: u16 = 80;
/// Route configuration of the explicit HTTP proxy.
const HTTP_PROXY_ROUTES: &str = "http_proxy";

impl<'a> Build<'a> {
    /// A port that the workload names as its HTTP proxy, for all services.
    pub(super) fn http_proxy(&mut self, shared: &BTreeMap<u16, SharedPort<'a>>) {
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

    pub(super) fn port_hosts(&self, port: u16, shared: &SharedPort<'_>) -> Vec<VirtualHost> {
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
    pub(super) fn unknown_hosts(&self) -> VirtualHost {
        let allowed = self.mesh.outbound_traffic_policy.mode == OutboundMode::AllowAny;
        if allowed && self.node.captures() {
            vhost::allow_any()
        } else {
            vhost::block_all()
        }
    }

    /// A port of a service, by its VirtualService if there is one.
    pub(super) fn service_host(&self, service: &Service, port: u16) -> VirtualHost {
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
