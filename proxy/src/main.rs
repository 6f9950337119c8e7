//! `ithildin-proxy`: the built-in proxy on a configuration file, with Envoy's arguments.

mod args;
mod logging;
mod standalone;

use std::process::ExitCode;

use clap::Parser;
use ithildin_proxy::causes;

use args::Args;

ithildin_sys::global_allocator!();

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", causes::told(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let log = logging::start(args)?;
    // The workers have threads of their own; everything else fits into one.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(standalone::run(args, log))
}
