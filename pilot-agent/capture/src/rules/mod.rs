//! The rules that carry out a [`Config`], independent of the tool that applies them.
//!
//! [`RuleSet::new`] is a pure function of the configuration. Names of chains, the order of rules and the order of
//! matches within a rule are those of Istio's own command, because people and tools know them from `iptables-save`.

mod dns;
mod inbound;
mod iptables;
mod nftables;
mod outbound;

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{
    config::{Config, InboundMode},
    value::{Cidr, Interface, Owner, Ports},
};

pub(crate) use nftables::nftables_cleanup;

/// The address of IPv6 that the proxy's connections to the application come from. Unlike 127.0.0.6 it has to be added
/// to loopback.
pub(crate) const INBOUND_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);
/// Where the proxy's connections to the application come from: what has this source is not captured again.
const INBOUND_SOURCES: [Cidr; 2] = [
    Cidr::v4(Ipv4Addr::new(127, 0, 0, 6)),
    Cidr::v6(INBOUND_SOURCE_V6),
];
/// The mark of the proxy's connections to its own Pod, which TPROXY must take although they come over loopback.
pub(crate) const OUTBOUND_MARK: u32 = 1338;
/// Where the agent serves DNS.
const DNS_PROXY_PORT: u16 = 15053;
const DNS_PORT: u16 = 53;

/// Rules in the order in which they are to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSet {
    rules: Vec<Rule>,
    ipv6: bool,
    spares_ipv6: bool,
}

impl RuleSet {
    /// The rules that carry out `config`.
    pub fn new(config: &Config) -> Self {
        let mut rules = Self {
            rules: Vec::new(),
            ipv6: config.ipv6,
            spares_ipv6: config.spares_ipv6,
        };
        inbound::exclude_interfaces(&mut rules, config);
        if config.drop_invalid {
            inbound::drop_invalid(&mut rules);
        }
        inbound::redirect_chains(&mut rules, config);
        inbound::capture(&mut rules, config);
        outbound::capture(&mut rules, config);
        if config.inbound_mode == InboundMode::Tproxy {
            inbound::tproxy_marks(&mut rules, config);
        }
        rules
    }

    /// The address families that have rules.
    pub(crate) fn families(&self) -> &'static [Family] {
        match self.ipv6 {
            true => &[Family::V4, Family::V6],
            false => &[Family::V4],
        }
    }

    fn append(&mut self, table: Table, chain: Chain, matches: Vec<Match>, target: Target) {
        self.append_for(None, table, chain, matches, target);
    }

    /// Appends a rule for one family alone, or for both.
    fn append_for(
        &mut self,
        family: Option<Family>,
        table: Table,
        chain: Chain,
        matches: Vec<Match>,
        target: Target,
    ) {
        self.push(Rule {
            table,
            chain,
            place: Place::End,
            family,
            matches,
            target,
        });
    }

    /// Appends for each family the rule that it makes of its loopback range.
    fn append_each(
        &mut self,
        config: &Config,
        table: Table,
        chain: Chain,
        matches: impl Fn(Cidr) -> Vec<Match>,
        target: &Target,
    ) {
        for range in [config.loopback, Cidr::v6(Ipv6Addr::LOCALHOST)] {
            let family = Some(Family::of(range));
            self.append_for(family, table, chain, matches(range), target.clone());
        }
    }

    /// Puts a rule before the one that has number `position` at that time.
    fn insert(
        &mut self,
        position: usize,
        family: Option<Family>,
        (table, chain): (Table, Chain),
        matches: Vec<Match>,
        target: Target,
    ) {
        self.push(Rule {
            table,
            chain,
            place: Place::Before(position),
            family,
            matches,
            target,
        });
    }

    fn push(&mut self, rule: Rule) {
        if self.ipv6 || rule.is_for(Family::V4) {
            self.rules.push(rule);
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    table: Table,
    chain: Chain,
    place: Place,
    /// None for both.
    family: Option<Family>,
    matches: Vec<Match>,
    target: Target,
}

impl Rule {
    fn is_for(&self, family: Family) -> bool {
        self.family.is_none_or(|only| only == family)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    End,
    /// Before the rule with this number, which counts from 1.
    Before(usize),
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// The family of a range.
    fn of(range: Cidr) -> Self {
        match range.address().is_ipv4() {
            true => Self::V4,
            false => Self::V6,
        }
    }
}

/// The tables, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    Mangle,
    Nat,
    Raw,
}

impl Table {
    const ALL: [Self; 3] = [Self::Mangle, Self::Nat, Self::Raw];

    fn name(self) -> &'static str {
        match self {
            Self::Mangle => "mangle",
            Self::Nat => "nat",
            Self::Raw => "raw",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chain {
    Prerouting,
    Output,
    IstioInbound,
    IstioOutput,
    IstioOutputDns,
    IstioRedirect,
    IstioInRedirect,
    IstioDivert,
    IstioTproxy,
    IstioDrop,
}

impl Chain {
    /// Whether the kernel provides it, and others may have rules in it.
    fn is_built_in(self) -> bool {
        matches!(self, Self::Prerouting | Self::Output)
    }
}

/// What a rule asks of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Match {
    In(Interface),
    Out(Interface),
    Protocol(Protocol),
    Source(Cidr),
    Destination(Cidr),
    NotDestination(Cidr),
    SourcePort(u16),
    DestinationPort(Ports),
    NotDestinationPort(u16),
    NotDestinationPorts([u16; 2]),
    Owner(Id),
    NotOwner(Id),
    /// Of a connection that conntrack knows, or related to one.
    Established,
    /// Of no connection that conntrack can tell.
    Invalid,
    Mark(u32),
    NotMark(u32),
    ConnectionMark(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Who owns the socket that sent a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Id {
    User(Owner),
    Group(Owner),
}

/// The users and then the groups of the proxy.
fn proxy_ids(config: &Config) -> impl Iterator<Item = Id> {
    let users = config.uids.iter().cloned().map(Id::User);
    users.chain(config.gids.iter().cloned().map(Id::Group))
}

/// What becomes of a packet that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Return,
    Accept,
    Drop,
    Jump(Chain),
    /// To this port of the own host.
    Redirect(Protocol, u16),
    /// To the socket that listens on `port`, with addresses untouched.
    Tproxy {
        port: u16,
        mark: u32,
    },
    SetMark(u32),
    /// The packet's mark becomes its connection's.
    SaveMark,
    /// The connection's mark becomes the packet's.
    RestoreMark,
    /// Of conntrack.
    Zone(u16),
}
