//! The proxy as a library: what `ithildin-proxy` and `pilot-agent` start, watch and stop.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ithildin_proto::pb::envoy::config::bootstrap::v3::Bootstrap;
use ithildin_xds::{ResourceSet, SecretSubscriber};
use tokio::sync::watch;

use crate::runtime::RuntimeError;

/// What a proxy runs on.
pub struct ProxyOptions {
    /// The process-wide part of the configuration: node, admin, static resources. Static resources are
    /// served beside `resources`; an error in one of them fails the start.
    pub bootstrap: Arc<Bootstrap>,
    /// Dynamic resources, each time whole. A resource that is refused keeps its last good form.
    pub resources: watch::Receiver<Arc<ResourceSet>>,
    pub secrets: Arc<dyn SecretSubscriber>,
    /// Worker threads (`--concurrency`); at least 1.
    pub concurrency: usize,
    /// How long draining connections may live on (`--drain-time-s`; Envoy's default is 600 s).
    pub drain_time: Duration,
}

/// Whether the proxy serves its whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet; each text names one thing that is waited for.
    Waiting(Arc<[String]>),
    Ready,
    Draining,
}

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// A running proxy.
pub struct Proxy {
    readiness: watch::Receiver<Readiness>,
}

impl Proxy {
    /// Starts workers and control tasks on the calling tokio runtime.
    pub async fn start(_options: ProxyOptions) -> Result<Self, StartError> {
        todo!()
    }

    /// The state now and each later one.
    pub fn ready(&self) -> watch::Receiver<Readiness> {
        self.readiness.clone()
    }

    /// Stops accepting and asks live connections to finish; returns at once.
    pub fn drain(&self) {
        todo!()
    }

    /// Drains for at most `deadline`, closes the rest, and ends the threads.
    pub async fn shutdown(self, _deadline: Duration) {
        todo!()
    }

    /// Downstream connections at this instant.
    pub fn active_connections(&self) -> u64 {
        todo!()
    }

    /// Where the admin server listens, if the bootstrap has one.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        todo!()
    }
}
