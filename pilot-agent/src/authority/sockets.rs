//! The sockets of the authority: each serves the Workload API and SDS of one view.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use ithildin_spiffe::{
    SpiffeId,
    authority::{Authority, AuthorityError, AuthorityProvider, WorkloadConfig},
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
    /// What is offered where.
    views: BTreeMap<PathBuf, View>,
    tasks: JoinSet<()>,
}

/// What a socket offers, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
enum View {
    /// To each caller what is its own.
    Agent { authority: String },
    /// To every caller the identity of one workload.
    Workload { authority: String, id: SpiffeId },
}

/// A socket that is not served yet. Callers wait in it; without being served it vanishes.
pub(super) struct Bound {
    path: PathBuf,
    view: View,
    provider: AuthorityProvider,
    socket: Socket,
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
        let Some(path) = path else {
            return Ok(());
        };
        let view = View::Agent {
            authority: authority.to_owned(),
        };
        let bound = self.bind(view, path)?;
        self.serve(bound);
        Ok(())
    }

    /// Opens the workload's own socket, if it has one.
    pub fn open_workload(&self, authority: &str, workload: &WorkloadConfig) -> anyhow::Result<()> {
        let bound = self.bind_workload(authority, workload)?;
        self.serve(bound);
        Ok(())
    }

    /// The workload's own socket, to be served; `None` if it has none, or if it is served already.
    pub(super) fn bind_workload(
        &self,
        authority: &str,
        workload: &WorkloadConfig,
    ) -> anyhow::Result<Option<Bound>> {
        let Some(path) = &workload.socket else {
            return Ok(None);
        };
        let view = View::Workload {
            authority: authority.to_owned(),
            id: workload.id.clone(),
        };
        self.bind(view, path)
    }

    /// Whoever may use a path twice would hand one workload's identity to another.
    fn bind(&self, view: View, path: &Path) -> anyhow::Result<Option<Bound>> {
        match self.shared.open.lock().views.get(path) {
            Some(served) if *served == view => return Ok(None),
            Some(served) => bail!(
                "{} is the socket of {served}; give {view} another one",
                path.display()
            ),
            None => {}
        }
        let provider = view.provider(&self.authority)?;
        let socket = Socket::unix(path, SOCKET_MODE);
        let socket = socket.with_context(|| format!("the socket of {view}"))?;
        Ok(Some(Bound {
            path: path.to_path_buf(),
            view,
            provider,
            socket,
        }))
    }

    pub(super) fn serve(&self, bound: Option<Bound>) {
        let Some(bound) = bound else {
            return;
        };
        let Bound {
            path,
            view,
            provider,
            socket,
        } = bound;
        let provider = Arc::new(provider);
        let workload_api = WorkloadApiServer::service(provider.clone(), Some(provider.clone()));
        let sds = SdsServer::new(provider, SdsOptions::default()).into_service();
        let routes = Routes::new(workload_api).add_service(sds);
        let mut stop = self.shared.stop.subscribe();
        let stopped = async move {
            // An error means that the authority is gone: as good as a stop.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        info!(socket = %path.display(), to = %view, "serving the Workload API and SDS");
        let mut open = self.shared.open.lock();
        open.views.insert(path.clone(), view);
        open.tasks.spawn(async move {
            let served: io::Result<()> = socket.serve(routes, stopped).await;
            if let Err(error) = served {
                error!(socket = %path.display(), %error, "a socket failed");
            }
        });
    }

    /// Ends all streams and removes the sockets.
    pub async fn close(&self) {
        self.shared.stop.send_replace(true);
        let mut tasks = std::mem::take(&mut self.shared.open.lock().tasks);
        while tasks.join_next().await.is_some() {}
    }
}

impl View {
    fn provider(&self, of: &Authority) -> Result<AuthorityProvider, AuthorityError> {
        match self {
            Self::Agent { authority } => of.agent(authority),
            Self::Workload { authority, id } => of.workload(authority, id),
        }
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent { authority } => write!(f, "the agent of {authority}"),
            Self::Workload { authority, id } => {
                write!(f, "the workload {id} of the authority {authority}")
            }
        }
    }
}
