//! Listeners and routes of Gateways.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ithildin_proto::pb::envoy::config::{
    core::v3::TrafficDirection,
    listener::v3::{FilterChain, FilterChainMatch},
    route::v3::{Route, RouteConfiguration, virtual_host::TlsRequirementType},
};

use super::{
    Build,
    hcm::{self, Side},
    listener,
    route::{self, RouteContext},
    tls, vhost,
};
use crate::{
    host,
    model::{Gateway, Object, Server, VirtualService, selects},
    protocol::Protocol,
    registry::exported,
};

/// Ports below it need a privilege.
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

/// A server that this proxy serves.
#[derive(Clone, Copy)]
struct Bound<'a> {
    gateway: &'a Object<Gateway>,
    index: usize,
    server: &'a Server,
}

impl<'a> Build<'a> {
    /// Everything that the Gateways which select this proxy ask for.
    pub(super) fn gateways(&mut self) {
        let mut by_socket: BTreeMap<(IpAddr, u16), Vec<Bound<'a>>> = BTreeMap::new();
        let node = self.node;
        let gateways = self.resources.gateways.iter();
        let selecting = gateways.filter(|gateway| selects(&gateway.spec.selector, &node.labels));
        let selecting: Vec<_> = selecting.collect();
        if selecting.is_empty() {
            self.warn(format!(
                "no Gateway selects this router, which therefore listens nowhere; its labels are {:?}",
                node.labels
            ));
        }
        for gateway in selecting {
            for (index, server) in gateway.spec.servers.iter().enumerate() {
                let bound = Bound {
                    gateway,
                    index,
                    server,
                };
                let bind = server.bind.as_ref().and_then(|bind| bind.parse().ok());
                let socket = (
                    bind.unwrap_or(self.wildcard()),
                    self.own_port(server.port.number),
                );
                if self.may_bind(socket.1, &bound) && self.fits(by_socket.get(&socket), &bound) {
                    by_socket.entry(socket).or_default().push(bound);
                }
            }
        }
        for ((bind, port), servers) in by_socket {
            self.gateway_listener(bind, port, &servers);
        }
        self.check_destinations();
    }

    /// A Gateway names the port of the Service in front of the proxy; the proxy binds its target.
    fn own_port(&self, number: u16) -> u16 {
        self.services()
            .filter_map(|service| {
                service.ports_of(&self.node.namespace, &self.node.labels, &self.node.ips)
            })
            .find_map(|ports| ports.get(&number).copied())
            .unwrap_or(number)
    }

    fn may_bind(&mut self, port: u16, bound: &Bound<'_>) -> bool {
        let reason = if self.node.ports.reserved.contains(&port) {
            format!("port {port} belongs to the proxy's own agent: the server is left out")
        } else if self.node.unprivileged && port < FIRST_UNPRIVILEGED_PORT {
            format!("the proxy may not bind port {port}: the server is left out")
        } else {
            return true;
        };
        self.warnings.push(bound.error("port.number", reason));
        false
    }

    /// Servers share a port when all are plaintext, or all are TLS with names of their own. The
    /// first one decides.
    fn fits(&mut self, others: Option<&Vec<Bound<'_>>>, bound: &Bound<'_>) -> bool {
        let others = others.map(Vec::as_slice).unwrap_or_default();
        let Some(first) = others.first() else {
            return true;
        };
        if first.is_tls() != bound.is_tls() {
            let message = format!(
                "Gateway {} uses the port with protocol {}: the server is left out",
                first.name(),
                first.server.port.protocol
            );
            self.warnings.push(bound.error("port.protocol", message));
            return false;
        }
        let taken = others
            .iter()
            .flat_map(|other| other.names())
            .find(|name| bound.is_tls() && bound.names().any(|own| own == *name));
        if let Some(name) = taken {
            let message =
                format!("another server of this port has {name:?}: the server is left out");
            self.warnings.push(bound.error("hosts", message));
            return false;
        }
        true
    }

    fn gateway_listener(&mut self, bind: IpAddr, port: u16, servers: &[Bound<'a>]) {
        let Some(first) = servers.first() else {
            return;
        };
        let stat_prefix = format!("outbound_{bind}_{port};");
        let suffix = match first.server.bind {
            Some(_) => format!(".{bind}"),
            None => String::new(),
        };
        let mut chains = Vec::new();
        if first.is_tls() {
            for bound in servers {
                let name = format!("{}{suffix}", bound.https_route_name());
                let filter = hcm::by_rds(self.mesh, Side::Gateway, &stat_prefix, &name);
                chains.push(self.tls_chain(bound, listener::chain(filter)));
                let routes = self.gateway_routes(name, std::slice::from_ref(bound));
                self.add_routes(routes);
            }
        } else {
            let name = format!("http.{port}{suffix}");
            let filter = hcm::by_rds(self.mesh, Side::Gateway, &stat_prefix, &name);
            chains.push(listener::chain(filter));
            let routes = self.gateway_routes(name, servers);
            self.add_routes(routes);
        }
        let mut built = self.bound(bind, port, TrafficDirection::Outbound, chains);
        if first.is_tls() {
            built.listener_filters = vec![listener::tls_inspector()];
        }
        self.add_listener(built);
    }

    fn tls_chain(&self, bound: &Bound<'_>, chain: FilterChain) -> FilterChain {
        let any = bound.names().any(|name| name == "*");
        let server_names: Vec<String> = bound.names().map(str::to_owned).collect();
        FilterChain {
            filter_chain_match: (!any).then(|| FilterChainMatch {
                server_names,
                ..FilterChainMatch::default()
            }),
            transport_socket: bound
                .server
                .tls
                .as_ref()
                .map(|settings| tls::server(&self.node.sds_cluster, settings)),
            ..chain
        }
    }

    fn gateway_routes(&self, name: String, servers: &[Bound<'a>]) -> RouteConfiguration {
        let mut hosts: BTreeMap<String, GatewayHost> = BTreeMap::new();
        for bound in servers {
            self.add_hosts(bound, &mut hosts);
        }
        let port = servers.first().map_or(0, |bound| bound.server.port.number);
        let virtual_hosts: Vec<_> = hosts
            .into_iter()
            .map(|(domain, host)| {
                let mut built = vhost::virtual_host(
                    format!("{domain}:{port}"),
                    vec![domain],
                    catch_alls_last(host.routes),
                );
                if host.redirect {
                    built.require_tls = TlsRequirementType::All.into();
                }
                built
            })
            .collect();
        if virtual_hosts.is_empty() {
            // No route answers with 404.
            let mut nothing = vhost::virtual_host(
                format!("blackhole:{port}"),
                vec!["*".to_owned()],
                Vec::new(),
            );
            nothing.include_request_attempt_count = false;
            return vhost::configuration(name, vec![nothing]);
        }
        vhost::configuration(name, virtual_hosts)
    }

    /// Adds the routes of every VirtualService bound to the server, under the names that both have.
    fn add_hosts(&self, bound: &Bound<'a>, hosts: &mut BTreeMap<String, GatewayHost>) {
        let gateway = bound.name();
        let redirect = bound
            .server
            .tls
            .as_ref()
            .is_some_and(|tls| tls.https_redirect);
        let context = RouteContext {
            node: self.node,
            registry: self.registry,
            gateway: &gateway,
            port: bound.server.port.number,
        };
        for service in &self.resources.virtual_services {
            if !route::is_bound(service, &gateway) {
                continue;
            }
            let domains = self.common_names(bound, service);
            if domains.is_empty() {
                continue;
            }
            let routes = route::routes(context, service);
            if routes.is_empty() {
                continue;
            }
            for domain in domains {
                let host = hosts.entry(domain).or_default();
                host.routes.extend(routes.iter().cloned());
                host.redirect |= redirect;
            }
        }
        if redirect {
            for name in bound.names() {
                hosts.entry(name.to_owned()).or_default().redirect = true;
            }
        }
    }

    fn common_names(
        &self,
        bound: &Bound<'_>,
        service: &Object<VirtualService>,
    ) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for allowed in &bound.server.hosts {
            let (namespace, name) = allowed.split_once('/').unwrap_or(("*", allowed));
            let namespace = match namespace {
                "." => bound.gateway.namespace(),
                other => other,
            };
            if namespace != "*" && namespace != service.namespace() {
                continue;
            }
            for own in &service.spec.hosts {
                let own = host::resolve(own, service.namespace(), &self.node.cluster_domain);
                if let Some(common) = host::intersection(&name.to_ascii_lowercase(), &own)
                    && exported(
                        &service.spec.export_to,
                        service.namespace(),
                        &self.node.namespace,
                    )
                {
                    names.insert(common.to_owned());
                }
            }
        }
        names
    }
}

/// What one virtual host of a gateway is made of.
#[derive(Default)]
struct GatewayHost {
    routes: Vec<Route>,
    redirect: bool,
}

/// Routes of several VirtualServices follow each other; one that takes everything must not hide
/// those of the next.
fn catch_alls_last(routes: Vec<Route>) -> Vec<Route> {
    let (last, mut first): (Vec<_>, Vec<_>) = routes.into_iter().partition(route::is_catch_all);
    first.extend(last);
    first
}

impl Bound<'_> {
    fn name(&self) -> String {
        format!("{}/{}", self.gateway.namespace(), self.gateway.name())
    }

    fn is_tls(&self) -> bool {
        Protocol::parse(&self.server.port.protocol) == Some(Protocol::Https)
    }

    /// Host names without their namespaces.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.server
            .hosts
            .iter()
            .map(|name| name.split_once('/').map_or(name.as_str(), |(_, name)| name))
    }

    fn https_route_name(&self) -> String {
        let port = &self.server.port;
        format!(
            "https.{}.{}.{}.{}",
            port.number,
            port.name,
            self.gateway.name(),
            self.gateway.namespace()
        )
    }

    fn error(&self, field: &str, message: String) -> crate::error::ConfigError {
        let at = format!("spec.servers[{}].{field}", self.index);
        self.gateway.error(at, message)
    }
}
