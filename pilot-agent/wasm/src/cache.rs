//! Which modules are here, and which URL means which: no I/O.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Filters that are remembered for one URL; a mesh has a few.
const MAX_RESOURCES: usize = 1024;

/// A module in a file. The file stays while somebody holds this.
#[derive(Debug)]
pub struct Module {
    path: PathBuf,
    used: Mutex<Instant>,
}

impl Module {
    pub(crate) fn new(path: PathBuf, now: Instant) -> Self {
        Self {
            path,
            used: Mutex::new(now),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What identifies a module's file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// SHA-256 of what the module is called: its URL, or its image without tag and digest.
    pub(crate) name: String,
    /// Of the module, or of its image's manifest.
    pub(crate) checksum: String,
}

/// How a filter asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) url: &'a str,
    pub(crate) name: &'a str,
    pub(crate) checksum: Option<&'a str>,
    pub(crate) resource: &'a str,
    pub(crate) version: &'a str,
    /// Whether what the URL meant before will do, whatever the version.
    pub(crate) any_version: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    modules: HashMap<Key, Arc<Module>>,
    urls: HashMap<String, Known>,
}

/// What a URL meant when it was asked last.
#[derive(Debug)]
struct Known {
    key: Key,
    fetched: Instant,
    /// The version of each filter that it was fetched for.
    versions: BTreeMap<String, String>,
}

impl Index {
    /// The module that answers, without a fetch. What was fetched at `since` or later is new enough for
    /// anybody.
    pub(crate) fn find(
        &mut self,
        asked: Asked<'_>,
        since: Instant,
        now: Instant,
    ) -> Option<Arc<Module>> {
        let key = match asked.checksum {
            Some(checksum) => Key {
                name: asked.name.to_owned(),
                checksum: checksum.to_owned(),
            },
            None => {
                let known = self.urls.get(asked.url)?;
                let version = known.versions.get(asked.resource);
                let same = version.is_some_and(|version| version == asked.version);
                if !same && !asked.any_version && known.fetched < since {
                    return None;
                }
                known.key.clone()
            }
        };
        let module = self.get(&key, now)?;
        // With a checksum, nothing was learned of what the URL means without it.
        if asked.checksum.is_none() {
            self.note(asked, &key);
        }
        Some(module)
    }

    pub(crate) fn get(&self, key: &Key, now: Instant) -> Option<Arc<Module>> {
        let module = self.modules.get(key)?;
        *module.used.lock() = now;
        Some(Arc::clone(module))
    }

    /// Takes in a module that was fetched, and what its URL means from now on.
    pub(crate) fn put(&mut self, asked: Asked<'_>, key: &Key, module: Arc<Module>, now: Instant) {
        self.modules.insert(key.clone(), module);
        let known = Known {
            key: key.clone(),
            fetched: now,
            versions: BTreeMap::new(),
        };
        let known = self.urls.entry(asked.url.to_owned()).or_insert(known);
        known.fetched = now;
        self.note(asked, key);
    }

    /// What the URL means for the filter.
    fn note(&mut self, asked: Asked<'_>, key: &Key) {
        let Some(known) = self.urls.get_mut(asked.url) else {
            return;
        };
        known.key.clone_from(key);
        if known.versions.len() >= MAX_RESOURCES {
            known.versions.clear();
        }
        let (resource, version) = (asked.resource.to_owned(), asked.version.to_owned());
        known.versions.insert(resource, version);
    }

    pub(crate) fn len(&self) -> usize {
        self.modules.len()
    }

    /// Modules that nobody holds and nobody used for `expiry`. What is held is in use.
    pub(crate) fn expired(&self, expiry: Duration, now: Instant) -> Vec<(Key, Arc<Module>)> {
        let modules = self.modules.iter();
        modules
            .filter(|(_, module)| {
                let mut used = module.used.lock();
                if Arc::strong_count(module) > 1 {
                    *used = now;
                }
                now.saturating_duration_since(*used) > expiry
            })
            .map(|(key, module)| (key.clone(), Arc::clone(module)))
            .collect()
    }

    /// The module that was not used for longest, of those that nobody holds.
    pub(crate) fn oldest(&self) -> Option<(Key, Arc<Module>)> {
        let unused = self.modules.iter();
        let unused = unused.filter(|(_, module)| Arc::strong_count(module) == 1);
        let (key, module) = unused.min_by_key(|(_, module)| *module.used.lock())?;
        Some((key.clone(), Arc::clone(module)))
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        self.modules.remove(key);
        self.urls.retain(|_, known| known.key != *key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(checksum: &str) -> Key {
        Key {
            name: "n".into(),
            checksum: checksum.into(),
        }
    }

    fn asked<'a>(checksum: Option<&'a str>, version: &'a str, any_version: bool) -> Asked<'a> {
        Asked {
            url: "http://a/m",
            name: "n",
            checksum,
            resource: "r",
            version,
            any_version,
        }
    }

    fn module(now: Instant) -> Arc<Module> {
        Arc::new(Module::new("/m".into(), now))
    }

    #[test]
    fn what_is_found_without_a_fetch() {
        let mut index = Index::default();
        let before = Instant::now();
        let now = before + Duration::from_secs(1);
        let later = now + Duration::from_secs(1);
        let find = |index: &mut Index, asked: Asked<'_>| index.find(asked, later, later).is_some();
        assert!(!find(&mut index, asked(None, "1", true)));
        index.put(asked(None, "1", false), &key("c"), module(now), now);
        // The same version, any version, or what was fetched after somebody began to ask.
        assert!(find(&mut index, asked(None, "1", false)));
        assert!(!find(&mut index, asked(None, "2", false)));
        assert!(find(&mut index, asked(None, "2", true)));
        assert!(index.find(asked(None, "3", false), before, later).is_some());
        // By checksum, whatever the URL means.
        assert!(find(&mut index, asked(Some("c"), "9", false)));
        assert!(!find(&mut index, asked(Some("d"), "9", false)));
        index.remove(&key("c"));
        assert!(!find(&mut index, asked(None, "3", true)));
    }

    #[test]
    fn what_is_held_does_not_expire() {
        let mut index = Index::default();
        let expiry = Duration::from_secs(10);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let held = module(start);
        index.put(asked(None, "1", true), &key("c"), Arc::clone(&held), start);
        index.put(asked(None, "1", true), &key("d"), module(start), start);
        let names = |found: &[(Key, Arc<Module>)]| -> Vec<String> {
            found.iter().map(|(key, _)| key.checksum.clone()).collect()
        };
        assert_eq!(names(&index.expired(expiry, after(11))), ["d"]);
        assert_eq!(index.oldest().unwrap().0, key("d"));
        drop(held);
        // It was in use just now.
        assert_eq!(names(&index.expired(expiry, after(12))), ["d"]);
        assert_eq!(index.expired(expiry, after(22)).len(), 2);
    }
}
