//! Sockets, authorities and bounded waits.

use std::{path::Path, sync::Arc, time::Duration};

use ithildin_spiffe::{
    IdentitySnapshot, IdentityState, SpiffeId, TrustDomain,
    authority::{Authority, AuthorityConfig, TrustDomainConfig, WorkloadConfig},
    workload_api::{WorkloadApiServer, WorkloadEndpoint},
};
use tokio::{
    net::UnixListener,
    runtime::{self, Runtime},
    sync::watch,
    time::timeout,
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

/// More than any wait of these tests takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const WEB: &str = "spiffe://domain.test/web";

pub(crate) fn td(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

pub(crate) fn config(svid_ttl: Duration) -> AuthorityConfig {
    let mut ours = TrustDomainConfig::new(td("domain.test"));
    ours.svid_ttl = svid_ttl;
    ours.workloads = vec![WorkloadConfig::new(id(WEB))];
    AuthorityConfig {
        trust_domains: vec![ours, TrustDomainConfig::new(td("example.org"))],
        federation: vec![(td("domain.test"), td("example.org"))],
    }
}

pub(crate) fn authority() -> Authority {
    Authority::start(config(Duration::from_secs(3600))).unwrap()
}

pub(crate) fn endpoint(path: &Path) -> WorkloadEndpoint {
    WorkloadEndpoint::Unix(path.to_path_buf())
}

/// A Workload API server on a Unix socket, until it is dropped: then its connections break, and the
/// socket file stays behind, as after a crash. It has its own runtime, which takes the tasks along.
pub(crate) struct Serving(Option<Runtime>);

impl Serving {
    pub(crate) fn start(authority: &Authority, path: &Path) -> Self {
        let provider = Arc::new(authority.agent("domain.test").unwrap());
        let service = WorkloadApiServer::service(provider.clone(), Some(provider));
        let _ = std::fs::remove_file(path);
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let guard = runtime.enter();
        let incoming = UnixListenerStream::new(UnixListener::bind(path).unwrap());
        drop(guard);
        let server = Server::builder().add_service(service);
        runtime.spawn(async move {
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self(Some(runtime))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Waits until the state is as wanted.
pub(crate) async fn until<S: Clone>(
    states: &mut watch::Receiver<S>,
    wanted: impl FnMut(&S) -> bool,
) -> S {
    let state = timeout(PATIENCE, states.wait_for(wanted)).await;
    state
        .expect("the state comes in time")
        .expect("the source lives")
        .clone()
}

/// Waits for a snapshot as wanted.
pub(crate) async fn ready(
    states: &mut watch::Receiver<IdentityState>,
    mut wanted: impl FnMut(&IdentitySnapshot) -> bool,
) -> Arc<IdentitySnapshot> {
    let state = until(states, |state| {
        state.snapshot().is_some_and(|snapshot| wanted(snapshot))
    });
    state.await.snapshot().cloned().unwrap()
}

/// Waits until the identity is withdrawn; returns the reason.
pub(crate) async fn withdrawn(states: &mut watch::Receiver<IdentityState>) -> String {
    match until(states, |state| matches!(state, IdentityState::Withdrawn(_))).await {
        IdentityState::Withdrawn(reason) => reason.to_string(),
        _ => unreachable!("waited for it"),
    }
}
