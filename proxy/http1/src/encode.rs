//! Messages to bytes. Framing headers come from a [`Framing`], never from a peer's header.

use bytes::{BufMut, BytesMut};

use crate::head::{Framing, Version};

/// Writes `METHOD target HTTP/1.1`.
pub fn request_line(out: &mut BytesMut, method: &[u8], target: &[u8]) {
    out.reserve(method.len() + target.len() + 12);
    out.put_slice(method);
    out.put_u8(b' ');
    out.put_slice(target);
    out.put_slice(b" HTTP/1.1\r\n");
}

/// Writes `HTTP/1.1 status reason`, with the usual reason: nobody may rely on another one (RFC 9112,
/// section 4).
pub fn status_line(out: &mut BytesMut, version: Version, status: u16) {
    out.put_slice(match version {
        Version::Http10 => b"HTTP/1.0 ",
        Version::Http11 => b"HTTP/1.1 ",
    });
    if status == 200 {
        out.put_slice(b"200 OK\r\n");
        return;
    }
    out.put_slice(itoa::Buffer::new().format(status).as_bytes());
    out.put_u8(b' ');
    let usual = http::StatusCode::from_u16(status).ok();
    let usual = usual.and_then(|status| status.canonical_reason());
    out.put_slice(usual.unwrap_or("Unknown").as_bytes());
    out.put_slice(b"\r\n");
}

/// Writes one header. The caller vouches that neither part has a line break: both were parsed, or
/// are `http` types.
pub fn field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    debug_assert!(!value.contains(&b'\n') && !value.contains(&b'\r'));
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// Writes the header that says how the body ends; nothing for [`Framing::Close`] and
/// [`Framing::None`].
pub fn framing(out: &mut BytesMut, framing: Framing) {
    match framing {
        Framing::Length(length) => {
            out.put_slice(b"content-length: ");
            out.put_slice(itoa::Buffer::new().format(length).as_bytes());
            out.put_slice(b"\r\n");
        }
        Framing::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
        Framing::None | Framing::Close => {}
    }
}

/// Ends a head.
pub fn end_of_head(out: &mut BytesMut) {
    out.put_slice(b"\r\n");
}

/// Writes what comes before the data of a chunk; [`CHUNK_END`] comes after it.
pub fn chunk_start(out: &mut BytesMut, length: usize) {
    debug_assert!(length > 0, "an empty chunk ends the body");
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut rest = length;
    while rest > 0 {
        at -= 1;
        digits[at] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
    }
    out.put_slice(&digits[at..]);
    out.put_slice(b"\r\n");
}

/// After the data of each chunk.
pub const CHUNK_END: &[u8] = b"\r\n";
/// The end of a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Ends a chunked body with trailers.
pub fn trailers<'a>(out: &mut BytesMut, fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
    out.put_slice(b"0\r\n");
    for (name, value) in fields {
        field(out, name, value);
    }
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, Progress, parse_request, parse_response};

    #[test]
    fn a_head_reads_back() {
        let mut out = BytesMut::new();
        request_line(&mut out, b"PUT", b"/x");
        field(&mut out, b"host", b"h");
        framing(&mut out, Framing::Length(12));
        end_of_head(&mut out);
        let head = parse_request(&mut out, Limits::default(), &mut Progress::default())
            .unwrap()
            .unwrap();
        assert_eq!(
            (head.method(), head.framing),
            (&b"PUT"[..], Framing::Length(12))
        );

        for (status, text) in [(200, "OK"), (418, "I'm a teapot"), (299, "Unknown")] {
            let mut out = BytesMut::new();
            status_line(&mut out, Version::Http11, status);
            framing(&mut out, Framing::Chunked);
            end_of_head(&mut out);
            let head = parse_response(
                &mut out,
                Limits::default(),
                b"GET",
                &mut Progress::default(),
            )
            .unwrap()
            .unwrap();
            assert_eq!((head.status, head.reason()), (status, text.as_bytes()));
            assert_eq!(head.framing, Framing::Chunked);
        }
    }

    #[test]
    fn chunk_sizes_are_hexadecimal() {
        for (length, text) in [(1, "1\r\n"), (16, "10\r\n"), (65_535, "ffff\r\n")] {
            let mut out = BytesMut::new();
            chunk_start(&mut out, length);
            assert_eq!(out, text);
        }
    }
}
