//! What the host and the kubelet tell: addresses of interfaces, and the Pod's labels and annotations.

use std::{collections::BTreeMap, fs, io, net::IpAddr, os::unix::net::UnixStream, path::Path};

use ithildin_sys::interfaces::{self, InterfaceAddress};
use tracing::warn;

use crate::proxy::quoted;

/// Where the downward API writes them.
const LABELS: &str = "./etc/istio/pod/labels";
const ANNOTATIONS: &str = "./etc/istio/pod/annotations";
/// SDS of somebody else.
pub(super) const CREDENTIAL_SOCKET: &str = "./var/run/secrets/credential-uds/socket";
/// Interfaces whose addresses are not the workload's, separated by commas.
const EXCLUDED_INTERFACES: &str = "traffic.sidecar.istio.io/excludeInterfaces";

#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    pub(crate) interfaces: Vec<InterfaceAddress>,
    /// `None` where there is no such file.
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) annotations: BTreeMap<String, String>,
    /// Whether somebody serves `sds://` credentials.
    pub(crate) credential_socket: bool,
}

impl Host {
    pub(crate) fn discover() -> Self {
        let interfaces = interfaces::addresses().unwrap_or_else(|error| {
            warn!(%error, "cannot list the network interfaces");
            Vec::new()
        });
        Self {
            interfaces,
            labels: downward(Path::new(LABELS)),
            annotations: downward(Path::new(ANNOTATIONS)).unwrap_or_default(),
            // One that nobody serves any more is left alone, unlike by Istio's agent.
            credential_socket: UnixStream::connect(CREDENTIAL_SOCKET).is_ok(),
        }
    }

    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }

    /// Addresses under which others reach us: not loopback, not link-local, not of an interface that
    /// the annotation excludes.
    pub(crate) fn ips(&self) -> Vec<IpAddr> {
        let excluded = self.excluded();
        let mut ips = Vec::new();
        for address in &self.interfaces {
            let ip = address.ip.to_canonical();
            if address.up && !address.loopback && is_reachable(ip) && !excluded.contains(&ip) {
                ips.push(ip);
            }
        }
        ips
    }

    pub(crate) fn excluded(&self) -> Vec<IpAddr> {
        let names = self.annotation(EXCLUDED_INTERFACES).unwrap_or_default();
        let mut excluded = Vec::new();
        for name in names
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            let of_it = self.interfaces.iter().filter(|it| it.interface == name);
            let before = excluded.len();
            excluded.extend(of_it.map(|it| it.ip.to_canonical()));
            if excluded.len() == before {
                warn!(
                    interface = name,
                    "{EXCLUDED_INTERFACES} names an interface without addresses"
                );
            }
        }
        excluded
    }
}

fn is_reachable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(link_local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

/// Lines `key="value"`, the value quoted as in Go.
fn downward(path: &Path) -> Option<BTreeMap<String, String>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(path = %path.display(), %error, "cannot read what the kubelet tells of the Pod");
            return None;
        }
    };
    let mut entries = BTreeMap::new();
    for line in text.lines() {
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        match quoted::unquote(value) {
            Some(value) => {
                entries.insert(key.to_owned(), value);
            }
            None => {
                warn!(path = %path.display(), key, "a value is not quoted as Kubernetes does it")
            }
        }
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(interface: &str, ip: &str) -> InterfaceAddress {
        InterfaceAddress {
            interface: interface.into(),
            ip: ip.parse().unwrap(),
            up: interface != "down0",
            loopback: interface == "lo",
        }
    }

    #[test]
    fn addresses_that_others_reach() {
        let mut host = Host {
            interfaces: vec![
                address("lo", "127.0.0.1"),
                address("lo", "10.9.9.9"),
                address("eth0", "10.0.0.1"),
                address("eth0", "fe80::1"),
                address("eth0", "fd00::1"),
                address("eth0", "169.254.0.1"),
                address("net1", "10.1.0.1"),
                address("down0", "10.2.0.1"),
            ],
            ..Host::default()
        };
        let ips = |host: &Host| host.ips().iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(ips(&host), ["10.0.0.1", "fd00::1", "10.1.0.1"]);
        host.annotations
            .insert(EXCLUDED_INTERFACES.into(), "net1, gone0".into());
        assert_eq!(ips(&host), ["10.0.0.1", "fd00::1"]);
    }

    #[test]
    fn the_downward_api_quotes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("labels");
        fs::write(
            &file,
            "app=\"web\"\nnote=\"a \\\"b\\\"=\\n\"\nbroken\nwrong=x\n",
        )
        .unwrap();
        let labels = downward(&file).unwrap();
        assert_eq!(labels.len(), 2);
        assert_eq!(labels["note"], "a \"b\"=\n");
        assert_eq!(downward(&folder.path().join("none")), None);
    }
}
