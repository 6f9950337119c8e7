//! `pilot-agent demo`: two federated clusters on one machine, as a stranger would run them. Each proxy
//! is a child process of this very binary, `pilot-agent proxy`, with the environment that Istio gives it.
//!
//! ```text
//! domain.test                               example.org
//! workload --HTTP--> egress ======mTLS======> ingress ======mTLS======> httpbin's sidecar --> httpbin
//! ```

mod acts;
mod envoy;
mod httpbin;
mod load;
mod plain;
mod process;
mod report;
mod stage;
mod tls;
mod visitor;

use std::{path::PathBuf, time::Instant};

use anyhow::bail;
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use report::{Event, Report};
use stage::Stage;

/// Show two federated clusters at work, on this machine alone
///
/// A request goes from a workload in cluster domain.test through an egress and an ISTIO_MUTUAL gateway to a
/// service in cluster example.org and back; identities rotate under load; a third trust domain joins and
/// leaves; and forged certificates are refused.
///
/// Everything runs on loopback and in a temporary folder. It stays up afterwards, for a try by hand.
#[derive(Debug, Parser)]
pub struct Args {
    /// What the three proxies run on.
    #[arg(long, alias = "dataPlane", env = "ITHILDIN_DATA_PLANE", value_enum, default_value_t = DataPlane::Builtin)]
    data_plane: DataPlane,
    /// Exit when all is shown: with status 0 only if all held.
    #[arg(long)]
    once: bool,
    /// Text for people, or one JSON object for each event.
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Keep the folder with the configurations and logs.
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DataPlane {
    /// The proxy of this project, in the agent's process.
    Builtin,
    /// A real Envoy as the agent's child; the binary is ENVOY_BIN, else the PATH's.
    Envoy,
}

impl DataPlane {
    fn name(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Envoy => "envoy",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Runs the demonstration to its end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut report = Report::new(args.output);
    let mut folder = tempfile::Builder::new()
        .prefix("ithildin-demo-")
        .tempdir()?;
    folder.disable_cleanup(args.keep);
    report.tell(Event::Started {
        data_plane: args.data_plane.name(),
        folder: folder.path().to_path_buf(),
    });
    let mut terminate = signal(SignalKind::terminate())?;
    let shown = async {
        let stage = Stage::build(folder.path(), args.data_plane, &mut report).await?;
        acts::play(&stage, started, &mut report).await?;
        anyhow::Ok(stage)
    };
    let stage = tokio::select! {
        stage = shown => stage?,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    };
    let held = report.summarise();
    if !args.once {
        report.tell(Event::TryIt {
            commands: stage.commands(),
        });
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted?,
            _ = terminate.recv() => {}
        }
    }
    stage.close().await;
    held
}

/// Where things of one run are.
fn socket(folder: &std::path::Path, name: &str) -> PathBuf {
    folder.join("sockets").join(format!("{name}.sock"))
}
