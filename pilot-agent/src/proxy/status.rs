//! The agent's HTTP servers, and what they ask the agent.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use ithildin_istio_config::NodeKind;
use ithildin_spiffe::IdentityState;
use ithildin_status::{Agent, Options, Port, Ports, ProbeOptions, ProbeTarget, Server};
use prometheus::proto::MetricFamily;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{health::Health, metrics, settings::Settings};

/// Commands that wait to be followed; further ones are the same again.
const COMMANDS: usize = 4;

/// Between the answer to `/quitquitquit` and the end, so that the answer still leaves.
const QUIT_PAUSE: Duration = Duration::from_millis(100);

/// The servers, and what is asked of the agent on them.
pub(super) struct Servers {
    server: Server,
    commands: mpsc::Receiver<Command>,
}

/// What somebody on this host wants of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// `/drain`: drain now; the end that comes later is at once.
    Drain,
    /// `/quitquitquit`: end at once.
    Quit,
}

/// What ends the wait for a command.
pub(super) enum Event {
    Command(Command),
    /// A server has failed for good: no probe can succeed any more.
    Failed(Port, std::io::Error),
}

impl Servers {
    /// Waits for what comes next.
    pub(super) async fn next(&mut self) -> Event {
        tokio::select! {
            Some(command) = self.commands.recv() => Event::Command(command),
            (port, error) = self.server.failed() => Event::Failed(port, error),
        }
    }
}

/// Opens all ports, and serves them until the runtime ends.
///
/// # Errors
/// The port that cannot be opened, and where it comes from.
pub(super) fn start(settings: Arc<Settings>, health: Arc<Health>) -> anyhow::Result<Servers> {
    let (sender, commands) = mpsc::channel(COMMANDS);
    let options = options(&settings);
    let agent = Arc::new(Asked {
        settings,
        health,
        commands: sender,
    });
    let server = Server::start(options, agent)?;
    Ok(Servers { server, commands })
}

fn options(settings: &Settings) -> Options {
    let ports = settings.ports;
    let status = &settings.status;
    Options {
        ports: Ports {
            status: (ports.status != 0).then_some(ports.status),
            // Envoy serves both itself, from its bootstrap.
            health: (!settings.runs_envoy()).then_some(ports.health),
            prometheus: (!settings.runs_envoy()).then_some(ports.prometheus),
        },
        health_proxy_protocol: settings.envoy.health_proxy_protocol,
        local_metrics: status.metrics_localhost_only,
        profiling: status.profiling,
        // Envoy's own port for them, as with Istio's agent; ours on that port asks the admin server in turn.
        data_plane_metrics: match settings.runs_envoy() {
            true => ports.prometheus,
            false => ports.admin,
        },
        merge_data_plane: status.merge_data_plane,
        // A gateway's status port is open to its clients, who have no business with a workload's metrics.
        scrape_targets: match settings.node.kind {
            NodeKind::Sidecar => status.scrape.clone(),
            NodeKind::Router => Vec::new(),
        },
        probes: ProbeOptions {
            probers: status.app_probers.clone(),
            target: probe_target(settings),
            http2: status.probes.http2,
            keepalive: status.probes.keepalive,
        },
    }
}

/// Where the workload is probed.
pub(super) fn probe_target(settings: &Settings) -> ProbeTarget {
    match settings.node.ips.first() {
        Some(ip) if !settings.status.probes.localhost => ProbeTarget::Ip(*ip),
        _ => ProbeTarget::Localhost,
    }
}

/// The agent as its servers see it.
struct Asked {
    settings: Arc<Settings>,
    health: Arc<Health>,
    commands: mpsc::Sender<Command>,
}

#[async_trait]
impl Agent for Asked {
    fn not_ready(&self) -> Vec<String> {
        self.health.readiness().reasons()
    }

    async fn metrics(&self) -> Result<Vec<MetricFamily>, prometheus::Error> {
        metrics::families(&self.health).await
    }

    fn name_table(&self) -> Option<Value> {
        self.health.dns()?.dump()
    }

    async fn describe(&self) -> Value {
        let health = &self.health;
        let errors = health.config_errors();
        let ads = health.ads_status().await.map(|status| {
            let kinds = status.kinds.iter().map(|(kind, status)| {
                json!({
                    "type": kind.short(),
                    "responses": status.responses,
                    "accepted": status.accepted,
                    "refusal": status.refusal,
                    "refusals": status.refusals,
                })
            });
            json!({"streams": status.streams, "types": kinds.collect::<Vec<_>>()})
        });
        json!({
            "node": self.settings.node_id,
            "settings": self.settings.to_string(),
            "notReady": health.readiness().reasons(),
            "identity": describe(&health.identity()),
            "configurationErrors": errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "xds": ads,
        })
    }

    fn drain(&self) {
        // Where the queue is full, the same command or the end is in it.
        let _ = self.commands.try_send(Command::Drain);
    }

    fn quit(&self) {
        let commands = self.commands.clone();
        tokio::spawn(async move {
            tokio::time::sleep(QUIT_PAUSE).await;
            let _ = commands.send(Command::Quit).await;
        });
    }
}

fn describe(identity: &IdentityState) -> Value {
    match identity {
        IdentityState::Waiting(reason) => json!({"waiting": reason.as_ref()}),
        IdentityState::Withdrawn(reason) => json!({"withdrawn": reason.as_ref()}),
        IdentityState::Opaque(text) => json!({"opaque": text.as_ref()}),
        IdentityState::Ready(snapshot) => json!({
            "svids": snapshot.svids.iter().map(|svid| svid.id.as_str()).collect::<Vec<_>>(),
            "trustDomains": snapshot.bundles.keys().map(|td| td.as_str()).collect::<Vec<_>>(),
        }),
    }
}
