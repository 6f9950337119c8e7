//! Putting rules in place, and taking them away.

use std::{fs, io, path::Path, process::Command};

use tracing::{error, info, warn};

use crate::{
    config::{Backend, Config, DryRun, Inbound, InboundMode, Operation},
    netlink::Entry,
    rules::{Family, INBOUND_SOURCE_V6, RuleSet, nftables_cleanup},
    state::State,
    tool::{self, Fixes, ToolError},
    xtables::Xtables,
};

/// How often a rule may have been added by earlier runs; more are left, lest a removal that fails goes on for ever.
const MAX_DUPLICATES: usize = 16;

const NFT_FIXES: Fixes = Fixes {
    missing: "add the package nftables to the image, or leave --native-nftables (NATIVE_NFTABLES) out",
    kernel: "load the modules on the node (nf_tables, nft_chain_nat, nft_redir, nft_ct; with TPROXY nft_tproxy), or \
             leave --native-nftables (NATIVE_NFTABLES) out",
};

/// Why rules could not be put in place or taken away.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(
        "rules of an earlier run are in place and differ, and the new ones could not be added to them: use --reconcile \
         (RECONCILE) to replace them: {0}"
    )]
    Differ(#[source] ToolError),
    #[error(
        "{program} took the rules, but they are not in place: another program changes them at the same time"
    )]
    Vanished { program: String },
    #[error(
        "cannot remove the rules that drop all TCP and UDP while others are replaced: remove them from INPUT, FORWARD \
         and OUTPUT of the table filter by hand: {0}"
    )]
    Guardrails(#[source] ToolError),
    #[error("cannot {action} {entry}: {source}: run this as root with the capability NET_ADMIN")]
    Route {
        action: &'static str,
        entry: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {path} (DRY_RUN_FILE_PATH): {source}")]
    DryRunFile {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// Carries out `operation` with the rules of `config`. The lock of iptables is `lock_file`, or the host's.
pub(crate) fn run(
    config: &Config,
    operation: &Operation,
    lock_file: Option<&Path>,
) -> Result<(), ApplyError> {
    let rules = RuleSet::new(config);
    if let Some(dry_run) = &operation.dry_run {
        return show(&rules, operation, dry_run);
    }
    match operation.backend {
        Backend::Nftables => nftables(&rules, operation)?,
        _ => iptables(config, &rules, operation, lock_file)?,
    }
    match operation.cleanup_only {
        true => remove_routes(config),
        false => add_routes(config),
    }
}

/// Prints what would be applied, and writes it to a file if there is one.
fn show(rules: &RuleSet, operation: &Operation, dry_run: &DryRun) -> Result<(), ApplyError> {
    let text = match operation.backend {
        Backend::Nftables if operation.cleanup_only => nftables_cleanup(),
        Backend::Nftables => rules.nftables(),
        _ => iptables_transcript(rules, operation.cleanup_only),
    };
    print!("{text}");
    match &dry_run.file {
        None => Ok(()),
        Some(path) => fs::write(path, text).map_err(|source| ApplyError::DryRunFile {
            path: path.display().to_string(),
            source,
        }),
    }
}

/// What would be run, and the input of `iptables-restore`, as Istio's command writes it.
fn iptables_transcript(rules: &RuleSet, cleanup_only: bool) -> String {
    let mut text = "iptables-save\nip6tables-save\n".to_owned();
    for family in rules.families() {
        let restore = rules.restore(*family);
        if !cleanup_only {
            text += &restore;
            continue;
        }
        for deletion in rules.deletions(*family) {
            text += &format!("{} {}\n", program(*family), deletion.join(" "));
        }
        text += &State::parse(&restore).cleanup();
    }
    for family in rules.families() {
        text += &format!("{}-save\n", program(*family));
    }
    text
}

fn program(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

fn nftables(rules: &RuleSet, operation: &Operation) -> Result<(), ApplyError> {
    let script = match operation.cleanup_only {
        true => nftables_cleanup(),
        false => rules.nftables(),
    };
    let mut command = Command::new("nft");
    command.args(["-f", "-"]);
    tool::run(command, &script, NFT_FIXES)?;
    info!(
        tool = "nft",
        removed = operation.cleanup_only,
        "rules are in place"
    );
    Ok(())
}

fn iptables(
    config: &Config,
    rules: &RuleSet,
    operation: &Operation,
    lock_file: Option<&Path>,
) -> Result<(), ApplyError> {
    if operation.cleanup_only {
        return cleanup(config, operation.backend, lock_file);
    }
    let mut places = Vec::new();
    for family in rules.families() {
        let tool = Xtables::detect(operation.backend, *family, lock_file)?;
        places.push(Place::new(tool, *family, rules)?);
    }
    if !operation.force_apply && places.iter().all(|place| place.is == Is::InPlace) {
        info!("the rules are in place already");
        return Ok(());
    }
    let replace = operation.reconcile || operation.force_apply;
    let replaced: Vec<&Place<'_>> = places
        .iter()
        .filter(|place| match place.is {
            Is::Clean => false,
            Is::InPlace => operation.force_apply,
            Is::Different => replace,
        })
        .collect();
    if replaced.is_empty() {
        return places.iter().try_for_each(Place::add);
    }
    guarded(&places, || {
        for place in &replaced {
            place.remove()?;
        }
        let added = places.iter();
        let mut added = added.filter(|place| operation.force_apply || place.is != Is::InPlace);
        added.try_for_each(|place| place.restore().map_err(ApplyError::Tool))
    })
}

/// Does `change` while nothing gets in or out, so that no connection slips past the proxy meanwhile.
fn guarded(
    places: &[Place<'_>],
    change: impl FnOnce() -> Result<(), ApplyError>,
) -> Result<(), ApplyError> {
    info!("all TCP and UDP is dropped while rules are replaced");
    for place in places {
        // Left by a run that was killed.
        remove_all(&place.tool, guardrails("-D"));
        for rule in guardrails("-I") {
            place.tool.call(rule)?;
        }
    }
    let result = change();
    let mut open = Ok(());
    for place in places {
        for rule in guardrails("-D") {
            open = open.and(place.tool.call(rule));
        }
    }
    if let (Err(error), Err(_)) = (&result, &open) {
        error!(%error, "rules could not be replaced");
    }
    open.map_err(ApplyError::Guardrails)?;
    result
}

/// Calls that add or delete the rules that drop everything.
fn guardrails(action: &'static str) -> impl Iterator<Item = [&'static str; 8]> {
    let chains = ["INPUT", "FORWARD", "OUTPUT"].into_iter();
    chains.flat_map(move |chain| {
        ["tcp", "udp"].map(|protocol| ["-t", "filter", action, chain, "-p", protocol, "-j", "DROP"])
    })
}

/// Removes rules, each as often as it is there.
fn remove_all<S: Into<std::ffi::OsString> + Clone>(
    tool: &Xtables,
    deletions: impl IntoIterator<Item = impl IntoIterator<Item = S> + Clone>,
) {
    for deletion in deletions {
        let removed = |_: &usize| tool.call(deletion.clone()).is_ok();
        (0..MAX_DUPLICATES).take_while(removed).for_each(drop);
    }
}

/// Removes the rules of earlier runs, whatever their configuration was.
fn cleanup(config: &Config, backend: Backend, lock_file: Option<&Path>) -> Result<(), ApplyError> {
    for family in [Family::V4, Family::V6] {
        let tool = match Xtables::detect(backend, family, lock_file) {
            Ok(tool) => tool,
            Err(error) if family == Family::V6 && !config.ipv6 => {
                info!(%error, "IPv6 has no rules to remove");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        // Both modes have rules in chains of the kernel that do not name a chain of ours.
        for inbound_mode in [InboundMode::Redirect, InboundMode::Tproxy] {
            let rules = RuleSet::new(&Config {
                inbound_mode,
                ipv6: true,
                ..config.clone()
            });
            remove_all(&tool, rules.deletions(family));
        }
        remove_chains(&tool)?;
    }
    Ok(())
}

fn remove_chains(tool: &Xtables) -> Result<(), ToolError> {
    let state = State::parse(&tool.save()?);
    if state.is_empty() {
        return Ok(());
    }
    info!(tool = tool.program(), "removing rules of an earlier run");
    tool.restore(&state.cleanup())
}

/// One variant of iptables with the rules that it is to hold.
struct Place<'a> {
    tool: Xtables,
    family: Family,
    rules: &'a RuleSet,
    is: Is,
}

/// How the rules that are in place compare with those that should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Clean,
    InPlace,
    Different,
}

impl<'a> Place<'a> {
    fn new(tool: Xtables, family: Family, rules: &'a RuleSet) -> Result<Self, ToolError> {
        let current = State::parse(&tool.save()?);
        let expected = State::parse(&rules.restore(family));
        let has = |rule| tool.call::<String>(rule).is_ok();
        let is = if current.is_empty() {
            Is::Clean
        } else if current.has_the_chains_of(&expected) && rules.checks(family).into_iter().all(has)
        {
            Is::InPlace
        } else {
            Is::Different
        };
        info!(tool = tool.program(), state = ?is, "rules of this namespace");
        Ok(Self {
            tool,
            family,
            rules,
            is,
        })
    }

    /// Adds what is not there.
    fn add(&self) -> Result<(), ApplyError> {
        match self.is {
            Is::InPlace => Ok(()),
            Is::Clean => {
                self.restore()?;
                self.verify()
            }
            Is::Different => {
                warn!("rules of an earlier run are in place and differ; --reconcile replaces them");
                self.restore().map_err(ApplyError::Differ)?;
                self.verify()
            }
        }
    }

    fn remove(&self) -> Result<(), ApplyError> {
        remove_all(&self.tool, self.rules.deletions(self.family));
        Ok(remove_chains(&self.tool)?)
    }

    fn restore(&self) -> Result<(), ToolError> {
        self.tool.restore(&self.rules.restore(self.family))?;
        info!(tool = self.tool.program(), "rules are in place");
        Ok(())
    }

    fn verify(&self) -> Result<(), ApplyError> {
        let current = State::parse(&self.tool.save()?);
        let expected = State::parse(&self.rules.restore(self.family));
        match current.has_the_chains_of(&expected) {
            true => Ok(()),
            false => Err(ApplyError::Vanished {
                program: self.tool.program().to_owned(),
            }),
        }
    }
}

/// What TPROXY and IPv6 need beside rules.
fn add_routes(config: &Config) -> Result<(), ApplyError> {
    let mut entries = Vec::new();
    if config.ipv6 {
        entries.push(Entry::LoopbackAddress(INBOUND_SOURCE_V6));
    }
    if config.inbound_mode == InboundMode::Tproxy && config.inbound != Inbound::None {
        entries.extend(routes(config, false));
        if config.ipv6 {
            entries.extend(routes(config, true));
        }
    }
    for entry in entries {
        entry.add().map_err(|source| ApplyError::Route {
            action: "add",
            entry: entry.to_string(),
            source,
        })?;
    }
    Ok(())
}

fn remove_routes(config: &Config) -> Result<(), ApplyError> {
    let address = [Entry::LoopbackAddress(INBOUND_SOURCE_V6)];
    let routes = [routes(config, false), routes(config, true)].concat();
    for entry in routes.into_iter().chain(address) {
        entry.remove().map_err(|source| ApplyError::Route {
            action: "remove",
            entry: entry.to_string(),
            source,
        })?;
    }
    Ok(())
}

/// Packets with TPROXY's mark are for this host, whatever their destination.
fn routes(config: &Config, ipv6: bool) -> [Entry; 2] {
    let (mark, table) = (config.tproxy_mark, config.tproxy_table);
    [
        Entry::Rule { ipv6, mark, table },
        Entry::LocalRoute { ipv6, table },
    ]
}
