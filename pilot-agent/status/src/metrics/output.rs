//! The stream that a scraper reads, compressed if it likes.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, header::ACCEPT_ENCODING};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

/// Compressed bytes are sent in pieces of at least this size.
const PIECE: usize = 16 << 10;

/// The writing end.
pub(super) struct Output {
    chunks: mpsc::Sender<Bytes>,
    gzip: Option<GzEncoder<Vec<u8>>>,
    /// A scraper that has not read everything by then is given up.
    deadline: Instant,
}

/// The scraper is gone, or does not read.
#[derive(Debug, thiserror::Error)]
#[error("the scraper is gone or does not read")]
pub(super) struct Gone;

impl Output {
    pub(super) fn new(chunks: mpsc::Sender<Bytes>, gzip: bool, deadline: Instant) -> Self {
        Self {
            chunks,
            gzip: gzip.then(|| GzEncoder::new(Vec::new(), Compression::fast())),
            deadline,
        }
    }

    pub(super) async fn write(&mut self, text: Vec<u8>) -> Result<(), Gone> {
        let Some(gzip) = &mut self.gzip else {
            return self.send(text).await;
        };
        in_memory(gzip.write_all(&text));
        if gzip.get_ref().len() < PIECE {
            return Ok(());
        }
        let piece = std::mem::take(gzip.get_mut());
        self.send(piece).await
    }

    /// Nothing more comes.
    pub(super) async fn finish(mut self) -> Result<(), Gone> {
        match self.gzip.take() {
            Some(gzip) => self.send(in_memory(gzip.finish())).await,
            None => Ok(()),
        }
    }

    async fn send(&self, piece: Vec<u8>) -> Result<(), Gone> {
        if piece.is_empty() {
            return Ok(());
        }
        let sent = timeout_at(self.deadline, self.chunks.send(piece.into())).await;
        sent.map_err(|_| Gone)?.map_err(|_| Gone)
    }
}

fn in_memory<T>(written: io::Result<T>) -> T {
    written.expect("writing to memory does not fail")
}

/// Whether the client takes gzip.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| {
            let mut parts = item.split(';').map(str::trim);
            let coding = parts.next().unwrap_or_default();
            let refused = parts
                .filter_map(|part| part.strip_prefix("q="))
                .any(|quality| quality.parse::<f32>().is_ok_and(|quality| quality == 0.0));
            coding.eq_ignore_ascii_case("gzip") && !refused
        })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn who_takes_gzip() {
        for (accept, expected) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000", false),
            ("br, zstd", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(accept));
            assert_eq!(takes_gzip(&headers), expected, "{accept}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
