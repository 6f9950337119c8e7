//! Putting rules in place, and taking them away.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::Command,
};

use tracing::{debug, error, info, warn};

use crate::{
    config::{Backend, Config, DryRun, Inbound, InboundMode, Operation},
    netlink::Entry,
    rules::{Family, INBOUND_SOURCE_V6, RuleSet, nftables_cleanup},
    state::State,
    tool::{self, Fixes, ToolError},
    xtables::Xtables,
};

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
        "--force-apply (FORCE_APPLY): the rules are in place, and could not be added once more: leave it out: {0}"
    )]
    Present(#[source] ToolError),
    #[error(
        "{program} took the rules, but they are not in place: another program changes them at the same time"
    )]
    Vanished { program: String },
    #[error(
        "cannot remove the rules that drop all TCP and UDP while others are replaced: remove them from INPUT, FORWARD \
         and OUTPUT of the table filter by hand: {0}"
    )]
    Guardrails(#[source] ToolError),
    #[error(
        "the rules of an earlier run are gone and the new ones are not in place, so all TCP and UDP stays dropped: run \
         this again once the cause is mended: {0}"
    )]
    Closed(#[source] Box<Self>),
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

/// Writes what would be applied to the file, or prints it.
fn show(rules: &RuleSet, operation: &Operation, dry_run: &DryRun) -> Result<(), ApplyError> {
    let text = match operation.backend {
        Backend::Nftables if operation.cleanup_only => nftables_cleanup(),
        Backend::Nftables => rules.nftables(),
        _ => iptables_transcript(rules, operation.cleanup_only),
    };
    match &dry_run.file {
        // Whoever has closed the output does not want it.
        None => drop(io::stdout().write_all(text.as_bytes())),
        Some(path) => fs::write(path, text).map_err(|source| ApplyError::DryRunFile {
            path: path.display().to_string(),
            source,
        })?,
    }
    Ok(())
}

/// What would be run, and the input of `iptables-restore`, as Istio's command writes it.
fn iptables_transcript(rules: &RuleSet, cleanup_only: bool) -> String {
    let mut text = "iptables-save\nip6tables-save\n".to_owned();
    for family in rules.families() {
        let restore = rules.restore(*family);
        text += &match cleanup_only {
            true => State::parse(&restore).cleanup(),
            false => restore,
        };
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
    let (script, done) = match operation.cleanup_only {
        true => (nftables_cleanup(), "rules of an earlier run removed"),
        false => (rules.nftables(), "rules added"),
    };
    let mut command = Command::new("nft");
    command.args(["-f", "-"]);
    tool::run(command, &script, NFT_FIXES)?;
    info!(tool = "nft", "{done}");
    Ok(())
}

fn iptables(
    config: &Config,
    rules: &RuleSet,
    operation: &Operation,
    lock_file: Option<&Path>,
) -> Result<(), ApplyError> {
    let mut places = Vec::new();
    for family in [Family::V4, Family::V6] {
        match Xtables::detect(operation.backend, family, lock_file) {
            Ok(tool) => places.push(Place::new(tool, rules, family)?),
            Err(error) if !rules.families().contains(&family) => {
                debug!(%error, "IPv6 has neither rules nor the means to have any");
            }
            Err(error) => return Err(error.into()),
        }
    }
    if operation.cleanup_only {
        places.iter().try_for_each(Place::remove)?;
        return reopen(&places);
    }
    if places.iter().any(|place| place.is == Is::Different) {
        if operation.reconcile {
            return replace(config, &places);
        }
        warn!("rules of an earlier run are in place and differ; --reconcile replaces them");
    }
    places
        .iter()
        .try_for_each(|place| place.add(operation.force_apply))?;
    reopen(&places)
}

/// Replaces all rules while nothing gets in or out, so that no connection slips past the proxy meanwhile. Where the new
/// rules cannot be put in place, it stays so: a workload without a network is noticed, one without a proxy is not.
fn replace(config: &Config, places: &[Place]) -> Result<(), ApplyError> {
    info!("all TCP and UDP is dropped while rules are replaced");
    let mut closed = Vec::new();
    if let Err(error) = close(places, &mut closed) {
        // Nothing is removed yet.
        if let Err(left) = open(closed) {
            error!(error = %left, "not all connections are let through again");
        }
        return Err(error);
    }
    let replaced = places
        .iter()
        .try_for_each(Place::remove)
        .map_err(ApplyError::from)
        .and_then(|()| remove_routes(config))
        .and_then(|()| Ok(places.iter().try_for_each(Place::restore)?));
    replaced.map_err(|error| ApplyError::Closed(Box::new(error)))?;
    open(closed)
}

/// Chains and protocols for which everything is dropped while rules are replaced.
const GUARDRAILS: [(&str, &str); 6] = [
    ("INPUT", "tcp"),
    ("INPUT", "udp"),
    ("FORWARD", "tcp"),
    ("FORWARD", "udp"),
    ("OUTPUT", "tcp"),
    ("OUTPUT", "udp"),
];

/// A guardrail of [`GUARDRAILS`], and where it stands.
type Closed<'a> = (&'a Place, (&'static str, &'static str));

/// Adds the guardrails, and notes each in `closed`.
fn close<'a>(places: &'a [Place], closed: &mut Vec<Closed<'a>>) -> Result<(), ApplyError> {
    for place in places {
        for rule in GUARDRAILS {
            // One may be left by a run that was killed.
            let _ = place.tool.call(guardrail("-D", rule));
            place.tool.call(guardrail("-I", rule))?;
            closed.push((place, rule));
        }
    }
    Ok(())
}

/// Takes the guardrails away, as many as can be.
fn open<'a>(closed: impl IntoIterator<Item = Closed<'a>>) -> Result<(), ApplyError> {
    let mut opened = Ok(());
    for (place, rule) in closed {
        opened = opened.and(place.tool.call(guardrail("-D", rule)));
    }
    opened.map_err(ApplyError::Guardrails)
}

/// Takes away what an earlier run left that could not replace the rules.
fn reopen(places: &[Place]) -> Result<(), ApplyError> {
    let left = places.iter().filter(|place| place.has_guardrails);
    open(left.flat_map(|place| GUARDRAILS.map(|rule| (place, rule))))
}

/// Whether all guardrails are among these rules. Some of them may be anybody's.
fn has_guardrails(saved: &str) -> bool {
    GUARDRAILS.iter().all(|(chain, protocol)| {
        let rule = format!("-A {chain} -p {protocol} -j DROP");
        saved.lines().any(|line| line.trim_end() == rule)
    })
}

fn guardrail<'a>(action: &'a str, (chain, protocol): (&'a str, &'a str)) -> [&'a str; 8] {
    ["-t", "filter", action, chain, "-p", protocol, "-j", "DROP"]
}

/// One variant of iptables for one family, with what it is to hold.
struct Place {
    tool: Xtables,
    /// The input of `iptables-restore` that adds the rules; empty where there are to be none.
    restore: String,
    is: Is,
    /// Everything is dropped since an earlier run.
    has_guardrails: bool,
}

/// How the rules that are in place compare with those that should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Clean,
    InPlace,
    Different,
}

impl Place {
    fn new(tool: Xtables, rules: &RuleSet, family: Family) -> Result<Self, ToolError> {
        let restore = rules.restore(family);
        let saved = tool.save()?;
        let current = State::parse(&saved);
        let has = |rule| tool.call::<String>(rule).is_ok();
        let is = if current.is_empty() {
            Is::Clean
        } else if current.has_the_chains_of(&State::parse(&restore))
            && rules.checks(family).into_iter().all(has)
        {
            Is::InPlace
        } else {
            Is::Different
        };
        info!(tool = tool.program(), state = ?is, "rules of this namespace");
        Ok(Self {
            has_guardrails: has_guardrails(&saved),
            tool,
            restore,
            is,
        })
    }

    /// Adds what is not there; by force, also what is, which iptables refuses where a chain exists already.
    fn add(&self, by_force: bool) -> Result<(), ApplyError> {
        match self.is {
            Is::InPlace if !by_force => Ok(()),
            Is::Clean => Ok(self.restore()?),
            Is::InPlace => self.restore().map_err(ApplyError::Present),
            Is::Different => self.restore().map_err(ApplyError::Differ),
        }?;
        let current = State::parse(&self.tool.save()?);
        match current.has_the_chains_of(&State::parse(&self.restore)) {
            true => Ok(()),
            false if self.restore.is_empty() => Ok(()),
            false => Err(ApplyError::Vanished {
                program: self.tool.program().to_owned(),
            }),
        }
    }

    fn restore(&self) -> Result<(), ToolError> {
        if !self.restore.is_empty() {
            self.tool.restore(&self.restore)?;
            info!(tool = self.tool.program(), "rules added");
        }
        Ok(())
    }

    /// Removes the rules of earlier runs, whatever their settings were.
    fn remove(&self) -> Result<(), ToolError> {
        let current = State::parse(&self.tool.save()?);
        if !current.is_empty() {
            self.tool.restore(&current.cleanup())?;
            info!(
                tool = self.tool.program(),
                "rules of an earlier run removed"
            );
        }
        Ok(())
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
