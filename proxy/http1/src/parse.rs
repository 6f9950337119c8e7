//! Heads from bytes: httparse finds the lines, this module decides what they mean.

use std::mem::MaybeUninit;

use bytes::{Buf, BytesMut};
use smallvec::SmallVec;

use crate::{
    error::ParseError,
    head::{Field, Fields, Framing, INLINE_FIELDS, Known, RequestHead, ResponseHead, Version},
};

/// The most header lines that can be parsed: no more can be configured.
pub const MAX_FIELDS: usize = 256;

/// Bounds of one head.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the whole head.
    pub head: usize,
    /// Header lines.
    pub fields: usize,
}

impl Default for Limits {
    /// Envoy's: 60 KiB (`max_request_headers_kb`) and 100 (`max_headers_count`).
    fn default() -> Self {
        Self {
            head: 60 * 1024,
            fields: 100,
        }
    }
}

/// Takes one request head off the front of `buffer`; `None` if it is not all there yet.
///
/// # Errors
/// The connection cannot be used any more.
pub fn parse_request(
    buffer: &mut BytesMut,
    limits: Limits,
) -> Result<Option<RequestHead>, ParseError> {
    skip_empty_lines(buffer);
    if is_unfinished(buffer) {
        return incomplete(buffer, limits);
    }
    let mut lines = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let status = request
        .parse_with_uninit_headers(buffer, &mut lines)
        .map_err(|error| match error {
            // httparse says so of any third word.
            httparse::Error::Version if !names_a_version(buffer) => ParseError::Malformed,
            error => refusal(error),
        })?;
    let httparse::Status::Complete(length) = status else {
        return incomplete(buffer, limits);
    };
    check_size(&buffer[..length], request.headers.len(), limits)?;
    let at = Offsets::new(buffer);
    let method = at.of(request.method.unwrap_or_default().as_bytes());
    let target = at.of(request.path.unwrap_or_default().as_bytes());
    let version = version(request.version)?;
    let list = at.fields(request.headers);
    let fields = take_head(buffer, length, list);
    finish_request(fields, version, method, target).map(Some)
}

/// Takes one response head off the front of `buffer`; `None` if it is not all there yet. The
/// method of the request decides whether a body follows.
///
/// # Errors
/// The connection cannot be used any more.
pub fn parse_response(
    buffer: &mut BytesMut,
    limits: Limits,
    request_method: &[u8],
) -> Result<Option<ResponseHead>, ParseError> {
    if is_unfinished(buffer) {
        return incomplete(buffer, limits);
    }
    let mut lines = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, buffer, &mut lines)
        .map_err(refusal)?;
    let httparse::Status::Complete(length) = status else {
        return incomplete(buffer, limits);
    };
    check_size(&buffer[..length], response.headers.len(), limits)?;
    let at = Offsets::new(buffer);
    let reason = at.of(response.reason.unwrap_or_default().as_bytes());
    let version = version(response.version)?;
    let status = response.code.ok_or(ParseError::Malformed)?;
    let list = at.fields(response.headers);
    let fields = take_head(buffer, length, list);
    finish_response(fields, version, status, reason, request_method).map(Some)
}

/// Above this size a head is parsed only once its end is there, so that one that comes byte by byte
/// does not cost the square of its length. Below it, what is malformed is refused at once.
const PARSE_PARTIAL_BELOW: usize = 4 * 1024;

fn is_unfinished(buffer: &[u8]) -> bool {
    buffer.len() > PARSE_PARTIAL_BELOW && memchr::memmem::find(buffer, b"\r\n\r\n").is_none()
}

/// A client may send empty lines after a body (RFC 9112, section 2.2).
fn skip_empty_lines(buffer: &mut BytesMut) {
    while buffer.starts_with(b"\r\n") {
        buffer.advance(2);
    }
}

fn refusal(error: httparse::Error) -> ParseError {
    match error {
        httparse::Error::TooManyHeaders => ParseError::TooManyHeaders,
        httparse::Error::Version => ParseError::Version,
        httparse::Error::HeaderValue => ParseError::HeaderValue,
        _ => ParseError::Malformed,
    }
}

/// Whether the request line is three words, the last one `HTTP/` and two digits.
fn names_a_version(head: &[u8]) -> bool {
    let end = memchr::memchr(b'\r', head).unwrap_or(head.len());
    let mut words = head[..end].split(|b| *b == b' ').skip(2);
    let version = words.next().and_then(|word| word.strip_prefix(b"HTTP/"));
    words.next().is_none()
        && matches!(version, Some([major, b'.', minor])
            if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// Splits the head off, its names in lower case: that is how they go on, in either protocol.
fn take_head(
    buffer: &mut BytesMut,
    length: usize,
    mut list: SmallVec<[Field; INLINE_FIELDS]>,
) -> Fields {
    let mut bytes = buffer.split_to(length);
    for field in &mut list {
        let name = &mut bytes[field.name.0 as usize..field.name.1 as usize];
        name.make_ascii_lowercase();
        field.known = Known::of(name);
    }
    Fields {
        bytes: bytes.freeze(),
        list,
    }
}

fn incomplete<T>(buffer: &BytesMut, limits: Limits) -> Result<Option<T>, ParseError> {
    if buffer.len() > limits.head {
        return Err(ParseError::HeadTooLarge);
    }
    check_line_ends(buffer)?;
    Ok(None)
}

fn check_size(head: &[u8], fields: usize, limits: Limits) -> Result<(), ParseError> {
    if head.len() > limits.head {
        return Err(ParseError::HeadTooLarge);
    }
    if fields > limits.fields {
        return Err(ParseError::TooManyHeaders);
    }
    check_line_ends(head)
}

/// httparse takes LF alone as a line end; a peer that does not would see other lines than we do.
fn check_line_ends(head: &[u8]) -> Result<(), ParseError> {
    let bare = |at: usize| at == 0 || head[at - 1] != b'\r';
    if memchr::memchr_iter(b'\n', head).any(bare) {
        return Err(ParseError::BareLf);
    }
    Ok(())
}

fn version(minor: Option<u8>) -> Result<Version, ParseError> {
    match minor {
        Some(0) => Ok(Version::Http10),
        Some(1) => Ok(Version::Http11),
        _ => Err(ParseError::Version),
    }
}

/// Turns slices of the buffer into offsets, which survive that it is split off.
struct Offsets {
    base: usize,
}

impl Offsets {
    fn new(buffer: &[u8]) -> Self {
        Self {
            base: buffer.as_ptr() as usize,
        }
    }

    /// Heads are far below 4 GiB: [`Limits`] has been checked.
    fn of(&self, part: &[u8]) -> (u32, u32) {
        if part.is_empty() {
            return (0, 0);
        }
        let start = part.as_ptr() as usize - self.base;
        (start as u32, (start + part.len()) as u32)
    }

    fn fields(&self, headers: &[httparse::Header<'_>]) -> SmallVec<[Field; INLINE_FIELDS]> {
        headers
            .iter()
            .map(|header| Field {
                known: Known::Other,
                hop_by_hop: false,
                name: self.of(header.name.as_bytes()),
                value: self.of(header.value),
            })
            .collect()
    }
}

fn finish_request(
    mut fields: Fields,
    version: Version,
    method: (u32, u32),
    target: (u32, u32),
) -> Result<RequestHead, ParseError> {
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
    let target_parts = split_target(&fields, method, target)?;
    let authority = match (target_parts.authority, facts.host) {
        (_, HostField::Several) => return Err(ParseError::SeveralHosts),
        (_, HostField::Missing) if version == Version::Http11 => return Err(ParseError::NoHost),
        (Some(authority), _) => authority,
        (None, HostField::One(host)) => host,
        (None, HostField::Missing) => return Err(ParseError::NoHost),
    };
    if !is_authority(fields.slice(authority)) {
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

fn finish_response(
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

struct Target {
    authority: Option<(u32, u32)>,
    path: Option<(u32, u32)>,
    scheme: Option<&'static str>,
}

/// The four forms of RFC 9112, section 3.2.
fn split_target(
    fields: &Fields,
    method: (u32, u32),
    (start, end): (u32, u32),
) -> Result<Target, ParseError> {
    let target = fields.slice((start, end));
    let method = fields.slice(method);
    // Bytes above ASCII belong percent-encoded; peers disagree on what they mean raw.
    if !target.iter().all(u8::is_ascii_graphic) {
        return Err(ParseError::Target);
    }
    // Never sent (RFC 3986, section 3.5): peers disagree on whether it is a part of the path.
    if memchr::memchr(b'#', target).is_some() {
        return Err(ParseError::Fragment);
    }
    if method == b"CONNECT" {
        let has_port = target.rsplit(|b| *b == b':').next().is_some_and(|port| {
            port.len() < target.len() && !port.is_empty() && port.iter().all(u8::is_ascii_digit)
        });
        return if has_port {
            Ok(Target {
                authority: Some((start, end)),
                path: None,
                scheme: None,
            })
        } else {
            Err(ParseError::Target)
        };
    }
    if target.first() == Some(&b'/') || (target == b"*" && method == b"OPTIONS") {
        return Ok(Target {
            authority: None,
            path: Some((start, end)),
            scheme: None,
        });
    }
    let (scheme, prefix) = if has_prefix(target, b"http://") {
        ("http", 7)
    } else if has_prefix(target, b"https://") {
        ("https", 8)
    } else if memchr::memmem::find(target, b"://").is_some() {
        return Err(ParseError::Scheme);
    } else if target == b"*" {
        return Err(ParseError::Target);
    } else {
        return Err(ParseError::Malformed);
    };
    let rest = &target[prefix..];
    let length = rest
        .iter()
        .position(|b| matches!(b, b'/' | b'?'))
        .unwrap_or(rest.len());
    let authority_end = start + (prefix + length) as u32;
    match rest.get(length) {
        _ if length == 0 => Err(ParseError::Target),
        // A query without a path has no origin form of its own.
        Some(b'?') => Err(ParseError::Target),
        next => Ok(Target {
            authority: Some((start + prefix as u32, authority_end)),
            path: next.map(|_| (authority_end, end)),
            scheme: Some(scheme),
        }),
    }
}

fn has_prefix(text: &[u8], prefix: &[u8]) -> bool {
    text.len() >= prefix.len() && text[..prefix.len()].eq_ignore_ascii_case(prefix)
}

/// `uri-host [":" port]` without user information.
fn is_authority(authority: &[u8]) -> bool {
    authority
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(b))
}

#[cfg(test)]
mod tests;
