//! What a module comes in: gzip and tar, read from one file into another.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    path::Path,
};

use flate2::read::MultiGzDecoder;

use crate::{
    FetchError,
    file::{Saved, Sink, failure},
};

/// The name of the module in an image (the specification of Wasm images, `spec-compat.md`).
const PLUGIN: &str = "plugin.wasm";
/// Archives in archives.
const MAX_LAYERS: usize = 4;
/// Entries of an archive before its module.
const MAX_ENTRIES: usize = 10_000;
const BLOCK: usize = 512;
/// Where a POSIX archive says that it is one.
const USTAR: (usize, &[u8]) = (257, b"ustar");
const GZIP: &[u8] = &[0x1f, 0x8b];
const WASM: &[u8] = b"\0asm";
/// Magic number and version.
const WASM_HEAD: u64 = 8;

/// The module that is, or is in, what came by HTTP: as it is, packed by gzip, or the first file of an
/// archive. Blocks.
pub(crate) fn unbox(saved: Saved, folder: &Path, limit: u64) -> Result<Saved, FetchError> {
    let mut saved = saved;
    for _ in 0..MAX_LAYERS {
        let head = head(&saved)?;
        let (at, magic) = USTAR;
        saved = if head.starts_with(GZIP) {
            copy(MultiGzDecoder::new(reopen(&saved)?), folder, limit)?
        } else if head.get(at..).is_some_and(|rest| rest.starts_with(magic)) {
            let found = Archive::new(reopen(&saved)?, limit).find(|_| true)?;
            copy(
                found.ok_or(FetchError::NotWasm("an empty archive"))?,
                folder,
                limit,
            )?
        } else {
            break;
        };
    }
    check(&saved)?;
    Ok(saved)
}

/// `plugin.wasm` of a layer that is a compressed archive. Blocks.
pub(crate) fn plugin(layer: &Saved, folder: &Path, limit: u64) -> Result<Saved, FetchError> {
    let archive = Archive::new(MultiGzDecoder::new(reopen(layer)?), limit);
    let found = archive.find(|name| name.rsplit('/').next() == Some(PLUGIN))?;
    let saved = copy(found.ok_or(FetchError::NoPlugin)?, folder, limit)?;
    check(&saved)?;
    Ok(saved)
}

/// # Errors
/// When it is no Wasm module.
pub(crate) fn check(saved: &Saved) -> Result<(), FetchError> {
    match head(saved)?.starts_with(WASM) && saved.bytes >= WASM_HEAD {
        true => Ok(()),
        false => Err(FetchError::NotWasm("it does not begin as one")),
    }
}

fn head(saved: &Saved) -> Result<Vec<u8>, FetchError> {
    let mut head = Vec::with_capacity(BLOCK);
    let source = reopen(saved)?;
    let read = source.take(BLOCK as u64).read_to_end(&mut head);
    read.map_err(FetchError::Archive)?;
    Ok(head)
}

fn reopen(saved: &Saved) -> Result<BufReader<File>, FetchError> {
    let reopened = saved.file.reopen().map(BufReader::new);
    reopened.map_err(|source| FetchError::File {
        path: saved.file.path().to_path_buf(),
        source,
    })
}

/// Errors of the source are the archive's, those of the target the folder's.
fn copy(mut source: impl Read, folder: &Path, limit: u64) -> Result<Saved, FetchError> {
    let failed = |error| failure(error, folder, limit);
    let mut sink = Sink::new(folder, limit).map_err(failed)?;
    let mut piece = vec![0; 16 << 10];
    loop {
        let read = source
            .read(&mut piece)
            .map_err(|error| match error.kind() {
                io::ErrorKind::FileTooLarge => FetchError::TooLarge(limit),
                _ => FetchError::Archive(error),
            })?;
        if read == 0 {
            return sink.finish().map_err(failed);
        }
        sink.write_all(&piece[..read]).map_err(failed)?;
    }
}

/// A tar archive (POSIX.1-2001, "ustar Interchange Format"), read from its beginning.
struct Archive<R> {
    source: Bounded<R>,
}

/// What the header of an entry says.
struct Entry {
    name: String,
    bytes: u64,
    is_file: bool,
}

impl<R: Read> Archive<R> {
    fn new(source: R, limit: u64) -> Self {
        // Headers and padding come on top of the files.
        let left = limit.saturating_add((MAX_ENTRIES * BLOCK) as u64);
        Self {
            source: Bounded { source, left },
        }
    }

    /// The first file with a name that is wanted.
    fn find(mut self, is_wanted: impl Fn(&str) -> bool) -> Result<Option<impl Read>, FetchError> {
        for _ in 0..MAX_ENTRIES {
            let Some(entry) = self.next().map_err(FetchError::Archive)? else {
                return Ok(None);
            };
            if entry.is_file && is_wanted(&entry.name) {
                return Ok(Some(Exactly {
                    source: self.source,
                    left: entry.bytes,
                }));
            }
            self.skip(entry.bytes).map_err(FetchError::Archive)?;
        }
        Err(FetchError::Archive(io::Error::other("too many entries")))
    }

    fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut block = [0; BLOCK];
        if self.source.read(&mut block[..1])? == 0 {
            return Ok(None);
        }
        self.source.read_exact(&mut block[1..])?;
        // The end is two empty blocks.
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        entry(&block).map(Some)
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let padded = bytes.div_ceil(BLOCK as u64).saturating_mul(BLOCK as u64);
        let skipped = io::copy(&mut self.source.by_ref().take(padded), &mut io::sink())?;
        match skipped == padded {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn entry(block: &[u8; BLOCK]) -> io::Result<Entry> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "a broken header");
    // The sum is made with spaces in its own place.
    let sum: u64 = (0u64..)
        .zip(block)
        .map(|(at, byte)| match (148..156).contains(&at) {
            true => u64::from(b' '),
            false => u64::from(*byte),
        })
        .sum();
    if octal(&block[148..156]) != Some(sum) {
        return Err(broken());
    }
    let name = block[..100].split(|byte| *byte == 0).next();
    let kind = block[156];
    Ok(Entry {
        name: String::from_utf8_lossy(name.unwrap_or_default()).into_owned(),
        bytes: octal(&block[124..136]).ok_or_else(broken)?,
        is_file: matches!(kind, b'0' | 0),
    })
}

/// A number in a header: octal digits between blanks. Larger ones, in base 256, are of no file that we want.
fn octal(field: &[u8]) -> Option<u64> {
    let text = str::from_utf8(field).ok()?;
    let digits = text.trim_matches(|it| it == ' ' || it == '\0');
    u64::from_str_radix(digits, 8).ok()
}

/// A reader that brings no more than so much.
struct Bounded<R> {
    source: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => return Err(io::ErrorKind::FileTooLarge.into()),
        }
        Ok(read)
    }
}

/// A reader that brings so much, or fails.
struct Exactly<R> {
    source: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = self.source.read(&mut buffer[..most])?;
        if read == 0 && self.left > 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}
