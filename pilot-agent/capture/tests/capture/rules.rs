//! Each flag and each variable, with the difference that it makes to the rules of a Pod that Istio injects.
//!
//! The cases are in `data`: a title, a line with the host, variables and flags, and the difference: one line of
//! context, then what goes (`-`) and what comes (`+`). `UPDATE=1` writes them anew, for review.

use std::{fmt::Write, fs, path::PathBuf};

use ithildin_capture::{Family, RuleSet};

use crate::common::rules;

/// The arguments that Istio's injection template gives, without those that are the defaults.
const INJECTED: &str = "-i * -b * -d 15090,15021,15020";
/// Those.
const DEFAULTS: &str = "-p 15001 -z 15006 -u 1337 -m REDIRECT -x=";

#[test]
fn injected_pods_have_the_known_rules() {
    let without_defaults = rules("10.0.0.1", &[], INJECTED);
    let rules = rules("10.0.0.1", &[], &format!("{DEFAULTS} {INJECTED}"));
    assert_eq!(rules, without_defaults);
    assert_eq!(
        rules.restore(Family::V4),
        "\
* nat
-N ISTIO_INBOUND
-N ISTIO_REDIRECT
-N ISTIO_IN_REDIRECT
-N ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_INBOUND -p tcp --dport 15090 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15021 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15020 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -o lo -s 127.0.0.6/32 -j RETURN
-A ISTIO_OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
COMMIT
"
    );
    assert_eq!(rules.restore(Family::V6), "");
}

#[test]
fn settings_change_the_rules_of_iptables() {
    check("iptables.txt", |rules| {
        rules.restore(Family::V4) + &rules.restore(Family::V6)
    });
}

#[test]
fn settings_change_the_rules_of_nftables() {
    check("nftables.txt", RuleSet::nftables);
}

#[test]
fn nftables_spare_ipv6_that_is_there_or_may_come() {
    for (host, flags, spares) in [
        ("10.0.0.1", "", false),
        ("10.0.0.1,fe80::1", "", true),
        ("10.0.0.1,fe80::1", "--dual-stack", true),
        ("10.0.0.1,fd00::1", "", true),
        ("10.0.0.1,fd00::1", "--dual-stack", false),
        ("fd00::1,fe80::1", "", false),
    ] {
        let script = rules(host, &[], &format!("{INJECTED} {flags}")).nftables();
        for chain in ["prerouting", "output"] {
            let rule = format!("add rule inet istio-proxy-nat {chain} meta nfproto ipv6 return\n");
            assert_eq!(script.contains(&rule), spares, "{host} {flags} {chain}");
        }
    }
}

/// Compares each case of a file with what `text` makes of its rules.
fn check(file: &str, text: impl Fn(&RuleSet) -> String) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(file);
    let cases = fs::read_to_string(&path).unwrap();
    let mut found = String::new();
    for case in cases
        .split("\n\n")
        .map(str::trim)
        .filter(|case| !case.is_empty())
    {
        let mut lines = case.lines();
        let title = lines.next().unwrap();
        let settings = lines.next().unwrap();
        let (address, variables, flags) = parse(settings);
        let before = text(&rules(&address, &[], INJECTED));
        let after = text(&rules(&address, &variables, &format!("{INJECTED} {flags}")));
        let difference = difference(&before, &after);
        writeln!(found, "{title}\n{settings}\n{difference}").unwrap();
    }
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &found).unwrap();
    }
    // By case, so that a failure shows the one that is wrong.
    let trimmed = |text: &str| {
        text.split("\n\n")
            .map(|case| case.trim().to_owned())
            .collect::<Vec<_>>()
    };
    for (found, expected) in trimmed(&found).iter().zip(trimmed(&cases)) {
        assert_eq!(found, &expected, "\n{found}\n");
    }
}

/// `@ADDRESS,...[/SERVER,...] VARIABLE=value ... -- flags`
fn parse(settings: &str) -> (String, Vec<(&str, &str)>, &str) {
    let (left, flags) = settings.split_once("--- ").unwrap_or((settings, ""));
    let mut words = left.split_whitespace();
    let address = words.next().unwrap().trim_start_matches('@').to_owned();
    let variables = words.map(|word| word.split_once('=').unwrap()).collect();
    (address, variables, flags)
}

/// The lines that differ, after the line before them.
fn difference(before: &str, after: &str) -> String {
    let (before, after): (Vec<&str>, Vec<&str>) =
        (before.lines().collect(), after.lines().collect());
    // The lengths of the longest common subsequences of what follows each pair of lines.
    let mut common = vec![vec![0; after.len() + 1]; before.len() + 1];
    for i in (0..before.len()).rev() {
        for j in (0..after.len()).rev() {
            common[i][j] = match before[i] == after[j] {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut text = String::new();
    let mut context = None;
    while i < before.len() || j < after.len() {
        if i < before.len() && j < after.len() && before[i] == after[j] {
            context = Some(before[i]);
            (i, j) = (i + 1, j + 1);
            continue;
        }
        if let Some(line) = context.take() {
            writeln!(text, "  {line}").unwrap();
        }
        if j == after.len() || (i < before.len() && common[i + 1][j] >= common[i][j + 1]) {
            writeln!(text, "- {}", before[i]).unwrap();
            i += 1;
        } else {
            writeln!(text, "+ {}", after[j]).unwrap();
            j += 1;
        }
    }
    text
}
