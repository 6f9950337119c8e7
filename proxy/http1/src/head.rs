//! Message heads: the bytes as they came, and where the parts are. Only header names are changed:
//! to lower case.

use bytes::Bytes;
use smallvec::SmallVec;

/// Most messages have fewer headers than this; more go to the heap.
pub(crate) const INLINE_FIELDS: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// How the end of a body is known (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body: nothing may follow the head.
    None,
    /// So many bytes; not zero.
    Length(u64),
    Chunked,
    /// Until the connection ends; responses only.
    Close,
}

/// Headers that a proxy acts on, found once when the head is parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    KeepAlive,
    ProxyConnection,
    Upgrade,
    Te,
    Expect,
    Server,
    Date,
    Via,
    XForwardedFor,
    XForwardedProto,
    XForwardedHost,
    XForwardedPort,
    XForwardedClientCert,
    XRequestId,
    /// Any other `x-envoy-*`.
    XEnvoy,
    ContentType,
    Other,
}

impl Known {
    /// By its lower-case name.
    pub fn of(name: &[u8]) -> Self {
        match name {
            b"te" => Self::Te,
            b"via" => Self::Via,
            b"host" => Self::Host,
            b"date" => Self::Date,
            b"expect" => Self::Expect,
            b"server" => Self::Server,
            b"upgrade" => Self::Upgrade,
            b"connection" => Self::Connection,
            b"keep-alive" => Self::KeepAlive,
            b"content-type" => Self::ContentType,
            b"x-request-id" => Self::XRequestId,
            b"content-length" => Self::ContentLength,
            b"x-forwarded-for" => Self::XForwardedFor,
            b"x-forwarded-host" => Self::XForwardedHost,
            b"x-forwarded-port" => Self::XForwardedPort,
            b"proxy-connection" => Self::ProxyConnection,
            b"x-forwarded-proto" => Self::XForwardedProto,
            b"transfer-encoding" => Self::TransferEncoding,
            b"x-forwarded-client-cert" => Self::XForwardedClientCert,
            name if name.starts_with(b"x-envoy-") => Self::XEnvoy,
            _ => Self::Other,
        }
    }
}

/// One header line. Offsets into the head's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub known: Known,
    /// Named in `Connection`: it does not go further.
    pub hop_by_hop: bool,
    pub(crate) name: (u32, u32),
    pub(crate) value: (u32, u32),
}

/// The fields of one head and the bytes that they point into.
#[derive(Clone, Debug)]
pub struct Fields {
    pub(crate) bytes: Bytes,
    pub(crate) list: SmallVec<[Field; INLINE_FIELDS]>,
    /// The bytes before names were changed to lower case, where somebody asked for them.
    pub(crate) sent: Option<Box<[u8]>>,
}

impl Fields {
    pub fn iter(&self) -> impl Iterator<Item = (&Field, &[u8], &[u8])> {
        self.list
            .iter()
            .map(|field| (field, self.slice(field.name), self.slice(field.value)))
    }

    /// The first value of a header that is known.
    pub fn known(&self, known: Known) -> Option<&[u8]> {
        let field = self.list.iter().find(|field| field.known == known)?;
        Some(self.slice(field.value))
    }

    /// The first value of any header, by its lower-case name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let field = self
            .list
            .iter()
            .find(|field| self.slice(field.name) == name.as_bytes())?;
        Some(self.slice(field.value))
    }

    /// A value as shared bytes.
    pub fn shared(&self, field: &Field) -> Bytes {
        self.bytes
            .slice(field.value.0 as usize..field.value.1 as usize)
    }

    /// A name as shared bytes, in lower case as all names of a head.
    pub fn shared_name(&self, field: &Field) -> Bytes {
        self.bytes
            .slice(field.name.0 as usize..field.name.1 as usize)
    }

    /// All names as they came, hop-by-hop ones too; none unless
    /// [`keeps_names`](crate::Limits::keeps_names) was set.
    pub fn sent_names(&self) -> impl Iterator<Item = &[u8]> {
        let sent = self.sent.iter();
        sent.flat_map(|sent| {
            let names = self.list.iter().map(|field| field.name);
            names.map(|(start, end)| &sent[start as usize..end as usize])
        })
    }

    /// Whether there is no header at all.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn slice(&self, (start, end): (u32, u32)) -> &[u8] {
        &self.bytes[start as usize..end as usize]
    }
}

/// A request head.
#[derive(Clone, Debug)]
pub struct RequestHead {
    pub fields: Fields,
    pub version: Version,
    pub framing: Framing,
    /// Whether the client wants to send another request after this one.
    pub keep_alive: bool,
    /// `Expect: 100-continue`.
    pub expect_continue: bool,
    /// The protocol of `Upgrade`, if `Connection` names it.
    pub(crate) upgrade: Option<(u32, u32)>,
    pub(crate) method: (u32, u32),
    /// As on the request line.
    pub(crate) target: (u32, u32),
    /// From an absolute-form target, else from Host.
    pub(crate) authority: (u32, u32),
    /// Path and query; empty for CONNECT. An absolute form without path is `/`.
    pub(crate) path: Option<(u32, u32)>,
    /// `https` or `http`, where an absolute-form target says so.
    pub scheme: Option<&'static str>,
}

impl RequestHead {
    pub fn method(&self) -> &[u8] {
        self.fields.slice(self.method)
    }

    pub fn target(&self) -> &[u8] {
        self.fields.slice(self.target)
    }

    /// Empty only where it [may be](crate::Limits::host_is_optional): else a request without one is
    /// refused.
    pub fn authority(&self) -> &[u8] {
        self.fields.slice(self.authority)
    }

    pub fn path(&self) -> &[u8] {
        self.path.map_or(b"/", |range| self.fields.slice(range))
    }

    /// A part of this head, such as [`path`](Self::path), as shared bytes.
    pub fn shared(&self, part: &[u8]) -> Bytes {
        match part {
            b"" => Bytes::new(),
            b"/" => Bytes::from_static(b"/"),
            part => self.fields.bytes.slice_ref(part),
        }
    }

    pub fn is_connect(&self) -> bool {
        self.method() == b"CONNECT"
    }

    pub fn is_head(&self) -> bool {
        self.method() == b"HEAD"
    }

    /// The protocol that the client wants to change to.
    pub fn upgrade(&self) -> Option<&[u8]> {
        self.upgrade.map(|range| self.fields.slice(range))
    }
}

/// A response head.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    pub fields: Fields,
    pub version: Version,
    pub status: u16,
    pub framing: Framing,
    /// `Content-Length`, also where no body follows: the answer to HEAD, and 304.
    pub length: Option<u64>,
    /// Whether the server takes another request on the connection.
    pub keep_alive: bool,
    pub(crate) upgrade: bool,
    pub(crate) reason: (u32, u32),
}

impl ResponseHead {
    pub fn reason(&self) -> &[u8] {
        self.fields.slice(self.reason)
    }

    /// 1xx other than 101: another head follows.
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// 101 with `Connection: upgrade`.
    pub fn is_upgrade(&self) -> bool {
        self.status == 101 && self.upgrade
    }
}
