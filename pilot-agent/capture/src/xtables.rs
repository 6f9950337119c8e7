//! iptables: which of its variants to use, and how to run it.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use tracing::debug;

use crate::{
    config::Backend,
    rules::Family,
    tool::{self, Fixes, ToolError},
};

/// Seconds to wait for others that hold the lock of iptables-legacy.
const LOCK_WAIT: &str = "--wait=30";
/// The first version in which `iptables-restore` takes that lock.
const LOCKING_SINCE: [u32; 3] = [1, 6, 2];
/// A rule that matches nothing, as there is no such protocol: it shows whether the kernel takes rules at all.
const HARMLESS_RULE: [&str; 5] = ["INPUT", "-p", "255", "-j", "RETURN"];

const FIXES: Fixes = Fixes {
    missing: "add the package iptables to the image, or use --native-nftables (NATIVE_NFTABLES) with the package nftables",
    kernel: "load the modules on the node (iptable_nat or nf_tables, xt_REDIRECT, xt_owner, xt_multiport; with TPROXY \
             iptable_mangle, xt_TPROXY, xt_mark, xt_connmark, xt_conntrack; with DNS capture iptable_raw, xt_CT), or \
             choose the other variant by --force-iptables-binary (FORCE_IPTABLES_BINARY)",
};

/// One variant of iptables, for one address family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Xtables {
    /// Such as `ip6tables-nft`.
    program: String,
    takes_lock: bool,
    lock_file: Option<PathBuf>,
}

impl Xtables {
    /// The variant to use: the one that is asked for, else legacy where it has rules already, else nft, else whatever
    /// is installed.
    pub(crate) fn detect(
        backend: Backend,
        family: Family,
        lock_file: Option<&Path>,
    ) -> Result<Self, ToolError> {
        let plain = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let find = |suffix| Self::find(&format!("{plain}{suffix}"), lock_file);
        match backend {
            Backend::IptablesLegacy => return find("-legacy")?.working(),
            Backend::IptablesNft => return find("-nft")?.working(),
            Backend::Iptables | Backend::Nftables => {}
        }
        // Without rules, legacy is not even tried: that would make the kernel load its tables.
        let legacy = find("-legacy").and_then(|tool| match tool.has_rules()? {
            true => tool.working().map(Some),
            false => Ok(None),
        });
        match legacy {
            Ok(Some(tool)) => return Ok(tool),
            Ok(None) => {}
            Err(error) => debug!(%error, "not this variant"),
        }
        match find("-nft").and_then(Self::working) {
            Ok(tool) => return Ok(tool),
            Err(error) => debug!(%error, "not this variant"),
        }
        find("")?.working()
    }

    /// The variant of that name, if it is installed.
    fn find(program: &str, lock_file: Option<&Path>) -> Result<Self, ToolError> {
        let mut tool = Self {
            program: program.to_owned(),
            takes_lock: false,
            lock_file: lock_file.map(Path::to_owned),
        };
        let version = tool.run("-save", ["--version"], "")?;
        tool.takes_lock = takes_lock(&version);
        debug!(program, version = version.trim(), "found iptables");
        Ok(tool)
    }

    /// Itself, if the kernel takes its rules.
    fn working(self) -> Result<Self, ToolError> {
        for action in ["-A", "-D"] {
            self.call(["-t", "nat", action].into_iter().chain(HARMLESS_RULE))?;
        }
        Ok(self)
    }

    /// Whether anybody has rules of this variant. Tables without rules do not count: they stay once they are used.
    fn has_rules(&self) -> Result<bool, ToolError> {
        let saved = self.save()?;
        Ok(saved.lines().any(|line| line.starts_with("-A")))
    }

    /// All rules of this namespace.
    pub(crate) fn save(&self) -> Result<String, ToolError> {
        self.run("-save", [""; 0], "")
    }

    /// Applies `input` to the rules that are in place; each table of it as a whole or not at all.
    pub(crate) fn restore(&self, input: &str) -> Result<(), ToolError> {
        let lock = self.takes_lock.then_some(LOCK_WAIT);
        let arguments = ["--noflush"].into_iter().chain(lock);
        self.run("-restore", arguments, input).map(drop)
    }

    /// Runs iptables itself.
    pub(crate) fn call<S: Into<OsString>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<(), ToolError> {
        let lock = self.takes_lock.then(|| OsString::from(LOCK_WAIT));
        let arguments = arguments.into_iter().map(Into::into).chain(lock);
        self.run("", arguments, "").map(drop)
    }

    pub(crate) fn program(&self) -> &str {
        &self.program
    }

    fn run<S: Into<OsString>>(
        &self,
        suffix: &str,
        arguments: impl IntoIterator<Item = S>,
        input: &str,
    ) -> Result<String, ToolError> {
        let program = format!("{}{suffix}", self.program);
        let mut command = Command::new(&program);
        command.args(arguments.into_iter().map(Into::into));
        if let Some(file) = &self.lock_file {
            command.env("XTABLES_LOCKFILE", file);
        }
        tool::run(command, input, FIXES)
    }
}

/// Whether a variant has to be told to wait for the lock; nft has none.
fn takes_lock(version: &str) -> bool {
    if version.contains("nf_tables") {
        return false;
    }
    let Some((_, number)) = version.split_once(" v") else {
        return false;
    };
    let mut parts = [0; 3];
    let number = number
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next();
    for (part, text) in parts.iter_mut().zip(number.unwrap_or_default().split('.')) {
        *part = text.parse().unwrap_or(0);
    }
    parts >= LOCKING_SINCE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_legacys() {
        assert!(takes_lock("iptables-save v1.8.9 (legacy)"));
        assert!(takes_lock("iptables-save v1.6.2"));
        assert!(!takes_lock("iptables-save v1.6.1"));
        assert!(!takes_lock("iptables-save v1.8.9 (nf_tables)"));
        assert!(!takes_lock(""));
    }
}
