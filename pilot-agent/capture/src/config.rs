//! What to capture and how to go about it, from the flags, the environment and the host.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use tracing::warn;

use crate::{
    host::Host,
    rules::OUTBOUND_MARK,
    setting::{InvalidSetting, Setting, Settings, flags},
    value::{self, Cidr, Interface, Owner, Ports},
};

/// The proxy's user where `ENVOY_USER` does not say.
const DEFAULT_PROXY_USER: &str = "istio-proxy";
/// The proxy's user id where there is no such user: the one of Istio's images.
const DEFAULT_PROXY_UID: u32 = 1337;
/// How long validation tries where `--probe-timeout` does not say.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Groups that are captured become matches of one rule, of which kernels take a limited number.
const MAX_CAPTURED_GROUPS: usize = 64;

/// Which traffic goes where. All that the rules depend on, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub outbound_port: u16,
    pub inbound_port: u16,
    /// HBONE's, which is never redirected.
    pub tunnel_port: u16,
    /// The proxy's own users and groups.
    pub uids: Vec<Owner>,
    pub gids: Vec<Owner>,
    pub inbound_mode: InboundMode,
    pub inbound: Inbound,
    pub exclude_interfaces: Vec<Interface>,
    pub virtual_interfaces: Vec<Interface>,
    pub outbound_include: Destinations,
    pub outbound_exclude: Vec<Cidr>,
    pub outbound_ports_include: Vec<Ports>,
    pub outbound_ports_exclude: Vec<Ports>,
    pub groups: Groups,
    /// What counts as loopback in IPv4.
    pub loopback: Cidr,
    pub tproxy_mark: u32,
    pub tproxy_table: u32,
    pub dns: Dns,
    pub drop_invalid: bool,
    pub ipv6: bool,
    /// There is IPv6, and it is to be left alone.
    pub spares_ipv6: bool,
}

/// How inbound connections reach the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboundMode {
    /// With their destination rewritten, which `SO_ORIGINAL_DST` tells.
    Redirect,
    /// As they are, with the client's address.
    Tproxy,
}

/// The inbound ports that are captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inbound {
    None,
    AllExcept(Vec<Ports>),
    Only(Vec<Ports>),
}

/// The destinations that are captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destinations {
    All,
    Only(Vec<Cidr>),
}

impl Destinations {
    /// Whether loopback is named: then traffic within the Pod is captured too.
    pub(crate) fn name_loopback(&self) -> bool {
        match self {
            Self::All => false,
            Self::Only(ranges) => ranges.iter().any(|range| range.address().is_loopback()),
        }
    }
}

/// The groups whose traffic is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Groups {
    AllExcept(Vec<Owner>),
    Only(Vec<Owner>),
}

/// The DNS traffic that is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dns {
    None,
    /// To these servers.
    Servers(Vec<IpAddr>),
    /// To any.
    All,
}

/// What to do with the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub dry_run: Option<DryRun>,
    pub skip_rule_apply: bool,
    pub reconcile: bool,
    pub cleanup_only: bool,
    pub force_apply: bool,
    pub backend: Backend,
    pub cni_mode: bool,
    /// Check afterwards that traffic is redirected.
    pub validation: Option<Probe>,
}

/// Nothing is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DryRun {
    /// Where to write what would be applied, instead of standard output.
    pub file: Option<PathBuf>,
}

/// The tool that applies rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// iptables, of the variant that is found to be in use.
    Iptables,
    IptablesLegacy,
    IptablesNft,
    Nftables,
}

/// How to check that traffic is redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    pub port: u16,
    pub timeout: Duration,
    pub ipv6: bool,
}

impl Config {
    /// Reads and checks all that rules depend on.
    pub(crate) fn resolve(settings: Settings<'_>, host: &Host) -> Result<Self, InvalidSetting> {
        let get = |flag| settings.get(flag);
        let uids = proxy_uids(settings, host)?;
        let gids: Vec<Owner> = get(&flags::PROXY_GID).list()?;
        let ipv6 = host.wants_ipv6(get(&flags::DUAL_STACK).switch()?);
        Ok(Self {
            outbound_port: get(&flags::ENVOY_PORT).value(15001, value::port)?,
            inbound_port: get(&flags::INBOUND_CAPTURE_PORT).value(15006, value::port)?,
            tunnel_port: get(&flags::INBOUND_TUNNEL_PORT).value(15008, value::port)?,
            gids: match gids.is_empty() {
                true => uids.clone(),
                false => gids,
            },
            uids,
            inbound_mode: get(&flags::INBOUND_MODE).value(InboundMode::Redirect, inbound_mode)?,
            inbound: inbound(settings)?,
            exclude_interfaces: get(&flags::EXCLUDE_INTERFACES).list()?,
            virtual_interfaces: get(&flags::VIRTUAL_INTERFACES).list()?,
            outbound_include: outbound_include(settings)?,
            outbound_exclude: outbound_exclude(settings)?,
            outbound_ports_include: get(&flags::OUTBOUND_PORTS).list()?,
            outbound_ports_exclude: get(&flags::OUTBOUND_PORTS_EXCLUDE).list()?,
            groups: groups(settings)?,
            loopback: loopback(settings)?,
            tproxy_mark: get(&flags::TPROXY_MARK).value(1337, mark)?,
            tproxy_table: get(&flags::TPROXY_TABLE).value(133, routing_table)?,
            dns: dns(settings, host)?,
            drop_invalid: get(&flags::DROP_INVALID).switch()?,
            ipv6,
            spares_ipv6: !ipv6 && host.has_ipv6,
        })
    }
}

impl Operation {
    /// Reads and checks what to do.
    pub(crate) fn resolve(settings: Settings<'_>, host: &Host) -> Result<Self, InvalidSetting> {
        let get = |flag| settings.get(flag);
        let path = |setting: Setting| setting.text().map(PathBuf::from);
        let probe = Probe {
            port: get(&flags::PROBE_PORT).lenient(15002, value::port)?,
            timeout: get(&flags::PROBE_TIMEOUT).lenient(PROBE_TIMEOUT, value::duration)?,
            ipv6: host.is_ipv6_only(),
        };
        let dry_run = DryRun {
            file: path(settings.variable(&["DRY_RUN_FILE_PATH"])),
        };
        let iptables = get(&flags::FORCE_BINARY).value(Backend::Iptables, iptables_variant)?;
        Ok(Self {
            dry_run: get(&flags::DRY_RUN).switch()?.then_some(dry_run),
            skip_rule_apply: get(&flags::SKIP_RULE_APPLY).switch()?,
            reconcile: get(&flags::RECONCILE).switch()?,
            cleanup_only: get(&flags::CLEANUP_ONLY).switch()?,
            force_apply: get(&flags::FORCE_APPLY).switch()?,
            backend: match get(&flags::NATIVE_NFTABLES).switch()? {
                true => Backend::Nftables,
                false => iptables,
            },
            cni_mode: get(&flags::CNI_MODE).switch()?,
            validation: get(&flags::RUN_VALIDATION).switch()?.then_some(probe),
        })
    }
}

fn proxy_uids(settings: Settings<'_>, host: &Host) -> Result<Vec<Owner>, InvalidSetting> {
    let uids: Vec<Owner> = settings.get(&flags::PROXY_UID).list()?;
    if !uids.is_empty() {
        return Ok(uids);
    }
    let user = settings.variable(&["ENVOY_USER"]);
    let uid = host.uid(user.text().unwrap_or(DEFAULT_PROXY_USER));
    let uid = uid.unwrap_or(DEFAULT_PROXY_UID);
    Ok(vec![Owner::from(uid)])
}

fn inbound_mode(text: &str) -> Result<InboundMode, &'static str> {
    match text {
        "REDIRECT" => Ok(InboundMode::Redirect),
        "TPROXY" => Ok(InboundMode::Tproxy),
        "NONE" => Err("NONE means no capture, so do not run this command"),
        _ => Err("write REDIRECT or TPROXY"),
    }
}

fn inbound(settings: Settings<'_>) -> Result<Inbound, InvalidSetting> {
    let ports = settings.get(&flags::INBOUND_PORTS);
    // Checked even where it has no effect, so that a mistake does not wait for the day on which it has.
    let exclude = settings.get(&flags::INBOUND_PORTS_EXCLUDE).list()?;
    Ok(match ports.text() {
        None => Inbound::None,
        Some("*") => Inbound::AllExcept(exclude),
        Some(_) => match ports.list()? {
            ports if ports.is_empty() => Inbound::None,
            ports => Inbound::Only(ports),
        },
    })
}

fn outbound_include(settings: Settings<'_>) -> Result<Destinations, InvalidSetting> {
    let ranges = settings.get(&flags::OUTBOUND_RANGES);
    Ok(match ranges.text() {
        Some("*") => Destinations::All,
        _ => Destinations::Only(ranges.list()?),
    })
}

fn outbound_exclude(settings: Settings<'_>) -> Result<Vec<Cidr>, InvalidSetting> {
    let ranges = settings.get(&flags::OUTBOUND_RANGES_EXCLUDE);
    if ranges.text() == Some("*") {
        return Err(ranges.invalid("*", "to capture nothing, leave --istio-service-cidr empty"));
    }
    ranges.list()
}

fn groups(settings: Settings<'_>) -> Result<Groups, InvalidSetting> {
    let include = settings.variable(&["ISTIO_OUTBOUND_OWNER_GROUPS"]);
    let exclude = settings.variable(&["ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"]);
    let exclude = exclude.list()?;
    if !include.is_set() || include.text() == Some("*") {
        return Ok(Groups::AllExcept(exclude));
    }
    let only: Vec<Owner> = include.list()?;
    if only.len() > MAX_CAPTURED_GROUPS {
        let all = include.text().unwrap_or_default();
        return Err(include.invalid(all, "name at most 64 groups, or * and those to exclude"));
    }
    Ok(Groups::Only(only))
}

fn loopback(settings: Settings<'_>) -> Result<Cidr, InvalidSetting> {
    const DEFAULT: Cidr = Cidr::v4(Ipv4Addr::LOCALHOST);
    let setting = settings.variable(&["ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"]);
    setting.value(DEFAULT, |text| {
        let range: Cidr = text.parse()?;
        match range.address().is_ipv4() && range.address().is_loopback() && range.bits() >= 8 {
            true => Ok(range),
            false => Err("write a range within 127.0.0.0/8"),
        }
    })
}

fn dns(settings: Settings<'_>, host: &Host) -> Result<Dns, InvalidSetting> {
    let redirect = settings.get(&flags::REDIRECT_DNS).switch()?;
    let all = settings.get(&flags::CAPTURE_ALL_DNS).switch()?;
    Ok(match (redirect, all) {
        (false, _) => Dns::None,
        (true, true) => Dns::All,
        (true, false) if host.dns_servers.is_empty() => {
            warn!(
                "DNS is not captured: /etc/resolv.conf names no server, and --capture-all-dns (CAPTURE_ALL_DNS) is off"
            );
            Dns::None
        }
        (true, false) => Dns::Servers(host.dns_servers.clone()),
    })
}

fn iptables_variant(text: &str) -> Result<Backend, &'static str> {
    match text {
        "legacy" => Ok(Backend::IptablesLegacy),
        "nft" => Ok(Backend::IptablesNft),
        _ => Err("write legacy or nft"),
    }
}

fn mark(text: &str) -> Result<u32, &'static str> {
    match text.parse() {
        Ok(OUTBOUND_MARK) => Err("1338 marks the proxy's own packets, choose another number"),
        Ok(0) | Err(_) => Err("write a number from 1 to 4294967295"),
        Ok(mark) => Ok(mark),
    }
}

fn routing_table(text: &str) -> Result<u32, &'static str> {
    match text.parse() {
        // 253 to 255 are the system's own: default, main and local.
        Ok(0 | 253..=255) | Err(_) => {
            Err("write the number of an unused routing table, such as 133")
        }
        Ok(table) => Ok(table),
    }
}
