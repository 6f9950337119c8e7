//! Filters whose modules are on their way, and the modules of those that Envoy has.

use std::{collections::BTreeMap, sync::Arc};

use ithildin_proto::pb::google::protobuf::Any;
use ithildin_wasm::{Module, Modules};
use ithildin_xds::subscription::Version;
use tokio::sync::oneshot;
use tracing::warn;

use super::{Shared, wasm::RemoteFilter};

/// Filters by the names of their resources.
#[derive(Debug, Default)]
pub(super) struct Pending {
    filters: BTreeMap<String, Awaited>,
    /// What the state refers to: the files stay, so that a restarted Envoy finds them.
    modules: BTreeMap<String, Arc<Module>>,
    jobs: Vec<Job>,
    /// Counts jobs.
    number: u64,
}

#[derive(Debug)]
struct Awaited {
    number: u64,
    version: Version,
    body: Any,
    /// Tells who waits for the module that it is of no use any more.
    _wanted: oneshot::Sender<()>,
}

/// A module to wait for.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) name: String,
    number: u64,
    filter: RemoteFilter,
    unwanted: oneshot::Receiver<()>,
}

/// A filter as Envoy can have it.
pub(super) struct Converted {
    pub(super) name: String,
    number: u64,
    pub(super) body: Any,
    module: Option<Arc<Module>>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// A filter wants its module. The same one again goes on waiting: a push does not begin a fetch anew.
    pub(super) fn add(&mut self, name: String, version: Version, body: Any, filter: RemoteFilter) {
        if let Some(awaited) = self.filters.get_mut(&name)
            && awaited.body == body
        {
            awaited.version = version;
            return;
        }
        self.number += 1;
        let (wanted, unwanted) = oneshot::channel();
        self.jobs.push(Job {
            name: name.clone(),
            number: self.number,
            filter,
            unwanted,
        });
        let awaited = Awaited {
            number: self.number,
            version,
            body,
            _wanted: wanted,
        };
        self.filters.insert(name, awaited);
    }

    /// The resource is gone, or something else by now.
    pub(super) fn remove(&mut self, name: &str) {
        self.filters.remove(name);
        self.modules.remove(name);
    }

    /// Only these are of use.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(&str) -> bool) {
        self.filters.retain(|name, _| is_wanted(name));
        self.modules.retain(|name, _| is_wanted(name));
    }

    /// What is to be begun.
    pub(super) fn jobs(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.jobs)
    }

    /// Takes what came of a job. Returns its version, unless nobody waits for it any more.
    pub(super) fn end(&mut self, converted: &Converted) -> Option<Version> {
        let name = &converted.name;
        let awaited = self.filters.get(name);
        awaited.filter(|awaited| awaited.number == converted.number)?;
        match &converted.module {
            Some(module) => self.modules.insert(name.clone(), Arc::clone(module)),
            None => self.modules.remove(name),
        };
        self.filters.remove(name).map(|awaited| awaited.version)
    }
}

/// Waits for the module of a filter, apart from everything else that goes on, and hands on what comes of it.
pub(super) async fn convert(shared: Arc<Shared>, modules: Modules, job: Job) {
    let Job {
        name,
        number,
        filter,
        unwanted,
    } = job;
    let fetched = tokio::select! {
        fetched = fetch(&modules, &filter, &name) => fetched,
        _ = unwanted => return,
    };
    let (body, module) = match fetched {
        Ok(module) => (filter.with_module(module.path()), Some(module)),
        Err(reason) => {
            let instead = match filter.fails_open() {
                true => "everything passes",
                false => "nothing passes",
            };
            warn!(name, reason, instead, "no Wasm module for a filter");
            (filter.without_module(), None)
        }
    };
    shared.converted(Converted {
        name,
        number,
        body,
        module,
    });
}

async fn fetch(
    modules: &Modules,
    filter: &RemoteFilter,
    name: &str,
) -> Result<Arc<Module>, String> {
    let request = filter.request(name)?;
    let module = modules.get(&request).await;
    module.map_err(|error| format!("{}: {error}", request.url))
}
