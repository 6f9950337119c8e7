//! The data plane `envoy`: a child process, its sockets, and what its admin says.

use std::{
    fs,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use ithildin_istio_config::NodeKind;
use ithildin_xds::{SdsServer, ads::AdsStatus, serve::Socket};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tonic::service::Routes;
use tracing::{info, warn};

use super::{
    bootstrap, child::Child, configuration::Configuration, istiod::Awaited, settings::Settings,
};
use crate::http_client;

/// As Istio's agent has it: a workload without a proxy speaks to it too.
const XDS_MODE: u32 = 0o666;
/// Only Envoy, which runs as our user, asks for keys.
const SOCKET_MODE: u32 = 0o600;
/// What Envoy must say of itself to be warm.
const WARM: [(&str, &str, &str); 4] = [
    ("server.state", "0", "Envoy initializes"),
    (
        "listener_manager.workers_started",
        "1",
        "Envoy's workers have not started",
    ),
    (
        "listener_manager.total_listeners_warming",
        "0",
        "listeners wait for routes or secrets",
    ),
    (
        "cluster_manager.warming_clusters",
        "0",
        "clusters wait for endpoints or secrets",
    ),
];
/// How often connections are counted while draining.
const IDLE_POLL: Duration = Duration::from_secs(1);
/// So many failures to count them in a row, and Envoy is taken for gone.
const IDLE_FAILURES: u32 = 5;

/// Envoy under way.
#[derive(Debug)]
pub(super) struct Envoy {
    child: Child,
    admin: SocketAddr,
    ads: watch::Receiver<AdsStatus>,
    awaited: Option<Awaited>,
    kind: NodeKind,
    bootstrap: PathBuf,
    servers: Servers,
}

/// Our two servers; they end with the sender.
#[derive(Debug)]
struct Servers {
    alive: watch::Sender<()>,
    tasks: [JoinHandle<io::Result<()>>; 2],
}

/// The files of one Envoy in the configuration folder.
struct Files {
    xds: PathBuf,
    sds: PathBuf,
    bootstrap: PathBuf,
}

impl Envoy {
    /// Serves xDS and SDS on Unix sockets and starts Envoy on them.
    pub(super) async fn start(
        settings: &Settings,
        configuration: &Configuration,
        sds: SdsServer,
    ) -> anyhow::Result<Self> {
        let (ads, status) = configuration.discovery();
        let (files, servers) = serve(settings, ads, sds)?;
        let config = bootstrap::envoy(settings, &files.xds, &files.sds);
        write_private(&files.bootstrap, &serde_json::to_vec_pretty(&config)?)
            .with_context(|| files.bootstrap.display().to_string())?;
        let child = Child::spawn(command(settings, &files.bootstrap)).await?;
        info!(
            pid = child.pid,
            binary = %settings.envoy.binary.display(),
            bootstrap = %files.bootstrap.display(),
            "Envoy has started"
        );
        Ok(Self {
            child,
            admin: (Ipv4Addr::LOCALHOST, settings.ports.admin).into(),
            ads: status,
            awaited: configuration.awaited(),
            kind: settings.node.kind,
            bootstrap: files.bootstrap,
            servers,
        })
    }

    /// Why it does not serve yet; empty once it does.
    pub(super) async fn waiting(&self) -> Vec<String> {
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
        match self.stats("^(server.state|listener_manager.(workers_started|total_listeners_warming)|cluster_manager.warming_clusters)$").await {
            Ok(stats) => reasons.extend(
                WARM.into_iter()
                    .filter(|(name, value, _)| stat(&stats, name) != Some(*value))
                    .map(|(_, _, reason)| reason.to_owned()),
            ),
            Err(error) => reasons.push(format!("Envoy's admin does not answer: {error:#}")),
        }
        reasons
    }

    pub(super) fn awaited(&self) -> Option<&Awaited> {
        self.awaited.as_ref()
    }

    /// Whether Envoy refuses something of what it was sent last.
    pub(super) fn status(&self) -> watch::Receiver<AdsStatus> {
        self.ads.clone()
    }

    /// Stops accepting; live requests go on.
    pub(super) async fn drain(&self) {
        let path = match self.kind {
            NodeKind::Sidecar => "/drain_listeners?inboundonly&graceful",
            NodeKind::Router => "/drain_listeners?graceful",
        };
        if let Err(error) = http_client::post(self.admin, path).await {
            warn!("cannot drain Envoy: {error:#}");
        }
    }

    /// Waits until no connection is left, or Envoy no longer says.
    pub(super) async fn idle(&self) {
        let mut failures = 0;
        let mut next = Instant::now();
        loop {
            match self.stats("downstream_cx_active$").await {
                Ok(stats) if connections(&stats) == 0 => return,
                Ok(stats) => {
                    failures = 0;
                    info!(
                        connections = connections(&stats),
                        "waiting for connections to end"
                    );
                }
                Err(error) => {
                    failures += 1;
                    warn!("cannot count Envoy's connections: {error:#}");
                }
            }
            if failures >= IDLE_FAILURES {
                return;
            }
            next += IDLE_POLL;
            tokio::time::sleep_until(next).await;
        }
    }

    pub(super) async fn ended(&self) -> Arc<str> {
        self.child.ended().await
    }

    /// Ends it at once, as Istio's agent does.
    pub(super) async fn kill(self) {
        self.child.kill();
        self.child.ended().await;
        let _ = fs::remove_file(&self.bootstrap);
        drop(self.servers.alive);
        for task in self.servers.tasks {
            let _ = task.await;
        }
    }

    async fn stats(&self, filter: &str) -> anyhow::Result<String> {
        let escaped = filter.replace('^', "%5E").replace('|', "%7C");
        let path = format!("/stats?filter={escaped}");
        let body = http_client::get(self.admin, &path).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

/// Opens both sockets. Two agents with one `configPath` get sockets of different names.
fn serve(settings: &Settings, ads: Routes, sds: SdsServer) -> anyhow::Result<(Files, Servers)> {
    let folder = absolute(&settings.proxy_config.config_path)?;
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
    let files = Files {
        xds: folder.join(format!("XDS{suffix}")),
        sds: folder.join(format!("SDS{suffix}")),
        bootstrap: folder.join(format!("envoy-rev{suffix}.json")),
    };
    let sds_socket = Socket::unix(&files.sds, SOCKET_MODE)?;
    let alive = watch::Sender::new(());
    let start = |socket: Socket, routes: Routes| {
        let mut alive = alive.subscribe();
        let end = async move { while alive.changed().await.is_ok() {} };
        tokio::spawn(socket.serve(routes, end))
    };
    let tasks = [
        start(xds_socket, ads),
        start(sds_socket, Routes::new(sds.into_service())),
    ];
    Ok((files, Servers { alive, tasks }))
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("configPath {}", path.display()))
}

/// The generated bootstrap tells nothing secret, but nobody else needs it.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)
}

fn command(settings: &Settings, bootstrap: &Path) -> Command {
    let ipv6 = settings.node.ips.iter().all(std::net::IpAddr::is_ipv6);
    let mut command = Command::new(&settings.envoy.binary);
    command
        .arg("-c")
        .arg(bootstrap)
        .args([
            "--drain-time-s",
            &settings.proxy_config.drain_duration.as_secs().to_string(),
        ])
        .args(["--drain-strategy", "immediate"])
        .args(["--local-address-ip-version", if ipv6 { "v6" } else { "v4" }])
        .args(["--file-flush-interval-msec", "1000"])
        .args(["--disable-hot-restart", "--allow-unknown-static-fields"])
        .args(["-l", &settings.envoy.log_level])
        .args(["--concurrency", &settings.concurrency.to_string()]);
    if !settings.envoy.component_log_level.is_empty() {
        command.args(["--component-log-level", &settings.envoy.component_log_level]);
    }
    command
}

fn stat<'a>(stats: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = stats.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Connections of the workload: not those of metrics and admin, nor the same by worker.
fn connections(stats: &str) -> u64 {
    stats
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| {
            name.starts_with("listener.")
                && !name.contains("worker_")
                && !name.starts_with("listener.admin")
                && !name.starts_with("listener.envoy_internal_")
                && !name.starts_with("listener.prometheus.")
        })
        .filter_map(|(_, value)| value.trim().parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_the_workload() {
        let stats = "\
listener.0.0.0.0_8080.downstream_cx_active: 2
listener.0.0.0.0_8080.worker_0.downstream_cx_active: 2
listener.admin.downstream_cx_active: 1
listener.admin.main_thread.downstream_cx_active: 1
listener.prometheus.downstream_cx_active: 1
listener.[__]_8081.downstream_cx_active: 3
http.stats.downstream_cx_active: 9
";
        assert_eq!(connections(stats), 5);
        assert_eq!(connections(""), 0);
        assert_eq!(stat("a.b: 1\na.bc: 2\n", "a.bc"), Some("2"));
    }
}
