//! The control runtime: resources and secrets in, snapshots out.
//!
//! One task owns the configuration. It compiles what changed, lets the old serve until the new is
//! warm, and publishes with one atomic swap. Invariants: a resource that is refused keeps its last
//! good form and stops nothing else; unchanged resources keep their compiled form.

mod addresses;
mod any;
mod bootstrap;
mod clusters;
mod compile;
mod controller;
mod data_source;
mod dns;
mod endpoints;
mod forward;
mod held;
mod inventory;
mod leaving;
mod listeners;
mod outliers;
pub(crate) mod overload;
mod provenance;
mod references;
mod report;
mod resources;
mod runtime_values;
mod secrets;
pub(crate) mod statistics;
mod updates;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use ithildin_panics::{contained, essential};
use ithildin_proto::pb::envoy::{
    config::bootstrap::v3::Bootstrap, extensions::transport_sockets::tls::v3::Secret,
};
use ithildin_xds::{
    ResourceKind, ResourceSet, SecretRef, SecretState, SecretSubscriber, ads::Candidate,
};
use tokio::sync::watch;

#[cfg(test)]
pub(crate) use self::inventory::InventoryRequest;
use self::{compile::Compiler, controller::Controller, secrets::SecretStore};
pub use self::{
    held::{Held, Refused, Source, Stamp},
    inventory::{HeldSecret, Inventory, InventoryClient},
    report::{ConfigError, ConfigErrors},
    secrets::SecretStatus,
};
use crate::{access_log::LogWriter, config::Snapshot, stats::Registry, worker::Published};

/// What the control task knows at one instant, for readiness and admin.
#[derive(Clone, Debug, Default)]
pub struct ControlState {
    /// [`Snapshot::version`] that is published.
    pub version: u64,
    /// The clusters of the start were warm once, so that listeners may serve.
    pub started: bool,
    /// What warms, each text with what it waits for.
    pub waiting: Arc<[Arc<str>]>,
    /// Resources whose newest form is refused.
    pub rejected: Arc<[Rejection]>,
    pub secrets: Arc<[SecretStatus]>,
}

/// A resource whose newest form is refused; its last good form, if there was one, serves.
#[derive(Clone, Debug)]
pub struct Rejection {
    pub kind: ResourceKind,
    pub name: Arc<str>,
    /// Everything that is wrong with it, one line each.
    pub reason: Arc<str>,
}

/// The running control task. Dropping it ends the task; what is published stays.
#[derive(Debug)]
pub struct Control {
    published: Arc<Published>,
    state: watch::Receiver<Arc<ControlState>>,
    inventory: InventoryClient,
    task: tokio::task::JoinHandle<()>,
    outliers: tokio::task::JoinHandle<()>,
}

impl Control {
    /// Compiles the bootstrap's static resources, then follows `resources` on the calling tokio
    /// runtime.
    ///
    /// # Errors
    /// Everything that is wrong with the bootstrap, at once.
    pub fn start(
        bootstrap: Bootstrap,
        resources: watch::Receiver<Arc<ResourceSet>>,
        secrets: Arc<dyn SecretSubscriber>,
        stats: Arc<Registry>,
        logs: Option<Arc<LogWriter>>,
    ) -> Result<Self, ConfigErrors> {
        let published = Published::new(Arc::new(Snapshot::default()));
        let controller = Controller::new(bootstrap, secrets, stats, logs, Arc::clone(&published))?;
        let state = controller.state();
        let (inventory, requests) = InventoryClient::new();
        let outliers = outliers::follow(Arc::clone(&published), controller.outliers());
        let outliers = tokio::spawn(essential("outlier detection", outliers));
        let run = controller.run(resources, requests);
        let task = tokio::spawn(essential("control", run));
        Ok(Self {
            published,
            state,
            inventory,
            task,
            outliers,
        })
    }

    pub fn published(&self) -> &Arc<Published> {
        &self.published
    }

    /// Asks for all dynamic resources.
    pub fn inventory(&self) -> InventoryClient {
        self.inventory.clone()
    }

    /// The state now and each later one.
    pub fn state(&self) -> watch::Receiver<Arc<ControlState>> {
        self.state.clone()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        self.outliers.abort();
    }
}

/// Whether the proxy would start with `bootstrap` (`--mode validate`). Certificates in files are
/// read; secrets of SDS are not fetched. Must be called inside a tokio runtime.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn validate(bootstrap: Bootstrap) -> Result<(), ConfigErrors> {
    let published = Published::new(Arc::new(Snapshot::default()));
    let stats = Registry::new(1).shaped(statistics::shape(&bootstrap)?);
    let stats = Arc::new(stats);
    Controller::new(bootstrap, Arc::new(NoSecrets), stats, None, published).map(drop)
}

/// Whether a secret could be used: what an SDS client tells its server.
///
/// # Errors
/// Everything that is wrong with it; its material is not in the text.
pub fn check_secret(secret: &Secret) -> Result<(), String> {
    secrets::check(secret).map_err(|errors| errors.to_string())
}

/// Whether a resource could be served as it stands: what an ADS client tells its server. What it
/// waits for, and whether other resources are there, is not asked.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn check_resource(resource: Candidate<'_>) -> Result<(), String> {
    contained(|| compile_alone(resource)).unwrap_or_else(|panic| {
        Err(format!(
            "it cannot be compiled, by a mistake of ours: {panic}"
        ))
    })
}

fn compile_alone(resource: Candidate<'_>) -> Result<(), String> {
    let compiler = || {
        let stats = Arc::new(Registry::new(1));
        let secrets = SecretStore::new(Arc::new(NoSecrets), BTreeMap::new(), Arc::clone(&stats));
        Compiler::new(stats, None, secrets, Arc::default())
    };
    let checked = match resource {
        Candidate::Cluster(config) => compiler()
            .cluster(config, &format!("cluster {:?}", config.name))
            .map(drop),
        Candidate::Endpoints(config) => Compiler::any_endpoints(
            config,
            &format!("load assignment {:?}", config.cluster_name),
        ),
        Candidate::Listener(config) => compiler()
            .listener(config, &format!("listener {:?}", config.name))
            .map(drop),
        Candidate::Route(config) => {
            Compiler::routes(config, &format!("route configuration {:?}", config.name)).map(drop)
        }
    };
    checked.map_err(|errors| errors.to_string())
}

/// Serves nothing.
struct NoSecrets;

impl SecretSubscriber for NoSecrets {
    fn subscribe(&self, _: &SecretRef) -> watch::Receiver<SecretState> {
        watch::channel(SecretState::Pending("not fetched".into())).1
    }
}
