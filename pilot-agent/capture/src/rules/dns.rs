//! Rules for DNS, which goes to the agent.
//!
//! The agent asks the same servers that applications ask. By UDP both could have the same ports and addresses, and
//! conntrack would take one for the other; so the two sides are kept in zones of their own.

use std::net::IpAddr;

use super::{
    Chain, DNS_PORT, DNS_PROXY_PORT, Family, Match, Protocol, RuleSet, Table, Target, proxy_ids,
};
use crate::{
    config::{Config, Dns},
    value::Cidr,
};

/// Of conntrack: between agent and servers.
const UPSTREAM_ZONE: u16 = 1;
/// Of conntrack: between applications and agent.
const DOWNSTREAM_ZONE: u16 = 2;
const UDP: Match = Match::Protocol(Protocol::Udp);

/// Redirects DNS to the agent.
pub(super) fn capture(rules: &mut RuleSet, config: &Config) {
    let servers = match &config.dns {
        Dns::None => return,
        Dns::Servers(servers) => by_family(servers),
        Dns::All => vec![Server::Any],
    };
    let jump = Target::Jump(Chain::IstioOutputDns);
    rules.append(Table::Raw, Chain::Output, vec![], jump.clone());
    for family in families(&servers) {
        rules.append_for(family, Table::Nat, Chain::IstioOutput, vec![], jump.clone());
    }
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for server in &servers {
            let mut matches = vec![
                Match::Protocol(protocol),
                Match::DestinationPort(DNS_PORT.into()),
            ];
            matches.extend(server.range().map(Match::Destination));
            let target = Target::Redirect(protocol, DNS_PROXY_PORT);
            let chain = Chain::IstioOutputDns;
            rules.append_for(server.family(), Table::Nat, chain, matches, target);
        }
    }
    zones(rules, config, &servers);
}

/// Puts each packet of DNS into the zone of its side.
fn zones(rules: &mut RuleSet, config: &Config, servers: &[Server]) {
    let chain = Chain::IstioOutputDns;
    for id in proxy_ids(config) {
        for (port, zone) in [
            (Match::DestinationPort(DNS_PORT.into()), UPSTREAM_ZONE),
            (Match::SourcePort(DNS_PROXY_PORT), DOWNSTREAM_ZONE),
        ] {
            let matches = vec![UDP, port, Match::Owner(id.clone())];
            rules.append(Table::Raw, chain, matches, Target::Zone(zone));
        }
    }
    for family in families(servers) {
        let jump = Target::Jump(Chain::IstioInbound);
        rules.append_for(family, Table::Raw, Chain::Prerouting, vec![], jump);
        for server in servers.iter().filter(|server| server.family() == family) {
            let mut query = vec![UDP, Match::DestinationPort(DNS_PORT.into())];
            query.extend(server.range().map(Match::Destination));
            let zone = Target::Zone(DOWNSTREAM_ZONE);
            rules.append_for(family, Table::Raw, chain, query, zone);
            let mut answer = vec![UDP, Match::SourcePort(DNS_PORT)];
            answer.extend(server.range().map(Match::Source));
            let zone = Target::Zone(UPSTREAM_ZONE);
            rules.append_for(family, Table::Raw, Chain::IstioInbound, answer, zone);
        }
    }
}

/// A server of DNS as far as rules are concerned.
#[derive(Debug, Clone, Copy)]
enum Server {
    Any,
    At(Cidr),
}

impl Server {
    fn range(&self) -> Option<Cidr> {
        match self {
            Self::Any => None,
            Self::At(range) => Some(*range),
        }
    }

    fn family(&self) -> Option<Family> {
        self.range().map(Family::of)
    }
}

/// Those of IPv4 first.
fn by_family(servers: &[IpAddr]) -> Vec<Server> {
    let mut servers: Vec<Server> = servers
        .iter()
        .map(|server| match server {
            IpAddr::V4(address) => Server::At(Cidr::v4(*address)),
            IpAddr::V6(address) => Server::At(Cidr::v6(*address)),
        })
        .collect();
    servers.sort_by_key(|server| server.family() == Some(Family::V6));
    servers
}

/// The families that have servers; one for both where any server counts.
fn families(servers: &[Server]) -> Vec<Option<Family>> {
    let mut families: Vec<_> = servers.iter().map(Server::family).collect();
    families.dedup();
    families
}
