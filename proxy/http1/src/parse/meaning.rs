//! What the fields of a head mean together: framing, persistence, upgrade, authority.

use smallvec::SmallVec;

use super::{
    Limits,
    target::{is_authority, split_target},
};
use crate::{
    error::ParseError,
    head::{Fields, Framing, Known, RequestHead, ResponseHead, Version},
};

/// The methods that Envoy's codec and its HTTP inspector know, as measured with 1.40. They are
/// case-sensitive: an origin that takes `delete` for DELETE would do what a policy on DELETE
/// forbids.
pub const METHODS: [&[u8]; 34] = [
    b"ACL",
    b"BIND",
    b"CHECKOUT",
    b"CONNECT",
    b"COPY",
    b"DELETE",
    b"GET",
    b"HEAD",
    b"LINK",
    b"LOCK",
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MOVE",
    b"MSEARCH",
    b"NOTIFY",
    b"OPTIONS",
    b"PATCH",
    b"POST",
    b"PROPFIND",
    b"PROPPATCH",
    b"PURGE",
    b"PUT",
    b"REBIND",
    b"REPORT",
    b"SEARCH",
    b"SOURCE",
    b"SUBSCRIBE",
    b"TRACE",
    b"UNBIND",
    b"UNLINK",
    b"UNLOCK",
    b"UNSUBSCRIBE",
];

pub(super) fn finish_request(
    mut fields: Fields,
    version: Version,
    method: (u32, u32),
    target: (u32, u32),
    limits: Limits,
) -> Result<RequestHead, ParseError> {
    if !limits.custom_methods && !METHODS.contains(&fields.slice(method)) {
        return Err(ParseError::Malformed);
    }
    let connection = Connection::read(&mut fields);
    if connection.names_too_much {
        return Err(ParseError::ConnectionNames);
    }
    let facts = Facts::read(&fields)?;
    let framing = match (facts.chunked, facts.length) {
        (true, Some(_)) => return Err(ParseError::LengthAndEncoding),
        (true, None) if version == Version::Http10 => return Err(ParseError::TransferEncoding),
        (true, None) => Framing::Chunked,
        (false, None | Some(0)) => Framing::None,
        (false, Some(length)) => Framing::Length(length),
    };
    let target_parts = split_target(&fields, method, target, limits)?;
    let authority = match (target_parts.authority, facts.host) {
        (_, HostField::Several) => return Err(ParseError::SeveralHosts),
        (_, HostField::Missing) if version == Version::Http11 => return Err(ParseError::NoHost),
        (Some(authority), _) => authority,
        (None, HostField::One(host)) => host,
        (None, HostField::Missing) if limits.host_is_optional => (0, 0),
        (None, HostField::Missing) => return Err(ParseError::NoHost),
    };
    let is_named = authority != (0, 0) || !limits.host_is_optional;
    if is_named && !is_authority(fields.slice(authority)) {
        return Err(ParseError::InvalidHost);
    }
    let keep_alive = match version {
        Version::Http11 => !connection.close,
        Version::Http10 => connection.keep_alive && !connection.close,
    };
    let expect = fields.known(Known::Expect);
    // A server may pass over `Upgrade` (RFC 9110, section 7.8). We do where a body comes before the
    // other protocol, and for h2c, which nobody is left to speak.
    let upgrade = facts.upgrade.filter(|value| {
        connection.upgrade
            && version == Version::Http11
            && framing == Framing::None
            && !fields.slice(*value).eq_ignore_ascii_case(b"h2c")
    });
    Ok(RequestHead {
        expect_continue: version == Version::Http11
            && expect.is_some_and(|e| e.eq_ignore_ascii_case(b"100-continue")),
        version,
        framing,
        keep_alive,
        upgrade,
        method,
        target,
        authority,
        path: target_parts.path,
        scheme: target_parts.scheme,
        fields,
    })
}

pub(super) fn finish_response(
    mut fields: Fields,
    version: Version,
    status: u16,
    reason: (u32, u32),
    request_method: &[u8],
) -> Result<ResponseHead, ParseError> {
    if !(100..1000).contains(&status) {
        return Err(ParseError::Malformed);
    }
    let connection = Connection::read(&mut fields);
    let facts = Facts::read(&fields)?;
    if facts.chunked && facts.length.is_some() {
        return Err(ParseError::LengthAndEncoding);
    }
    if facts.chunked && version == Version::Http10 {
        return Err(ParseError::TransferEncoding);
    }
    // RFC 9110, sections 6.4.1 and 8.6: a body here would be taken for the next response.
    let has_body = facts.chunked || facts.length.is_some_and(|length| length > 0);
    if has_body && (status < 200 || status == 204) {
        return Err(ParseError::BodyNotAllowed);
    }
    let tunnel = request_method == b"CONNECT" && (200..300).contains(&status);
    let bodyless = status < 200 || status == 204 || status == 304 || request_method == b"HEAD";
    let framing = match (bodyless || tunnel, facts.chunked, facts.length) {
        (true, ..) | (false, false, Some(0)) => Framing::None,
        (false, true, _) => Framing::Chunked,
        (false, false, Some(length)) => Framing::Length(length),
        (false, false, None) => Framing::Close,
    };
    let persistent = match version {
        Version::Http11 => !connection.close,
        Version::Http10 => connection.keep_alive && !connection.close,
    };
    Ok(ResponseHead {
        upgrade: connection.upgrade && facts.upgrade.is_some(),
        version,
        status,
        framing,
        length: facts.length,
        keep_alive: persistent && framing != Framing::Close,
        reason,
        fields,
    })
}

/// What `Connection` says.
#[derive(Default)]
struct Connection {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    /// It names what proxies and policies rely on, or more than anybody needs.
    names_too_much: bool,
}

/// `Connection` with as many words or more is refused; Envoy's.
const MAX_CONNECTION_WORDS: usize = 10;

impl Connection {
    /// Also marks the fields that `Connection` names as hop-by-hop.
    fn read(fields: &mut Fields) -> Self {
        let mut connection = Self::default();
        let values: SmallVec<[(u32, u32); 2]> = fields
            .list
            .iter()
            .filter(|field| field.known == Known::Connection)
            .map(|field| field.value)
            .collect();
        let mut words = 0;
        for value in values {
            let value = fields.bytes.slice(value.0 as usize..value.1 as usize);
            for token in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                words += 1;
                if words >= MAX_CONNECTION_WORDS || is_relied_on(token) {
                    connection.names_too_much = true;
                    return connection;
                }
                if token.eq_ignore_ascii_case(b"close") {
                    connection.close = true;
                } else if token.eq_ignore_ascii_case(b"keep-alive") {
                    connection.keep_alive = true;
                } else if token.eq_ignore_ascii_case(b"upgrade") {
                    connection.upgrade = true;
                } else if !token.is_empty() {
                    mark_hop_by_hop(fields, token);
                }
            }
        }
        connection
    }
}

/// A client must not be able to name away where a request came from.
fn is_relied_on(name: &[u8]) -> bool {
    let names = ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
    name.first() == Some(&b':')
        || names
            .iter()
            .any(|it| it.as_bytes().eq_ignore_ascii_case(name))
}

/// Nor what else proxies and policies rely on: such a name is passed over.
fn mark_hop_by_hop(fields: &mut Fields, token: &[u8]) {
    let bytes = fields.bytes.clone();
    for field in &mut fields.list {
        let name = &bytes[field.name.0 as usize..field.name.1 as usize];
        if field.known == Known::Other && name.eq_ignore_ascii_case(token) {
            field.hop_by_hop = true;
        }
    }
}

enum HostField {
    Missing,
    One((u32, u32)),
    Several,
}

/// What the framing, Host and Upgrade fields say, each checked against repetition.
struct Facts {
    host: HostField,
    length: Option<u64>,
    chunked: bool,
    upgrade: Option<(u32, u32)>,
}

impl Facts {
    fn read(fields: &Fields) -> Result<Self, ParseError> {
        let mut facts = Self {
            host: HostField::Missing,
            length: None,
            chunked: false,
            upgrade: None,
        };
        for field in &fields.list {
            let value = fields.slice(field.value);
            match field.known {
                Known::Host => {
                    facts.host = match facts.host {
                        HostField::Missing => HostField::One(field.value),
                        _ => HostField::Several,
                    }
                }
                Known::ContentLength if facts.length.is_some() => {
                    return Err(ParseError::ContentLength);
                }
                Known::ContentLength => facts.length = Some(content_length(value)?),
                Known::TransferEncoding => {
                    if facts.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(ParseError::TransferEncoding);
                    }
                    facts.chunked = true;
                }
                Known::Upgrade => facts.upgrade = Some(field.value),
                _ => {}
            }
        }
        Ok(facts)
    }
}

/// Digits and nothing else: no sign, no list, no space.
fn content_length(value: &[u8]) -> Result<u64, ParseError> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(ParseError::ContentLength);
    }
    std::str::from_utf8(value)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or(ParseError::ContentLength)
}
