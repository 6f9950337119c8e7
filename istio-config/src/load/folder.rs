//! Which files a folder holds, and whether they changed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Deepest nesting of folders; deeper ones are most likely a loop of links.
const MAX_DEPTH: usize = 16;

/// All configuration files below `dir`, sorted by path. Names that start with a dot are left out:
/// a mounted ConfigMap keeps its real files behind such names, and links to them beside them.
pub(crate) fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    collect(dir, 0, &mut files)?;
    files.sort();
    Ok(files)
}

/// Differs whenever a file came, went or changed, as far as the file system tells.
pub(crate) type Fingerprint = Vec<(PathBuf, Option<(u64, SystemTime)>)>;

/// The state of all files below `dir`; empty if there is no such folder.
pub(crate) fn fingerprint(dir: &Path) -> Fingerprint {
    let files = files(dir).unwrap_or_default();
    let state = |file: PathBuf| {
        let state = fs::metadata(&file)
            .and_then(|metadata| Ok((metadata.len(), metadata.modified()?)))
            .ok();
        (file, state)
    };
    files.into_iter().map(state).collect()
}

fn collect(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other("folders are nested too deeply"));
    }
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        // Follows links; one that points nowhere is reported when it is read.
        if path.is_dir() {
            collect(&path, depth + 1, files)?;
        } else if is_configuration(&path) {
            files.push(path);
        }
    }
    Ok(())
}

fn is_configuration(path: &Path) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| matches!(extension, "yaml" | "yml" | "json"))
}
