//! `resolv.conf`: whom the workload's resolver asks, and what it appends to names (resolv.conf(5)).

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use tracing::warn;

const DNS_PORT: u16 = 53;

/// What of the file concerns a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// The servers, in order.
    pub servers: Vec<SocketAddr>,
    /// The first of the search domains.
    pub search: Option<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("{}: {source}; the DNS proxy takes its upstream servers from it", path.display())]
pub struct ResolvConfError {
    path: PathBuf,
    source: io::Error,
}

impl ResolvConf {
    /// # Errors
    /// If the file cannot be read.
    pub fn read(path: &Path) -> Result<Self, ResolvConfError> {
        let text = fs::read_to_string(path).map_err(|source| ResolvConfError {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut this = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match (words.next(), words.next()) {
                (Some("nameserver"), Some(address)) => match server(address) {
                    Some(server) => this.servers.push(server),
                    None => warn!(address, "a name server that is no address is left out"),
                },
                // Of several such lines the last one counts.
                (Some("search" | "domain"), domain) => this.search = domain.map(str::to_owned),
                _ => {}
            }
        }
        this
    }
}

/// A zone stands behind `%`: the index of an interface.
fn server(address: &str) -> Option<SocketAddr> {
    let (address, zone) = match address.split_once('%') {
        Some((address, zone)) => (address, Some(zone.parse().ok()?)),
        None => (address, None),
    };
    let mut server = SocketAddr::new(address.parse::<IpAddr>().ok()?, DNS_PORT);
    if let (SocketAddr::V6(server), Some(zone)) = (&mut server, zone) {
        server.set_scope_id(zone);
    }
    Some(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_the_first_search_domain() {
        let parsed = ResolvConf::parse(
            "# written by the kubelet\n\
             domain ignored.example\n\
             search ns1.svc.cluster.local svc.cluster.local\n\
             nameserver 10.96.0.10\n\
             nameserver\t2001:db8::53 \n\
             nameserver fe80::1%2\n\
             nameserver dns.example\n\
             nameserver\n\
             options ndots:5\n",
        );
        let servers: Vec<_> = parsed.servers.iter().map(ToString::to_string).collect();
        assert_eq!(
            servers,
            ["10.96.0.10:53", "[2001:db8::53]:53", "[fe80::1%2]:53"]
        );
        assert_eq!(parsed.search.as_deref(), Some("ns1.svc.cluster.local"));
        assert_eq!(ResolvConf::parse(""), ResolvConf::default());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = ResolvConf::read(Path::new("/nowhere/resolv.conf")).unwrap_err();
        assert!(
            error.to_string().starts_with("/nowhere/resolv.conf: "),
            "{error}"
        );
    }
}
