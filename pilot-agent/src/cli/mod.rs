//! The command line.

mod completion;
mod version;
mod words;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use ithildin_proxy::causes;
use tracing::error;

use crate::{
    authority, demo,
    log::{self, LogArgs, Target},
    proxy, request, sds, wait,
};

/// What every other command of Istio's agent ends with when it fails.
const FAILURE: u8 = 255;

/// SPIFFE identities and configuration for Envoy, or for the built-in proxy.
#[derive(Debug, Parser)]
// As with Istio's flags, of several that are the same the last one counts: templates add to what others have set.
#[command(name = "pilot-agent", version, args_override_self = true)]
#[command(after_help = "\
Examples:
  See it work, on this machine alone:
    pilot-agent demo

  A gateway on a folder of Istio YAML, with identities from SPIRE:
    SPIFFE_ENDPOINT_SOCKET=unix:///run/spire/agent.sock POD_NAMESPACE=istio-system \\
      ISTIO_META_LABELS=istio=ingressgateway pilot-agent proxy router --configDir ./istio

  Secrets for an Envoy that you run yourself:
    pilot-agent sds --workload-api unix:///run/spire/agent.sock --listen unix:///tmp/sds.sock")]
pub struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Option<Command>,
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
    Version(version::Args),
    Completion(completion::Args),
}

impl Command {
    /// Where log lines go, and of which level, unless a flag says otherwise.
    fn log_defaults(&self) -> log::Defaults {
        match self {
            // It tells its story on standard output; the log of one process of several would disturb.
            Self::Demo(_) => log::Defaults {
                levels: "default:warn",
                target: Target::Stderr,
            },
            // Its log is all that it prints, as with Istio's agent.
            Self::Proxy(_) => log::Defaults {
                levels: "default:info",
                target: Target::Stdout,
            },
            _ => log::Defaults {
                levels: "default:info",
                target: Target::Stderr,
            },
        }
    }
}

/// Does what the command line says, whose first word is the program.
pub fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    match parse(words.skip(1).collect()) {
        Ok((cli, ignored)) => cli.run(ignored),
        Err(error) => {
            let _ = error.print();
            match error.use_stderr() {
                true => ExitCode::from(FAILURE),
                // Help and version are no failures.
                false => ExitCode::SUCCESS,
            }
        }
    }
}

/// Also the flags that were ignored. What describes all commands, 700 KB, is gone when this returns.
fn parse(words: Vec<OsString>) -> Result<(Cli, Vec<String>), clap::Error> {
    let mut root = Cli::command();
    root.build();
    let words::Words { words, ignored } = words::arrange(&root, words);
    let program = OsString::from(root.get_name());
    let matches = root.try_get_matches_from_mut(std::iter::once(program).chain(words))?;
    Ok((Cli::from_arg_matches(&matches)?, ignored))
}

impl Cli {
    fn run(self, ignored: Vec<String>) -> ExitCode {
        let Some(command) = self.command else {
            return match Self::command().print_help() {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::from(FAILURE),
            };
        };
        if let Err(error) = log::init(&self.log, command.log_defaults()) {
            eprintln!("Error: {error:#}");
            return ExitCode::from(FAILURE);
        }
        let command = match command {
            Command::Proxy(mut args) => {
                args.legacy.unknown = ignored;
                args.log_as_json = self.log.json;
                Command::Proxy(args)
            }
            other => other,
        };
        let logs_elsewhere = command.log_defaults().target != Target::Stderr;
        match run(command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let told = causes::told(&error);
                error!("{told}");
                if logs_elsewhere {
                    eprintln!("Error: {told}");
                }
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
    without_cache();
    // Traffic runs on threads of the data plane, and all the rest fits into one. What takes long goes to
    // threads that come and go.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .on_thread_start(without_cache)
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
            Command::Version(args) => Ok(version::run(&args)?),
            Command::Completion(args) => {
                completion::run(&args);
                Ok(())
            }
        }
    });
    // Tasks that read files may still be at it; nothing waits for them.
    runtime.shutdown_background();
    result
}

/// What a thread of the control plane frees, the next of them shall use.
fn without_cache() {
    if let Err(error) = ithildin_sys::alloc::without_cache() {
        tracing::debug!(%error, "a control thread keeps a cache of memory");
    }
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
        assert!(matches!(cli.command, Some(Command::IstioIptables(_))));
    }

    #[test]
    fn of_several_flags_that_are_the_same_the_last_one_counts() {
        let words = "pilot-agent proxy router --domain a --log_output_level=all:info --domain=b \
                     --log_target stdout --log_output_level all:debug --log_target stderr";
        let (cli, _) = parse(
            words
                .split_whitespace()
                .skip(1)
                .map(OsString::from)
                .collect(),
        )
        .unwrap();
        let log = format!("{:?}", cli.log);
        assert!(
            log.contains("all:debug") && !log.contains("all:info"),
            "{log}"
        );
        // Each is a place of its own.
        assert!(log.contains("stdout") && log.contains("stderr"), "{log}");
        let Some(Command::Proxy(args)) = cli.command else {
            panic!("{:?}", cli.command);
        };
        assert_eq!(args.domain.as_deref(), Some("b"));
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
