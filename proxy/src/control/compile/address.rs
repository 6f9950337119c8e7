//! Addresses, ports and address ranges.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use ithildin_proto::pb::envoy::config::core::v3::{
    Address, CidrRange, Pipe, SocketAddress, address, socket_address::PortSpecifier,
};

use crate::control::report::{At, refuse};

/// Where something is, as configured: the host may be a name.
pub(super) enum Place {
    Host(String, u16),
    Pipe(PathBuf),
}

pub(super) fn place(address: Option<&Address>, at: &At<'_>) -> Option<Place> {
    match address.and_then(|address| address.address.as_ref()) {
        Some(address::Address::SocketAddress(config)) => {
            let (host, port) = host_port(config, &at.field("socket_address"))?;
            Some(Place::Host(host, port))
        }
        Some(address::Address::Pipe(config)) => pipe(config, &at.field("pipe")).map(Place::Pipe),
        Some(address::Address::EnvoyInternalAddress(_)) => {
            at.field("envoy_internal_address").error("is not supported");
            None
        }
        None => {
            at.error("is required");
            None
        }
    }
}

/// An IP address to listen on.
pub(super) fn socket(address: Option<&Address>, at: &At<'_>) -> Option<SocketAddr> {
    match place(address, at)? {
        Place::Host(host, port) => {
            let ip = ip(&host, &at.field("socket_address"))?;
            Some(SocketAddr::new(ip, port))
        }
        Place::Pipe(_) => {
            at.field("pipe").error("is not supported for listeners");
            None
        }
    }
}

/// An address to connect from.
pub(super) fn source(config: &SocketAddress, at: &At<'_>) -> Option<SocketAddr> {
    let (host, port) = host_port(config, at)?;
    Some(SocketAddr::new(ip(&host, at)?, port))
}

pub(super) fn ip(host: &str, at: &At<'_>) -> Option<IpAddr> {
    let ip = host.parse().ok();
    if ip.is_none() {
        at.field("address")
            .error(format_args!("{host:?} is not an IP address"));
    }
    ip
}

pub(super) fn port(value: u32, at: &At<'_>) -> Option<u16> {
    let port = u16::try_from(value).ok();
    if port.is_none() {
        at.error(format_args!("{value} is not a port"));
    }
    port
}

pub(super) fn cidr(range: &CidrRange, at: &At<'_>) -> Option<(IpAddr, u8)> {
    let CidrRange {
        address_prefix,
        prefix_len,
    } = range;
    let Ok(ip) = address_prefix.parse::<IpAddr>() else {
        at.field("address_prefix")
            .error(format_args!("{address_prefix:?} is not an IP address"));
        return None;
    };
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    let length = prefix_len.map_or(0, |value| value.value);
    match u8::try_from(length)
        .ok()
        .filter(|length| *length <= longest)
    {
        Some(length) => Some((ip, length)),
        None => {
            at.field("prefix_len")
                .error(format_args!("{length} is not from 0 to {longest}"));
            None
        }
    }
}

fn host_port(config: &SocketAddress, at: &At<'_>) -> Option<(String, u16)> {
    let SocketAddress {
        protocol,
        address,
        resolver_name,
        ipv4_compat,
        network_namespace_filepath,
        port_specifier,
    } = config;
    // TCP is the enumeration's zero.
    refuse!(at; protocol, resolver_name, ipv4_compat, network_namespace_filepath);
    if address.is_empty() {
        at.field("address").error("is empty");
        return None;
    }
    let port = match port_specifier {
        Some(PortSpecifier::PortValue(value)) => port(*value, &at.field("port_value")),
        Some(PortSpecifier::NamedPort(_)) => {
            at.field("named_port").error("is not supported");
            None
        }
        None => {
            at.field("port_value").error("is required");
            None
        }
    };
    Some((address.clone(), port?))
}

fn pipe(config: &Pipe, at: &At<'_>) -> Option<PathBuf> {
    let Pipe { path, mode } = config;
    refuse!(at; mode);
    if path.is_empty() {
        at.field("path").error("is empty");
        return None;
    }
    Some(match path.strip_prefix('@') {
        Some(_) => {
            at.field("path").error("abstract sockets are not supported");
            return None;
        }
        None => path.into(),
    })
}
