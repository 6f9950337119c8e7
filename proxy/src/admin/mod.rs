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
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use ithildin_xds::ResourceSet;
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
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

/// A client that sends no whole head for so long, or no further request, is hung up on: probes and
/// scrapers wait for its place.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a failed accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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

/// The running server; dropping it ends it and its connections.
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
        Self::start_with(address, state, HEAD_TIMEOUT).await
    }

    async fn start_with(
        address: SocketAddr,
        state: AdminState,
        head_timeout: Duration,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self {
            address: listener.local_addr()?,
            task: tokio::spawn(accept(listener, Arc::new(state), head_timeout)),
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

async fn accept(listener: TcpListener, state: Arc<AdminState>, head_timeout: Duration) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(serve(stream, Arc::clone(&state), head_timeout));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the admin address");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, state: Arc<AdminState>, head_timeout: Duration) {
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
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// An answer of a page.
type Page = Response<Full<Bytes>>;
