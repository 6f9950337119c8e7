//! How large heads are, for access logs: as Envoy counts them, in names and values, and on the wire of
//! HTTP/1. What HTTP/2 makes of a head is not counted.

use ithildin_http1::head::Fields;

use super::{
    client::Response,
    exchange::Exchange,
    headers::Headers,
    meter::Meter,
    request::{BodyLength, Protocol, Request},
};

/// Of a field that was read: `:` and two more, as Envoy has it.
const READ: u64 = 3;
/// Of a field that is written: `: ` and the end of its line.
const WRITTEN: u64 = 4;

const STATUS: u64 = ":status200".len() as u64;
const CHUNKED: u64 = "transfer-encodingchunked".len() as u64;
const CLOSE: u64 = "connectionclose".len() as u64;

impl Meter<'_> {
    /// The request's head as it came.
    pub(super) fn request_head_is_read(&self, fields: &Fields) {
        self.note_heads(|heads| heads.downstream_received = read(fields));
    }

    /// The request's head on its way to an upstream. The last try counts.
    pub(super) fn request_head_is_written(&self, head: &[u8]) {
        self.note_heads(|heads| heads.upstream_sent = written(head));
    }

    /// The head of the upstream's response.
    pub(super) fn response_head_is_read(&self, fields: &Fields) {
        self.note_heads(|heads| heads.upstream_received = read(fields));
    }

    /// The response told the client that the connection ends.
    pub(super) fn response_closes(&self) {
        self.note_heads(|heads| {
            if heads.response != 0 {
                heads.response += CLOSE;
                heads.downstream_sent += CLOSE + WRITTEN;
            }
        });
    }
}

impl Exchange<'_> {
    pub(super) fn note_response_head(&self, response: &Response) {
        self.meter.note_heads(|heads| {
            let length = length(response.body);
            heads.response = STATUS + fields(&response.headers, 0) + length;
            if self.request.protocol != Protocol::Http2 {
                let is_bare = self.request.is_head() || response.status == 304;
                let framing = match response.body {
                    _ if response.status == 204 => 0,
                    BodyLength::Empty if is_bare => 0,
                    BodyLength::Empty => self::length(BodyLength::Known(0)) + WRITTEN,
                    BodyLength::Known(_) => length + WRITTEN,
                    BodyLength::Unknown => CHUNKED + WRITTEN,
                };
                heads.downstream_sent = fields(&response.headers, WRITTEN) + framing;
            }
        });
    }

    /// What is known of the request's head at its end, before it is logged.
    pub(super) fn note_request_head(&self) {
        self.meter
            .note_heads(|heads| heads.request = request(&self.request));
    }
}

/// As HTTP/2 writes what is asked for.
fn request(request: &Request) -> u64 {
    let pseudo = [
        (":method", &request.method[..]),
        (":authority", &request.authority),
        (":path", &request.path),
        (":scheme", request.scheme.unwrap_or_default().as_bytes()),
    ];
    let pseudo = pseudo.iter().filter(|(_, value)| !value.is_empty());
    let pseudo: usize = pseudo.map(|(name, value)| name.len() + value.len()).sum();
    pseudo as u64 + fields(&request.headers, 0) + length(request.body)
}

fn fields(headers: &Headers, each: u64) -> u64 {
    let fields = headers.iter();
    fields
        .map(|field| (field.name.as_bytes().len() + field.value.len()) as u64 + each)
        .sum()
}

/// Of the name and value of `content-length`, where the length is known.
fn length(body: BodyLength) -> u64 {
    match body {
        BodyLength::Known(length) => {
            let digits = itoa::Buffer::new().format(length).len();
            ("content-length".len() + digits) as u64
        }
        BodyLength::Empty | BodyLength::Unknown => 0,
    }
}

fn read(fields: &Fields) -> u64 {
    let fields = fields.iter();
    fields
        .map(|(_, name, value)| (name.len() + value.len()) as u64 + READ)
        .sum()
}

/// Without its first line and its end.
fn written(head: &[u8]) -> u64 {
    let first = memchr::memchr(b'\n', head).map_or(0, |at| at + 1);
    head.len().saturating_sub(first + "\r\n".len()) as u64
}
