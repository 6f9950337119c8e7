//! The command line: Envoy's arguments, so that the proxy starts wherever Envoy starts.

use std::{path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Parser, ValueEnum};
use ithildin_proxy::log_levels::LogLevel;

/// An L4 and L7 proxy that reads Envoy's configuration.
#[derive(Debug, Parser)]
#[command(name = "ithildin-proxy", version, disable_version_flag = true)]
pub(crate) struct Args {
    /// Configuration file: a bootstrap in YAML or JSON
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config_path: Option<PathBuf>,

    /// Configuration as text; merged over that of --config-path
    #[arg(long, value_name = "YAML")]
    pub(crate) config_yaml: Option<String>,

    /// Whether to serve, or to check the configuration and exit
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    pub(crate) mode: Mode,

    /// Worker threads; the default is one for each core
    #[arg(long, value_name = "N")]
    pub(crate) concurrency: Option<usize>,

    /// Log level of everything
    #[arg(short, long, value_parser = LogLevel::parse, default_value = "info")]
    pub(crate) log_level: LogLevel,

    /// Log levels of single components: upstream:debug,tls:trace
    #[arg(long, value_name = "LIST", default_value = "")]
    pub(crate) component_log_level: String,

    /// Log to this file in place of standard error; SIGUSR1 opens it anew
    #[arg(long, value_name = "FILE")]
    pub(crate) log_path: Option<PathBuf>,

    /// Name of the cluster that this proxy belongs to; overrides node.cluster
    #[arg(long, value_name = "NAME")]
    pub(crate) service_cluster: Option<String>,

    /// Name of this proxy; overrides node.id
    #[arg(long, value_name = "NAME")]
    pub(crate) service_node: Option<String>,

    /// Availability zone of this proxy; overrides node.locality.zone
    #[arg(long, value_name = "ZONE")]
    pub(crate) service_zone: Option<String>,

    /// How long connections may take to end when listeners go or the proxy stops, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    drain_time_s: u64,

    /// Write the admin server's address to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_address_path: Option<PathBuf>,

    /// Print the version
    #[arg(long, action = clap::ArgAction::Version)]
    version: Option<bool>,

    #[command(flatten)]
    _without_effect: WithoutEffect,
}

impl Args {
    pub(crate) fn drain_time(&self) -> Duration {
        Duration::from_secs(self.drain_time_s)
    }

    /// Worker threads to start.
    pub(crate) fn workers(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.concurrency.unwrap_or_else(cores).max(1)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Mode {
    Serve,
    /// Check the configuration, print everything that is wrong with it, and exit
    Validate,
    /// Start, wait until all is warm, and exit
    InitOnly,
}

/// What Envoy takes and what has no meaning here: there is no hot restart, no shared memory and no
/// runtime key for fields that are unknown. They are read so that Envoy's command lines work.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Accepted without effect")]
struct WithoutEffect {
    #[arg(long, value_name = "ID")]
    base_id: Option<u32>,
    #[arg(long)]
    use_dynamic_base_id: bool,
    #[arg(long, value_name = "FILE")]
    base_id_path: Option<PathBuf>,
    #[arg(long)]
    skip_hot_restart_on_no_parent: bool,
    #[arg(long)]
    skip_hot_restart_parent_stats: bool,
    #[arg(long)]
    disable_hot_restart: bool,
    #[arg(long, value_name = "N")]
    restart_epoch: Option<u32>,
    #[arg(long, value_name = "SECONDS")]
    parent_shutdown_time_s: Option<u64>,
    #[arg(long, value_name = "STRATEGY")]
    drain_strategy: Option<String>,
    #[arg(long, value_name = "v4|v6")]
    local_address_ip_version: Option<String>,
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    #[arg(long)]
    log_format_escaped: bool,
    #[arg(long)]
    enable_fine_grain_logging: bool,
    #[arg(long, value_name = "MS")]
    file_flush_interval_msec: Option<u64>,
    #[arg(long, value_name = "KB")]
    file_flush_min_size_kb: Option<u64>,
    #[arg(long)]
    enable_mutex_tracing: bool,
    #[arg(long)]
    enable_core_dump: bool,
    #[arg(long)]
    cpuset_threads: bool,
    #[arg(long, value_name = "FILE")]
    socket_path: Option<PathBuf>,
    #[arg(long, value_name = "MODE")]
    socket_mode: Option<String>,
    #[arg(long, value_name = "TAG:VALUE")]
    stats_tag: Vec<String>,
    /// Unknown fields are always refused
    #[arg(long)]
    allow_unknown_fields: bool,
    #[arg(long)]
    allow_unknown_static_fields: bool,
    #[arg(long)]
    reject_unknown_dynamic_fields: bool,
    #[arg(long)]
    ignore_unknown_dynamic_fields: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envoys_command_lines() {
        let line =
            "ithildin-proxy -l debug --local-address-ip-version v4 -c envoy-conf.yaml --base-id 1";
        let args = Args::try_parse_from(line.split(' ')).expect("the arguments of a manifest");
        assert_eq!(args.config_path, Some("envoy-conf.yaml".into()));
        assert_eq!((args.log_level, args.mode), (LogLevel::Debug, Mode::Serve));
        let line = "ithildin-proxy --config-yaml {} --mode init_only --concurrency 0 \
                    --log-level warn --service-node n --drain-time-s 5 --disable-hot-restart";
        let args = Args::try_parse_from(line.split_whitespace()).expect("more arguments");
        assert_eq!((args.mode, args.workers()), (Mode::InitOnly, 1));
        assert_eq!(args.drain_time(), Duration::from_secs(5));
    }

    #[test]
    fn unknown_arguments_are_named() {
        let line = ["ithildin-proxy", "--hot-sauce", "3"];
        let error = Args::try_parse_from(line).expect_err("there is no such argument");
        assert!(error.to_string().contains("'--hot-sauce'"), "{error}");
    }
}
