//! Which families of addresses the data plane listens on and asks for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use crate::proxy::settings::{HostPort, Settings};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) localhost: IpAddr,
    pub(crate) wildcard: IpAddr,
    /// Localhost and wildcard of the other family, in a dual stack.
    pub(crate) additional: Option<(IpAddr, IpAddr)>,
    /// Envoy's name of what DNS is asked for.
    pub(crate) dns_lookup_family: &'static str,
}

const V4: (IpAddr, IpAddr) = (
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
);
const V6: (IpAddr, IpAddr) = (
    IpAddr::V6(Ipv6Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
);

impl Addresses {
    /// Both families only if that is switched on: the first address then says which comes first.
    pub(crate) fn of(settings: &Settings) -> Self {
        let ips = &settings.node.ips;
        let some_v4 = ips.iter().any(IpAddr::is_ipv4);
        let some_v6 = ips.iter().any(IpAddr::is_ipv6);
        let first_v6 = ips.first().is_some_and(IpAddr::is_ipv6);
        let (first, additional, dns_lookup_family) = match (some_v4, some_v6) {
            (false, true) => (V6, None, "V6_ONLY"),
            (true, true) if settings.envoy.dual_stack && first_v6 => (V6, Some(V4), "ALL"),
            (true, true) if settings.envoy.dual_stack => (V4, Some(V6), "ALL"),
            _ => (V4, None, "V4_ONLY"),
        };
        Self {
            localhost: first.0,
            wildcard: first.1,
            additional,
            dns_lookup_family,
        }
    }
}

pub(super) fn socket(ip: IpAddr, port: u16) -> Value {
    json!({"socket_address": {"address": ip.to_string(), "port_value": port}})
}

/// The address of a collector. Gateways take theirs from a file, in which Kubernetes does not replace
/// `$(HOST_IP)`.
pub(super) fn collector(address: &str, settings: &Settings) -> anyhow::Result<Value> {
    let HostPort { host, port } = HostPort::parse(address)?;
    let host = match (host.as_str(), &settings.envoy.host_ip) {
        ("$(HOST_IP)", Some(ip)) => ip.clone(),
        _ => host,
    };
    Ok(json!({"socket_address": {"address": host, "port_value": port}}))
}
