//! The hash of a request, for clusters that balance by it.

use std::{fmt::Write as _, net::IpAddr};

use bytes::Bytes;

use super::request::Request;
use crate::{
    config::hash_policy::{HashOn, HashPolicy},
    hashing::xxh64,
    worker::Connection,
};

/// What the policies of a route make of a request.
#[derive(Debug, Default)]
pub(super) struct Hashed {
    /// `None`: no policy applied, and any host will do.
    pub(super) hash: Option<u64>,
    /// `Set-Cookie` of the response, so that the client's next request finds the same host.
    pub(super) cookie: Option<Bytes>,
}

/// As Envoy combines them: each further hash after a rotation of what was there.
pub(super) fn hash(
    policies: &[HashPolicy],
    request: &Request,
    connection: &Connection,
    client: IpAddr,
) -> Hashed {
    let mut hashed = Hashed::default();
    for policy in policies {
        let new = match &policy.on {
            HashOn::Header(name) => request
                .headers
                .joined(name.as_str())
                .map(|value| xxh64(&value, 0)),
            HashOn::Cookie {
                name,
                ttl,
                attributes,
            } => match cookie(request, name) {
                Some(value) => Some(xxh64(&value, 0)),
                None if ttl.is_some() => {
                    let value = new_value(client, connection);
                    let text = format!("{name}=\"{value}\"{attributes}");
                    hashed.cookie = Some(text.into());
                    Some(xxh64(value.as_bytes(), 0))
                }
                None => None,
            },
            HashOn::SourceIp => Some(xxh64(client.to_string().as_bytes(), 0)),
            HashOn::QueryParameter(name) => parameter(request, name).map(|value| xxh64(value, 0)),
        };
        if let Some(new) = new {
            let before = hashed.hash.map_or(0, |hash| hash.rotate_left(1));
            hashed.hash = Some(before ^ new);
        }
        if policy.terminal && hashed.hash.is_some() {
            break;
        }
    }
    hashed
}

/// A value that is the same for the same connection.
fn new_value(client: IpAddr, connection: &Connection) -> String {
    let ends = format!("{client}{}{}", connection.remote, connection.local);
    let mut value = String::new();
    write!(value, "{:016x}", xxh64(ends.as_bytes(), 0)).expect("writing to a String does not fail");
    value
}

fn cookie(request: &Request, name: &str) -> Option<Vec<u8>> {
    let fields = request.headers.all("cookie");
    let pairs = fields.flat_map(|value| value.split(|byte| *byte == b';'));
    let mut pairs = pairs.map(<[u8]>::trim_ascii);
    let value = pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    let value = match value {
        [b'"', inner @ .., b'"'] => inner,
        plain => plain,
    };
    Some(value.to_vec())
}

fn parameter<'r>(request: &'r Request, name: &str) -> Option<&'r [u8]> {
    let mut pairs = request.query()?.split(|byte| *byte == b'&');
    pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}
