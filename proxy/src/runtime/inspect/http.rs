//! The HTTP inspector: whether plaintext is HTTP, and which version.
//!
//! It judges as Envoy's does, by the HTTP/2 preface or by the first line; what that line asks for
//! is judged later, by the codec.

use ithildin_http1::METHODS;
use ithildin_tls::Protocols;

/// The longest first line that is waited for, in bytes; Envoy's limit.
pub(super) const MAX_FIRST_LINE: usize = 64 * 1024;

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sniffed {
    /// They may become HTTP.
    Incomplete,
    Other,
    /// By the name that filter chains are matched on.
    Http(Protocols<'static>),
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) fn sniff(bytes: &[u8]) -> Sniffed {
    const HTTP_10: Protocols<'_> = Protocols::from_wire(b"\x08http/1.0");
    const HTTP_11: Protocols<'_> = Protocols::from_wire(b"\x08http/1.1");
    const H2C: Protocols<'_> = Protocols::from_wire(b"\x03h2c");
    let Some(&first) = bytes.first() else {
        return Sniffed::Incomplete;
    };
    if bytes.starts_with(PREFACE) {
        return Sniffed::Http(H2C);
    }
    if PREFACE.starts_with(bytes) {
        return Sniffed::Incomplete;
    }
    if !METHODS.iter().any(|method| method[0] == first) {
        return Sniffed::Other;
    }
    let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return match bytes.len() < MAX_FIRST_LINE {
            true => Sniffed::Incomplete,
            false => Sniffed::Other,
        };
    };
    match version(&bytes[..end]) {
        Some(b"HTTP/1.1") => Sniffed::Http(HTTP_11),
        Some(_) => Sniffed::Http(HTTP_10),
        None => Sniffed::Other,
    }
}

/// The version of a request line; empty for the lines of HTTP/0.9, which have none. `None`: it is
/// no request line.
fn version(line: &[u8]) -> Option<&[u8]> {
    let mut words = line
        .split(|byte| matches!(byte, b' ' | b'\t'))
        .filter(|word| !word.is_empty());
    let (method, target) = (words.next()?, words.next()?);
    let version = words.next().unwrap_or_default();
    let well_formed = match version {
        b"" => true,
        [rest @ .., major, b'.', minor] => {
            rest == b"HTTP/" && major.is_ascii_digit() && minor.is_ascii_digit()
        }
        _ => false,
    };
    let known = METHODS.contains(&method) && target.iter().all(|byte| byte.is_ascii_graphic());
    (known && well_formed && words.next().is_none()).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_told_by_its_first_line() {
        use Sniffed::{Http, Incomplete, Other};
        let http = |wire| Http(Protocols::from_wire(wire));
        let (old, new, h2c) = (
            http(b"\x08http/1.0"),
            http(b"\x08http/1.1"),
            http(b"\x03h2c"),
        );
        for (bytes, expected) in [
            (&b""[..], Incomplete),
            (b"G", Incomplete),
            (b"GET / HTTP/1.1", Incomplete),
            (b"GET / HTTP/1.1\r", new),
            (b"GET / HTTP/1.1\nHost", new),
            (b"OPTIONS * HTTP/1.1\r\n", new),
            (b"CONNECT a:443 HTTP/1.1\r\n", new),
            (b"POST http://a/ HTTP/1.0\r\n", old),
            (b"GET /\r\n", old),
            (b"P", Incomplete),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", Incomplete),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", h2c),
            (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Other),
            (b"\x16\x03\x01", Other),
            (b"*1\r\n", Other),
            (b"\r\nGET / HTTP/1.1\r\n", Other),
            (b"get / HTTP/1.1\r\n", Other),
            (b"GETS / HTTP/1.1\r\n", Other),
            (b"GET\r\n", Other),
            (b"GET / HTTP/1.1 x\r\n", Other),
            (b"GET / HTTX/1.1\r\n", Other),
            (b"GET / HTTP/11\r\n", Other),
            (b"GET /\x01 HTTP/1.1\r\n", Other),
            (b"SSH-2.0-OpenSSH_9.7\r\n", Other),
            (b"STARTTLS\r\n", Other),
        ] {
            assert_eq!(sniff(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_waited_for_for_ever() {
        let mut line = b"GET /".to_vec();
        line.resize(MAX_FIRST_LINE, b'a');
        assert_eq!(sniff(&line), Sniffed::Other);
    }
}
