//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing::error;

use crate::{
    authority, demo,
    log::{self, LogArgs},
    proxy, request, sds, wait,
};

/// What every other command of Istio's agent ends with when it fails.
const FAILURE: u8 = 255;
/// Threads of the control runtime; traffic runs on the data plane's own.
const CONTROL_THREADS: usize = 2;

/// SPIFFE identities and configuration for Envoy, or for the built-in proxy.
#[derive(Debug, Parser)]
#[command(name = "pilot-agent", version, arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  See it work, on this machine alone:
    pilot-agent demo

  A gateway on a folder of Istio YAML, with identities from SPIRE:
    SPIFFE_ENDPOINT_SOCKET=unix:///run/spire/agent.sock POD_NAMESPACE=istio-system \\
      pilot-agent proxy router --configDir ./istio

  Secrets for an Envoy that you run yourself:
    pilot-agent sds --workload-api unix:///run/spire/agent.sock --listen unix:///tmp/sds.sock")]
pub struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Proxy(Box<proxy::Args>),
    Wait(wait::Args),
    Request(request::Args),
    Sds(Box<sds::Args>),
    Authority(Box<authority::Args>),
    Demo(demo::Args),
    IstioIptables(Box<ithildin_capture::Args>),
}

impl Command {
    /// The level of log lines unless a flag says otherwise.
    fn log_level(&self) -> &'static str {
        match self {
            // It tells its story on standard output; the log of one process of several would disturb.
            Self::Demo(_) => "default:warn",
            _ => "default:info",
        }
    }
}

impl Cli {
    /// Runs the command to its end.
    pub fn run(self) -> ExitCode {
        if let Err(error) = log::init(&self.log, self.command.log_level()) {
            eprintln!("pilot-agent: {error:#}");
            return ExitCode::FAILURE;
        }
        match run(self.command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                error!("{error:#}");
                exit_code(&error)
            }
        }
    }
}

/// The code that a failure ends the process with: traffic capture tells more than that it failed.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<ithildin_capture::Error>() {
        Some(error) => ExitCode::from(error.exit_code()),
        None => ExitCode::from(FAILURE),
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        match command {
            Command::Proxy(args) => proxy::run(*args).await,
            Command::Wait(args) => wait::run(args).await,
            Command::Request(args) => request::run(args).await,
            Command::Sds(args) => sds::run(*args).await,
            Command::Authority(args) => authority::run(*args).await,
            Command::Demo(args) => demo::run(args).await,
            // It blocks this thread, on which nothing else runs.
            Command::IstioIptables(args) => Ok(ithildin_capture::run(&args)?),
        }
    });
    // Tasks that read files may still be at it; nothing waits for them.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_of_istios_init_container_are_understood() {
        let template = "pilot-agent istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i * -x= -b * \
                        -d 15090,15021,15020 --log_output_level=default:info --force-apply --run-validation \
                        --skip-rule-apply";
        let cli = Cli::try_parse_from(template.split_whitespace()).unwrap();
        assert!(matches!(cli.command, Command::IstioIptables(_)));
    }

    #[test]
    fn the_exit_code_tells_that_traffic_is_not_redirected() {
        let timeout = ithildin_capture::NotRedirected::Timeout {
            target: ([127, 0, 0, 6], 15002).into(),
            timeout: std::time::Duration::from_secs(5),
        };
        let error = anyhow::Error::from(ithildin_capture::Error::from(timeout));
        let code = |code: ExitCode| format!("{code:?}");
        assert_eq!(code(exit_code(&error)), code(ExitCode::from(126)));
        assert_eq!(
            code(exit_code(&anyhow::anyhow!("other"))),
            code(ExitCode::from(255))
        );
    }
}
