//! The modules of an agent: found, or fetched once for all who ask.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use http::Uri;
use parking_lot::Mutex;
use tokio::{
    sync::{OnceCell, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::{Instant, interval_at, timeout_at},
};
use tracing::{debug, info, warn};

use crate::{
    FetchError, Options, PullPolicy, Request,
    cache::{Asked, Index, Key, Module},
    client,
    error::verify,
    file::{Saved, sha256, sha256_of},
    folder::{Folder, is_checksum},
    oci, over_http,
};

/// Fetches at a time: each has a connection, its buffers and at most one thread that writes.
const MAX_FETCHES: usize = 8;
/// Modules that are kept. A proxy that has so many filters has other troubles.
const MAX_MODULES: usize = 256;
const OCI: &str = "oci://";

/// Modules, and those on their way. A clone is the same. Nothing is done before the first is asked for.
#[derive(Clone, Debug)]
pub struct Modules {
    shared: Arc<Shared>,
}

/// Since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub entries: usize,
    pub hits: u64,
    pub misses: u64,
    /// Fetches by what came of them, in the words of Istio's agent.
    pub fetches: HashMap<&'static str, u64>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    folder: Folder,
    index: Mutex<Index>,
    /// What an agent before has left, and since when we know.
    left_over: Mutex<HashMap<PathBuf, Instant>>,
    /// Who fetches from a URL holds its lock.
    flights: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    fetches: Arc<Semaphore>,
    started: OnceCell<()>,
    counts: Mutex<Counts>,
}

/// A fetch that nobody else makes.
struct Turn {
    _url: OwnedMutexGuard<()>,
    _fetch: OwnedSemaphorePermit,
}

impl Modules {
    pub fn new(options: Options) -> Self {
        Self {
            shared: Arc::new(Shared {
                folder: Folder::new(options.folder.clone()),
                options,
                index: Mutex::default(),
                left_over: Mutex::default(),
                flights: Mutex::default(),
                fetches: Arc::new(Semaphore::new(MAX_FETCHES)),
                started: OnceCell::new(),
                counts: Mutex::default(),
            }),
        }
    }

    pub fn counts(&self) -> Counts {
        let entries = self.shared.index.lock().len();
        Counts {
            entries,
            ..self.shared.counts.lock().clone()
        }
    }

    /// The module; its file is there as long as it is held. A fetch goes on when nobody waits for it any
    /// more: who asks next finds it.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn get(&self, request: &Request) -> Result<Arc<Module>, FetchError> {
        let shared = &self.shared;
        shared.started.get_or_init(|| Shared::start(shared)).await;
        let began = Instant::now();
        let deadline = began + request.timeout;
        let source = Source::of(request)?;
        if let Some(module) = shared.find(request, &source, began) {
            shared.counts.lock().hits += 1;
            return Ok(module);
        }
        shared.counts.lock().misses += 1;
        let turn = timeout_at(deadline, shared.turn(&request.url)).await;
        let turn = turn.map_err(|_| FetchError::Timeout(request.timeout))??;
        if let Some(module) = shared.find(request, &source, began) {
            return Ok(module);
        }
        let (shared, request) = (Arc::clone(shared), request.clone());
        let fetch = tokio::spawn(async move {
            let _turn = turn;
            let fetched = Box::pin(shared.fetch(&request, &source));
            let fetched = timeout_at(deadline, fetched).await;
            let fetched = fetched.unwrap_or(Err(FetchError::Timeout(request.timeout)));
            let result = fetched
                .as_ref()
                .map_or_else(FetchError::result, |_| "success");
            *shared.counts.lock().fetches.entry(result).or_default() += 1;
            fetched
        });
        fetch.await.map_err(|_| FetchError::Interrupted)?
    }
}

/// Where a module is.
enum Source {
    Http(Uri),
    Oci(oci::Reference),
}

impl Source {
    fn of(request: &Request) -> Result<Self, FetchError> {
        let checksum = request.checksum.as_ref();
        if let Some(wrong) = checksum.filter(|text| !is_checksum(text)) {
            return Err(FetchError::NoChecksum(wrong.clone()));
        }
        if let Some(image) = request.url.strip_prefix(OCI) {
            return oci::Reference::parse(image).map(Self::Oci);
        }
        let uri: Uri = request
            .url
            .parse()
            .map_err(|_| FetchError::Url(request.url.clone()))?;
        match uri.scheme_str() {
            Some("http" | "https") => Ok(Self::Http(uri)),
            _ => Err(FetchError::Scheme(client::without_query(&uri))),
        }
    }

    /// What the folder of the module is called after: tags and digests of an image share it.
    fn name(&self, request: &Request) -> String {
        match self {
            Self::Http(_) => sha256(request.url.as_bytes()),
            Self::Oci(image) => sha256(format!("{OCI}{}", image.name()).as_bytes()),
        }
    }

    /// What is said of the module before it is here.
    fn checksum<'a>(&'a self, request: &'a Request) -> Option<&'a str> {
        let said = request.checksum.as_deref();
        said.or_else(|| match self {
            Self::Http(_) => None,
            Self::Oci(image) => image.digest(),
        })
    }
}

impl Shared {
    fn find(&self, request: &Request, source: &Source, since: Instant) -> Option<Arc<Module>> {
        let name = source.name(request);
        let asked = asked(request, source, &name);
        self.index.lock().find(asked, since, Instant::now())
    }

    /// Waits until nobody else fetches from the URL, and not too many from elsewhere.
    async fn turn(&self, url: &str) -> Result<Turn, FetchError> {
        let flight = {
            let mut flights = self.flights.lock();
            flights.retain(|_, flight| Arc::strong_count(flight) > 1);
            Arc::clone(flights.entry(url.to_owned()).or_default())
        };
        let url = flight.lock_owned().await;
        let fetch = Arc::clone(&self.fetches).acquire_owned().await;
        Ok(Turn {
            _url: url,
            _fetch: fetch.map_err(|_| FetchError::Interrupted)?,
        })
    }

    async fn fetch(&self, request: &Request, source: &Source) -> Result<Arc<Module>, FetchError> {
        let name = source.name(request);
        if let Some(module) = self.adopt(request, source, &name).await {
            return Ok(module);
        }
        let folder = self
            .blocking(|this, name| this.of(&name), name.clone())
            .await??;
        let (saved, checksum) = match source {
            Source::Http(uri) => {
                let saved = over_http::fetch(&self.options, uri, &folder).await?;
                let checksum = saved.sha256.clone();
                if let Some(expected) = &request.checksum {
                    verify(&checksum, expected)?;
                }
                (saved, checksum)
            }
            Source::Oci(image) => {
                let expected = source.checksum(request);
                let image = oci::Image::find(&self.options, image, request, expected).await?;
                let key = Key {
                    name: name.clone(),
                    checksum: image.checksum().to_owned(),
                };
                let found = self.index.lock().get(&key, Instant::now());
                if let Some(module) = found {
                    self.put(request, source, &key, Arc::clone(&module));
                    return Ok(module);
                }
                (image.fetch(&folder).await?, key.checksum)
            }
        };
        self.keep(request, source, Key { name, checksum }, saved)
            .await
    }

    async fn keep(
        &self,
        request: &Request,
        source: &Source,
        key: Key,
        saved: Saved,
    ) -> Result<Arc<Module>, FetchError> {
        self.make_room()?;
        let found = self.index.lock().get(&key, Instant::now());
        let module = match found {
            Some(module) => module,
            None => {
                let bytes = saved.bytes;
                let placed = key.clone();
                // Before it is written anew: what is left over is deleted one day.
                self.left_over.lock().remove(&self.folder.path(&key));
                let keep = move |folder: &Folder, saved| folder.keep(&placed, saved);
                let path = self.blocking(keep, saved).await??;
                info!(url = request.url, bytes, path = %path.display(), "a Wasm module is here");
                Arc::new(Module::new(path, Instant::now()))
            }
        };
        self.put(request, source, &key, Arc::clone(&module));
        Ok(module)
    }

    fn put(&self, request: &Request, source: &Source, key: &Key, module: Arc<Module>) {
        self.left_over.lock().remove(module.path());
        let asked = asked(request, source, &key.name);
        let now = Instant::now();
        self.index.lock().put(asked, key, module, now);
    }

    /// A module that an agent before has left, if its file proves that it is the one.
    async fn adopt(&self, request: &Request, source: &Source, name: &str) -> Option<Arc<Module>> {
        let (Source::Http(_), Some(checksum)) = (source, &request.checksum) else {
            return None;
        };
        let key = Key {
            name: name.to_owned(),
            checksum: checksum.clone(),
        };
        let path = self.folder.path(&key);
        if !self.left_over.lock().contains_key(&path) {
            return None;
        }
        let hash = |_: &Folder, path: PathBuf| sha256_of(&path).map(|found| (found, path));
        let (found, path) = self.blocking(hash, path).await.ok()?.ok()?;
        if found != *checksum {
            return None;
        }
        debug!(url = request.url, "a Wasm module is here from before");
        let module = Arc::new(Module::new(path, Instant::now()));
        self.put(request, source, &key, Arc::clone(&module));
        Some(module)
    }

    /// Runs what blocks on a thread for that.
    async fn blocking<A, T>(
        &self,
        work: impl FnOnce(&Folder, A) -> T + Send + 'static,
        argument: A,
    ) -> Result<T, FetchError>
    where
        A: Send + 'static,
        T: Send + 'static,
    {
        let folder = self.folder.clone();
        let done = spawn_blocking(move || work(&folder, argument)).await;
        done.map_err(|_| FetchError::Interrupted)
    }

    fn make_room(&self) -> Result<(), FetchError> {
        let mut index = self.index.lock();
        if index.len() < MAX_MODULES {
            return Ok(());
        }
        let full = FetchError::Full { count: index.len() };
        let (key, module) = index.oldest().ok_or(full)?;
        index.remove(&key);
        delete(module.path());
        Ok(())
    }

    /// The first module is asked for.
    async fn start(this: &Arc<Self>) {
        let found = this.blocking(|folder, ()| folder.left_over(), ()).await;
        let now = Instant::now();
        let found = found.unwrap_or_default().into_iter();
        *this.left_over.lock() = found.map(|path| (path, now)).collect();
        tokio::spawn(purge(Arc::downgrade(this), this.options.purge_interval));
    }

    fn purge(&self) {
        let expiry = self.options.expiry;
        let mut left_over = self.left_over.lock();
        left_over.retain(|path, since| since.elapsed() <= expiry || !delete(path));
        drop(left_over);
        // The lock is held while files go: nobody is given one of them meanwhile.
        let mut index = self.index.lock();
        for (key, module) in index.expired(expiry, Instant::now()) {
            if delete(module.path()) {
                index.remove(&key);
            }
        }
    }
}

async fn purge(shared: Weak<Shared>, interval: Duration) {
    let mut ticks = interval_at(Instant::now() + interval, interval);
    loop {
        ticks.tick().await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let purged = spawn_blocking(move || shared.purge()).await;
        if purged.is_err() {
            return;
        }
    }
}

fn delete(path: &Path) -> bool {
    match Folder::delete(path) {
        Ok(()) => {
            debug!(path = %path.display(), "a Wasm module that nobody uses is deleted");
            true
        }
        Err(error) => {
            warn!(path = %path.display(), %error, "a Wasm module cannot be deleted");
            false
        }
    }
}

fn asked<'a>(request: &'a Request, source: &'a Source, name: &'a str) -> Asked<'a> {
    Asked {
        url: &request.url,
        name,
        checksum: source.checksum(request),
        resource: &request.resource,
        version: &request.resource_version,
        any_version: match request.policy {
            PullPolicy::Always => false,
            PullPolicy::IfNotPresent => true,
            PullPolicy::Unspecified => {
                !matches!(source, Source::Oci(_)) || !request.url.ends_with(":latest")
            }
        },
    }
}
