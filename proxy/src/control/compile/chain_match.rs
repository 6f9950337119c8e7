//! The conditions of filter chains.

use ithildin_proto::pb::envoy::config::{
    core::v3::CidrRange,
    listener::v3::{FilterChainMatch, filter_chain_match::ConnectionSourceType},
};

use super::address;
use crate::{
    config::listener::{AddressRange, ChainMatch, SourceType, Transport},
    control::report::{At, refuse},
};

pub(super) fn chain_match(config: &FilterChainMatch, at: &At<'_>) -> ChainMatch {
    let FilterChainMatch {
        destination_port,
        prefix_ranges,
        address_suffix,
        suffix_len,
        direct_source_prefix_ranges,
        source_type,
        source_prefix_ranges,
        source_ports,
        server_names,
        transport_protocol,
        application_protocols,
    } = config;
    refuse!(at; address_suffix, suffix_len);
    let ports = source_ports.iter().enumerate();
    let names = server_names.iter().enumerate();
    let protocols = application_protocols.iter();
    ChainMatch {
        destination_port: destination_port
            .and_then(|port| address::port(port.value, &at.field("destination_port"))),
        prefix_ranges: ranges(prefix_ranges, "prefix_ranges", at),
        server_names: names
            .map(|(i, name)| server_name(name, &at.index("server_names", i)))
            .collect(),
        transport: transport(transport_protocol, &at.field("transport_protocol")),
        application_protocols: protocols.map(|it| it.as_bytes().to_vec()).collect(),
        direct_source_prefix_ranges: ranges(
            direct_source_prefix_ranges,
            "direct_source_prefix_ranges",
            at,
        ),
        source_type: source(*source_type, &at.field("source_type")),
        source_prefix_ranges: ranges(source_prefix_ranges, "source_prefix_ranges", at),
        source_ports: ports
            .filter_map(|(i, port)| address::port(*port, &at.index("source_ports", i)))
            .collect(),
    }
}

fn ranges(ranges: &[CidrRange], field: &str, at: &At<'_>) -> Vec<AddressRange> {
    let ranges = ranges.iter().enumerate();
    ranges
        .filter_map(|(i, range)| address::cidr(range, &at.index(field, i)))
        .collect()
}

fn transport(protocol: &str, at: &At<'_>) -> Option<Transport> {
    match protocol {
        "" => None,
        "tls" => Some(Transport::Tls),
        "raw_buffer" => Some(Transport::RawBuffer),
        other => {
            at.error(format_args!("{other:?} is not supported"));
            None
        }
    }
}

fn source(kind: i32, at: &At<'_>) -> SourceType {
    match ConnectionSourceType::try_from(kind) {
        Ok(ConnectionSourceType::Any) => SourceType::Any,
        Ok(ConnectionSourceType::SameIpOrLoopback) => SourceType::SameIpOrLoopback,
        Ok(ConnectionSourceType::External) => SourceType::External,
        Err(_) => {
            at.error(format_args!("{kind} is not supported"));
            SourceType::Any
        }
    }
}

/// A name of any characters: Istio's are no DNS names.
fn server_name(name: &str, at: &At<'_>) -> String {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    if rest.is_empty() || rest.contains('*') {
        at.error(format_args!(
            "{name:?} is neither a name nor a wildcard of the form *.example.org"
        ));
    }
    name.to_ascii_lowercase()
}
