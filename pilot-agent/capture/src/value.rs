//! The values that flags and variables hold, each of a type that only a sound value fits.
//!
//! The values end up in the input of `iptables-restore` and `nft`, and some come from annotations that the owner of
//! a Pod writes: a type that admits no blank and no line break is what keeps one of them from adding rules.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    time::Duration,
};

/// The longest name of an interface: Linux's IFNAMSIZ without its terminating zero.
const INTERFACE_NAME_MAX: usize = 15;
/// The longest name of a user or group that `useradd` accepts.
const OWNER_NAME_MAX: usize = 32;

/// One port, or `first:last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// The first and the last port, both included.
    pub fn bounds(self) -> (u16, u16) {
        (self.first, self.last)
    }
}

impl From<u16> for Ports {
    fn from(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }
}

impl FromStr for Ports {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FIX: &str = "write ports from 1 to 65535, with commas between them";
        let (first, last) = text.split_once(':').unwrap_or((text, text));
        let ports = Self {
            first: port(first).map_err(|_| FIX)?,
            last: port(last).map_err(|_| FIX)?,
        };
        if ports.first > ports.last {
            return Err("write the lower port of a range first");
        }
        Ok(ports)
    }
}

/// Reads a port other than 0.
pub(crate) fn port(text: &str) -> Result<u16, &'static str> {
    match text.parse() {
        Ok(0) | Err(_) => Err("write a port from 1 to 65535"),
        Ok(port) => Ok(port),
    }
}

/// A user or a group, by number or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner(String);

impl FromStr for Owner {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.parse::<u32>().is_ok();
        let name = text.len() <= OWNER_NAME_MAX
            && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        match number || name {
            true => Ok(Self(text.to_owned())),
            false => Err("write numeric ids or names, with commas between them"),
        }
    }
}

impl From<u32> for Owner {
    fn from(id: u32) -> Self {
        Self(id.to_string())
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a network interface; a final `+` stands for any ending, as in iptables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface(String);

impl Interface {
    /// The loopback interface.
    pub(crate) fn loopback() -> Self {
        Self("lo".to_owned())
    }

    /// The name as iptables writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Interface {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > INTERFACE_NAME_MAX {
            return Err("names of interfaces have 1 to 15 characters");
        }
        let sound = text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-.@:+".contains(c));
        match sound && !text.trim_end_matches('+').contains('+') && text != "+" {
            true => Ok(Self(text.to_owned())),
            false => Err("write names of interfaces, with commas between them"),
        }
    }
}

/// A range of addresses, with the address as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

impl Cidr {
    pub(crate) const fn v4(address: Ipv4Addr) -> Self {
        Self {
            address: IpAddr::V4(address),
            bits: 32,
        }
    }

    pub(crate) const fn v6(address: Ipv6Addr) -> Self {
        Self {
            address: IpAddr::V6(address),
            bits: 128,
        }
    }

    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The length of the prefix.
    pub fn bits(self) -> u8 {
        self.bits
    }
}

impl FromStr for Cidr {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FIX: &str = "write ranges such as 10.0.0.0/8 or fd00::/8, with commas between them";
        let Some((address, bits)) = text.split_once('/') else {
            return match text.parse::<IpAddr>() {
                Ok(IpAddr::V4(_)) => Err("one address is written with /32"),
                Ok(IpAddr::V6(_)) => Err("one address is written with /128"),
                Err(_) => Err(FIX),
            };
        };
        let address: IpAddr = address.parse().map_err(|_| FIX)?;
        let bits: u8 = bits.parse().map_err(|_| FIX)?;
        match (address, bits) {
            (IpAddr::V4(_), 33..) => Err("a prefix of IPv4 has at most 32 bits"),
            (_, 129..) => Err("a prefix of IPv6 has at most 128 bits"),
            _ => Ok(Self { address, bits }),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Reads a switch as Go does, whose spellings existing manifests use.
pub(crate) fn switch(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write true or false"),
    }
}

/// Reads a duration as Go does, with the units that a timeout may sensibly have: `5s`, `1m30s`, `250ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, &'static str> {
    const FIX: &str = "write a duration such as 5s or 250ms";
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or(FIX)?;
        let number: f64 = rest[..digits].parse().map_err(|_| FIX)?;
        let unit = &rest[digits..];
        let end = unit
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(unit.len());
        let seconds = match &unit[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            _ => return Err(FIX),
        };
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| FIX)?;
        total = total.checked_add(part).ok_or(FIX)?;
        rest = &unit[end..];
    }
    match total.is_zero() {
        true => Err(FIX),
        false => Ok(total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_holds_what_could_end_a_word_or_a_line() {
        for c in (0..=0x2ff).filter_map(char::from_u32) {
            for text in [
                format!("a{c}1"),
                format!("1{c}1"),
                format!("{c}"),
                format!("1.1.1.1{c}/8"),
            ] {
                let taken = [
                    text.parse::<Owner>().map(|owner| owner.to_string()).ok(),
                    text.parse::<Interface>()
                        .map(|name| name.as_str().to_owned())
                        .ok(),
                    text.parse::<Cidr>().map(|range| range.to_string()).ok(),
                ];
                for taken in taken.into_iter().flatten() {
                    assert!(
                        taken
                            .chars()
                            .all(|c| c.is_ascii_alphanumeric() || "_-.@:+/".contains(c)),
                        "{taken:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn ranges_keep_the_address_that_was_written() {
        for text in [
            "10.1.2.3/8",
            "0.0.0.0/0",
            "fd00::1/8",
            "::/0",
            "10.0.0.1/32",
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "/8",
            "10.0.0.0/-1",
            "10.0.0/8",
            "fe80::1%eth0/64",
            "10.0.0.0/8/8",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn ports_have_bounds() {
        assert_eq!("80".parse::<Ports>().unwrap().bounds(), (80, 80));
        assert_eq!("80:90".parse::<Ports>().unwrap().bounds(), (80, 90));
        for text in [
            "",
            ":",
            "80:",
            ":80",
            "0:80",
            "80-90",
            "80:90:100",
            "+",
            "８０",
        ] {
            assert!(text.parse::<Ports>().is_err(), "{text}");
        }
    }

    #[test]
    fn owners_are_numbers_or_names() {
        for text in ["0", "4294967295", "istio-proxy", "_apt", "www.data"] {
            assert_eq!(text.parse::<Owner>().unwrap().to_string(), text);
        }
        let long = "a".repeat(OWNER_NAME_MAX + 1);
        for text in ["", "4294967296", "-1", "1a", "a/b", "a$", long.as_str()] {
            assert!(text.parse::<Owner>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, milliseconds) in [
            ("5s", 5_000),
            ("1m30s", 90_000),
            ("250ms", 250),
            ("0.5s", 500),
            ("1h", 3_600_000),
        ] {
            assert_eq!(
                duration(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in [
            "5",
            "s",
            "5x",
            "-5s",
            "0s",
            "5s5",
            "1.2.3s",
            "99999999999999999999999h",
            "5 s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
