//! Envoy's filter-chain match, compiled once per listener.
//!
//! The criteria are taken in Envoy's order: destination port, longest destination prefix, server
//! name (exact, then the longest wildcard), transport protocol, application protocols, direct source
//! prefix, source type, source prefix, source port. At each one the most specific bucket that fits
//! is searched, and no other: there is no backtracking. Source: Envoy, `FilterChainMatch`.

mod prefixes;
mod sources;

use std::sync::Arc;

use prefixes::Prefixes;
use sources::Sources;

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
    exact: Map<u16, Prefixes<Names>>,
    any: Prefixes<Names>,
}

impl Ports {
    fn insert(&mut self, matches: &ChainMatch, chain: usize) -> Result<(), Overlap> {
        let prefixes = match matches.destination_port {
            Some(port) => self.exact.entry(port).or_default(),
            None => &mut self.any,
        };
        let ranges = &matches.prefix_ranges;
        prefixes.insert(ranges, |names| names.insert(matches, chain))
    }

    fn find(&self, connection: &ConnectionInfo<'_>) -> Option<usize> {
        let exact = self.exact.get(&connection.local.port());
        let names = exact.unwrap_or(&self.any).find(connection.local.ip())?;
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
    exact: Vec<(Box<[u8]>, Sources)>,
    any: Option<Sources>,
}

impl Protocols {
    fn insert(&mut self, matches: &ChainMatch, chain: usize) -> Result<(), Overlap> {
        if matches.application_protocols.is_empty() {
            let any = self.any.get_or_insert_default();
            return any.insert(matches, chain);
        }
        for protocol in &matches.application_protocols {
            self.sources(protocol).insert(matches, chain)?;
        }
        Ok(())
    }

    fn sources(&mut self, protocol: &[u8]) -> &mut Sources {
        let known = self
            .exact
            .iter()
            .position(|(known, _)| **known == *protocol);
        let index = known.unwrap_or_else(|| {
            self.exact.push((protocol.into(), Sources::default()));
            self.exact.len() - 1
        });
        &mut self.exact[index].1
    }

    fn find(&self, connection: &ConnectionInfo<'_>) -> Option<usize> {
        let mut offered = connection.application_protocols.iter();
        let exact = offered.find_map(|offer| {
            let known = self.exact.iter().find(|(known, _)| **known == *offer);
            known.map(|(_, sources)| sources)
        });
        exact.or(self.any.as_ref())?.find(connection)
    }
}

#[cfg(test)]
mod tests;
