//! Envoy's filter-chain match, compiled once per listener.
//!
//! The criteria are taken in Envoy's order: destination port, longest destination prefix, server
//! name (exact, then the longest wildcard), transport protocol, application protocols. At each one
//! the most specific bucket that fits is searched, and no other: there is no backtracking.
//! Source: Envoy, `FilterChainMatch`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use super::{
    Map,
    listener::{ChainMatch, ConnectionInfo, FilterChain, Transport},
};

/// The chains of a listener.
#[derive(Debug, Default)]
pub struct FilterChains {
    chains: Vec<Arc<FilterChain>>,
    default: Option<Arc<FilterChain>>,
    ports: Ports,
}

/// Two chains match the same connections, so that it is not clear which one should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter chain {second:?} has the same matching rules as {first:?}")]
pub struct OverlappingChains {
    pub first: Arc<str>,
    pub second: Arc<str>,
}

impl FilterChains {
    pub fn new(
        chains: Vec<Arc<FilterChain>>,
        default: Option<Arc<FilterChain>>,
    ) -> Result<Self, OverlappingChains> {
        let mut ports = Ports::default();
        for (index, chain) in chains.iter().enumerate() {
            ports.insert(&chain.matches, index).map_err(|first| {
                let first = chains.get(first).unwrap_or(chain);
                OverlappingChains {
                    first: Arc::clone(&first.name),
                    second: Arc::clone(&chain.name),
                }
            })?;
        }
        Ok(Self {
            chains,
            default,
            ports,
        })
    }

    /// The chain that serves the connection, if one does.
    pub fn find(&self, connection: &ConnectionInfo<'_>) -> Option<&Arc<FilterChain>> {
        match self.ports.find(connection) {
            Some(index) => self.chains.get(index),
            None => self.default.as_ref(),
        }
    }

    /// The chains with match conditions, as configured.
    pub fn chains(&self) -> &[Arc<FilterChain>] {
        &self.chains
    }

    /// `default_filter_chain`.
    pub fn default_chain(&self) -> Option<&Arc<FilterChain>> {
        self.default.as_ref()
    }

    /// All chains, the default one last.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.chains.iter().chain(&self.default)
    }
}

/// The index of the chain that was there first.
type Overlap = usize;

#[derive(Debug, Default)]
struct Ports {
    exact: Map<u16, Prefixes>,
    any: Prefixes,
}

impl Ports {
    fn insert(&mut self, matches: &ChainMatch, chain: usize) -> Result<(), Overlap> {
        let prefixes = match matches.destination_port {
            Some(port) => self.exact.entry(port).or_default(),
            None => &mut self.any,
        };
        prefixes.insert(matches, chain)
    }

    fn find(&self, connection: &ConnectionInfo<'_>) -> Option<usize> {
        self.exact
            .get(&connection.local.port())
            .unwrap_or(&self.any)
            .find(connection)
    }
}

/// Longest first.
#[derive(Debug, Default)]
struct Prefixes(Vec<(Prefix, Names)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// No prefix range at all means every address.
    const ANY: [Self; 2] = [
        Self {
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            length: 0,
        },
        Self {
            address: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            length: 0,
        },
    ];

    /// Clears the bits that the length leaves open, so that equal prefixes are equal values.
    fn new(address: IpAddr, length: u8) -> Self {
        match address {
            IpAddr::V4(address) => {
                let length = length.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Self {
                    address: Ipv4Addr::from_bits(address.to_bits() & mask).into(),
                    length,
                }
            }
            IpAddr::V6(address) => {
                let length = length.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Self {
                    address: Ipv6Addr::from_bits(address.to_bits() & mask).into(),
                    length,
                }
            }
        }
    }

    fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && Self::new(address, self.length) == self
    }
}

impl Prefixes {
    fn insert(&mut self, matches: &ChainMatch, chain: usize) -> Result<(), Overlap> {
        if matches.prefix_ranges.is_empty() {
            for prefix in Prefix::ANY {
                self.names(prefix).insert(matches, chain)?;
            }
        }
        for &(address, length) in &matches.prefix_ranges {
            let prefix = Prefix::new(address, length);
            self.names(prefix).insert(matches, chain)?;
        }
        Ok(())
    }

    fn names(&mut self, prefix: Prefix) -> &mut Names {
        let index = match self.0.iter().position(|(known, _)| *known == prefix) {
            Some(index) => index,
            None => {
                let index = self
                    .0
                    .partition_point(|(known, _)| known.length >= prefix.length);
                self.0.insert(index, (prefix, Names::default()));
                index
            }
        };
        &mut self.0[index].1
    }

    fn find(&self, connection: &ConnectionInfo<'_>) -> Option<usize> {
        let address = connection.local.ip().to_canonical();
        let (_, names) = self.0.iter().find(|(prefix, _)| prefix.contains(address))?;
        names.find(connection)
    }
}

#[derive(Debug, Default)]
struct Names {
    exact: Map<Box<str>, Transports>,
    /// Keyed by `.suffix`.
    wildcard: Map<Box<str>, Transports>,
    any: Option<Transports>,
}

impl Names {
    fn insert(&mut self, matches: &ChainMatch, chain: usize) -> Result<(), Overlap> {
        if matches.server_names.is_empty() {
            let any = self.any.get_or_insert_default();
            return any.insert(matches, chain);
        }
        for name in &matches.server_names {
            let transports = match name.strip_prefix('*') {
                Some(suffix) => self.wildcard.entry(suffix.into()),
                None => self.exact.entry(name.as_str().into()),
            };
            transports.or_default().insert(matches, chain)?;
        }
        Ok(())
    }

    fn find(&self, connection: &ConnectionInfo<'_>) -> Option<usize> {
        let named = connection.server_name.and_then(|name| {
            self.exact
                .get(name)
                .or_else(|| suffixes(name).find_map(|suffix| self.wildcard.get(suffix)))
        });
        named.or(self.any.as_ref())?.find(connection)
    }
}

/// `.b.c` and `.c` of `a.b.c`.
fn suffixes(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.')
        .map(|(dot, _)| &name[dot..])
        .filter(move |suffix| suffix.len() > 1 && suffix.len() < name.len())
}

#[derive(Debug, Default)]
struct Transports {
    tls: Option<Protocols>,
    raw_buffer: Option<Protocols>,
    any: Option<Protocols>,
}

impl Transports {
    fn insert(&mut self, matches: &ChainMatch, chain: usize) -> Result<(), Overlap> {
        let protocols = match matches.transport {
            Some(Transport::Tls) => &mut self.tls,
            Some(Transport::RawBuffer) => &mut self.raw_buffer,
            None => &mut self.any,
        };
        protocols.get_or_insert_default().insert(matches, chain)
    }

    fn find(&self, connection: &ConnectionInfo<'_>) -> Option<usize> {
        let exact = match connection.tls {
            true => &self.tls,
            false => &self.raw_buffer,
        };
        exact.as_ref().or(self.any.as_ref())?.find(connection)
    }
}

#[derive(Debug, Default)]
struct Protocols {
    exact: Vec<(Vec<u8>, usize)>,
    any: Option<usize>,
}

impl Protocols {
    fn insert(&mut self, matches: &ChainMatch, chain: usize) -> Result<(), Overlap> {
        if matches.application_protocols.is_empty() {
            return match self.any.replace(chain) {
                // A chain may name one condition twice.
                Some(first) if first != chain => Err(first),
                _ => Ok(()),
            };
        }
        for protocol in &matches.application_protocols {
            match self.exact.iter().find(|(known, _)| known == protocol) {
                Some(&(_, first)) if first != chain => return Err(first),
                Some(_) => {}
                None => self.exact.push((protocol.clone(), chain)),
            }
        }
        Ok(())
    }

    fn find(&self, connection: &ConnectionInfo<'_>) -> Option<usize> {
        let offered = connection.application_protocols.iter();
        offered
            .filter_map(|offer| self.exact.iter().find(|(known, _)| known == offer))
            .map(|&(_, chain)| chain)
            .next()
            .or(self.any)
    }
}

#[cfg(test)]
#[path = "chains_tests.rs"]
mod tests;
