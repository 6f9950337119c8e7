//! Reading files that somebody else puts in place.

use std::{
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::fs::OFlags;

/// Reads a whole regular file of at most `most` bytes. A pipe or a device in its place would have us
/// wait, or read, for ever.
///
/// # Errors
/// `InvalidInput` for anything but a regular file, `FileTooLarge`, and those of open(2) and read(2);
/// without the path in the text.
pub fn read_regular(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for a writer.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        let reason = "is not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    let size = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(size.min(most));
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        let reason = format!("is larger than {most} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn only_regular_files_of_some_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "12345").unwrap();
        symlink("file", at("link")).unwrap();
        for name in ["file", "link"] {
            assert_eq!(read_regular(&at(name), 5).unwrap(), b"12345");
            let error = read_regular(&at(name), 4).unwrap_err();
            assert_eq!(error.to_string(), "is larger than 4 bytes");
        }
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), mode).unwrap();
        for path in [&at("pipe"), folder.path(), Path::new("/dev/zero")] {
            let error = read_regular(path, 5).unwrap_err();
            assert_eq!(error.to_string(), "is not a regular file", "{path:?}");
        }
        let error = read_regular(&at("none"), 5).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
