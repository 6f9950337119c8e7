//! Where the data plane's configuration comes from, whichever it is.

use std::sync::Arc;

use ithildin_istio_config::{ConfigError, Watcher};
use ithildin_proto::nds::NameTable;
use ithildin_proxy::control;
use ithildin_spiffe::IdentityState;
use ithildin_status::WorkloadHealth;
use ithildin_wasm::Modules;
use ithildin_xds::{
    AdsServer, ResourceSet, SdsClients, SecretRef, SecretState, SecretSubscriber, ServerAddress,
    ads::{AdsSecrets, AdsStatus},
};
use tokio::sync::watch;
use tonic::service::Routes;

use super::{
    istiod::{Awaited, Istiod},
    settings::{ConfigSource, Settings},
};

/// The source under way; it is followed for as long as this lives.
pub(super) enum Configuration {
    Folder(Watcher),
    Istiod(Istiod),
}

impl Configuration {
    /// # Errors
    /// When the settings do not say how to reach istiod.
    pub(super) async fn start(
        settings: &Settings,
        identity: watch::Receiver<IdentityState>,
    ) -> anyhow::Result<Self> {
        Ok(match &settings.source {
            ConfigSource::Folder(folder) => {
                Self::Folder(Watcher::start(folder.clone(), settings.node.clone()).await)
            }
            ConfigSource::Istiod => Self::Istiod(Istiod::start(settings, identity)?),
        })
    }

    pub(super) fn resources(&self) -> watch::Receiver<Arc<ResourceSet>> {
        match self {
            Self::Folder(watcher) => watcher.resources(),
            Self::Istiod(istiod) => match istiod.client() {
                Some(client) => client.resources(),
                // Envoy has them.
                None => watch::channel(Arc::default()).1,
            },
        }
    }

    /// What is wrong in the folder; istiod's part is in [`Configuration::awaited`].
    pub(super) fn errors(&self) -> watch::Receiver<Arc<[ConfigError]>> {
        match self {
            Self::Folder(watcher) => watcher.errors(),
            Self::Istiod(_) => watch::channel([].into()).1,
        }
    }

    /// The names of the mesh, for the DNS proxy.
    pub(super) fn names(&self) -> watch::Receiver<Option<Arc<NameTable>>> {
        match self {
            Self::Folder(watcher) => watcher.names(),
            Self::Istiod(istiod) => istiod.feeds().names.clone(),
        }
    }

    /// Roots of the mesh's other CAs, PEM, where istiod hands them out.
    pub(super) fn mesh_roots(&self) -> Option<watch::Receiver<Arc<[String]>>> {
        match self {
            Self::Folder(_) => None,
            Self::Istiod(istiod) => Some(istiod.feeds().roots.clone()),
        }
    }

    /// Tells whoever routes to the workload how it is, by its own probe.
    pub(super) fn report(&self, health: watch::Receiver<Option<WorkloadHealth>>) {
        match self {
            // Nobody else reads the folder for it.
            Self::Folder(_) => {}
            Self::Istiod(istiod) => istiod.report(health),
        }
    }

    /// What is still waited for, if it is istiod.
    pub(super) fn awaited(&self) -> Option<Awaited> {
        match self {
            Self::Folder(_) => None,
            Self::Istiod(istiod) => Some(istiod.awaited()),
        }
    }

    /// The Wasm modules that are fetched for Envoy, if that is ours to do.
    pub(super) fn modules(&self) -> Option<Modules> {
        match self {
            Self::Folder(_) => None,
            Self::Istiod(istiod) => istiod.relay()?.modules().cloned(),
        }
    }

    /// Discovery for Envoy, and what Envoy says of it. Must be called inside a tokio runtime.
    pub(super) fn discovery(&self) -> (Routes, watch::Receiver<AdsStatus>) {
        let relay = match self {
            Self::Folder(_) => None,
            Self::Istiod(istiod) => istiod.relay(),
        };
        match relay {
            Some(relay) => {
                let service = relay.server().into_service();
                (Routes::new(service), relay.status())
            }
            None => {
                let ads = AdsServer::new(self.resources());
                let status = ads.status();
                (Routes::new(ads.into_service()), status)
            }
        }
    }

    /// `local`, and beside it the secrets that istiod and others in the Pod have for gateways.
    pub(super) fn secrets(
        &self,
        settings: &Settings,
        local: impl SecretSubscriber,
    ) -> Arc<dyn SecretSubscriber> {
        let client = match self {
            Self::Folder(_) => None,
            Self::Istiod(istiod) => istiod.client(),
        };
        match client {
            None => Arc::new(local),
            Some(client) => Arc::new(Secrets {
                local,
                istiod: client.secrets(),
                others: others(settings),
            }),
        }
    }
}

/// istiod's name for SDS by our own socket.
const OURS: &str = "sds-grpc";
/// The same for certificates in files, which come from that socket too.
const OURS_FOR_FILES: &str = "sds-files-grpc";
/// istiod's name for SDS by somebody else in the Pod (`credentialName: sds://...`).
const OTHERS: &str = "sds-external";

struct Secrets<L> {
    local: L,
    istiod: AdsSecrets,
    /// Servers that are not ours; it refuses those that it does not know.
    others: SdsClients,
}

impl<L: SecretSubscriber> SecretSubscriber for Secrets<L> {
    fn subscribe(&self, secret: &SecretRef) -> watch::Receiver<SecretState> {
        if secret.is_from_ads() {
            return self.istiod.subscribe(secret);
        }
        match secret.grpc_cluster() {
            None | Some(OURS | OURS_FOR_FILES) => self.local.subscribe(secret),
            Some(_) => self.others.subscribe(secret),
        }
    }
}

fn others(settings: &Settings) -> SdsClients {
    let socket = ServerAddress::Pipe(settings.identity.credential_socket.clone());
    SdsClients::new(
        settings.xds_node(),
        Arc::new(move |cluster| (cluster == OTHERS).then(|| socket.clone())),
        Vec::new(),
        Arc::new(control::check_secret),
    )
}
