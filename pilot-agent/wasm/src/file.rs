//! A file that is hashed while it is written, and that is gone unless it is kept.

use std::{
    fs::{File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use aws_lc_rs::digest::{Context, Digest, SHA256};
use bytes::Bytes;
use http_body_util::BodyExt;
use tempfile::{Builder, NamedTempFile};
use tokio::{sync::mpsc, task::spawn_blocking};

use crate::{FetchError, client::Answer};

/// How files that are being written are called: who starts anew deletes what is left of them.
pub(crate) const UNFINISHED: &str = ".fetch-";
/// Pieces of a body on their way to the disk; each is what one read of a socket brought.
const PIECES: usize = 4;
/// As Istio's agent's files: Envoy may be another user.
const MODE: u32 = 0o644;

/// A whole file.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) file: NamedTempFile,
    /// SHA-256 in hexadecimal.
    pub(crate) sha256: String,
    pub(crate) bytes: u64,
}

/// A file under way. More than its limit is an error of the kind `FileTooLarge`.
pub(crate) struct Sink {
    file: NamedTempFile,
    digest: Context,
    bytes: u64,
    limit: u64,
}

/// Writes the body of an answer into a file in `folder`.
pub(crate) async fn save(answer: Answer, folder: &Path, limit: u64) -> Result<Saved, FetchError> {
    let (pieces, mut received) = mpsc::channel::<Bytes>(PIECES);
    let path = folder.to_path_buf();
    let writer = spawn_blocking(move || {
        let mut write = || {
            let mut sink = Sink::new(&path, limit)?;
            while let Some(piece) = received.blocking_recv() {
                sink.write_all(&piece)?;
            }
            sink.finish()
        };
        write().map_err(|error| failure(error, &path, limit))
    });
    let mut answer = answer;
    let broken = loop {
        match answer.body.frame().await {
            None => break None,
            Some(Err(error)) => break Some(error),
            Some(Ok(frame)) => {
                let Ok(piece) = frame.into_data() else {
                    continue;
                };
                if pieces.send(piece).await.is_err() {
                    // The writer says why.
                    break None;
                }
            }
        }
    };
    drop(pieces);
    let saved = writer.await.map_err(|_| FetchError::Interrupted)??;
    match broken {
        Some(error) => Err(FetchError::Broken(error)),
        None => Ok(saved),
    }
}

/// What an error of a [`Sink`] in `folder` means.
pub(crate) fn failure(error: io::Error, folder: &Path, limit: u64) -> FetchError {
    match error.kind() {
        io::ErrorKind::FileTooLarge => FetchError::TooLarge(limit),
        _ => FetchError::File {
            path: folder.to_path_buf(),
            source: error,
        },
    }
}

impl Sink {
    pub(crate) fn new(folder: &Path, limit: u64) -> io::Result<Self> {
        let file = Builder::new()
            .prefix(UNFINISHED)
            .permissions(Permissions::from_mode(MODE))
            .tempfile_in(folder)?;
        Ok(Self {
            file,
            digest: Context::new(&SHA256),
            bytes: 0,
            limit,
        })
    }

    pub(crate) fn finish(self) -> io::Result<Saved> {
        Ok(Saved {
            file: self.file,
            sha256: hex(&self.digest.finish()),
            bytes: self.bytes,
        })
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.saturating_add(bytes.len() as u64) > self.limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let written = self.file.as_file_mut().write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_file_mut().flush()
    }
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&aws_lc_rs::digest::digest(&SHA256, bytes))
}

/// SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256_of(path: &Path) -> io::Result<String> {
    struct Hashing(Context);
    impl Write for Hashing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut digest = Hashing(Context::new(&SHA256));
    io::copy(&mut File::open(path)?, &mut digest)?;
    Ok(hex(&digest.0.finish()))
}

fn hex(digest: &Digest) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(64);
    for byte in digest.as_ref() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
