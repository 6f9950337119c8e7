//! One setting: its flag, its variables and what they hold.

use std::{fmt, str::FromStr};

use tracing::warn;

use crate::{args::Args, value};

/// A setting that cannot be used: what it is called, what it holds and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {value:?}: {fix}")]
pub struct InvalidSetting {
    name: Name,
    value: String,
    fix: &'static str,
}

/// What a setting is called, on the command line and in the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Name {
    /// Without the two hyphens.
    flag: Option<&'static str>,
    /// The later ones have precedence.
    variables: &'static [&'static str],
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variables = self.variables.join(", ");
        match self.flag {
            Some(flag) if variables.is_empty() => write!(f, "--{flag}"),
            Some(flag) => write!(f, "--{flag} ({variables})"),
            None => f.write_str(&variables),
        }
    }
}

/// A setting as it was found.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    name: Name,
    value: Option<String>,
    from_flag: bool,
}

/// A flag, and the variables that may stand for it.
pub(crate) struct Flag {
    name: &'static str,
    variables: &'static [&'static str],
    of: fn(&Args) -> Option<&String>,
}

macro_rules! flags {
    ($($constant:ident: $field:ident, $name:literal, [$($variable:literal),*];)*) => {
        $(pub(crate) const $constant: Flag = Flag {
            name: $name,
            variables: &[$($variable),*],
            of: |args| args.$field.as_ref(),
        };)*
    };
}

/// Flags and their variables, as Istio's command binds them.
pub(crate) mod flags {
    use super::Flag;

    flags! {
        ENVOY_PORT: envoy_port, "envoy-port", [];
        INBOUND_CAPTURE_PORT: inbound_capture_port, "inbound-capture-port", ["INBOUND_CAPTURE_PORT"];
        INBOUND_TUNNEL_PORT: inbound_tunnel_port, "inbound-tunnel-port", ["INBOUND_TUNNEL_PORT"];
        PROXY_UID: proxy_uid, "proxy-uid", ["PROXY_UID"];
        PROXY_GID: proxy_gid, "proxy-gid", ["PROXY_GID"];
        INBOUND_MODE: istio_inbound_interception_mode, "istio-inbound-interception-mode", ["ISTIO_INBOUND_INTERCEPTION_MODE"];
        INBOUND_PORTS: istio_inbound_ports, "istio-inbound-ports", ["ISTIO_INBOUND_PORTS"];
        INBOUND_PORTS_EXCLUDE: istio_local_exclude_ports, "istio-local-exclude-ports", ["ISTIO_LOCAL_EXCLUDE_PORTS"];
        EXCLUDE_INTERFACES: istio_exclude_interfaces, "istio-exclude-interfaces", ["ISTIO_EXCLUDE_INTERFACES"];
        OUTBOUND_RANGES: istio_service_cidr, "istio-service-cidr", ["ISTIO_SERVICE_CIDR"];
        OUTBOUND_RANGES_EXCLUDE: istio_service_exclude_cidr, "istio-service-exclude-cidr", ["ISTIO_SERVICE_EXCLUDE_CIDR"];
        OUTBOUND_PORTS: istio_outbound_ports, "istio-outbound-ports", ["ISTIO_OUTBOUND_PORTS"];
        OUTBOUND_PORTS_EXCLUDE: istio_local_outbound_ports_exclude, "istio-local-outbound-ports-exclude", ["ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE"];
        VIRTUAL_INTERFACES: kube_virt_interfaces, "kube-virt-interfaces", ["KUBE_VIRT_INTERFACES"];
        TPROXY_MARK: istio_inbound_tproxy_mark, "istio-inbound-tproxy-mark", ["ISTIO_INBOUND_TPROXY_MARK"];
        TPROXY_TABLE: istio_inbound_tproxy_route_table, "istio-inbound-tproxy-route-table", ["ISTIO_INBOUND_TPROXY_ROUTE_TABLE"];
        REDIRECT_DNS: redirect_dns, "redirect-dns", ["REDIRECT_DNS", "ISTIO_META_DNS_CAPTURE"];
        CAPTURE_ALL_DNS: capture_all_dns, "capture-all-dns", ["CAPTURE_ALL_DNS"];
        DROP_INVALID: drop_invalid, "drop-invalid", ["DROP_INVALID", "INVALID_DROP"];
        DUAL_STACK: dual_stack, "dual-stack", ["DUAL_STACK", "ISTIO_DUAL_STACK"];
        PROBE_PORT: iptables_probe_port, "iptables-probe-port", ["IPTABLES_PROBE_PORT"];
        PROBE_TIMEOUT: probe_timeout, "probe-timeout", ["PROBE_TIMEOUT"];
        SKIP_RULE_APPLY: skip_rule_apply, "skip-rule-apply", ["SKIP_RULE_APPLY"];
        RUN_VALIDATION: run_validation, "run-validation", ["RUN_VALIDATION"];
        DRY_RUN: dry_run, "dry-run", ["DRY_RUN"];
        NETWORK_NAMESPACE: network_namespace, "network-namespace", ["NETWORK_NAMESPACE"];
        CNI_MODE: cni_mode, "cni-mode", ["CNI_MODE"];
        RECONCILE: reconcile, "reconcile", ["RECONCILE"];
        CLEANUP_ONLY: cleanup_only, "cleanup-only", ["CLEANUP_ONLY"];
        FORCE_APPLY: force_apply, "force-apply", ["FORCE_APPLY"];
        NATIVE_NFTABLES: native_nftables, "native-nftables", ["NATIVE_NFTABLES"];
        FORCE_BINARY: force_iptables_binary, "force-iptables-binary", ["FORCE_IPTABLES_BINARY"];
    }
}

/// Flags and environment together.
#[derive(Clone, Copy)]
pub(crate) struct Settings<'a> {
    pub(crate) args: &'a Args,
    pub(crate) environment: &'a dyn Fn(&str) -> Option<String>,
}

impl Settings<'_> {
    /// The flag's value, else that of its last variable that holds anything.
    pub(crate) fn get(&self, flag: &Flag) -> Setting {
        let given = (flag.of)(self.args).cloned();
        Setting {
            name: Name {
                flag: Some(flag.name),
                variables: flag.variables,
            },
            from_flag: given.is_some(),
            value: given.or_else(|| self.last(flag.variables)),
        }
    }

    /// A setting that has no flag.
    pub(crate) fn variable(&self, variable: &'static [&'static str; 1]) -> Setting {
        let [name] = variable;
        Setting {
            name: Name {
                flag: None,
                variables: variable,
            },
            from_flag: false,
            value: (self.environment)(name),
        }
    }

    /// The last variable that holds anything.
    fn last(&self, variables: &[&str]) -> Option<String> {
        let mut values = variables.iter().rev().copied().filter_map(self.environment);
        values.find(|value| !value.is_empty())
    }
}

impl Setting {
    /// The text, if it is set and not empty.
    pub(crate) fn text(&self) -> Option<&str> {
        self.value
            .as_deref()
            .map(str::trim)
            .filter(|text| !text.is_empty())
    }

    /// Whether it is set, be it to nothing.
    pub(crate) fn is_set(&self) -> bool {
        self.value.is_some()
    }

    /// The items of a list with commas; empty ones do not count.
    pub(crate) fn list<T: FromStr<Err = &'static str>>(&self) -> Result<Vec<T>, InvalidSetting> {
        let items = self.text().unwrap_or_default().split(',').map(str::trim);
        items
            .filter(|item| !item.is_empty())
            .map(|item| item.parse().map_err(|fix| self.invalid(item, fix)))
            .collect()
    }

    /// The value that `read` makes of the text, or `default` where there is none.
    pub(crate) fn value<T>(
        &self,
        default: T,
        read: impl Fn(&str) -> Result<T, &'static str>,
    ) -> Result<T, InvalidSetting> {
        match self.text() {
            Some(text) => read(text).map_err(|fix| self.invalid(text, fix)),
            None => Ok(default),
        }
    }

    /// As [`Setting::value`], but an unsound variable leaves the default in place, with a warning: Istio's command
    /// ignores such variables, and Pods start with them.
    pub(crate) fn lenient<T>(
        &self,
        default: T,
        read: impl Fn(&str) -> Result<T, &'static str>,
    ) -> Result<T, InvalidSetting> {
        match self.text().map(read) {
            Some(Ok(value)) => Ok(value),
            Some(Err(fix)) => {
                let error = self.invalid(self.text().unwrap_or_default(), fix);
                if self.from_flag {
                    return Err(error);
                }
                warn!(%error, "variable ignored");
                Ok(default)
            }
            None => Ok(default),
        }
    }

    /// Whether it is switched on.
    pub(crate) fn switch(&self) -> Result<bool, InvalidSetting> {
        self.lenient(false, value::switch)
    }

    pub(crate) fn invalid(&self, value: &str, fix: &'static str) -> InvalidSetting {
        InvalidSetting {
            name: self.name,
            value: value.to_owned(),
            fix,
        }
    }
}
