//! `pilot-agent`, a drop-in replacement for Istio's agent.

use clap::{Parser, Subcommand};
use ithildin_pilot_agent::{authority, demo};
use tracing_subscriber::EnvFilter;

#[derive(Debug, Parser)]
#[command(name = "pilot-agent", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Authority(Box<authority::Args>),
    Demo(demo::Args),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match Cli::parse().command {
        Command::Authority(args) => authority::run(*args).await,
        Command::Demo(args) => demo::run(args).await,
    }
}
