//! What a ClientHello says in the clear (RFC 8446, section 4.1.2), read without answering it.
//!
//! It is read here and not by rustls because what only passes through must not have to please
//! rustls: names that are no DNS names, versions and parameters that we would not accept.

use std::borrow::Cow;

/// The largest ClientHello that is read, in bytes; Envoy's limit. Post-quantum ones take 1.5 KB.
pub const MAX_CLIENT_HELLO: usize = 16 * 1024;

/// What the first bytes of a connection are.
#[derive(Debug)]
pub enum FirstBytes {
    /// They may become a ClientHello.
    Incomplete,
    /// No ClientHello, or one that is malformed.
    Other,
    Tls(ClientHello),
}

/// What is read of a ClientHello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    server_name: Option<Box<str>>,
    alpn: Box<[u8]>,
}

/// Protocol names, each after its length, as ALPN lists them (RFC 7301, section 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protocols<'a>(&'a [u8]);

impl ClientHello {
    /// Reads from the first byte of a connection on.
    pub fn read(raw: &[u8]) -> FirstBytes {
        if !may_be_client_hello(raw) {
            return FirstBytes::Other;
        }
        match message(raw) {
            Ok(None) => FirstBytes::Incomplete,
            Ok(Some(body)) => Self::parse(&body).map_or(FirstBytes::Other, FirstBytes::Tls),
            Err(Malformed) => FirstBytes::Other,
        }
    }

    /// SNI, lower-case. It may be any text, not only a DNS name.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The offered protocols in order.
    pub fn alpn(&self) -> Protocols<'_> {
        Protocols(&self.alpn)
    }

    fn parse(body: &[u8]) -> Option<Self> {
        const SERVER_NAME: u16 = 0;
        const ALPN: u16 = 16;
        let mut body = Reader(body);
        let (_version, _random) = (body.u16()?, body.take(32)?);
        let (_session, _suites, _compression) = (body.list8()?, body.list16()?, body.list8()?);
        let mut hello = Self::default();
        if body.0.is_empty() {
            // The extensions are optional before TLS 1.3.
            return Some(hello);
        }
        let mut extensions = Reader(body.list16()?);
        while !extensions.0.is_empty() {
            let (kind, data) = (extensions.u16()?, extensions.list16()?);
            match kind {
                SERVER_NAME => hello.server_name = Some(server_name(data)?),
                ALPN => hello.alpn = protocols(data).unwrap_or_default().into(),
                _ => {}
            }
        }
        body.0.is_empty().then_some(hello)
    }
}

impl<'a> Protocols<'a> {
    /// A list that is known to be well-formed: `b"\x08http/1.1"`. What is not so ends it.
    pub const fn from_wire(list: &'a [u8]) -> Self {
        Self(list)
    }

    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        let mut list = Reader(self.0);
        std::iter::from_fn(move || list.list8())
    }
}

/// Whether these first bytes can be those of a handshake record with a ClientHello in it.
fn may_be_client_hello(raw: &[u8]) -> bool {
    const VERSION_MAJOR: u8 = 3;
    [(0, HANDSHAKE), (1, VERSION_MAJOR), (5, CLIENT_HELLO)]
        .into_iter()
        .all(|(index, expected)| raw.get(index).is_none_or(|byte| *byte == expected))
}

/// Types of a record and of a handshake message.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

struct Malformed;

/// The first handshake message without its header; `None` while it is not complete. It may be
/// split over records anywhere (RFC 8446, section 5.1).
fn message(raw: &[u8]) -> Result<Option<Cow<'_, [u8]>>, Malformed> {
    let mut records = Reader(raw);
    let mut fragments = Cow::Borrowed(&[][..]);
    loop {
        if let Some(body) = body_of(&fragments)? {
            let end = 4 + body;
            return Ok(Some(match fragments {
                Cow::Borrowed(fragments) => Cow::Borrowed(&fragments[4..end]),
                Cow::Owned(mut fragments) => {
                    fragments.truncate(end);
                    fragments.drain(..4);
                    Cow::Owned(fragments)
                }
            }));
        }
        let Some(fragment) = record(&mut records)? else {
            return Ok(None);
        };
        if fragments.is_empty() {
            fragments = Cow::Borrowed(fragment);
        } else {
            fragments.to_mut().extend_from_slice(fragment);
        }
    }
}

/// The length of the message's body, once all of it is there.
fn body_of(message: &[u8]) -> Result<Option<usize>, Malformed> {
    let &[kind, high, middle, low, ref rest @ ..] = message else {
        return Ok(None);
    };
    if kind != CLIENT_HELLO {
        return Err(Malformed);
    }
    let length = usize::try_from(u32::from_be_bytes([0, high, middle, low]));
    let length = length.map_err(|_| Malformed)?;
    Ok((rest.len() >= length).then_some(length))
}

/// The next record's content; `None` while it is not complete.
fn record<'a>(records: &mut Reader<'a>) -> Result<Option<&'a [u8]>, Malformed> {
    // RFC 8446, section 5.1.
    const LONGEST: usize = 1 << 14;
    let &[kind, _, _, high, low, ..] = records.0 else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if kind != HANDSHAKE || length == 0 || length > LONGEST {
        return Err(Malformed);
    }
    let content = records.0.get(5..5 + length);
    if content.is_some() {
        records.0 = &records.0[5 + length..];
    }
    Ok(content)
}

/// The one name of a `server_name` extension (RFC 6066, section 3).
fn server_name(extension: &[u8]) -> Option<Box<str>> {
    const HOST_NAME: u8 = 0;
    const LONGEST: usize = 255;
    let mut extension = Reader(extension);
    let mut list = Reader(extension.list16()?);
    let (kind, name) = (list.u8()?, list.list16()?);
    let whole = extension.0.is_empty() && list.0.is_empty() && kind == HOST_NAME;
    // It is written into logs as it is, and must not end a line there.
    let is_text = !name.iter().any(u8::is_ascii_control);
    if !whole || name.is_empty() || name.len() > LONGEST || !is_text {
        return None;
    }
    let mut name: Box<str> = std::str::from_utf8(name).ok()?.into();
    name.make_ascii_lowercase();
    Some(name)
}

fn protocols(extension: &[u8]) -> Option<&[u8]> {
    let mut extension = Reader(extension);
    let list = extension.list16()?;
    let mut rest = Reader(list);
    while !rest.0.is_empty() {
        rest.list8().filter(|protocol| !protocol.is_empty())?;
    }
    extension.0.is_empty().then_some(list)
}

/// Takes from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Bytes after their length in one byte.
    fn list8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// Bytes after their length in two bytes.
    fn list16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}
