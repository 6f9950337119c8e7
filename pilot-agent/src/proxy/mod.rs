//! `pilot-agent proxy`: identity, configuration and a data plane, from start to end.

mod args;
mod bootstrap;
mod child;
mod configuration;
mod dns;
mod duration;
mod envoy;
mod health;
mod identity;
mod istiod;
mod memory;
mod metadata;
mod metrics;
mod plane;
mod proxy_config;
mod quoted;
mod settings;
mod status;

use std::{sync::Arc, time::Instant};

use anyhow::{Context, bail};
use futures_util::{StreamExt, stream::FuturesUnordered};
use ithildin_panics::essential;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::RwLock,
    task::JoinHandle,
};
use tracing::{error, info, warn};

pub(crate) use args::Args;
use configuration::Configuration;
use health::Health;
use identity::Identity;
pub(crate) use metadata::ISTIO_VERSION;
use plane::{Ended, Plane};
use settings::{Env, Settings};
use status::{Command, Event};

/// Runs until a signal, `/quitquitquit`, or the end of the data plane.
///
/// # Errors
/// What keeps it from starting, or how the data plane ended by itself.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let started = Instant::now();
    let settings = Arc::new(Settings::resolve(&args, &Env::of_process())?);
    info!(version = env!("CARGO_PKG_VERSION"), %settings, "pilot-agent starts");
    info!(
        "effective proxy configuration:\n{}",
        settings.proxy_config.to_yaml()
    );
    if !settings.without_effect.is_empty() {
        warn!(
            names = settings.without_effect.join(", "),
            "these have no effect"
        );
    }
    let mut signals = Signals::new()?;

    let identity = Identity::start(&settings)?;
    let running = tokio::select! {
        running = Running::start(&settings, identity, started) => running?,
        // A folder or a data plane that keeps us waiting does not keep us from ending.
        signal = signals.next() => {
            info!(signal, "ending before the start was done");
            return Ok(());
        }
    };
    running.until_the_end(&settings, &mut signals).await
}

/// The agent under way.
struct Running {
    plane: Arc<RwLock<Option<Plane>>>,
    health: Arc<Health>,
    /// Asks the data plane whether it is ready.
    asking: JoinHandle<()>,
    status: status::Servers,
    /// Identity and configuration are followed until the last request is done.
    _followed: (Identity, Configuration),
    /// Names are answered as long.
    _dns: Option<dns::Dns>,
}

impl Running {
    async fn start(
        settings: &Arc<Settings>,
        mut identity: Identity,
        started: Instant,
    ) -> anyhow::Result<Self> {
        let configuration = Configuration::start(settings, identity.state()).await?;
        identity.follow_mesh_roots(configuration.mesh_roots());
        let dns = dns::start(settings, configuration.names())?;
        let plane = Arc::new(RwLock::new(None));
        let health = Health::new(
            identity.state(),
            configuration.resources(),
            configuration.errors(),
            Arc::clone(&plane),
            dns.as_ref().map(dns::Dns::status),
            configuration.modules(),
            started,
        );
        if let Some(probe) = &settings.proxy_config.readiness_probe {
            let readiness = health.readiness().clone();
            let told = probe
                .clone()
                .start(readiness, status::probe_target(settings));
            configuration.report(told.context("readinessProbe of the proxy configuration")?);
        }
        // First of all somebody must be able to ask what is waited for.
        let status = status::start(Arc::clone(settings), Arc::clone(&health))?;
        let running = Plane::start(settings, &configuration, &identity).await?;
        *plane.write().await = Some(running);
        let asking = tokio::spawn(essential("readiness", Arc::clone(&health).follow()));
        Ok(Self {
            plane,
            health,
            asking,
            status,
            _followed: (identity, configuration),
            _dns: dns,
        })
    }

    async fn until_the_end(
        mut self,
        settings: &Settings,
        signals: &mut Signals,
    ) -> anyhow::Result<()> {
        let end = self.end(settings, signals).await;
        self.health.readiness().terminate();
        // It may be waiting for an answer, and hold the data plane meanwhile.
        self.asking.abort();
        let plane = self.plane.write().await.take();
        finish(end, plane, settings, signals).await
    }

    /// Waits for what ends it. Draining does not yet: then readiness stays, and the end is at once.
    async fn end(&mut self, settings: &Settings, signals: &mut Signals) -> End {
        let plane = self.plane.read().await;
        let mut drained = false;
        // Signals are heard while the data plane is told.
        let mut drains = FuturesUnordered::new();
        loop {
            let event = tokio::select! {
                name = signals.next() => match drained {
                    true => return End::Drained(name),
                    false => return End::Drain(name),
                },
                ended = data_plane_ended(plane.as_ref()) => return match ended {
                    Ended::Asked => End::Quit,
                    Ended::Process(how) => End::DataPlane(how),
                },
                Some(()) = drains.next() => continue,
                event = self.status.next() => event,
            };
            match event {
                Event::Command(Command::Quit) => return End::Quit,
                Event::Command(Command::Drain) => {
                    drained = true;
                    if let Some(plane) = &*plane {
                        drains.push(plane.drain(settings.node.kind));
                    }
                }
                Event::Failed(port, error) => {
                    error!(%port, %error, "the server has failed");
                    return End::Drain("failure");
                }
            }
        }
    }
}

/// What ends the agent.
enum End {
    /// A signal: live requests get their time.
    Drain(&'static str),
    /// A signal after `/drain`: at once.
    Drained(&'static str),
    /// `/quitquitquit`: at once.
    Quit,
    DataPlane(Arc<str>),
}

async fn finish(
    end: End,
    plane: Option<Plane>,
    settings: &Settings,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let Some(plane) = plane else {
        bail!("there is no data plane to end");
    };
    match end {
        End::Drain(signal) => {
            info!(signal, drain = ?settings.drain, "draining");
            tokio::select! {
                () = plane.shut_down(settings.drain, settings.node.kind) => info!("drained"),
                name = signals.next() => warn!(signal = name, "a second signal: ending at once"),
            }
            Ok(())
        }
        End::Drained(signal) => {
            info!(signal, "drained before: ending at once");
            plane.kill().await;
            Ok(())
        }
        End::Quit => {
            info!("asked to quit: ending at once");
            plane.kill().await;
            Ok(())
        }
        End::DataPlane(how) => {
            // So that its files go too.
            plane.kill().await;
            ended_by_itself(&how)
        }
    }
}

/// Istio's agent ends well whatever happened to Envoy, and a Job's Pod then goes on without a proxy; here
/// a failure of Envoy is one of ours.
fn ended_by_itself(how: &str) -> anyhow::Result<()> {
    const WELL: &str = "exit status: 0";
    const KILLED: &str = "signal: 9";
    match how {
        WELL => {
            info!("Envoy has ended by itself");
            Ok(())
        }
        how if how.starts_with(KILLED) => {
            bail!("Envoy has ended: {how}; it may have been out of memory: check use and limits")
        }
        how => bail!("Envoy has ended: {how}"),
    }
}

async fn data_plane_ended(plane: Option<&Plane>) -> Ended {
    match plane {
        Some(plane) => plane.ended().await,
        None => std::future::pending().await,
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next one, by name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envoy_that_failed_is_a_failure() {
        assert!(ended_by_itself("exit status: 0").is_ok());
        let text = |how: &str| ended_by_itself(how).unwrap_err().to_string();
        assert_eq!(text("exit status: 1"), "Envoy has ended: exit status: 1");
        let killed = text("signal: 9 (SIGKILL)");
        assert!(killed.contains("out of memory"), "{killed}");
        assert!(!text("signal: 11 (SIGSEGV)").contains("out of memory"));
    }
}
