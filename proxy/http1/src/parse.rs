//! Heads from bytes: httparse finds the lines, [`meaning`] and [`target`] decide what they mean.

mod meaning;
mod target;

use std::mem::MaybeUninit;

use bytes::{Buf, BytesMut};
use smallvec::SmallVec;

use self::meaning::{finish_request, finish_response};
pub use self::{
    meaning::METHODS,
    target::{check_target, is_authority},
};
use crate::{
    error::ParseError,
    head::{Field, Fields, INLINE_FIELDS, Known, RequestHead, ResponseHead, Version},
};

/// The most header lines that can be parsed: no more can be configured.
pub const MAX_FIELDS: usize = 256;

/// Bounds of one head, and what else its reader wants of it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the whole head.
    pub head: usize,
    /// Header lines.
    pub fields: usize,
    /// Whether a request of HTTP/1.0 may name no host.
    pub host_is_optional: bool,
    /// Whether a request may have a method that is not among the common ones.
    pub custom_methods: bool,
    /// Whether names are also kept as they came, for [`Fields::sent_names`].
    pub keeps_names: bool,
    /// Whether a target's fragment is left out; else such a request is refused.
    pub strips_fragment: bool,
}

impl Default for Limits {
    /// Envoy's: 60 KiB (`max_request_headers_kb`) and 100 (`max_headers_count`).
    fn default() -> Self {
        Self {
            head: 60 * 1024,
            fields: 100,
            host_is_optional: false,
            custom_methods: false,
            keeps_names: false,
            strips_fragment: false,
        }
    }
}

/// How far a head that comes in parts was looked at. One for each head.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of the buffer that hold no end of the head, and no line end that is refused.
    seen: usize,
}

/// Takes one request head off the front of `buffer`; `None` if it is not all there yet.
///
/// # Errors
/// The connection cannot be used any more.
pub fn parse_request(
    buffer: &mut BytesMut,
    limits: Limits,
    progress: &mut Progress,
) -> Result<Option<RequestHead>, ParseError> {
    skip_empty_lines(buffer);
    if is_unfinished(buffer, progress) {
        return incomplete(buffer, limits, progress);
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
        return incomplete(buffer, limits, progress);
    };
    *progress = Progress::default();
    check_size(&buffer[..length], request.headers.len(), limits)?;
    let at = Offsets::new(buffer);
    let method = at.of(request.method.unwrap_or_default().as_bytes());
    let target = at.of(request.path.unwrap_or_default().as_bytes());
    let version = version(request.version)?;
    let list = at.fields(request.headers);
    let fields = take_head(buffer, length, list, limits);
    finish_request(fields, version, method, target, limits).map(Some)
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
    progress: &mut Progress,
) -> Result<Option<ResponseHead>, ParseError> {
    if is_unfinished(buffer, progress) {
        return incomplete(buffer, limits, progress);
    }
    let mut lines = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, buffer, &mut lines)
        .map_err(refusal)?;
    let httparse::Status::Complete(length) = status else {
        return incomplete(buffer, limits, progress);
    };
    *progress = Progress::default();
    check_size(&buffer[..length], response.headers.len(), limits)?;
    let at = Offsets::new(buffer);
    let reason = at.of(response.reason.unwrap_or_default().as_bytes());
    let version = version(response.version)?;
    let status = response.code.ok_or(ParseError::Malformed)?;
    let list = at.fields(response.headers);
    let fields = take_head(buffer, length, list, limits);
    finish_response(fields, version, status, reason, request_method).map(Some)
}

/// Above this size a head is parsed only once its end is there, so that one that comes byte by byte
/// does not cost the square of its length. Below it, what is malformed is refused at once.
const PARSE_PARTIAL_BELOW: usize = 4 * 1024;

fn is_unfinished(buffer: &[u8], progress: &Progress) -> bool {
    const END: &[u8] = b"\r\n\r\n";
    let start = progress.seen.saturating_sub(END.len() - 1);
    buffer.len() > PARSE_PARTIAL_BELOW
        && memchr::memmem::find(&buffer[start.min(buffer.len())..], END).is_none()
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
    limits: Limits,
) -> Fields {
    let mut bytes = buffer.split_to(length);
    let sent = limits.keeps_names.then(|| Box::from(&bytes[..]));
    for field in &mut list {
        let name = &mut bytes[field.name.0 as usize..field.name.1 as usize];
        name.make_ascii_lowercase();
        field.known = Known::of(name);
    }
    Fields {
        bytes: bytes.freeze(),
        list,
        sent,
    }
}

fn incomplete<T>(
    buffer: &[u8],
    limits: Limits,
    progress: &mut Progress,
) -> Result<Option<T>, ParseError> {
    if buffer.len() > limits.head {
        return Err(ParseError::HeadTooLarge);
    }
    check_line_ends(buffer, progress.seen)?;
    progress.seen = buffer.len();
    Ok(None)
}

fn check_size(head: &[u8], fields: usize, limits: Limits) -> Result<(), ParseError> {
    if head.len() > limits.head {
        return Err(ParseError::HeadTooLarge);
    }
    if fields > limits.fields {
        return Err(ParseError::TooManyHeaders);
    }
    check_line_ends(head, 0)
}

/// httparse takes LF alone as a line end; a peer that does not would see other lines than we do.
/// What is before `seen` was checked.
fn check_line_ends(head: &[u8], seen: usize) -> Result<(), ParseError> {
    let start = seen.min(head.len());
    let bare = |at: usize| !head[..start + at].ends_with(b"\r");
    if memchr::memchr_iter(b'\n', &head[start..]).any(bare) {
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

#[cfg(test)]
mod tests;
