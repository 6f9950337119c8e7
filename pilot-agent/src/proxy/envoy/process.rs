//! Envoy's process: its bootstrap, its start and end, and what its admin says.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use ithildin_istio_config::NodeKind;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{command, connections};
use crate::{
    http_client,
    proxy::{
        bootstrap::{self, ACCESS_TOKEN_FILE, Addresses, Sockets},
        child::Child,
        proxy_config::Tracer,
        settings::{Drain, Ports, Settings},
    },
};

/// A statistic by which Envoy tells that it serves.
struct Sign {
    name: &'static str,
    warm: &'static str,
    otherwise: &'static str,
    /// A bootstrap of the user's may leave out statistics; then the others have to do, as with Istio's agent.
    may_lack: bool,
}

const WARM: [Sign; 4] = [
    Sign {
        name: "server.state",
        warm: "0",
        otherwise: "Envoy initializes",
        may_lack: false,
    },
    Sign {
        name: "listener_manager.workers_started",
        warm: "1",
        otherwise: "Envoy's workers have not started",
        may_lack: false,
    },
    Sign {
        name: "listener_manager.total_listeners_warming",
        warm: "0",
        otherwise: "listeners wait for routes or secrets",
        may_lack: true,
    },
    Sign {
        name: "cluster_manager.warming_clusters",
        warm: "0",
        otherwise: "clusters wait for endpoints or secrets",
        may_lack: true,
    },
];
const WARM_FILTER: &str = "^(server.state|listener_manager.(workers_started|total_listeners_warming)\
                           |cluster_manager.warming_clusters)$";
/// How often connections are counted while draining.
const IDLE_POLL: Duration = Duration::from_secs(1);
/// So many failures to count them in a row, and Envoy is taken for gone.
const IDLE_FAILURES: u32 = 5;

/// Envoy under way, and the files that go with it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    admin: SocketAddr,
    kind: NodeKind,
    ports: Ports,
    /// What we generated.
    generated: Vec<PathBuf>,
}

impl Process {
    /// Writes the bootstrap to `file`, unless the user has one of his own, and starts Envoy on it.
    ///
    /// # Errors
    /// A bootstrap that cannot be made or written, and a binary that does not start.
    pub(crate) async fn start(
        settings: &Settings,
        sockets: &Sockets,
        file: &Path,
    ) -> anyhow::Result<Self> {
        let mut generated = Vec::new();
        let bootstrap = match &settings.proxy_config.custom_config_file {
            Some(custom) => custom.clone(),
            None => {
                if let Some(template) = &settings.envoy.template {
                    bootstrap::refuse_template(template)?;
                }
                generated = write(settings, sockets, file)?;
                file.to_path_buf()
            }
        };
        let child = Child::spawn(command::command(settings, &bootstrap)?).await?;
        info!(
            pid = child.pid,
            binary = %settings.envoy.binary.display(),
            bootstrap = %bootstrap.display(),
            "Envoy has started"
        );
        let localhost = Addresses::of(settings).localhost;
        Ok(Self {
            child,
            admin: (localhost, settings.ports.admin).into(),
            kind: settings.node.kind,
            ports: settings.ports,
            generated,
        })
    }

    /// Why it does not serve yet, as far as it knows itself; empty once it does.
    pub(crate) async fn waiting(&self) -> Vec<String> {
        match self.stats("/stats?filter=", WARM_FILTER).await {
            Ok(stats) => cold(&stats),
            Err(error) => vec![format!("Envoy's admin does not answer: {error:#}")],
        }
    }

    /// Stops accepting; live requests go on.
    ///
    /// With `skip_exit`, Envoy itself does not end when all has drained.
    pub(crate) async fn drain(&self, skip_exit: bool) {
        let path = drain_path(self.kind, skip_exit);
        if let Err(error) = http_client::post(self.admin, &path).await {
            warn!("cannot drain Envoy: {error:#}");
        }
    }

    /// Stops accepting and gives live requests their time, which ends early if Envoy does.
    pub(crate) async fn shut_down(&self, drain: Drain) {
        self.drain(false).await;
        let wait = async {
            match drain.until_idle {
                true => {
                    tokio::time::sleep(drain.minimum).await;
                    self.idle().await;
                }
                false => tokio::time::sleep(drain.termination).await,
            }
        };
        tokio::select! {
            () = wait => {}
            how = self.ended() => warn!(%how, "Envoy ended while it drained"),
        }
    }

    /// Waits until no connection is left, or Envoy no longer says.
    async fn idle(&self) {
        let mut failures = 0;
        let mut next = Instant::now();
        loop {
            let stats = self
                .stats("/stats?usedonly&filter=", "downstream_cx_active$")
                .await;
            match stats.map(|stats| connections::active(&stats, &self.ports)) {
                Ok(0) => return,
                Ok(connections) => {
                    failures = 0;
                    info!(connections, "waiting for connections to end");
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

    /// Waits for its end, and says how it was.
    pub(crate) async fn ended(&self) -> Arc<str> {
        self.child.ended().await
    }

    /// Ends it at once, as Istio's agent does, and removes what we wrote.
    pub(crate) async fn kill(self) {
        self.child.kill();
        self.child.ended().await;
        for file in &self.generated {
            let _ = fs::remove_file(file);
        }
    }

    async fn stats(&self, path: &str, filter: &str) -> anyhow::Result<String> {
        let escaped = filter.replace('^', "%5E").replace('|', "%7C");
        let body = http_client::get(self.admin, &format!("{path}{escaped}")).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

/// A sidecar's own clients go on to connect until the workload has ended.
fn drain_path(kind: NodeKind, skip_exit: bool) -> String {
    let mut path = match kind {
        NodeKind::Sidecar => "/drain_listeners?inboundonly&graceful".to_owned(),
        NodeKind::Router => "/drain_listeners?graceful".to_owned(),
    };
    if skip_exit {
        path.push_str("&skip_exit");
    }
    path
}

/// Writes the bootstrap, and the token that it names.
fn write(settings: &Settings, sockets: &Sockets, file: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut generated = vec![file.to_path_buf()];
    let config = bootstrap::envoy(settings, sockets).context("Envoy's bootstrap")?;
    let shared = settings.dns.replaces_resolver;
    let at = |path: &Path| path.display().to_string();
    write_private(file, &serde_json::to_vec_pretty(&config)?, shared).with_context(|| at(file))?;
    let tracing = settings.proxy_config.tracing.as_ref();
    if let Some(Tracer::Lightstep { access_token, .. }) = tracing.map(|it| &it.tracer) {
        let token = settings.proxy_config.config_path.join(ACCESS_TOKEN_FILE);
        write_private(&token, access_token.as_bytes(), shared).with_context(|| at(&token))?;
        generated.push(token);
    }
    Ok(generated)
}

/// For us alone, unless Envoy runs as somebody else.
fn write_private(path: &Path, bytes: &[u8], shared: bool) -> io::Result<()> {
    let mode = if shared { 0o644 } else { 0o600 };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)
}

/// What Envoy waits for, by its statistics.
fn cold(stats: &str) -> Vec<String> {
    let is_cold = |sign: &Sign| match stat(stats, sign.name) {
        Some(value) => value != sign.warm,
        None => !sign.may_lack,
    };
    let cold = WARM.into_iter().filter(is_cold);
    cold.map(|sign| sign.otherwise.to_owned()).collect()
}

fn stat<'a>(stats: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = stats.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drained() {
        for (kind, skip_exit, expected) in [
            (
                NodeKind::Sidecar,
                false,
                "/drain_listeners?inboundonly&graceful",
            ),
            (
                NodeKind::Sidecar,
                true,
                "/drain_listeners?inboundonly&graceful&skip_exit",
            ),
            (NodeKind::Router, false, "/drain_listeners?graceful"),
            (
                NodeKind::Router,
                true,
                "/drain_listeners?graceful&skip_exit",
            ),
        ] {
            assert_eq!(drain_path(kind, skip_exit), expected);
        }
    }

    #[test]
    fn envoy_serves_when_all_that_it_tells_says_so() {
        let live = "server.state: 0\nlistener_manager.workers_started: 1\n";
        assert!(cold(live).is_empty(), "its statistics are limited");
        for (more, reason) in [
            ("listener_manager.total_listeners_warming: 2", "routes"),
            ("cluster_manager.warming_clusters: 1", "endpoints"),
        ] {
            let cold = cold(&format!("{live}{more}\n"));
            assert!(cold.len() == 1 && cold[0].contains(reason), "{cold:?}");
        }
        assert_eq!(cold("server.state: 2\n").len(), 2);
        assert_eq!(cold("").len(), 2);
    }

    #[test]
    fn a_statistic_is_found_by_its_whole_name() {
        assert_eq!(stat("a.b: 1\na.bc: 2\n", "a.bc"), Some("2"));
        assert_eq!(stat("a.b: 1\n", "a"), None);
    }
}
