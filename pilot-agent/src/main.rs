//! The `pilot-agent` binary.

use std::process::ExitCode;

use clap::Parser;
use ithildin_pilot_agent::cli::Cli;

ithildin_sys::global_allocator!();

fn main() -> ExitCode {
    Cli::parse().run()
}
