//! The folder of modules: `<SHA-256 of the name>/<checksum>.wasm`.
//!
//! It belongs to one agent. Other things may lie beside the modules; they are not touched.

use std::{
    fs::{self, DirEntry},
    io,
    path::{Path, PathBuf},
};

use tracing::debug;

use crate::{
    FetchError,
    cache::Key,
    file::{Saved, UNFINISHED},
};

/// Names in a folder that are looked at when the agent starts anew.
const MAX_ENTRIES: usize = 10_000;
const SUFFIX: &str = ".wasm";

#[derive(Clone, Debug)]
pub(crate) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Makes the folder of a name. Blocks.
    pub(crate) fn of(&self, name: &str) -> Result<PathBuf, FetchError> {
        let path = self.root.join(name);
        match fs::create_dir_all(&path) {
            Ok(()) => Ok(path),
            Err(source) => Err(FetchError::File { path, source }),
        }
    }

    pub(crate) fn path(&self, key: &Key) -> PathBuf {
        let name = format!("{}{SUFFIX}", key.checksum);
        self.root.join(&key.name).join(name)
    }

    /// Puts a module in its place, over what may be there. Blocks.
    pub(crate) fn keep(&self, key: &Key, saved: Saved) -> Result<PathBuf, FetchError> {
        let path = self.path(key);
        match saved.file.persist(&path) {
            Ok(_) => Ok(path),
            Err(error) => Err(FetchError::File {
                path,
                source: error.error,
            }),
        }
    }

    /// Deletes a module; its folder stays, as the next one may be on its way into it. Blocks.
    pub(crate) fn delete(path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What an agent before has left: modules, while what it had not finished is deleted, and empty folders
    /// with it. Blocks.
    pub(crate) fn left_over(&self) -> Vec<PathBuf> {
        let mut modules = Vec::new();
        for folder in entries(&self.root).filter(|entry| is_checksum(&name(entry))) {
            for file in entries(&folder.path()) {
                let name = name(&file);
                if name.starts_with(UNFINISHED) {
                    let deleted = fs::remove_file(file.path());
                    debug!(name, ?deleted, "an unfinished module of an agent before");
                } else if name.strip_suffix(SUFFIX).is_some_and(is_checksum) {
                    modules.push(file.path());
                }
            }
            // Fails where something is in it.
            let _ = fs::remove_dir(folder.path());
        }
        modules
    }
}

fn entries(path: &Path) -> impl Iterator<Item = DirEntry> {
    let entries = fs::read_dir(path).into_iter().flatten();
    entries.filter_map(Result::ok).take(MAX_ENTRIES)
}

fn name(entry: &DirEntry) -> String {
    entry.file_name().to_string_lossy().into_owned()
}

/// SHA-256 in hexadecimal.
pub(crate) fn is_checksum(text: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 64 && text.bytes().all(digit)
}
