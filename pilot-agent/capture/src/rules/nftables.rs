//! Rules in the words of nft.
//!
//! The script replaces the tables of an earlier run in one transaction: packets see the old rules or the new ones,
//! never a part of either, so that nothing else is needed to apply, to repeat or to reconcile.

use super::{Chain, Family, Id, Match, Place, Rule, RuleSet, Table, Target};

impl RuleSet {
    /// The input of `nft -f -` that puts the rules in place of those of an earlier run.
    pub fn nftables(&self) -> String {
        let mut script = nftables_cleanup();
        for table in Table::ALL {
            script += &self.nftables_table(table);
        }
        script
    }

    fn nftables_table(&self, table: Table) -> String {
        let rules = || self.rules.iter().filter(move |rule| rule.table == table);
        let mut chains: Vec<Chain> = Vec::new();
        for rule in rules() {
            if !chains.contains(&rule.chain) {
                chains.push(rule.chain);
            }
        }
        let Some(_) = chains.first() else {
            return String::new();
        };
        let name = table_name(table);
        let mut script = format!("add table inet {name}\n");
        for chain in &chains {
            script += &format!(
                "add chain inet {name} {}{}\n",
                chain_name(*chain),
                hook(table, *chain)
            );
        }
        for chain in chains {
            let prefix = format!("add rule inet {name} {}", chain_name(chain));
            // The tables see both families, also where only IPv4 is to be captured.
            if chain.is_built_in() && self.spares_ipv6 {
                script += &format!("{prefix} meta nfproto ipv6 return\n");
            }
            let rules = in_order(rules().filter(|rule| rule.chain == chain), self.families());
            let mut rules: Vec<String> = rules.into_iter().map(specification).collect();
            // What each family jumps for is one rule here.
            rules.dedup();
            for rule in rules {
                script += &format!("{prefix} {rule}\n");
            }
        }
        script
    }
}

/// The input of `nft -f -` that removes the rules of an earlier run. What is not there is made first, because nft
/// refuses to delete it otherwise.
pub(crate) fn nftables_cleanup() -> String {
    Table::ALL
        .map(table_name)
        .map(|name| format!("add table inet {name}\ndelete table inet {name}\n"))
        .concat()
}

/// The rules of a chain as they end up, so that none needs to be inserted: nft counts differently from iptables, and
/// its tables hold the rules of both families.
fn in_order<'a>(rules: impl Iterator<Item = &'a Rule>, families: &[Family]) -> Vec<&'a Rule> {
    let mut chain: Vec<&Rule> = Vec::new();
    for rule in rules {
        let index = match rule.place {
            Place::End => chain.len(),
            Place::Before(position) => families
                .iter()
                .filter(|family| rule.is_for(**family))
                .map(|family| index_of(&chain, *family, position))
                .max()
                .unwrap_or_default(),
        };
        chain.insert(index, rule);
    }
    chain
}

/// Where the rule is that iptables gives number `position` among those of `family`.
fn index_of(chain: &[&Rule], family: Family, position: usize) -> usize {
    let of_family = chain.iter().enumerate();
    let mut of_family = of_family.filter(|(_, rule)| rule.is_for(family));
    let found = of_family.nth(position.saturating_sub(1));
    found.map_or(chain.len(), |(index, _)| index)
}

/// The words of a rule, in the order in which Istio's own rules for nft have them.
fn specification(rule: &Rule) -> String {
    let has = |part: Part| rule.matches.iter().any(|it| part_of(it) == part);
    // A port of a protocol says which one it is; where Istio's rules say it twice, so do these.
    let inbound = rule.table != Table::Raw && rule.chain == Chain::IstioInbound;
    let leaves_protocol = has(Part::Port) && !has(Part::Interface) && !inbound;
    let protocol = rule.matches.iter().find_map(|part| match part {
        Match::Protocol(protocol) => Some(protocol.name()),
        _ => None,
    });
    let matches = rule.matches.iter();
    let mut matches: Vec<&Match> = matches
        .filter(|part| !(leaves_protocol && part_of(part) == Part::Protocol))
        .collect();
    matches.sort_by_key(|part| match (rule.table, part_of(part)) {
        (Table::Raw, Part::Address) => Part::Port,
        (_, part) => part,
    });
    let words = matches
        .iter()
        .map(|part| matching(part, protocol.unwrap_or("th"), rule.table));
    let mut words: Vec<String> = words.collect();
    words.push(verdict(&rule.target, rule.family));
    words.join(" ")
}

/// What a match is about, in the order of Istio's rules.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Interface,
    Protocol,
    Connection,
    Address,
    Port,
    Owner,
}

fn part_of(part: &Match) -> Part {
    match part {
        Match::In(_) | Match::Out(_) => Part::Interface,
        Match::Protocol(_) => Part::Protocol,
        Match::Established | Match::Invalid | Match::ConnectionMark(_) => Part::Connection,
        Match::Source(_) | Match::Destination(_) | Match::NotDestination(_) => Part::Address,
        Match::SourcePort(_)
        | Match::DestinationPort(_)
        | Match::NotDestinationPort(_)
        | Match::NotDestinationPorts(_) => Part::Port,
        Match::Owner(_) | Match::NotOwner(_) | Match::Mark(_) | Match::NotMark(_) => Part::Owner,
    }
}

/// The match, with the protocol whose ports it means.
fn matching(part: &Match, protocol: &str, table: Table) -> String {
    // Either is the same to nft.
    let meta = if table == Table::Raw { "meta " } else { "" };
    match part {
        Match::In(interface) => format!("iifname {}", interface_name(interface.as_str())),
        Match::Out(interface) => format!("oifname {}", interface_name(interface.as_str())),
        Match::Protocol(protocol) => format!("meta l4proto {}", protocol.name()),
        Match::Source(range) => format!("{} saddr {range}", ip(Family::of(*range))),
        Match::Destination(range) => format!("{} daddr {range}", ip(Family::of(*range))),
        Match::NotDestination(range) => format!("{} daddr != {range}", ip(Family::of(*range))),
        Match::SourcePort(port) => format!("{protocol} sport {port}"),
        Match::DestinationPort(ports) => match ports.bounds() {
            (first, last) if first == last => format!("{protocol} dport {first}"),
            (first, last) => format!("{protocol} dport {first}-{last}"),
        },
        Match::NotDestinationPort(port) => format!("{protocol} dport != {port}"),
        Match::NotDestinationPorts([one, other]) => {
            format!("{protocol} dport != {{ {one}, {other} }}")
        }
        Match::Owner(Id::User(user)) => format!("{meta}skuid {user}"),
        Match::Owner(Id::Group(group)) => format!("{meta}skgid {group}"),
        Match::NotOwner(Id::User(user)) => format!("{meta}skuid != {user}"),
        Match::NotOwner(Id::Group(group)) => format!("{meta}skgid != {group}"),
        Match::Established => "ct state related,established".to_owned(),
        // Of TCP alone, as Istio's rules for nft have it; those for iptables do not tell protocols apart.
        Match::Invalid => "meta l4proto tcp ct state invalid".to_owned(),
        Match::Mark(mark) => format!("mark {mark}"),
        Match::NotMark(mark) => format!("mark != {mark}"),
        Match::ConnectionMark(mark) => format!("ct mark {mark}"),
    }
}

/// What a rule does, with the counter of its packets.
fn verdict(target: &Target, family: Option<Family>) -> String {
    let verdict = match target {
        Target::Return => "return".to_owned(),
        Target::Accept => "accept".to_owned(),
        Target::Drop => "drop".to_owned(),
        Target::Jump(chain) => format!("jump {}", chain_name(*chain)),
        Target::Redirect(_, port) => format!("redirect to :{port}"),
        Target::Tproxy { port, mark } => {
            let ip = family.map(ip).unwrap_or_default();
            return format!("tproxy {ip} to :{port} meta mark set {mark} counter accept");
        }
        Target::SetMark(mark) => format!("meta mark set {mark}"),
        Target::SaveMark => "ct mark set mark".to_owned(),
        Target::RestoreMark => "meta mark set ct mark".to_owned(),
        Target::Zone(zone) => format!("ct zone set {zone}"),
    };
    format!("counter {verdict}")
}

fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// Quoted, because a name may be a word of nft; the wildcard is nft's. No such word is loopback's, nor letters with
/// a number, as interfaces are called, but for a few.
fn interface_name(name: &str) -> String {
    const WORDS: [&str; 9] = [
        "ip6", "icmpv6", "rt0", "rt2", "rt4", "sack0", "sack1", "sack2", "sack3",
    ];
    let letters = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let is_plain = !letters.is_empty() && letters.chars().all(|c| c.is_ascii_lowercase());
    if name == "lo" || (is_plain && letters.len() < name.len() && !WORDS.contains(&name)) {
        return name.to_owned();
    }
    match name.strip_suffix('+') {
        Some(prefix) => format!("\"{prefix}*\""),
        None => format!("\"{name}\""),
    }
}

fn table_name(table: Table) -> &'static str {
    match table {
        Table::Mangle => "istio-proxy-mangle",
        Table::Nat => "istio-proxy-nat",
        Table::Raw => "istio-proxy-raw",
    }
}

fn chain_name(chain: Chain) -> String {
    chain.name().to_ascii_lowercase().replace('_', "-")
}

/// Where a chain of the kernel's hooks in; nothing for our own. The numbers are those of iptables' tables.
fn hook(table: Table, chain: Chain) -> String {
    let hook = match chain {
        Chain::Prerouting => "prerouting",
        Chain::Output => "output",
        _ => return String::new(),
    };
    let (kind, priority) = match table {
        Table::Raw => ("filter", -300),
        // A packet whose mark changes on its way out has to be routed again.
        Table::Mangle if chain == Chain::Output => ("route", -150),
        Table::Mangle => ("filter", -150),
        Table::Nat => ("nat", -100),
    };
    format!(" {{ type {kind} hook {hook} priority {priority} ; }}")
}
