//! Keeps a proxy's configuration in step with a folder.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ithildin_panics::essential;
use ithildin_proto::nds::NameTable;
use ithildin_xds::{NameMap, ResourceSet};
use notify::{RecursiveMode, Watcher as _};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tracing::{info, warn};

use crate::{
    build::build,
    error::ConfigError,
    load::{Fingerprint, fingerprint, load},
    node::Node,
    resources::Built,
};

/// How long a folder must be quiet before it is read: an editor or `cp` writes in several steps.
const QUIET: Duration = Duration::from_millis(50);
/// Longest wait for that quiet.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// How often the folder is looked at in any case: some file systems notify nobody, and links may
/// point to where nobody watches.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// A folder of Istio and Kubernetes resources, watched for one node until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    state: watch::Receiver<Arc<ResourceSet>>,
    names: watch::Receiver<Option<Arc<NameTable>>>,
    errors: watch::Receiver<Arc<[ConfigError]>>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Reads `dir` once and follows it from then on. Must be called inside a tokio runtime.
    ///
    /// When the first read fails, the set is empty and [`errors`](Self::errors) says why; later
    /// the last good set stays while there are errors.
    pub async fn start(dir: PathBuf, node: Node) -> Self {
        let (resources_tx, state) = watch::channel(Arc::default());
        let (names_tx, names) = watch::channel(None);
        let (errors_tx, errors) = watch::channel(Arc::from([]));
        let mut follower = Follower {
            dir,
            node,
            seen: None,
            resources: resources_tx,
            names: names_tx,
            errors: errors_tx,
        };
        // Before the first read, so that no change falls between the two.
        let changes = Changes::of(&follower.dir);
        follower.read(true).await;
        let task = tokio::spawn(essential("configuration folder", follower.run(changes)));
        Self {
            state,
            names,
            errors,
            task,
        }
    }

    /// The last good configuration. A resource that did not change keeps its `Arc`.
    pub fn resources(&self) -> watch::Receiver<Arc<ResourceSet>> {
        self.state.clone()
    }

    /// The names of the last good configuration; `None` before the first.
    pub fn names(&self) -> watch::Receiver<Option<Arc<NameTable>>> {
        self.names.clone()
    }

    /// What is wrong with the folder now; empty if nothing is.
    pub fn errors(&self) -> watch::Receiver<Arc<[ConfigError]>> {
        self.errors.clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Follower {
    dir: PathBuf,
    node: Node,
    /// The state of the files that was read last.
    seen: Option<Fingerprint>,
    resources: watch::Sender<Arc<ResourceSet>>,
    names: watch::Sender<Option<Arc<NameTable>>>,
    errors: watch::Sender<Arc<[ConfigError]>>,
}

impl Follower {
    async fn run(mut self, mut changes: Changes) {
        loop {
            let event = timeout(POLL_INTERVAL, changes.events.recv()).await;
            let changed = matches!(event, Ok(Some(())));
            if changed {
                settle(&mut changes.events).await;
            } else if matches!(event, Ok(None)) {
                // Without a watch the channel is closed, and only the clock is left.
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            self.read(changed).await;
        }
    }

    /// Reads the folder if it changed, or its files look different from what was read last.
    async fn read(&mut self, changed: bool) {
        let (dir, node, seen) = (self.dir.clone(), self.node.clone(), self.seen.clone());
        let read = move || {
            let now = fingerprint(&dir);
            if !changed && seen.as_ref() == Some(&now) {
                return None;
            }
            Some((
                now,
                load(&dir).and_then(|resources| build(&resources, &node)),
            ))
        };
        let read = match tokio::task::spawn_blocking(read).await {
            Ok(read) => read,
            Err(error) => {
                warn!(%error, "reading the configuration failed");
                return;
            }
        };
        let Some((fingerprint, result)) = read else {
            return;
        };
        self.seen = Some(fingerprint);
        match result {
            Ok(built) => self.publish(built),
            Err(errors) => self.refuse(errors),
        }
    }

    fn publish(&self, built: Built) {
        for warning in &built.warnings {
            warn!(%warning, "configuration");
        }
        let old = self.resources.borrow().clone();
        let new = keep_unchanged(&old, built.resources);
        info!(
            listeners = new.listeners.len(),
            routes = new.routes.len(),
            clusters = new.clusters.len(),
            "configuration read"
        );
        self.errors.send_replace(Arc::from([]));
        self.names.send_if_modified(|names| {
            let changed = names.as_deref() != Some(&built.names);
            if changed {
                *names = Some(Arc::new(built.names));
            }
            changed
        });
        self.resources.send_replace(Arc::new(new));
    }

    fn refuse(&self, errors: Vec<ConfigError>) {
        for error in &errors {
            warn!(%error, "configuration refused, the last good one stays");
        }
        self.errors.send_replace(errors.into());
    }
}

/// What is told of a folder; nothing where it cannot be watched.
struct Changes {
    events: mpsc::Receiver<()>,
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Changes {
    fn of(dir: &Path) -> Self {
        let (sender, events) = mpsc::channel(1);
        let watching = watch_folder(dir, sender);
        if let Err(error) = &watching {
            warn!(dir = %dir.display(), %error, "cannot watch the folder, polling it");
        }
        Self {
            events,
            _watcher: watching.ok(),
        }
    }
}

/// Events of the folder until the watcher is dropped.
fn watch_folder(
    dir: &Path,
    events: mpsc::Sender<()>,
) -> notify::Result<notify::RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let read_only = matches!(&event, Ok(event) if event.kind.is_access());
        if !read_only {
            // A full channel means that a change is waiting already.
            let _ = events.try_send(());
        }
    })?;
    watcher.watch(dir, RecursiveMode::Recursive)?;
    Ok(watcher)
}

/// Waits until no more changes come.
async fn settle(changes: &mut mpsc::Receiver<()>) {
    let deadline = Instant::now() + MAX_WAIT;
    while let Ok(Some(())) = timeout_at(deadline.min(Instant::now() + QUIET), changes.recv()).await
    {
    }
}

/// `new`, but with the `Arc` of `old` for each resource that is equal.
fn keep_unchanged(old: &ResourceSet, mut new: ResourceSet) -> ResourceSet {
    fn keep<T: PartialEq>(old: &NameMap<T>, new: &mut NameMap<T>) {
        // As a change of the old map, so that the two share what is equal.
        let mut kept = old.clone();
        kept.retain(|name, _| new.contains_key(name));
        for (name, value) in new.iter() {
            if kept.get(name) != Some(value) {
                kept.insert(name.clone(), Arc::clone(value));
            }
        }
        *new = kept;
    }
    keep(&old.listeners, &mut new.listeners);
    keep(&old.clusters, &mut new.clusters);
    keep(&old.routes, &mut new.routes);
    keep(&old.endpoints, &mut new.endpoints);
    new
}

#[cfg(test)]
mod tests;
