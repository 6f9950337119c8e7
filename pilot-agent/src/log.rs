//! Logging, with the flags of Istio's agent.

use anyhow::Context;
use clap::Args;
use ithildin_proxy::log_levels::{self, LogLevel};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub(crate) struct LogArgs {
    /// Levels, `default:<level>` first, then `<module>:<level>`; none, error, warn, info (the default) or debug
    #[arg(
        long = "log_output_level",
        value_name = "SCOPE:LEVEL,...",
        global = true
    )]
    levels: Option<String>,
    /// One JSON object per line
    #[arg(long = "log_as_json", global = true)]
    json: bool,
}

/// Sends log lines to standard error; at `level` unless the flag says otherwise. `RUST_LOG`, where set,
/// overrides both.
pub(crate) fn init(args: &LogArgs, level: &str) -> anyhow::Result<()> {
    let levels = args.levels.as_deref().unwrap_or(level);
    let directives = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => directives,
        _ => directives(levels),
    };
    let filter = EnvFilter::try_new(&directives)
        .with_context(|| format!("--log_output_level {levels:?}"))?;
    let (filter, reload) = reload::Layer::new(filter);
    // `istioctl proxy-config log` changes them at the built-in proxy's admin server.
    let first = directives.split(',').next().unwrap_or_default();
    let level = LogLevel::parse(first).unwrap_or(LogLevel::Info);
    log_levels::manage(level, move |directives| {
        let filter = EnvFilter::try_new(directives).map_err(|error| error.to_string())?;
        reload.reload(filter).map_err(|error| error.to_string())
    });
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    match args.json {
        true => registry.with(lines.json()).try_init()?,
        false => registry.with(lines.with_ansi(false)).try_init()?,
    }
    Ok(())
}

/// Istio's scopes in the words of `tracing`.
fn directives(levels: &str) -> String {
    let directives = levels.split(',').map(|item| {
        let (scope, level) = item.split_once(':').unwrap_or(("default", item));
        let level = match level.trim() {
            "none" => "off",
            "fatal" => "error",
            "warning" => "warn",
            other => other,
        };
        match scope.trim() {
            "default" | "all" => level.to_owned(),
            scope => format!("{scope}={level}"),
        }
    });
    directives.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_become_directives() {
        for (levels, expected) in [
            ("default:info", "info"),
            ("warning", "warn"),
            ("default:none,ithildin_xds:debug", "off,ithildin_xds=debug"),
            ("all:fatal", "error"),
        ] {
            assert_eq!(directives(levels), expected);
            EnvFilter::try_new(expected).unwrap();
        }
    }
}
