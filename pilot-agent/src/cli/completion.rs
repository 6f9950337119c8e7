//! `completion`: scripts with which shells complete our words.

use std::io;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;

/// Print a script with which a shell completes commands and flags
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  source <(pilot-agent completion bash)
  pilot-agent completion zsh > \"${fpath[1]}/_pilot-agent\"
  pilot-agent completion fish | source")]
pub(super) struct Args {
    #[arg(value_enum)]
    shell: Kind,
}

/// The shells that Istio's agent knows.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
#[value(rename_all = "lower")]
enum Kind {
    Bash,
    Zsh,
    Fish,
    PowerShell,
}

pub(super) fn run(args: &Args) {
    let shell = match args.shell {
        Kind::Bash => Shell::Bash,
        Kind::Zsh => Shell::Zsh,
        Kind::Fish => Shell::Fish,
        Kind::PowerShell => Shell::PowerShell,
    };
    clap_complete::generate(shell, &mut Cli::command(), "pilot-agent", &mut io::stdout());
}
