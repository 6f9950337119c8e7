//! The sockets of the authority: each serves the Workload API and SDS of one view.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use ithildin_spiffe::{
    authority::{Authority, AuthorityProvider, WorkloadConfig},
    workload_api::WorkloadApiServer,
};
use ithildin_xds::{SdsOptions, SdsServer, serve::Socket};
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinSet};
use tonic::service::Routes;
use tracing::{error, info};

/// Everybody on the machine may connect, as to a SPIRE agent: who they are decides what they get.
const SOCKET_MODE: u32 = 0o777;

/// All sockets of one authority; clones share them.
#[derive(Clone)]
pub struct Sockets {
    authority: Authority,
    shared: Arc<Shared>,
}

struct Shared {
    stop: watch::Sender<bool>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    paths: BTreeSet<PathBuf>,
    tasks: JoinSet<()>,
}

impl Sockets {
    /// None is open yet.
    pub fn new(authority: Authority) -> Self {
        let shared = Shared {
            stop: watch::Sender::new(false),
            open: Mutex::default(),
        };
        Self {
            authority,
            shared: Arc::new(shared),
        }
    }

    /// Whose sockets they are.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Opens the socket on which callers are told apart by their credentials.
    pub fn open_agent(&self, authority: &str, path: Option<&Path>) -> anyhow::Result<()> {
        match path {
            Some(path) => self.open(self.authority.agent(authority)?, path),
            None => Ok(()),
        }
    }

    /// Opens the workload's own socket, if it has one.
    pub fn open_workload(&self, authority: &str, workload: &WorkloadConfig) -> anyhow::Result<()> {
        match &workload.socket {
            Some(path) => self.open(self.authority.workload(authority, &workload.id)?, path),
            None => Ok(()),
        }
    }

    fn open(&self, provider: AuthorityProvider, path: &Path) -> anyhow::Result<()> {
        let mut open = self.shared.open.lock();
        if !open.paths.insert(path.to_path_buf()) {
            return Ok(());
        }
        let socket = Socket::unix(path, SOCKET_MODE);
        let socket = socket.with_context(|| format!("cannot listen on {}", path.display()))?;
        let provider = Arc::new(provider);
        let workload_api = WorkloadApiServer::service(provider.clone(), Some(provider.clone()));
        let sds = SdsServer::new(provider, SdsOptions::default()).into_service();
        let routes = Routes::new(workload_api).add_service(sds);
        let mut stop = self.shared.stop.subscribe();
        let stopped = async move {
            // An error means that the authority is gone: as good as a stop.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        info!(socket = %path.display(), "serving the Workload API and SDS");
        let path = path.to_path_buf();
        open.tasks.spawn(async move {
            let served: io::Result<()> = socket.serve(routes, stopped).await;
            if let Err(error) = served {
                error!(socket = %path.display(), %error, "a socket failed");
            }
        });
        Ok(())
    }

    /// Ends all streams and removes the sockets.
    pub async fn close(&self) {
        self.shared.stop.send_replace(true);
        let mut tasks = std::mem::take(&mut self.shared.open.lock().tasks);
        while tasks.join_next().await.is_some() {}
    }
}
