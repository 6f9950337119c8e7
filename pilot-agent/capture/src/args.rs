//! The flags of `istio-iptables`.
//!
//! All are read as text: what a value means and whether it is sound is for [`crate::config`] to say, in the same
//! words whether it came from a flag or from the environment.

/// Redirects the traffic of this network namespace to the proxy.
///
/// Most flags may be given as a variable instead: `--istio-inbound-ports` is ISTIO_INBOUND_PORTS. A flag has
/// precedence. Exits with 1 on an error, and with 126 when --run-validation finds that nothing is redirected.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(
    args_override_self = true,
    after_help = "\
Environment only:
  ISTIO_OUTBOUND_OWNER_GROUPS          groups whose traffic is captured, * (the default) for all
  ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE  groups whose traffic is not captured
  ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR    what counts as loopback, 127.0.0.1/32 by default
  ISTIO_META_DNS_CAPTURE, INVALID_DROP, ISTIO_DUAL_STACK
                                       the same as --redirect-dns, --drop-invalid, --dual-stack
  ENVOY_USER                           the user whose id --proxy-uid is by default; istio-proxy
  DRY_RUN_FILE_PATH                    with --dry-run: the file to write to instead"
)]
pub struct Args {
    /// Port of the proxy for outbound traffic [default: 15001]
    #[arg(short = 'p', long, value_name = "PORT")]
    pub envoy_port: Option<String>,
    /// Port of the proxy for inbound traffic [default: 15006]
    #[arg(short = 'z', long, value_name = "PORT")]
    pub inbound_capture_port: Option<String>,
    /// Port of HBONE, which is never redirected [default: 15008]
    #[arg(short = 'e', long, value_name = "PORT")]
    pub inbound_tunnel_port: Option<String>,
    /// Users whose own traffic is not captured: the proxy's [default: ENVOY_USER's id, or 1337]
    #[arg(short = 'u', long, value_name = "UID,...")]
    pub proxy_uid: Option<String>,
    /// Groups whose own traffic is not captured [default: as --proxy-uid]
    #[arg(short = 'g', long, value_name = "GID,...")]
    pub proxy_gid: Option<String>,
    /// REDIRECT, or TPROXY, which keeps the source address
    #[arg(short = 'm', long, value_name = "MODE")]
    pub istio_inbound_interception_mode: Option<String>,
    /// Inbound ports to capture, * for all; none by default
    #[arg(short = 'b', long, value_name = "PORT,...")]
    pub istio_inbound_ports: Option<String>,
    /// Inbound ports not to capture when all are
    #[arg(short = 'd', long, value_name = "PORT,...")]
    pub istio_local_exclude_ports: Option<String>,
    /// Interfaces whose traffic is not captured in either direction
    #[arg(short = 'c', long, value_name = "NAME,...")]
    pub istio_exclude_interfaces: Option<String>,
    /// Destinations to capture, * for all; none by default
    #[arg(short = 'i', long, value_name = "CIDR,...")]
    pub istio_service_cidr: Option<String>,
    /// Destinations not to capture
    #[arg(short = 'x', long, value_name = "CIDR,...")]
    pub istio_service_exclude_cidr: Option<String>,
    /// Outbound ports to capture whatever the destination
    #[arg(short = 'q', long, value_name = "PORT,...")]
    pub istio_outbound_ports: Option<String>,
    /// Outbound ports not to capture
    #[arg(short = 'o', long, value_name = "PORT,...")]
    pub istio_local_outbound_ports_exclude: Option<String>,
    /// Interfaces of virtual machines, whose inbound traffic counts as outbound
    #[arg(short = 'k', long, value_name = "NAME,...")]
    pub kube_virt_interfaces: Option<String>,
    /// Mark of packets that TPROXY takes [default: 1337]
    #[arg(short = 't', long, value_name = "MARK")]
    pub istio_inbound_tproxy_mark: Option<String>,
    /// Routing table that brings marked packets to the proxy [default: 133]
    #[arg(short = 'r', long, value_name = "TABLE")]
    pub istio_inbound_tproxy_route_table: Option<String>,
    /// Capture DNS for the agent
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub redirect_dns: Option<String>,
    /// Capture DNS to any server, not only to those of /etc/resolv.conf
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub capture_all_dns: Option<String>,
    /// Drop packets that belong to no connection
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub drop_invalid: Option<String>,
    /// Capture IPv6 too where the host has an address of it beside IPv4
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub dual_stack: Option<String>,
    /// Port that --run-validation connects to [default: 15002]
    #[arg(long, value_name = "PORT")]
    pub iptables_probe_port: Option<String>,
    /// How long --run-validation tries [default: 5s]
    #[arg(long, value_name = "DURATION")]
    pub probe_timeout: Option<String>,
    /// Leave rules as they are
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub skip_rule_apply: Option<String>,
    /// Check that traffic is redirected
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub run_validation: Option<String>,
    /// Print what would be applied, and apply nothing
    #[arg(short = 'n', long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub dry_run: Option<String>,
    /// Network namespace to work in, as a path
    #[arg(long, value_name = "PATH")]
    pub network_namespace: Option<String>,
    /// Run on a node, for a CNI plugin: the lock of iptables is the namespace's own
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub cni_mode: Option<String>,
    /// Replace rules of an earlier run that differ
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub reconcile: Option<String>,
    /// Remove rules, routes and addresses of earlier runs, and add none
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub cleanup_only: Option<String>,
    /// Apply even where the rules appear to be in place, which iptables refuses where they are
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub force_apply: Option<String>,
    /// Use nft instead of iptables
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub native_nftables: Option<String>,
    /// Which iptables to use: legacy or nft; found out by default
    #[arg(long, value_name = "VARIANT")]
    pub force_iptables_binary: Option<String>,
}
