//! What the configuration takes from the host: its addresses, its DNS servers and its users.

use std::{fs, io, net::IpAddr, path::Path};

use tracing::warn;

use crate::netlink;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const PASSWD: &str = "/etc/passwd";

/// A host, as the network namespace and the file system show it.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Addresses that others can reach: neither of loopback nor of the link alone.
    pub addresses: Vec<IpAddr>,
    /// Whether there is IPv6 at all, be it only loopback's: what others can reach may come later.
    pub has_ipv6: bool,
    /// Those that `/etc/resolv.conf` names.
    pub dns_servers: Vec<IpAddr>,
    /// Names and ids of `/etc/passwd`.
    pub users: Vec<(String, u32)>,
}

/// What kept the host from being read.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("cannot list the addresses of this network namespace: {0}")]
    Addresses(#[source] io::Error),
    #[error(
        "this network namespace has no address but loopback's, so there is no traffic to capture: \
         run this after the Pod's network is set up"
    )]
    NoAddress,
    #[error("cannot read {RESOLV_CONF}, whose servers --redirect-dns captures: {0}")]
    ResolvConf(#[source] io::Error),
}

impl Host {
    /// Reads the host; its DNS servers only `with_dns`, so that the file may be absent otherwise.
    pub(crate) fn read(with_dns: bool) -> Result<Self, HostError> {
        let mut addresses = netlink::addresses().map_err(HostError::Addresses)?;
        let has_ipv6 = addresses.iter().any(IpAddr::is_ipv6);
        addresses.retain(is_reachable);
        if addresses.is_empty() {
            return Err(HostError::NoAddress);
        }
        let dns_servers = match with_dns {
            true => dns_servers(Path::new(RESOLV_CONF)).map_err(HostError::ResolvConf)?,
            false => Vec::new(),
        };
        let users = fs::read_to_string(PASSWD).unwrap_or_default();
        Ok(Self {
            addresses,
            has_ipv6,
            dns_servers,
            users: users.lines().filter_map(user).collect(),
        })
    }

    /// Whether to capture IPv6: where it is all that there is, and beside IPv4 only when asked to.
    pub(crate) fn wants_ipv6(&self, dual_stack: bool) -> bool {
        self.is_ipv6_only() || (dual_stack && self.addresses.iter().any(IpAddr::is_ipv6))
    }

    pub(crate) fn is_ipv6_only(&self) -> bool {
        !self.addresses.is_empty() && self.addresses.iter().all(IpAddr::is_ipv6)
    }

    pub(crate) fn uid(&self, name: &str) -> Option<u32> {
        let user = self.users.iter().find(|(user, _)| user == name);
        user.map(|(_, uid)| *uid)
    }
}

fn is_reachable(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !address.is_loopback() && !link_local
}

fn dns_servers(path: &Path) -> io::Result<Vec<IpAddr>> {
    let text = fs::read_to_string(path)?;
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some("nameserver"), Some(server)) = (words.next(), words.next()) else {
            continue;
        };
        match server.parse() {
            Ok(server) => servers.push(server),
            // Such as one with a zone, which no rule can match.
            Err(_) => warn!(
                server,
                "DNS to this server of {RESOLV_CONF} is not captured"
            ),
        }
    }
    Ok(servers)
}

/// Name and id of a line of `/etc/passwd`.
fn user(line: &str) -> Option<(String, u32)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let uid = fields.nth(1)?.parse().ok()?;
    Some((name.to_owned(), uid))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn servers_are_read_and_others_passed_over() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(
            file,
            "# nameserver 1.1.1.1\nsearch a.b\nnameserver 10.96.0.10\nnameserver fe80::1%eth0\nnameserver fd00::a extra\nnameserver"
        )
        .unwrap();
        let servers = dns_servers(file.path()).unwrap();
        assert_eq!(
            servers,
            ["10.96.0.10", "fd00::a"].map(|s| s.parse::<IpAddr>().unwrap())
        );
    }

    #[test]
    fn users_are_found_by_name() {
        assert_eq!(
            user("istio-proxy:x:1337:1337::/home:/bin/sh"),
            Some(("istio-proxy".to_owned(), 1337))
        );
        assert_eq!(user("broken"), None);
        assert_eq!(user("a:x:not-a-number:0"), None);
    }

    #[test]
    fn ipv6_is_captured_alone_and_beside_ipv4_when_asked() {
        let host = |addresses: &[&str]| Host {
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            ..Host::default()
        };
        assert!(host(&["fd00::1"]).wants_ipv6(false));
        assert!(!host(&["10.0.0.1"]).wants_ipv6(true));
        assert!(!host(&["10.0.0.1", "fd00::1"]).wants_ipv6(false));
        assert!(host(&["10.0.0.1", "fd00::1"]).wants_ipv6(true));
        assert!(host(&["fd00::1", "10.0.0.1"]).wants_ipv6(true));
    }

    #[test]
    fn loopback_and_the_link_do_not_count_as_addresses() {
        for address in ["127.0.0.1", "::1", "169.254.1.1", "fe80::1"] {
            assert!(!is_reachable(&address.parse().unwrap()), "{address}");
        }
        for address in ["10.0.0.1", "fd00::1", "2001:db8::1"] {
            assert!(is_reachable(&address.parse().unwrap()), "{address}");
        }
    }
}
