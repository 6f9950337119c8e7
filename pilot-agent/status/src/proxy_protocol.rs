//! The header of the PROXY protocol, which some load balancers send before a health check
//! (haproxy.org, proxy-protocol.txt, versions 1 and 2).
//!
//! It is read and forgotten: readiness is the same for everybody.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest line of version 1, with its end.
const MAX_LINE: usize = 107;
/// How version 2 begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Addresses and extensions of version 2; the standard's own example is the largest in use.
const MAX_EXTENSIONS: u64 = 4096;

/// Reads the header and nothing behind it.
///
/// # Errors
/// Anything else than a header.
pub(crate) async fn strip(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut begin = [0; 6];
    stream.read_exact(&mut begin).await?;
    if &begin == b"PROXY " {
        return strip_line(stream).await;
    }
    let mut rest = [0; 10];
    stream.read_exact(&mut rest).await?;
    let header = [&begin[..], &rest].concat();
    let length = u64::from(u16::from_be_bytes([rest[8], rest[9]]));
    // Version 2, of any command.
    if !header.starts_with(SIGNATURE) || header[12] >> 4 != 2 || length > MAX_EXTENSIONS {
        return Err(invalid());
    }
    let skipped = tokio::io::copy(&mut stream.take(length), &mut tokio::io::sink()).await?;
    match skipped == length {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

async fn strip_line(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    for _ in 0..MAX_LINE {
        if stream.read_u8().await? == b'\n' {
            return Ok(());
        }
    }
    Err(invalid())
}

fn invalid() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "no header of the PROXY protocol",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn rest(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut stream = bytes;
        strip(&mut stream).await.ok()?;
        Some(stream.to_vec())
    }

    #[tokio::test]
    async fn headers_are_read_and_nothing_behind_them() {
        let v2 = |version: u8, length: u16, extensions: usize| {
            let mut header = SIGNATURE.to_vec();
            header.extend([version << 4 | 1, 0x11]);
            header.extend(length.to_be_bytes());
            header.extend(std::iter::repeat_n(7, extensions));
            header.extend(b"GET /");
            header
        };
        let long = format!("PROXY {}\r\nGET /", "x".repeat(200));
        for (bytes, is_header) in [
            (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET /".to_vec(), true),
            (b"PROXY UNKNOWN\r\nGET /".to_vec(), true),
            (v2(2, 12, 12), true),
            (v2(2, 0, 0), true),
            (v2(1, 12, 12), false),
            (v2(2, 5000, 5000), false),
            (v2(2, 50, 3), false),
            (b"GET /healthz/ready HTTP/1.1\r\n\r\n".to_vec(), false),
            (long.into_bytes(), false),
            (b"PROXY TCP4".to_vec(), false),
            (b"".to_vec(), false),
        ] {
            let expected = is_header.then(|| b"GET /".to_vec());
            let shown = String::from_utf8_lossy(&bytes).into_owned();
            assert_eq!(rest(&bytes).await, expected, "{shown}");
        }
    }
}
