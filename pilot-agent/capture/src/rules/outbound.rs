//! Rules for connections that leave.

use super::{
    Chain, DNS_PORT, Family, INBOUND_SOURCES, Id, Match, Protocol, RuleSet, Table, Target, dns,
    proxy_ids,
};
use crate::{
    config::{Config, Destinations, Dns, Groups},
    value::{Cidr, Interface},
};

const TCP: Match = Match::Protocol(Protocol::Tcp);

/// Sends what the application sends to the proxy. The order decides: the first rule that returns has the last word.
pub(super) fn capture(rules: &mut RuleSet, config: &Config) {
    let chain = Chain::IstioOutput;
    rules.append(Table::Nat, Chain::Output, vec![], Target::Jump(chain));
    for ports in &config.outbound_ports_exclude {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let matches = vec![Match::Protocol(protocol), Match::DestinationPort(*ports)];
            rules.append(Table::Nat, chain, matches, Target::Return);
        }
    }
    for source in INBOUND_SOURCES {
        let matches = vec![Match::Out(Interface::loopback()), Match::Source(source)];
        let family = Some(Family::of(source));
        rules.append_for(family, Table::Nat, chain, matches, Target::Return);
    }
    for id in proxy_ids(config) {
        leave_proxy(rules, config, &id);
    }
    leave_groups(rules, &config.groups);
    dns::capture(rules, config);
    rules.append_each(
        config,
        Table::Nat,
        chain,
        |loopback| vec![Match::Destination(loopback)],
        &Target::Return,
    );
    for range in of_each_family(&config.outbound_exclude) {
        let matches = vec![Match::Destination(range)];
        let family = Some(Family::of(range));
        rules.append_for(family, Table::Nat, chain, matches, Target::Return);
    }
    include(rules, config);
}

/// Keeps what the proxy sends from coming back to it.
fn leave_proxy(rules: &mut RuleSet, config: &Config, id: &Id) {
    let chain = Chain::IstioOutput;
    let dns = config.dns != Dns::None;
    let by_loopback = || Match::Out(Interface::loopback());
    // A call to the own Pod by its address is inbound for it. Not so DNS, which the agent forwards to a resolver
    // that may well be on this host.
    let ports = match (dns, id) {
        (true, Id::User(_)) => Match::NotDestinationPorts([DNS_PORT, config.tunnel_port]),
        _ => Match::NotDestinationPort(config.tunnel_port),
    };
    rules.append_each(
        config,
        Table::Nat,
        chain,
        |loopback| {
            let way = [by_loopback(), Match::NotDestination(loopback), TCP];
            let who = [ports.clone(), Match::Owner(id.clone())];
            way.into_iter().chain(who).collect()
        },
        &Target::Jump(Chain::IstioInRedirect),
    );
    // Calls within the Pod stay there, unless loopback is asked for by name. DNS by TCP goes on to its own rules.
    if !config.outbound_include.name_loopback() {
        let mut matches = vec![by_loopback()];
        if dns {
            matches.extend([TCP, Match::NotDestinationPort(DNS_PORT)]);
        }
        matches.push(Match::NotOwner(id.clone()));
        rules.append(Table::Nat, chain, matches, Target::Return);
    }
    let own = vec![Match::Owner(id.clone())];
    rules.append(Table::Nat, chain, own, Target::Return);
}

/// Leaves alone the groups that are not to be captured.
fn leave_groups(rules: &mut RuleSet, groups: &Groups) {
    let chain = Chain::IstioOutput;
    match groups {
        Groups::AllExcept(groups) => {
            for group in groups {
                let matches = vec![Match::Owner(Id::Group(group.clone()))];
                rules.append(Table::Nat, chain, matches, Target::Return);
            }
        }
        Groups::Only(groups) => {
            let groups = groups.iter().cloned().map(Id::Group);
            let matches = groups.map(Match::NotOwner).collect();
            rules.append(Table::Nat, chain, matches, Target::Return);
        }
    }
}

/// Sends what is left to the proxy, if its port or its destination is to be captured.
fn include(rules: &mut RuleSet, config: &Config) {
    let (chain, redirect) = (Chain::IstioOutput, Target::Jump(Chain::IstioRedirect));
    for ports in &config.outbound_ports_include {
        let matches = vec![TCP, Match::DestinationPort(*ports)];
        rules.append(Table::Nat, chain, matches, redirect.clone());
    }
    match &config.outbound_include {
        Destinations::All => {
            rules.append(Table::Nat, chain, vec![], redirect);
            from_virtual_machines(rules, config, None);
        }
        Destinations::Only(ranges) => {
            for range in of_each_family(ranges) {
                from_virtual_machines(rules, config, Some(range));
                let matches = vec![Match::Destination(range)];
                let family = Some(Family::of(range));
                rules.append_for(family, Table::Nat, chain, matches, redirect.clone());
            }
        }
    }
}

/// What virtual machines of this Pod send counts as outbound, though it arrives by an interface.
fn from_virtual_machines(rules: &mut RuleSet, config: &Config, range: Option<Cidr>) {
    for interface in &config.virtual_interfaces {
        let mut matches = vec![Match::In(interface.clone())];
        matches.extend(range.map(Match::Destination));
        let chain = (Table::Nat, Chain::Prerouting);
        let redirect = Target::Jump(Chain::IstioRedirect);
        rules.insert(1, range.map(Family::of), chain, matches, redirect);
    }
}

/// The ranges of IPv4, then those of IPv6.
fn of_each_family(ranges: &[Cidr]) -> impl Iterator<Item = Cidr> {
    let of = |family| {
        let ranges = ranges.iter().copied();
        ranges.filter(move |range| Family::of(*range) == family)
    };
    of(Family::V4).chain(of(Family::V6))
}
