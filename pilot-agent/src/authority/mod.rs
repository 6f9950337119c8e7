//! `pilot-agent authority`: the development authority as a process of its own. Like a SPIRE agent it
//! answers the Workload API and SDS on one socket for each trust domain; `authority ctl` changes it
//! while it runs.

mod config;
mod control;
mod ctl;
mod folder;
mod operation;
mod sockets;

#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use ithildin_spiffe::{
    SpiffeId, TrustDomain,
    authority::{Authority, KeyType, parse_duration},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

pub use ctl::call;
pub use operation::Operation;
pub use sockets::Sockets;

/// Where sockets go unless a flag says otherwise.
const DEFAULT_DIR: &str = "/tmp/ithildin-authority";

/// Run an authority for development: SVIDs for several trust domains, over the Workload API and SDS
///
/// Its keys live in memory and everybody on the machine may be given an identity: never use it in
/// production. A first run:
///
///   pilot-agent authority --dir /tmp/authority --trust-domain domain.test --trust-domain example.org \
///     --federate --workload spiffe://domain.test/web --svid-ttl 5m
///
/// serves /tmp/authority/domain.test/agent.sock and /tmp/authority/example.org/agent.sock. Then
///
///   pilot-agent authority ctl --control /tmp/authority/control.sock status
#[derive(Debug, Parser)]
#[command(verbatim_doc_comment)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Changes a running authority, or asks it.
    Ctl(ctl::CtlArgs),
}

/// What to serve; flags add to the file.
#[derive(Debug, clap::Args)]
struct ServeArgs {
    /// A YAML file with `trust_domains` and `federation`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder for sockets that have no path of their own: DIR/<authority>/agent.sock and DIR/control.sock.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    dir: PathBuf,
    /// A trust domain to issue for. May be repeated.
    #[arg(long = "trust-domain", value_name = "NAME")]
    trust_domains: Vec<TrustDomain>,
    /// The agent's socket of the trust domain at the same place. May be repeated.
    #[arg(long = "socket", value_name = "PATH")]
    sockets: Vec<PathBuf>,
    /// A workload: ID, ID,uid=N,gid=N,pid=N or ID,socket=PATH. Without more than the ID, every caller is
    /// this workload. May be repeated.
    #[arg(long = "workload", value_name = "ID[,KEY=VALUE...]", value_parser = config::parse_workload)]
    workloads: Vec<ithildin_spiffe::authority::WorkloadConfig>,
    /// Federates two trust domains, written A,B; without a value all of them.
    #[arg(long, value_name = "A,B", num_args = 0..=1, default_missing_value = "")]
    federate: Vec<String>,
    /// The life of X.509-SVIDs, such as 30s or 1h; they are renewed at half of it.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    svid_ttl: Option<Duration>,
    /// Has an intermediate OU=DOWNSTREAM-1 with this key sign the leaves: ec-p256, ec-p384 or rsa-2048.
    #[arg(long, value_name = "KEY", value_parser = config::parse_key_type)]
    intermediate: Option<KeyType>,
    /// The socket that `authority ctl` talks to.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

/// Runs the subcommand to its end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Some(Command::Ctl(args)) => ctl::run(args).await,
        None => serve(args.serve).await,
    }
}

async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let control = args
        .control
        .clone()
        .unwrap_or_else(|| args.dir.join("control.sock"));
    let config = config::load(&args)?;
    if args.dir == Path::new(DEFAULT_DIR) {
        folder::claim(&args.dir)?;
    }
    warn!(
        "this authority is for development only: its keys live in memory and it attests nobody but by uid, gid and pid"
    );
    let authority = Authority::start(config.clone()).context("cannot start the authority")?;
    let sockets = Sockets::new(authority);
    for domain in &config.trust_domains {
        sockets.open_agent(domain.authority(), domain.socket.as_deref())?;
        for workload in &domain.workloads {
            sockets.open_workload(domain.authority(), workload)?;
        }
        if domain.workloads.is_empty() {
            warn!(
                authority = domain.authority(),
                "no workload is registered: every caller is denied"
            );
        }
    }
    let controlled = control::serve(&control, sockets.clone())?;
    info!(control = %control.display(), "the development authority is ready");
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        never = controlled => match never {},
    }
    sockets.close().await;
    // Whoever controls us next must not find a dead socket; that it is gone already is as good.
    let _ = std::fs::remove_file(&control);
    Ok(())
}

/// The workload with this ID, as flags and requests name it: by its ID's trust domain.
fn authority_of(id: &SpiffeId) -> String {
    id.trust_domain_name().to_owned()
}
