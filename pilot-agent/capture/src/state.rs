//! The rules that are in place, as `iptables-save` tells them.
//!
//! What iptables saves is not what it was given: it sorts matches, writes marks in hexadecimal and leaves out
//! defaults. So rules are never compared as text; they are counted, and iptables itself is asked whether it has them.
//!
//! A rule is ours if it is in a chain of ours or jumps to one. TPROXY and excluded interfaces also need rules in chains
//! of the kernel that name none of ours; these are told by their form, in tables that hold chains of ours.

use std::collections::BTreeMap;

use crate::rules::OUTBOUND_MARK;

/// The beginning of the names of our chains.
const OWN_PREFIX: &str = "ISTIO_";

/// What is ours of the rules of one address family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    tables: BTreeMap<String, Contents>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Contents {
    /// Our chains, with the number of their rules.
    chains: BTreeMap<String, usize>,
    /// Our rules in other chains, each without its leading `-A`.
    rules: Vec<String>,
    /// Rules in other chains that have the form of ours.
    similar: Vec<String>,
}

impl State {
    /// Reads the output of `iptables-save`, or the input of `iptables-restore`.
    pub(crate) fn parse(text: &str) -> Self {
        let mut state = Self::default();
        let mut table = String::new();
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('*') {
                table = name.trim().to_owned();
                continue;
            }
            let contents = state.tables.entry(table.clone()).or_default();
            contents.read(line);
        }
        let tables = &mut state.tables;
        tables.retain(|_, contents| !contents.chains.is_empty() || !contents.rules.is_empty());
        state
    }

    /// Whether nothing of ours is in place.
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Whether both have the same chains with as many rules. Whether they are the same rules, only iptables can tell.
    pub(crate) fn has_the_chains_of(&self, other: &Self) -> bool {
        let chains = |state: &Self| -> Vec<(String, BTreeMap<String, usize>)> {
            let tables = state.tables.iter();
            tables
                .map(|(name, contents)| (name.clone(), contents.chains.clone()))
                .collect()
        };
        chains(self) == chains(other)
    }

    /// The input of `iptables-restore --noflush` that removes all of it; each table in one step.
    pub(crate) fn cleanup(&self) -> String {
        let mut text = String::new();
        for (table, contents) in &self.tables {
            text += &format!("*{table}\n");
            for rule in contents.rules.iter().chain(&contents.similar) {
                text += &format!("-D {rule}\n");
            }
            // All are emptied before any is deleted, because they jump to one another.
            for action in ["-F", "-X"] {
                for chain in contents.chains.keys() {
                    text += &format!("{action} {chain}\n");
                }
            }
            text += "COMMIT\n";
        }
        text
    }
}

impl Contents {
    fn read(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["-N", chain, ..] => self.chain(chain, 0),
            ["-A" | "-I", chain, ..] if chain.starts_with(OWN_PREFIX) => self.chain(chain, 1),
            ["-A", chain, rule @ ..] => self.rule(chain, rule, line.trim_start_matches("-A ")),
            ["-I", chain, _position, rule @ ..] => {
                self.rule(chain, rule, &format!("{chain} {}", rule.join(" ")));
            }
            [first, ..] => {
                if let Some(chain) = first.strip_prefix(':') {
                    self.chain(chain, 0);
                }
            }
            [] => {}
        }
    }

    fn chain(&mut self, name: &str, rules: usize) {
        if name.starts_with(OWN_PREFIX) {
            *self.chains.entry(name.to_owned()).or_default() += rules;
        }
    }

    /// A rule in a chain that is not ours; `text` is what deletes it.
    fn rule(&mut self, chain: &str, rule: &[&str], text: &str) {
        let target = follows(rule, "-j").or(follows(rule, "-g"));
        if target.is_some_and(|target| target.starts_with(OWN_PREFIX)) {
            self.rules.push(text.to_owned());
        } else if is_similar(chain, rule) {
            self.similar.push(text.to_owned());
        }
    }
}

/// Whether a rule of the kernel's `chain` has the form of one that excludes an interface, or of one of TPROXY's.
fn is_similar(chain: &str, rule: &[&str]) -> bool {
    let has = |word| rule.contains(&word);
    let target = follows(rule, "-j");
    match chain {
        "PREROUTING" => match target {
            Some("RETURN") => matches!(rule, ["-i", _, "-j", "RETURN"]),
            Some("CONNMARK") => has("--mark") && has("--save-mark"),
            _ => false,
        },
        "OUTPUT" => match target {
            Some("RETURN") => {
                matches!(rule, ["-o", _, "-j", "RETURN"])
                    || (rule.len() == MARKED_BY_LOOPBACK
                        && follows(rule, "-o") == Some("lo")
                        && has("--mark"))
            }
            Some("CONNMARK") => has("--mark") && has("--restore-mark"),
            Some("MARK") => {
                let mark = follows(rule, "--set-xmark").or(follows(rule, "--set-mark"));
                follows(rule, "-o") == Some("lo") && mark.is_some_and(is_outbound_mark)
            }
            _ => false,
        },
        _ => false,
    }
}

/// Words of `-o lo -p tcp -m mark --mark MARK -j RETURN`.
const MARKED_BY_LOOPBACK: usize = 10;

/// Whether it is the mark of the proxy's own connections, as it was given or as it is saved.
fn is_outbound_mark(text: &str) -> bool {
    let mark = text.split('/').next().unwrap_or(text);
    match mark.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16) == Ok(OUTBOUND_MARK),
        None => mark.parse() == Ok(OUTBOUND_MARK),
    }
}

/// The word after `option`.
fn follows<'a>(rule: &[&'a str], option: &str) -> Option<&'a str> {
    let position = rule.iter().position(|word| *word == option)?;
    rule.get(position + 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "\
# Generated by iptables-save v1.8.9
*nat
:PREROUTING ACCEPT [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A PREROUTING -p tcp -m comment --comment \"of others\" -j KUBE-MARK-MASQ
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
*filter
:INPUT ACCEPT [0:0]
COMMIT
";

    #[test]
    fn cleanup_removes_what_is_ours_and_no_more() {
        assert_eq!(
            State::parse(SAVED).cleanup(),
            "*nat\n-D OUTPUT -j ISTIO_OUTPUT\n-F ISTIO_OUTPUT\n-F ISTIO_REDIRECT\n\
             -X ISTIO_OUTPUT\n-X ISTIO_REDIRECT\nCOMMIT\n"
        );
    }

    #[test]
    fn what_is_restored_and_what_is_saved_count_the_same() {
        let restored = "* nat\n-N ISTIO_OUTPUT\n-N ISTIO_REDIRECT\n-A OUTPUT -j ISTIO_OUTPUT\n\
             -I ISTIO_OUTPUT 1 -j ISTIO_REDIRECT\n-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN\n\
             -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n";
        assert!(State::parse(SAVED).has_the_chains_of(&State::parse(restored)));
        for change in [
            restored.replace("-A ISTIO_REDIRECT", "-A ISTIO_OUTPUT"),
            restored.replace("-N ISTIO_REDIRECT\n", "-N ISTIO_REDIRECT\n-N ISTIO_DROP\n"),
            restored.replace("* nat", "* mangle"),
        ] {
            assert!(
                !State::parse(SAVED).has_the_chains_of(&State::parse(&change)),
                "{change}"
            );
        }
    }

    #[test]
    fn rules_without_a_chain_of_ours_are_told_by_their_form() {
        let ours = "\
*mangle
:ISTIO_INBOUND - [0:0]
-A PREROUTING -i eth9 -j RETURN
-A PREROUTING -p tcp -m mark --mark 0x539 -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff
-A OUTPUT -o eth9 -j RETURN
-A OUTPUT -o lo -p tcp -m mark --mark 0x539 -j RETURN
-A OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner 1337 -j MARK --set-xmark 0x53a/0xffffffff
-A OUTPUT -p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
COMMIT
";
        let cleanup = State::parse(ours).cleanup();
        for rule in ours.lines().filter_map(|line| line.strip_prefix("-A ")) {
            assert!(cleanup.contains(&format!("-D {rule}\n")), "{rule}");
        }
        let others = "\
*mangle
:ISTIO_INBOUND - [0:0]
-A PREROUTING -i eth9 -p tcp -j RETURN
-A PREROUTING -p tcp -j CONNMARK --save-mark
-A OUTPUT -o lo -p tcp -m mark --mark 0x539 -m owner --uid-owner 1 -j RETURN
-A OUTPUT -o lo -j MARK --set-xmark 0x1/0xffffffff
-A OUTPUT -o eth0 -j MARK --set-xmark 0x53a/0xffffffff
-A POSTROUTING -o eth0 -j RETURN
COMMIT
";
        assert!(!State::parse(others).cleanup().contains("-D"));
        // The same rules are those of others where there is no chain of ours.
        assert!(State::parse(&ours.replace(":ISTIO_INBOUND - [0:0]\n", "")).is_empty());
    }

    #[test]
    fn rules_of_others_are_no_state() {
        let others = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n";
        assert!(State::parse(others).is_empty());
        assert!(State::parse("").is_empty());
        assert!(!State::parse("*nat\n-A PREROUTING -j ISTIO_INBOUND\nCOMMIT\n").is_empty());
    }

    #[test]
    fn inserted_jumps_are_removed_without_their_position() {
        let text = "* nat\n-I PREROUTING 1 -i eth1 -j ISTIO_REDIRECT\nCOMMIT\n";
        assert_eq!(
            State::parse(text).cleanup(),
            "*nat\n-D PREROUTING -i eth1 -j ISTIO_REDIRECT\nCOMMIT\n"
        );
    }
}
