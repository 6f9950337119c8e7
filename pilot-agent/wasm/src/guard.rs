//! Which addresses may be asked for modules.
//!
//! A URL of a `WasmPlugin` is whatever its author wrote, and a registry names further hosts. Who may write
//! one must not be able to make the agent talk to what answers to whoever is on this host: the link, and the
//! services where clouds tell credentials. Private addresses stay allowed: registries live there.
//!
//! Source: Istio's `pkg/wasm/ssrf.go` and `pkg/security`; the clouds' documentation.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// Addresses of clouds' metadata that are not addresses of the link.
const METADATA: [IpAddr; 4] = [
    // Alibaba Cloud.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // Azure's WireServer.
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // Oracle Cloud.
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    // Google Cloud.
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];
/// What Amazon reserves for its instance metadata.
const AMAZON: Network = Network {
    address: IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0)),
    bits: 32,
};
/// Addresses of IPv4 for hosts that have none (RFC 6052).
const NAT64: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

/// A network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// Something that is no network.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a network such as 10.0.0.0/8")]
pub struct NetworkError(String);

/// Says why no connection is made to `address`.
pub(crate) fn refusal(address: IpAddr, blocked: &[Network]) -> Option<&'static str> {
    let address = plain(address);
    let link_local = match address {
        IpAddr::V4(it) => it.is_link_local() || it.octets()[..3] == [224, 0, 0],
        IpAddr::V6(it) => it.is_unicast_link_local() || it.segments()[0] & 0xff0f == 0xff02,
    };
    if link_local {
        return Some("an address of the link");
    }
    if METADATA.contains(&address) || AMAZON.contains(address) {
        return Some("where a cloud keeps its metadata");
    }
    let named = blocked.iter().any(|network| network.contains(address));
    named.then_some("which BLOCKED_CIDRS_IN_WASM_FETCH names")
}

/// Without the clothes of IPv6 around an address of IPv4.
fn plain(address: IpAddr) -> IpAddr {
    if let IpAddr::V6(it) = address
        && it.segments()[..6] == NAT64
    {
        let [.., a, b, c, d] = it.octets();
        return Ipv4Addr::new(a, b, c, d).into();
    }
    address.to_canonical()
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        let same = |a: u128, b: u128, width: u32| {
            let rest = width - u32::from(self.bits);
            // All bits shifted out: every address is in it.
            a.checked_shr(rest).unwrap_or(0) == b.checked_shr(rest).unwrap_or(0)
        };
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let parsed = || {
            let (address, bits) = text.split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            let width = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.parse().ok().filter(|bits| *bits <= width)?;
            Some(Self { address, bits })
        };
        parsed().ok_or_else(|| NetworkError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_metadata_are_refused_in_every_form() {
        let blocked: Vec<Network> = ["10.1.0.0/16", "2001:db8::/32"]
            .map(|text| text.parse().unwrap())
            .into();
        for address in [
            "169.254.169.254",
            "169.254.0.1",
            "224.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "100.100.100.200",
            "::ffff:100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd20:ce::254",
            "10.1.2.3",
            "2001:db8:1::1",
        ] {
            let refused = refusal(address.parse().unwrap(), &blocked);
            assert!(refused.is_some(), "{address}");
        }
        for address in [
            "127.0.0.1",
            "10.2.0.1",
            "192.168.1.1",
            "100.100.100.201",
            "::1",
            "fd00:ec3::1",
            "fec0::1",
            "1.1.1.1",
            "2606:4700::1111",
        ] {
            let refused = refusal(address.parse().unwrap(), &blocked);
            assert_eq!(refused, None, "{address}");
        }
    }

    #[test]
    fn networks() {
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.1.2.3".parse().unwrap()));
        assert!(!all.contains("::1".parse().unwrap()));
        let every: Network = "::/0".parse().unwrap();
        assert!(every.contains("ffff::1".parse().unwrap()));
        let one: Network = "::1/128".parse().unwrap();
        assert!(one.contains("::1".parse().unwrap()) && !one.contains("::2".parse().unwrap()));
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "::/129",
            "a/8",
            "10.0.0.0/-1",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError(text.into())));
        }
    }
}
