//! The `pilot-agent` binary.

use std::process::ExitCode;

use ithildin_pilot_agent::cli;

ithildin_sys::global_allocator!();

fn main() -> ExitCode {
    cli::main(std::env::args_os())
}
