//! Rules for connections that arrive.

use super::{
    Chain, Family, INBOUND_SOURCES, Match, OUTBOUND_MARK, Protocol, RuleSet, Table, Target,
    proxy_ids,
};
use crate::{
    config::{Config, Inbound, InboundMode},
    value::{Interface, Ports},
};

const TCP: Match = Match::Protocol(Protocol::Tcp);

/// Leaves alone what enters or leaves by an excluded interface, and what virtual machines send.
pub(super) fn exclude_interfaces(rules: &mut RuleSet, config: &Config) {
    let tables: &[Table] = match config.inbound_mode {
        InboundMode::Redirect => &[Table::Nat],
        InboundMode::Tproxy => &[Table::Nat, Table::Mangle],
    };
    for table in tables.iter().copied() {
        for interface in &config.exclude_interfaces {
            let inward = vec![Match::In(interface.clone())];
            rules.append(table, Chain::Prerouting, inward, Target::Return);
            let outward = vec![Match::Out(interface.clone())];
            rules.append(table, Chain::Output, outward, Target::Return);
        }
    }
    for interface in &config.virtual_interfaces {
        let inward = vec![Match::In(interface.clone())];
        let chain = (Table::Nat, Chain::Prerouting);
        rules.insert(1, None, chain, inward, Target::Return);
    }
}

/// Drops out-of-window packets, which otherwise pass by the rules of nat and make the kernel reset the connection.
pub(super) fn drop_invalid(rules: &mut RuleSet) {
    rules.append(
        Table::Mangle,
        Chain::Prerouting,
        vec![Match::Invalid],
        Target::Jump(Chain::IstioDrop),
    );
    rules.append(Table::Mangle, Chain::IstioDrop, vec![], Target::Drop);
}

/// The chains that end at the proxy, and HBONE's way past them.
pub(super) fn redirect_chains(rules: &mut RuleSet, config: &Config) {
    let tunnel = vec![TCP, Match::DestinationPort(config.tunnel_port.into())];
    rules.append(Table::Nat, Chain::IstioInbound, tunnel, Target::Return);
    let outbound = Target::Redirect(Protocol::Tcp, config.outbound_port);
    rules.append(Table::Nat, Chain::IstioRedirect, vec![TCP], outbound);
    let inbound = Target::Redirect(Protocol::Tcp, config.inbound_port);
    rules.append(Table::Nat, Chain::IstioInRedirect, vec![TCP], inbound);
}

/// Sends the captured ports to the proxy.
pub(super) fn capture(rules: &mut RuleSet, config: &Config) {
    if config.inbound == Inbound::None {
        return;
    }
    let table = match config.inbound_mode {
        InboundMode::Redirect => Table::Nat,
        InboundMode::Tproxy => {
            tproxy_chains(rules, config);
            Table::Mangle
        }
    };
    rules.append(
        table,
        Chain::Prerouting,
        vec![TCP],
        Target::Jump(Chain::IstioInbound),
    );
    match &config.inbound {
        Inbound::None => {}
        Inbound::AllExcept(ports) => {
            for port in ports {
                let matches = vec![TCP, Match::DestinationPort(*port)];
                rules.append(table, Chain::IstioInbound, matches, Target::Return);
            }
            to_proxy(rules, config, None);
        }
        Inbound::Only(ports) => {
            for port in ports {
                to_proxy(rules, config, Some(*port));
            }
        }
    }
}

/// Sends `ports`, or all that is left, to the proxy.
fn to_proxy(rules: &mut RuleSet, config: &Config, ports: Option<Ports>) {
    let mut matches = vec![TCP];
    matches.extend(ports.map(Match::DestinationPort));
    match config.inbound_mode {
        InboundMode::Redirect => {
            let target = Target::Jump(Chain::IstioInRedirect);
            rules.append(Table::Nat, Chain::IstioInbound, matches, target);
        }
        InboundMode::Tproxy => {
            let mut established = matches.clone();
            established.push(Match::Established);
            for (matches, chain) in [
                (established, Chain::IstioDivert),
                (matches, Chain::IstioTproxy),
            ] {
                rules.append(
                    Table::Mangle,
                    Chain::IstioInbound,
                    matches,
                    Target::Jump(chain),
                );
            }
        }
    }
}

/// Packets of connections that the proxy has are routed to it by their mark; new ones are given to its listener.
fn tproxy_chains(rules: &mut RuleSet, config: &Config) {
    let mark = config.tproxy_mark;
    rules.append(
        Table::Mangle,
        Chain::IstioDivert,
        vec![],
        Target::SetMark(mark),
    );
    rules.append(Table::Mangle, Chain::IstioDivert, vec![], Target::Accept);
    let port = config.inbound_port;
    rules.append_each(
        config,
        Table::Mangle,
        Chain::IstioTproxy,
        |loopback| vec![Match::NotDestination(loopback), TCP],
        &Target::Tproxy { port, mark },
    );
}

/// Marks that bring answers back to the proxy, and that keep it from capturing what it sends itself.
pub(super) fn tproxy_marks(rules: &mut RuleSet, config: &Config) {
    let marked = Match::Mark(config.tproxy_mark);
    // The proxy marks the connections that it opens with the client's address: their answers must not leave.
    rules.append(
        Table::Mangle,
        Chain::Prerouting,
        vec![TCP, marked.clone()],
        Target::SaveMark,
    );
    rules.append(
        Table::Mangle,
        Chain::Output,
        vec![TCP, Match::Out(Interface::loopback()), marked.clone()],
        Target::Return,
    );
    // A call of the application to its own Service goes out through the proxy and has to come in through it.
    for id in proxy_ids(config) {
        let matches = |loopback| {
            let way = [
                Match::NotDestination(loopback),
                TCP,
                Match::Out(Interface::loopback()),
            ];
            way.into_iter().chain([Match::Owner(id.clone())]).collect()
        };
        let target = Target::SetMark(OUTBOUND_MARK);
        rules.append_each(config, Table::Mangle, Chain::Output, matches, &target);
    }
    rules.append(
        Table::Mangle,
        Chain::Output,
        vec![TCP, Match::ConnectionMark(config.tproxy_mark)],
        Target::RestoreMark,
    );
    keep_out_of_inbound(rules, marked);
}

/// What must not be captured on its way in, put before all that captures.
fn keep_out_of_inbound(rules: &mut RuleSet, marked: Match) {
    let loopback = || Match::In(Interface::loopback());
    let chain = (Table::Mangle, Chain::IstioInbound);
    rules.insert(1, None, chain, vec![TCP, marked], Target::Return);
    for source in INBOUND_SOURCES {
        let matches = vec![TCP, Match::Source(source), loopback()];
        rules.insert(2, Some(Family::of(source)), chain, matches, Target::Return);
    }
    let within_pod = vec![TCP, loopback(), Match::NotMark(OUTBOUND_MARK)];
    rules.insert(3, None, chain, within_pod, Target::Return);
}
