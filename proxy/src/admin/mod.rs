//! The admin server: Envoy's pages, for people, `istioctl` and scrapers.
//!
//! It runs on the control runtime and reads what others publish; nothing on the data path waits
//! for it. Invariant: no page shows a private key.

mod bootstrap;
mod certs;
mod clusters;
mod config_dump;
mod contexts;
mod listeners;
mod pages;
mod process;
mod server_info;
mod statistics;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use ithildin_xds::ResourceSet;
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinHandle,
};

pub use self::bootstrap::StoredBootstrap;
use crate::{
    access_log::LogWriter,
    control::{ControlState, InventoryClient},
    runtime::{Drainer, ListenerReport},
    server::Readiness,
    stats::Registry,
    worker::Published,
};

/// Most connections at one time; more wait in the socket's queue.
const MAX_CONNECTIONS: usize = 64;

/// What the admin pages read, and whom they ask.
#[derive(Clone)]
pub struct AdminState {
    pub bootstrap: Arc<StoredBootstrap>,
    pub published: Arc<Published>,
    /// As the control plane sent them.
    pub resources: watch::Receiver<Arc<ResourceSet>>,
    pub control: watch::Receiver<Arc<ControlState>>,
    pub inventory: InventoryClient,
    pub listeners: watch::Receiver<Arc<ListenerReport>>,
    pub readiness: watch::Receiver<Readiness>,
    pub stats: Arc<Registry>,
    pub logs: Arc<LogWriter>,
    pub commands: Commands,
    pub drainer: Drainer,
    pub started: Instant,
    /// `--drain-time-s`.
    pub drain_time: Duration,
    /// Counters at the last `/reset_counters`, by name.
    pub counted: Arc<Mutex<HashMap<String, u64>>>,
}

/// What was asked for by `POST`; whoever runs the proxy follows it.
#[derive(Clone, Debug)]
pub struct Commands(Arc<watch::Sender<Requested>>);

/// See [`Commands`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requested {
    /// `/quitquitquit`: end the process.
    pub quit: bool,
    /// `/healthcheck/fail`, until `/healthcheck/ok`: tell load balancers to go elsewhere.
    pub fail_health_checks: bool,
}

impl Default for Commands {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Requested::default())))
    }
}

impl Commands {
    /// What is asked for now, and each later change.
    pub fn subscribe(&self) -> watch::Receiver<Requested> {
        self.0.subscribe()
    }

    fn current(&self) -> Requested {
        *self.0.borrow()
    }

    fn set(&self, change: impl FnOnce(&mut Requested)) {
        self.0.send_modify(change);
    }
}

/// The running server; dropping it ends it.
#[derive(Debug)]
pub struct AdminServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl AdminServer {
    /// Serves on `address` from the calling tokio runtime.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn start(address: SocketAddr, state: AdminState) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self {
            address: listener.local_addr()?,
            task: tokio::spawn(accept(listener, Arc::new(state))),
        })
    }

    /// Where it listens; port 0 is resolved.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<AdminState>) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&connections).acquire_owned().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the admin address");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = tower::service_fn(move |request: Request<Incoming>| {
                let state = Arc::clone(&state);
                async move {
                    let response = pages::answer(&state, request.method(), request.uri()).await;
                    Ok::<_, Infallible>(response)
                }
            });
            let service = TowerToHyperService::new(service);
            // A client that breaks off is its own affair.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(permit);
        });
    }
}

/// An answer of a page.
type Page = Response<Full<Bytes>>;
