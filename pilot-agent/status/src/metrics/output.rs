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
    encoder: Option<Encoder>,
    /// A scraper that has not read everything by then is given up.
    deadline: Instant,
}

/// The scraper is gone, or does not read.
#[derive(Debug, thiserror::Error)]
#[error("the scraper is gone or does not read")]
pub(super) struct Gone;

impl Output {
    pub(super) fn new(
        chunks: mpsc::Sender<Bytes>,
        coding: Option<Coding>,
        deadline: Instant,
    ) -> Self {
        Self {
            chunks,
            encoder: coding.map(Encoder::new),
            deadline,
        }
    }

    pub(super) async fn write(&mut self, text: Vec<u8>) -> Result<(), Gone> {
        let Some(encoder) = &mut self.encoder else {
            return self.send(text).await;
        };
        match encoder.write(&text) {
            Some(piece) => self.send(piece).await,
            None => Ok(()),
        }
    }

    /// Nothing more comes.
    pub(super) async fn finish(mut self) -> Result<(), Gone> {
        match self.encoder.take() {
            Some(encoder) => self.send(encoder.finish()).await,
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

/// How the answer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Zstd,
}

impl Coding {
    /// The one that the client likes best; zstd of two that it likes as much, since it costs less. None if it takes
    /// neither.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let (mut best, mut most) = (None, 0.0);
        for (coding, quality) in accepted(headers) {
            let coding = match coding {
                _ if coding.eq_ignore_ascii_case("gzip") => Self::Gzip,
                _ if coding.eq_ignore_ascii_case("zstd") => Self::Zstd,
                _ => continue,
            };
            if quality > most || (quality == most && quality > 0.0 && coding == Self::Zstd) {
                (best, most) = (Some(coding), quality);
            }
        }
        best
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// The codings that the client names, with their quality: 1 is the best and the default, 0 a refusal.
fn accepted(headers: &HeaderMap) -> impl Iterator<Item = (&str, f32)> {
    headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|item| {
            let mut parts = item.split(';').map(str::trim);
            let coding = parts.next().unwrap_or_default();
            let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok());
            (coding, quality.unwrap_or(1.0))
        })
}

/// Compresses into memory.
enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    /// As fast as each can: a scrape is read once, within the Pod's network.
    fn new(coding: Coding) -> Self {
        const FASTEST_ZSTD: i32 = 1;
        match coding {
            Coding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), Compression::fast())),
            Coding::Zstd => Self::Zstd(in_memory(zstd::Encoder::new(Vec::new(), FASTEST_ZSTD))),
        }
    }

    /// Adds `text`, and takes what is compressed once it is worth sending.
    fn write(&mut self, text: &[u8]) -> Option<Vec<u8>> {
        let compressed = match self {
            Self::Gzip(gzip) => {
                in_memory(gzip.write_all(text));
                gzip.get_mut()
            }
            Self::Zstd(zstd) => {
                in_memory(zstd.write_all(text));
                zstd.get_mut()
            }
        };
        (compressed.len() >= PIECE).then(|| std::mem::take(compressed))
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Gzip(gzip) => in_memory(gzip.finish()),
            Self::Zstd(zstd) => in_memory(zstd.finish()),
        }
    }
}

fn in_memory<T>(written: io::Result<T>) -> T {
    written.expect("compressing into memory does not fail")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_the_client_likes_best() {
        use Coding::{Gzip, Zstd};
        for (accept, expected) in [
            ("gzip", Some(Gzip)),
            ("zstd", Some(Zstd)),
            ("gzip, zstd", Some(Zstd)),
            ("zstd, gzip", Some(Zstd)),
            ("deflate, gzip;q=1.0, zstd;q=0.5", Some(Gzip)),
            ("deflate, GZIP;q=0.5", Some(Gzip)),
            ("gzip;q=0", None),
            ("zstd; q=0.000, gzip;q=0", None),
            ("zstd;q=0, gzip;q=0.1", Some(Gzip)),
            ("br, lz4", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(accept));
            assert_eq!(Coding::of(&headers), expected, "{accept}");
        }
        assert_eq!(Coding::of(&HeaderMap::new()), None);
    }

    #[test]
    fn pieces_make_up_the_text() {
        // As good as random, so that it is sent in several pieces.
        let text: Vec<u8> = (0..100_000_u64)
            .map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
            .collect();
        for coding in [Coding::Gzip, Coding::Zstd] {
            let mut encoder = Encoder::new(coding);
            let pieces: Vec<_> = text.chunks(1000).filter_map(|t| encoder.write(t)).collect();
            let compressed = [pieces.concat(), encoder.finish()].concat();
            let mut read = Vec::new();
            match coding {
                Coding::Gzip => io::copy(
                    &mut flate2::read::GzDecoder::new(compressed.as_slice()),
                    &mut read,
                ),
                Coding::Zstd => io::copy(
                    &mut zstd::Decoder::new(compressed.as_slice()).unwrap(),
                    &mut read,
                ),
            }
            .unwrap();
            assert!(read == text, "{coding:?}");
        }
    }
}
