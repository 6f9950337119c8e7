//! The tools that this machine has. A test that needs one that it lacks says so, whatever is captured.

use std::{io::Write, process::Command};

use ithildin_capture::{Error, run_with};

use crate::{
    common::args,
    net::{Link, Namespace},
};

/// A tool, and the flags that choose it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) flags: &'static str,
}

const IPTABLES_NFT: Tool = Tool {
    name: "iptables-nft",
    flags: "--force-iptables-binary nft",
};
pub(crate) const IPTABLES_LEGACY: Tool = Tool {
    name: "iptables-legacy",
    flags: "--force-iptables-binary legacy",
};
const NFT: Tool = Tool {
    name: "nft",
    flags: "--native-nftables",
};

/// Runs a part of the test `name` for each tool that this machine and its kernel have, in namespaces of its own.
pub(crate) fn with_each(name: &str, part: impl Fn(Tool, &Link)) {
    run_each(name, &[IPTABLES_NFT, IPTABLES_LEGACY, NFT], part);
}

/// As [`with_each`], without nft.
pub(crate) fn with_each_iptables(name: &str, part: impl Fn(Tool, &Link)) {
    run_each(name, &[IPTABLES_NFT, IPTABLES_LEGACY], part);
}

fn run_each(name: &str, tools: &[Tool], part: impl Fn(Tool, &Link)) {
    if !rustix::process::geteuid().is_root() {
        say(&format!("NOT RUN: {name}: network namespaces need root"));
        return;
    }
    for tool in tools {
        let link = Link::new();
        match usable(*tool, &link) {
            Ok(()) => part(*tool, &link),
            Err(reason) => say(&format!("NOT RUN: {name} with {}: {reason}", tool.name)),
        }
    }
}

/// Whether the tool is installed and the kernel redirects for it.
fn usable(tool: Tool, link: &Link) -> Result<(), String> {
    let trial = match tool.name {
        "nft" => "nft add table inet trial && nft add chain inet trial c '{ type nat hook output priority -100; }' \
                  && nft add rule inet trial c tcp dport 1 redirect to :2 && nft delete table inet trial".to_owned(),
        name => format!(
            "{name} -t nat -A OUTPUT -p tcp -m owner --uid-owner 1 -j REDIRECT --to-ports 2 && {name} -t nat -F OUTPUT"
        ),
    };
    let output = link
        .pod
        .enter(|| Command::new("sh").args(["-c", &trial]).output());
    let output = output.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// Past the test harness, which keeps what tests print to itself.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Runs the command in the Pod, with the tool.
pub(crate) fn capture(link: &Link, tool: Tool, flags: &str) -> Result<(), Error> {
    run(&link.pod, &format!("{flags} {}", tool.flags))
}

/// Runs the command without any environment.
pub(crate) fn run(namespace: &Namespace, flags: &str) -> Result<(), Error> {
    namespace.enter(|| run_with(&args(flags), &|_| None))
}
