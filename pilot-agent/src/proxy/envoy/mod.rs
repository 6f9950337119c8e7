//! The data plane `envoy`: a child process, the sockets that it is served on, and what it says of them.

mod command;
mod connections;
mod process;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use ithildin_panics::essential;
use ithildin_status::grpc_bootstrap;
use ithildin_xds::{SdsServer, ads::AdsStatus, serve::Socket};
use tokio::{sync::watch, task::JoinHandle};
use tonic::service::Routes;
use tracing::info;

pub(super) use self::process::Process;
use super::{
    bootstrap::{Sockets, proxyless},
    configuration::Configuration,
    istiod::Awaited,
    settings::{Drain, Settings},
};

/// As Istio's agent has it: a workload without a proxy speaks to it too.
const XDS_MODE: u32 = 0o666;
/// Only Envoy, which runs as our user, asks for keys.
const SOCKET_MODE: u32 = 0o600;
/// Envoy runs as another user (`DNS_PROXY_ADDR` on port 53).
const SHARED_SOCKET_MODE: u32 = 0o666;

/// Envoy on what the configuration's source says.
#[derive(Debug)]
pub(super) struct Envoy {
    /// None with `DISABLE_ENVOY`: the sockets are served, to whoever comes.
    process: Option<Process>,
    ads: watch::Receiver<AdsStatus>,
    awaited: Option<Awaited>,
    servers: Servers,
    /// The bootstrap of a workload without a proxy, if there is one.
    proxyless: Option<PathBuf>,
}

/// Our two servers; they end with the sender.
#[derive(Debug)]
struct Servers {
    alive: watch::Sender<()>,
    tasks: [JoinHandle<io::Result<()>>; 2],
}

impl Envoy {
    /// Serves xDS and SDS on Unix sockets and starts Envoy on them.
    pub(super) async fn start(
        settings: &Settings,
        configuration: &Configuration,
        sds: SdsServer,
    ) -> anyhow::Result<Self> {
        let (ads, status) = configuration.discovery();
        let (sockets, file, servers) = serve(settings, ads, sds)?;
        let proxyless = proxyless::write(settings, &sockets.xds)?;
        let process = match settings.envoy.disabled {
            true => None,
            false => Some(Process::start(settings, &sockets, &file).await?),
        };
        Ok(Self {
            process,
            ads: status,
            awaited: configuration.awaited(),
            servers,
            proxyless,
        })
    }

    /// Why it does not serve yet; empty once it does.
    pub(super) async fn waiting(&self) -> Vec<String> {
        let Some(process) = &self.process else {
            let istiod = self.awaited.as_ref().and_then(Awaited::unreached);
            let file = self.proxyless.as_deref().and_then(grpc_bootstrap::missing);
            return istiod.into_iter().chain(file).collect();
        };
        let mut reasons = Vec::new();
        {
            let status = self.ads.borrow();
            for (kind, status) in &status.kinds {
                if let Some(refusal) = &status.refusal {
                    reasons.push(format!("Envoy refuses {}: {refusal}", kind.short()));
                }
            }
            if !status.is_serving() {
                reasons.extend(self.awaited.as_ref().and_then(Awaited::reason));
                reasons.push("Envoy has not accepted clusters and listeners".into());
                return reasons;
            }
        }
        reasons.extend(process.waiting().await);
        reasons
    }

    pub(super) fn awaited(&self) -> Option<&Awaited> {
        self.awaited.as_ref()
    }

    /// Whether Envoy refuses something of what it was sent last.
    pub(super) fn status(&self) -> watch::Receiver<AdsStatus> {
        self.ads.clone()
    }

    /// Waits for an end that nobody asked for; for ever, without a process.
    pub(super) async fn ended(&self) -> Arc<str> {
        match &self.process {
            Some(process) => process.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Stops accepting; live requests go on, and nothing ends.
    pub(super) async fn drain(&self) {
        if let Some(process) = &self.process {
            process.drain(true).await;
        }
    }

    /// Stops accepting, gives live requests their time, and ends it.
    pub(super) async fn shut_down(self, drain: Drain) {
        if let Some(process) = &self.process {
            process.shut_down(drain).await;
        }
        self.kill().await;
    }

    /// Ends it at once.
    pub(super) async fn kill(self) {
        if let Some(process) = self.process {
            process.kill().await;
        }
        drop(self.servers.alive);
        for task in self.servers.tasks {
            let _ = task.await;
        }
    }
}

/// Opens both sockets. Two agents with one `configPath` get sockets of different names.
fn serve(
    settings: &Settings,
    ads: Routes,
    sds: SdsServer,
) -> anyhow::Result<(Sockets, PathBuf, Servers)> {
    let folder = absolute(&settings.proxy_config.config_path)?;
    let mode = match settings.dns.replaces_resolver {
        true => SHARED_SOCKET_MODE,
        false => SOCKET_MODE,
    };
    let (suffix, xds_socket) = match Socket::unix(&folder.join("XDS"), XDS_MODE) {
        Ok(socket) => (String::new(), socket),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let suffix = format!(".{}", settings.ports.admin);
            info!(%error, suffix, "another agent uses this configPath; files get a suffix");
            let socket = Socket::unix(&folder.join(format!("XDS{suffix}")), XDS_MODE)?;
            (suffix, socket)
        }
        Err(error) => bail!("configPath of PROXY_CONFIG: {error}"),
    };
    let sockets = Sockets {
        xds: folder.join(format!("XDS{suffix}")),
        sds: folder.join(format!("SDS{suffix}")),
    };
    let sds_socket = Socket::unix(&sockets.sds, mode)?;
    let alive = watch::Sender::new(());
    let start = |task, socket: Socket, routes: Routes| {
        let mut alive = alive.subscribe();
        let end = async move { while alive.changed().await.is_ok() {} };
        tokio::spawn(essential(task, socket.serve(routes, end)))
    };
    let tasks = [
        start("XDS socket", xds_socket, ads),
        start("SDS socket", sds_socket, Routes::new(sds.into_service())),
    ];
    let bootstrap = folder.join(format!("envoy-rev{suffix}.json"));
    Ok((sockets, bootstrap, Servers { alive, tasks }))
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("configPath {}", path.display()))
}
