//! Rules in the words of iptables.

use super::{Chain, Family, Id, Match, Place, Protocol, Rule, RuleSet, Table, Target};

/// Arguments of one call of iptables.
pub(crate) type Arguments = Vec<String>;

impl RuleSet {
    /// The input of `iptables-restore --noflush`, or of `ip6tables-restore`, that adds the rules.
    pub fn restore(&self, family: Family) -> String {
        let mut text = String::new();
        for table in Table::ALL {
            let rules: Vec<&Rule> = self.of(family).filter(|rule| rule.table == table).collect();
            if rules.is_empty() {
                continue;
            }
            text += &format!("* {}\n", table.name());
            for chain in own_chains(&rules) {
                text += &format!("-N {}\n", chain.name());
            }
            for rule in rules {
                text += &rule.added().join(" ");
                text.push('\n');
            }
            text += "COMMIT\n";
        }
        text
    }

    /// Calls that succeed where the rule is in place, one for each rule.
    pub(crate) fn checks(&self, family: Family) -> Vec<Arguments> {
        let rules = self.of(family);
        rules.map(|rule| rule.call("-C")).collect()
    }

    fn of(&self, family: Family) -> impl Iterator<Item = &Rule> {
        let has_rules = self.families().contains(&family);
        let rules = self.rules.iter();
        rules.filter(move |rule| has_rules && rule.is_for(family))
    }
}

/// The chains to be made: those with rules in the order of their first, then those that are only jumped to.
fn own_chains(rules: &[&Rule]) -> Vec<Chain> {
    let jumps = rules.iter().filter_map(|rule| match rule.target {
        Target::Jump(chain) => Some(chain),
        _ => None,
    });
    let mut chains = Vec::new();
    for chain in rules.iter().map(|rule| rule.chain).chain(jumps) {
        if !chain.is_built_in() && !chains.contains(&chain) {
            chains.push(chain);
        }
    }
    chains
}

impl Rule {
    /// The line of `iptables-restore` that adds it.
    fn added(&self) -> Vec<String> {
        let mut words = match self.place {
            Place::End => vec!["-A".to_owned(), self.chain.name().to_owned()],
            Place::Before(position) => {
                vec![
                    "-I".to_owned(),
                    self.chain.name().to_owned(),
                    position.to_string(),
                ]
            }
        };
        words.extend(self.specification());
        words
    }

    /// A call of iptables that does `action` with it.
    fn call(&self, action: &str) -> Arguments {
        let head = ["-t", self.table.name(), action, self.chain.name()];
        let mut words: Vec<String> = head.map(str::to_owned).into();
        words.extend(self.specification());
        words
    }

    fn specification(&self) -> impl Iterator<Item = String> {
        let matches = self.matches.iter().map(matching);
        let text = matches.chain([jump(&self.target)]).collect::<Vec<_>>();
        let words: Vec<String> = text
            .iter()
            .flat_map(|part| part.split(' '))
            .map(str::to_owned)
            .collect();
        words.into_iter()
    }
}

fn matching(part: &Match) -> String {
    match part {
        Match::In(interface) => format!("-i {}", interface.as_str()),
        Match::Out(interface) => format!("-o {}", interface.as_str()),
        Match::Protocol(protocol) => format!("-p {}", protocol.name()),
        Match::Source(range) => format!("-s {range}"),
        Match::Destination(range) => format!("-d {range}"),
        Match::NotDestination(range) => format!("! -d {range}"),
        Match::SourcePort(port) => format!("--sport {port}"),
        Match::DestinationPort(ports) => match ports.bounds() {
            (first, last) if first == last => format!("--dport {first}"),
            (first, last) => format!("--dport {first}:{last}"),
        },
        Match::NotDestinationPort(port) => format!("! --dport {port}"),
        Match::NotDestinationPorts([one, other]) => {
            format!("-m multiport ! --dports {one},{other}")
        }
        Match::Owner(Id::User(user)) => format!("-m owner --uid-owner {user}"),
        Match::Owner(Id::Group(group)) => format!("-m owner --gid-owner {group}"),
        Match::NotOwner(Id::User(user)) => format!("-m owner ! --uid-owner {user}"),
        Match::NotOwner(Id::Group(group)) => format!("-m owner ! --gid-owner {group}"),
        Match::Established => "-m conntrack --ctstate RELATED,ESTABLISHED".to_owned(),
        Match::Invalid => "-m conntrack --ctstate INVALID".to_owned(),
        Match::Mark(mark) => format!("-m mark --mark {mark}"),
        Match::NotMark(mark) => format!("-m mark ! --mark {mark}"),
        Match::ConnectionMark(mark) => format!("-m connmark --mark {mark}"),
    }
}

fn jump(target: &Target) -> String {
    match target {
        Target::Return => "-j RETURN".to_owned(),
        Target::Accept => "-j ACCEPT".to_owned(),
        Target::Drop => "-j DROP".to_owned(),
        Target::Jump(chain) => format!("-j {}", chain.name()),
        Target::Redirect(Protocol::Tcp, port) => format!("-j REDIRECT --to-ports {port}"),
        Target::Redirect(Protocol::Udp, port) => format!("-j REDIRECT --to-port {port}"),
        Target::Tproxy { port, mark } => {
            format!("-j TPROXY --tproxy-mark {mark}/0xffffffff --on-port {port}")
        }
        Target::SetMark(mark) => format!("-j MARK --set-mark {mark}"),
        Target::SaveMark => "-j CONNMARK --save-mark".to_owned(),
        Target::RestoreMark => "-j CONNMARK --restore-mark".to_owned(),
        Target::Zone(zone) => format!("-j CT --zone {zone}"),
    }
}

impl Chain {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Output => "OUTPUT",
            Self::IstioInbound => "ISTIO_INBOUND",
            Self::IstioOutput => "ISTIO_OUTPUT",
            Self::IstioOutputDns => "ISTIO_OUTPUT_DNS",
            Self::IstioRedirect => "ISTIO_REDIRECT",
            Self::IstioInRedirect => "ISTIO_IN_REDIRECT",
            Self::IstioDivert => "ISTIO_DIVERT",
            Self::IstioTproxy => "ISTIO_TPROXY",
            Self::IstioDrop => "ISTIO_DROP",
        }
    }
}
