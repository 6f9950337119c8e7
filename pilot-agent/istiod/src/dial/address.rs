//! `host:port`, as `discoveryAddress` and `CA_ADDR` say it.

use std::{fmt, net::IpAddr, str::FromStr};

/// istiod's port without TLS.
pub const PLAINTEXT_PORT: u16 = 15010;

/// A host name or IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
}

impl Address {
    /// Whether what is sent there does not leave this host. Of names, `localhost` alone says so.
    pub(super) fn is_loopback(&self) -> bool {
        let ip: Result<IpAddr, _> = self.host.parse();
        ip.map_or(self.host == "localhost", |ip| {
            ip.to_canonical().is_loopback()
        })
    }
}

/// Why a text is not an address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not of the form host:port")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let malformed = || AddressError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(malformed)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(malformed)?,
            None if host.contains(':') => return Err(malformed()),
            None => host,
        };
        let port = port.parse().map_err(|_| malformed())?;
        if host.is_empty() || host.contains(char::is_whitespace) || port == 0 {
            return Err(malformed());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}
