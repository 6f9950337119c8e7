//! The criteria that look at where a connection comes from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Overlap, prefixes::Prefixes};
use crate::config::{
    Map,
    listener::{ChainMatch, ConnectionInfo, SourceType},
};

/// The last levels of the match: direct source, source type, source, source port.
#[derive(Debug, Default)]
pub(super) struct Sources(Prefixes<Types>);

impl Sources {
    pub(super) fn insert(&mut self, matches: &ChainMatch, chain: usize) -> Result<(), Overlap> {
        let ranges = &matches.direct_source_prefix_ranges;
        self.0.insert(ranges, |types| types.insert(matches, chain))
    }

    pub(super) fn find(&self, connection: &ConnectionInfo<'_>) -> Option<usize> {
        let types = self.0.find(connection.direct_remote.ip())?;
        types.find(connection)
    }
}

#[derive(Debug, Default)]
struct Types {
    any: Option<Prefixes<Ports>>,
    local: Option<Prefixes<Ports>>,
    external: Option<Prefixes<Ports>>,
}

impl Types {
    fn insert(&mut self, matches: &ChainMatch, chain: usize) -> Result<(), Overlap> {
        let sources = match matches.source_type {
            SourceType::Any => &mut self.any,
            SourceType::SameIpOrLoopback => &mut self.local,
            SourceType::External => &mut self.external,
        };
        let sources = sources.get_or_insert_default();
        let ranges = &matches.source_prefix_ranges;
        sources.insert(ranges, |ports| ports.insert(matches, chain))
    }

    fn find(&self, connection: &ConnectionInfo<'_>) -> Option<usize> {
        let by_type = match is_local(connection) {
            true => &self.local,
            false => &self.external,
        };
        let sources = by_type.as_ref().or(self.any.as_ref())?;
        let ports = sources.find(connection.remote.ip())?;
        ports.find(connection.remote.port())
    }
}

/// Envoy's `SAME_IP_OR_LOOPBACK`: of the IPv4 loopback addresses, 127.0.0.1 alone counts.
fn is_local(connection: &ConnectionInfo<'_>) -> bool {
    let remote = connection.remote.ip().to_canonical();
    remote == IpAddr::V4(Ipv4Addr::LOCALHOST)
        || remote == IpAddr::V6(Ipv6Addr::LOCALHOST)
        || remote == connection.local.ip().to_canonical()
}

#[derive(Debug, Default)]
struct Ports {
    exact: Map<u16, usize>,
    any: Option<usize>,
}

impl Ports {
    fn insert(&mut self, matches: &ChainMatch, chain: usize) -> Result<(), Overlap> {
        if matches.source_ports.is_empty() {
            return taken_by(self.any.replace(chain), chain);
        }
        for &port in &matches.source_ports {
            taken_by(self.exact.insert(port, chain), chain)?;
        }
        Ok(())
    }

    fn find(&self, port: u16) -> Option<usize> {
        self.exact.get(&port).copied().or(self.any)
    }
}

/// A chain may name one condition twice; two chains may not name the same.
fn taken_by(before: Option<usize>, chain: usize) -> Result<(), Overlap> {
    match before {
        Some(first) if first != chain => Err(first),
        _ => Ok(()),
    }
}
