//! Tells when files may have changed, through any number of symbolic links.
//!
//! Kubernetes swaps a link to a folder beside the file that is read, so every folder on the way is
//! watched. A slow poll covers what the kernel does not report: network file systems, folders that
//! appear later, exhausted watches. The reader compares contents: a change may be reported twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{sync::mpsc, time::timeout};

/// Writers that replace two files do so within this time (Istio's `FILE_DEBOUNCE_DURATION`).
pub const SETTLE: Duration = Duration::from_millis(100);
/// How late a change is seen where the kernel does not report it.
const POLL: Duration = Duration::from_secs(10);
/// Links on the way to one file; more is a loop (Linux gives up at 40).
const MAX_LINKS: usize = 40;

/// A set of files under watch.
#[derive(Debug)]
pub struct PathWatch {
    paths: Vec<PathBuf>,
    settle: Duration,
    /// With what tells a folder from another one that took its place: the watch of the first is dead.
    folders: BTreeMap<PathBuf, FolderId>,
    watcher: Option<RecommendedWatcher>,
    events: mpsc::Receiver<()>,
}

/// Device and inode.
type FolderId = (u64, u64);

impl PathWatch {
    /// Reports a change when nothing more has happened for `settle`.
    pub fn new(paths: Vec<PathBuf>, settle: Duration) -> Self {
        // One slot: it is enough to know that something happened since the last look.
        let (sender, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |_| {
            let _ = sender.try_send(());
        });
        let mut watch = Self {
            paths,
            settle,
            folders: BTreeMap::new(),
            watcher: watcher.ok(),
            events,
        };
        watch.follow();
        watch
    }

    /// Waits until a file may have changed. Safe to drop and call again.
    pub async fn changed(&mut self) {
        if let Ok(Some(())) = timeout(POLL, self.events.recv()).await {
            tokio::time::sleep(self.settle).await;
            let _ = self.events.try_recv();
        }
        self.follow();
    }

    /// Watches the folders that are on the way now.
    fn follow(&mut self) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let now: BTreeMap<_, _> = self
            .paths
            .iter()
            .flat_map(|path| on_the_way(path))
            .filter_map(|folder| Some((folder.clone(), folder_id(&folder)?)))
            .collect();
        let gone = self
            .folders
            .iter()
            .filter(|(folder, id)| now.get(*folder) != Some(id));
        for (folder, _) in gone {
            let _ = watcher.unwatch(folder);
        }
        self.folders = now
            .into_iter()
            .filter(|(folder, id)| {
                self.folders.get(folder) == Some(id)
                    || watcher.watch(folder, RecursiveMode::NonRecursive).is_ok()
            })
            .collect();
    }
}

fn folder_id(folder: &Path) -> Option<FolderId> {
    let metadata = fs::metadata(folder).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// The folders of `path`, of every link that it leads through, and of the file itself.
fn on_the_way(path: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let mut pending = vec![path.to_path_buf()];
    let mut links = 0;
    while let Some(path) = pending.pop() {
        for part in path.ancestors() {
            let Some(folder) = part.parent().filter(|f| !f.as_os_str().is_empty()) else {
                continue;
            };
            let Ok(target) = fs::read_link(part) else {
                continue;
            };
            folders.insert(folder.to_path_buf());
            links += 1;
            if links <= MAX_LINKS {
                let rest = path.strip_prefix(part).unwrap_or(Path::new(""));
                pending.push(folder.join(target).join(rest));
            }
        }
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            folders.insert(folder.to_path_buf());
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Well below the poll, so that only the kernel's report can be in time.
    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_kubernetes_swap_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for version in ["v1", "v2", "v3"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("tls.crt"), version).unwrap();
        }
        symlink("v1", at("..data")).unwrap();
        symlink("..data/tls.crt", at("tls.crt")).unwrap();
        let mut watch = PathWatch::new(vec![at("tls.crt")], SETTLE);
        for version in ["v2", "v3"] {
            symlink(version, at("tmp")).unwrap();
            fs::rename(at("tmp"), at("..data")).unwrap();
            timeout(SOON, watch.changed()).await.expect(version);
            assert_eq!(fs::read_to_string(at("tls.crt")).unwrap(), version);
        }
        fs::write(at("v3/tls.crt"), "in place").unwrap();
        timeout(SOON, watch.changed()).await.expect("in place");
    }

    #[tokio::test]
    async fn a_folder_that_takes_the_place_of_another_is_watched() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("certs");
        let file = folder.join("tls.crt");
        fs::create_dir(&folder).unwrap();
        fs::write(&file, "one").unwrap();
        // The folder above is watched too, as it is where a mount appears.
        let above = dir.path().join("mounted");
        let mut watch = PathWatch::new(vec![file.clone(), above], SETTLE);
        fs::rename(&folder, dir.path().join("old")).unwrap();
        fs::create_dir(&folder).unwrap();
        timeout(SOON, watch.changed()).await.expect("replaced");
        fs::write(&file, "two").unwrap();
        timeout(SOON, watch.changed()).await.expect("written");
    }

    #[test]
    fn a_loop_of_links_ends() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        symlink("b", at("a")).unwrap();
        symlink("a", at("b")).unwrap();
        assert!(on_the_way(&at("a")).contains(dir.path()));
    }
}
