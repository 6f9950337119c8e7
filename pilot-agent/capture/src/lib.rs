//! Traffic capture: the rules that bring the traffic of a Pod to its proxy, as `istio-iptables` makes them.
//!
//! [`Args`] and the environment give a [`Config`]; [`RuleSet`] is a pure function of it and writes itself as input of
//! `iptables-restore` or `nft`; [`run`] puts the rules in place, checks them, or takes them away. The flags, the
//! variables, the exit codes and the text of the rules are those of Istio's command; see [`Args`].
//!
//! Invariant: nothing that a flag or a variable holds reaches the input of a tool but through the types of
//! `value`, which admit neither blanks nor line breaks.

#![forbid(unsafe_code)]

mod apply;
mod args;
mod config;
mod host;
mod netlink;
mod rules;
mod setting;
mod state;
mod tool;
mod validation;
mod value;
mod xtables;

use std::{fs::File, io, path::Path};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tracing::info;

pub use crate::{
    apply::ApplyError,
    args::Args,
    config::{
        Backend, Config, Destinations, Dns, DryRun, Groups, Inbound, InboundMode, Operation, Probe,
    },
    host::{Host, HostError},
    rules::{Family, RuleSet},
    setting::InvalidSetting,
    tool::ToolError,
    validation::NotRedirected,
    value::{Cidr, Interface, Owner, Ports},
};
use setting::{Settings, flags};

/// Why traffic is not captured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("--network-namespace (NETWORK_NAMESPACE): cannot enter {path:?}: {source}")]
    NetworkNamespace {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    NotRedirected(#[from] NotRedirected),
}

impl Error {
    /// The exit code of the process: 126 says that validation failed, on which Istio's CNI repair acts, and 1
    /// anything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotRedirected(_) => 126,
            _ => 1,
        }
    }
}

/// Does what `args` and the environment of this process say. The calling thread stays in the network namespace that
/// they name.
pub fn run(args: &Args) -> Result<(), Error> {
    run_with(args, &|name| std::env::var(name).ok())
}

/// As [`run`], with variables of the environment from `environment`.
pub fn run_with(args: &Args, environment: &dyn Fn(&str) -> Option<String>) -> Result<(), Error> {
    let settings = Settings { args, environment };
    let namespace = settings.get(&flags::NETWORK_NAMESPACE);
    let namespace = namespace.text().map(Path::new);
    if let Some(path) = namespace {
        enter(path).map_err(|source| Error::NetworkNamespace {
            path: path.display().to_string(),
            source,
        })?;
    }
    let host = Host::read(settings.get(&flags::REDIRECT_DNS).switch()?)?;
    let (config, operation) = resolve(args, environment, &host)?;
    info!(?config, ?operation, "traffic capture");
    // On a node, the lock that counts is the Pod's: the host's own rules are in another namespace.
    let lock_file = namespace.filter(|_| operation.cni_mode);
    apply(&config, &operation, lock_file)
}

/// What `args` and the environment mean on `host`.
pub fn resolve(
    args: &Args,
    environment: &dyn Fn(&str) -> Option<String>,
    host: &Host,
) -> Result<(Config, Operation), InvalidSetting> {
    let settings = Settings { args, environment };
    let config = Config::resolve(settings, host)?;
    Ok((config, Operation::resolve(settings, host)?))
}

/// Puts rules in place, or takes them away, and checks that traffic is redirected, as far as `operation` says so. The
/// lock of iptables is `lock_file`, or the host's.
pub fn apply(
    config: &Config,
    operation: &Operation,
    lock_file: Option<&Path>,
) -> Result<(), Error> {
    if !operation.skip_rule_apply {
        apply::run(config, operation, lock_file)?;
    }
    if let Some(probe) = operation.validation {
        validation::run(config, probe)?;
    }
    Ok(())
}

/// Moves this thread, and what it starts, to another network namespace.
fn enter(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    Ok(move_into_link_name_space(
        rustix::fd::AsFd::as_fd(&file),
        Some(LinkNameSpaceType::Network),
    )?)
}
