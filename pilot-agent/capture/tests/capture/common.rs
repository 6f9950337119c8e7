//! Settings as a command line and an environment give them.

use std::net::IpAddr;

use clap::Parser;
use ithildin_capture::{Args, Config, Host, InvalidSetting, Operation, RuleSet, resolve};

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

/// The arguments that `flags`, with blanks between them, give.
pub(crate) fn args(flags: &str) -> Args {
    let words = ["istio-iptables"]
        .into_iter()
        .chain(flags.split_whitespace());
    Cli::try_parse_from(words)
        .unwrap_or_else(|error| panic!("{flags}: {error}"))
        .args
}

/// A host with `ADDRESS,...`, or `ADDRESS,.../SERVER,...` with servers of DNS. Of IPv6 on the link alone it knows
/// that it is there.
pub(crate) fn host(text: &str) -> Host {
    let (addresses, servers) = text.split_once('/').unwrap_or((text, ""));
    let list = |text: &str| -> Vec<IpAddr> {
        let items = text.split(',').filter(|item| !item.is_empty());
        items.map(|item| item.parse().unwrap()).collect()
    };
    let mut addresses = list(addresses);
    let has_ipv6 = addresses.iter().any(IpAddr::is_ipv6);
    addresses.retain(|it| !matches!(it, IpAddr::V6(it) if it.is_unicast_link_local()));
    Host {
        addresses,
        has_ipv6,
        dns_servers: list(servers),
        users: vec![("root".to_owned(), 0), ("mesh".to_owned(), 2001)],
    }
}

/// What variables and flags mean on a host.
pub(crate) fn settings(
    on: &str,
    variables: &[(&str, &str)],
    flags: &str,
) -> Result<(Config, Operation), InvalidSetting> {
    let environment = |name: &str| {
        let mut variables = variables.iter();
        let found = variables.find(|(variable, _)| *variable == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    resolve(&args(flags), &environment, &host(on))
}

/// The rules that they give.
pub(crate) fn rules(on: &str, variables: &[(&str, &str)], flags: &str) -> RuleSet {
    let (config, _) = settings(on, variables, flags).unwrap_or_else(|error| panic!("{error}"));
    RuleSet::new(&config)
}
