//! Logging, with the flags of Istio's agent and the form of its lines.
//!
//! `time<tab>level<tab>scope<tab>message<tab>key=value`, or with `--log_as_json` an object with the keys
//! `level`, `time`, `scope` and `msg`, and the fields beside them.

mod lines;

use std::{fs::File, sync::Arc};

use anyhow::{Context, bail};
use clap::{ArgAction, Args};
use ithildin_proxy::log_levels::{self, LogLevel};
use tracing_subscriber::{
    EnvFilter, fmt,
    fmt::writer::{BoxMakeWriter, MakeWriterExt},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub(crate) struct LogArgs {
    /// Levels, `default:<level>` first, then `<module>:<level>`; none, fatal, error, warn, info or debug
    #[arg(
        long = "log_output_level",
        value_name = "SCOPE:LEVEL,...",
        global = true
    )]
    levels: Option<String>,
    /// One JSON object per line
    #[arg(
        long = "log_as_json",
        value_name = "BOOL",
        global = true,
        action = ArgAction::Set,
        default_value_t = false,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true
    )]
    pub(crate) json: bool,
    /// Where lines go: stdout, stderr or a file; may be repeated
    #[arg(long = "log_target", value_name = "TARGET", global = true)]
    targets: Vec<String>,
    /// Accepted for Istio's manifests: there are no stack traces to write
    #[arg(long = "log_stacktrace_level", global = true, hide = true)]
    _stacktrace_level: Option<String>,
    /// Accepted for Istio's manifests: a line names its module
    #[arg(long = "log_caller", global = true, hide = true)]
    _caller: Option<String>,
    /// Accepted for Istio's manifests: there is no klog
    #[arg(long = "vklog", global = true, hide = true)]
    _klog: Option<String>,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Stdout,
    Stderr,
    File(String),
}

/// What holds where no flag says otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Defaults {
    pub(crate) levels: &'static str,
    pub(crate) target: Target,
}

/// Starts logging. `RUST_LOG`, where set, overrides the levels.
///
/// # Errors
/// A level that is none, and a file that cannot be opened.
pub(crate) fn init(args: &LogArgs, defaults: Defaults) -> anyhow::Result<()> {
    let levels = args.levels.as_deref().filter(|levels| !levels.is_empty());
    let directives = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => directives,
        _ => directives(levels.unwrap_or(defaults.levels)).context("--log_output_level")?,
    };
    let filter = EnvFilter::try_new(&directives)
        .with_context(|| format!("--log_output_level {directives:?}"))?;
    let (filter, reload) = reload::Layer::new(filter);
    // `istioctl proxy-config log` changes them at the built-in proxy's admin server.
    let first = directives.split(',').next().unwrap_or_default();
    let level = LogLevel::parse(first).unwrap_or(LogLevel::Info);
    log_levels::manage(level, move |directives| {
        let filter = EnvFilter::try_new(directives).map_err(|error| error.to_string())?;
        reload.reload(filter).map_err(|error| error.to_string())
    });
    let targets: Vec<Target> = args
        .targets
        .iter()
        .map(|text| Target::parse(text))
        .collect();
    let targets = match targets.is_empty() {
        true => vec![defaults.target],
        false => targets,
    };
    let lines = fmt::layer()
        .event_format(lines::Lines { json: args.json })
        .with_writer(writer(&targets)?);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()?;
    Ok(())
}

impl Target {
    fn parse(text: &str) -> Self {
        match text {
            "stdout" => Self::Stdout,
            "stderr" => Self::Stderr,
            path => Self::File(path.to_owned()),
        }
    }

    fn writer(&self) -> anyhow::Result<BoxMakeWriter> {
        Ok(match self {
            Self::Stdout => BoxMakeWriter::new(std::io::stdout),
            Self::Stderr => BoxMakeWriter::new(std::io::stderr),
            Self::File(path) => {
                let file = File::options().create(true).append(true).open(path);
                let file = file.with_context(|| format!("--log_target {path}"))?;
                BoxMakeWriter::new(Arc::new(file))
            }
        })
    }
}

/// One writer for all.
fn writer(targets: &[Target]) -> anyhow::Result<BoxMakeWriter> {
    let mut all: Option<BoxMakeWriter> = None;
    for target in targets {
        let next = target.writer()?;
        all = Some(match all {
            Some(others) => BoxMakeWriter::new(others.and(next)),
            None => next,
        });
    }
    all.context("--log_target names nothing")
}

/// Istio's scopes in the words of `tracing`.
fn directives(levels: &str) -> anyhow::Result<String> {
    let mut directives = Vec::new();
    for item in levels.split(',') {
        let (scope, level) = item.split_once(':').unwrap_or(("default", item));
        let level = match level.trim() {
            "none" => "off",
            "fatal" | "error" => "error",
            "warn" | "warning" => "warn",
            "info" => "info",
            "debug" => "debug",
            "trace" => "trace",
            other => bail!("invalid output level '{other}'"),
        };
        match scope.trim() {
            "default" | "all" => directives.push(level.to_owned()),
            scope => {
                let ours = modules(scope);
                directives.extend(ours.iter().map(|module| format!("{module}={level}")));
                if ours.is_empty() {
                    directives.push(format!("{scope}={level}"));
                }
            }
        }
    }
    Ok(directives.join(","))
}

/// Our modules that do what a scope of Istio's agent tells of.
fn modules(scope: &str) -> &'static [&'static str] {
    match scope {
        "ads" | "xdsproxy" => &["ithildin_xds", "ithildin_istiod"],
        "sds" | "secretfetcher" => &["ithildin_xds::sds"],
        "ca" | "cache" | "citadelclient" | "security" => &["ithildin_istiod", "ithildin_spiffe"],
        "spiffe" => &["ithildin_spiffe"],
        "dns" => &["ithildin_dns"],
        "wasm" => &["ithildin_wasm"],
        "healthcheck" | "probes" | "monitoring" => &["ithildin_status"],
        "grpc" => &["tonic", "h2"],
        "validation" => &["ithildin_capture"],
        _ => &[],
    }
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
            ("default:info,dns:debug", "info,ithildin_dns=debug"),
            ("xdsproxy:debug", "ithildin_xds=debug,ithildin_istiod=debug"),
        ] {
            assert_eq!(directives(levels).unwrap(), expected);
            EnvFilter::try_new(expected).unwrap();
        }
        for levels in ["default:loud", "", "dns:"] {
            let error = directives(levels).unwrap_err().to_string();
            assert!(error.starts_with("invalid output level"), "{error}");
        }
    }

    #[test]
    fn a_target_that_cannot_be_opened_is_named() {
        let error = writer(&[Target::parse("/nonexistent/log")]).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.starts_with("--log_target /nonexistent/log"), "{text}");
        assert_eq!(Target::parse("stderr"), Target::Stderr);
    }
}
