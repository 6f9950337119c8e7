//! The types on the stream that the agent itself asks for, and never a data plane.

use std::sync::Arc;

use ithildin_proto::{
    nds::NameTable,
    pb::{
        envoy::config::core::v3::Node,
        google::{protobuf::Any, rpc},
    },
};
use ithildin_xds::{
    ResourceKind, TypeUrl,
    ads::{Errand, Follower, Want},
    subscription::{Incoming, Interest, Update, Verdict},
};
use prost::Message;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::federation;

const NAMES: &str = "type.googleapis.com/istio.networking.nds.v1.NameTable";
const PROXY_CONFIG: &str = "type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig";
const HEALTH: &str = "type.googleapis.com/istio.v1.HealthInformation";
/// google.rpc.Code.INTERNAL, as Istio's agent reports a failed probe.
const UNHEALTHY: i32 = 13;

/// Which of the types are wanted.
#[derive(Clone, Debug, Default)]
pub struct AgentTypesOptions {
    /// The DNS proxy runs.
    pub names: bool,
    /// `PROXY_CONFIG_XDS_AGENT`.
    pub roots: bool,
    /// Inbound listeners let in peers of federated trust domains, see [`federation`].
    pub admit_federated: bool,
    /// Where the workload has a readiness probe of its own: what that last said.
    pub health: Option<watch::Receiver<Option<HealthReport>>>,
}

/// What a readiness probe said of the workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthReport {
    Healthy,
    Unhealthy(String),
}

/// What istiod sends of the agent's types.
#[derive(Clone, Debug)]
pub struct AgentFeeds {
    /// The names of the mesh; `None` until istiod has sent them.
    pub names: watch::Receiver<Option<Arc<NameTable>>>,
    /// Extra roots of the mesh, PEM (`caCertificatesPem`).
    pub roots: watch::Receiver<Arc<[String]>>,
}

/// The sending side of the feeds.
#[derive(Debug)]
pub struct AgentTypes {
    names: Option<watch::Sender<Option<Arc<NameTable>>>>,
    roots: Option<watch::Sender<Arc<[String]>>>,
    health: Option<watch::Receiver<Option<HealthReport>>>,
    admit_federated: bool,
}

impl AgentTypes {
    pub fn new(options: AgentTypesOptions) -> (Self, AgentFeeds) {
        let (names, names_feed) = watch::channel(None);
        let (roots, roots_feed) = watch::channel([].into());
        let types = Self {
            names: options.names.then_some(names),
            roots: options.roots.then_some(roots),
            health: options.health,
            admit_federated: options.admit_federated,
        };
        let feeds = AgentFeeds {
            names: names_feed,
            roots: roots_feed,
        };
        (types, feeds)
    }

    fn wanted(&self) -> Vec<Want> {
        let everything = |url| Want::Resources(TypeUrl::new(url), Interest::everything());
        let names = self.names.is_some().then(|| everything(NAMES));
        let roots = self.roots.is_some().then(|| everything(PROXY_CONFIG));
        let health = self.health.as_ref().and_then(|health| {
            let error = match health.borrow().clone()? {
                HealthReport::Healthy => None,
                HealthReport::Unhealthy(message) => Some(rpc::Status {
                    code: UNHEALTHY,
                    message,
                    details: Vec::new(),
                }),
            };
            Some(Want::Notice(TypeUrl::new(HEALTH), error))
        });
        names.into_iter().chain(roots).chain(health).collect()
    }

    /// Only the first resource counts. Nothing at all is no answer, and gets none.
    fn take(&mut self, update: &Update) -> Option<Verdict> {
        let body = update.resources.first()?.body.as_ref();
        let taken = match (body, update.url.as_str()) {
            (None, _) => Err("the resource is empty".to_owned()),
            (Some(body), NAMES) => self.take_names(body),
            (Some(body), _) => self.take_roots(body),
        };
        let reason = taken.err();
        if let Some(reason) = &reason {
            warn!(
                url = update.url.as_str(),
                reason, "a resource for the agent is refused"
            );
        }
        Some(Verdict {
            whole: reason,
            ..Default::default()
        })
    }

    fn take_names(&self, body: &Any) -> Result<(), String> {
        let table = NameTable::decode(body.value.as_slice()).map_err(|error| error.to_string())?;
        debug!(names = table.table.len(), "names of the mesh have arrived");
        if let Some(names) = &self.names {
            names.send_if_modified(|held| {
                let changed = held.as_deref() != Some(&table);
                if changed {
                    *held = Some(Arc::new(table));
                }
                changed
            });
        }
        Ok(())
    }

    fn take_roots(&self, body: &Any) -> Result<(), String> {
        let config =
            ProxyConfig::decode(body.value.as_slice()).map_err(|error| error.to_string())?;
        if let Some(roots) = &self.roots {
            roots.send_if_modified(|held| {
                let changed = **held != *config.ca_certificates_pem;
                if changed {
                    *held = config.ca_certificates_pem.into();
                }
                changed
            });
        }
        Ok(())
    }

    /// Waits for news of the workload's health.
    async fn changed(&mut self) {
        if let Some(health) = &mut self.health
            && health.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

/// The field of Istio's `mesh.v1alpha1.ProxyConfig` that means something here.
#[derive(Message)]
struct ProxyConfig {
    #[prost(string, repeated, tag = "34")]
    ca_certificates_pem: Vec<String>,
}

/// A follower, and the agent's types on the same stream.
pub struct WithAgentTypes<F> {
    inner: F,
    types: AgentTypes,
}

impl<F: Follower> WithAgentTypes<F> {
    pub fn new(inner: F, types: AgentTypes) -> Self {
        Self { inner, types }
    }
}

impl<F: Follower> Follower for WithAgentTypes<F> {
    fn begin(&mut self) {
        self.inner.begin();
    }

    fn node(&self) -> Option<Node> {
        self.inner.node()
    }

    /// Ours come behind the request for listeners, and not without it.
    fn wanted(&mut self) -> Vec<Want> {
        let mut wanted = self.inner.wanted();
        let is_listeners = |want: &Want| match want {
            Want::Resources(url, interest) => {
                url.kind() == Some(ResourceKind::Listener) && !interest.is_empty()
            }
            Want::Notice(..) => false,
        };
        if let Some(listeners) = wanted.iter().position(is_listeners) {
            wanted.splice(listeners + 1..listeners + 1, self.types.wanted());
        }
        wanted
    }

    fn take(&mut self, mut update: Update) -> Option<Verdict> {
        if self.types.admit_federated && update.url.kind() == Some(ResourceKind::Listener) {
            update.resources.iter_mut().for_each(admit_federated);
        }
        match update.url.as_str() {
            NAMES | PROXY_CONFIG => self.types.take(&update),
            _ => self.inner.take(update),
        }
    }

    fn errands(&mut self) -> Vec<Errand> {
        self.inner.errands()
    }

    async fn changed(&mut self) {
        tokio::select! {
            () = self.inner.changed() => {}
            () = self.types.changed() => {}
        }
    }
}

/// What cannot be read stays as it is: whoever takes it refuses it.
fn admit_federated(listener: &mut Incoming) {
    let Some(body) = &mut listener.body else {
        return;
    };
    match federation::admit_federated(body) {
        Ok(0) => {}
        Ok(contexts) => debug!(
            listener = listener.name,
            contexts, "federated trust domains are let in"
        ),
        Err(error) => debug!(listener = listener.name, %error, "a listener cannot be read"),
    }
}
