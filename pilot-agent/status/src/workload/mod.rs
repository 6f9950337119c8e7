//! The health of a workload outside of Kubernetes, which no kubelet probes.
//!
//! istiod learns it from the agent, at each change and again on each new stream, and takes the workload out
//! of load balancing while it is unhealthy. A workload behind a proxy that is not ready is not healthy.

mod config;
#[cfg(test)]
mod tests;

use std::{process::Stdio, sync::Arc};

use http::{
    HeaderMap, HeaderValue,
    header::{CONNECTION, HOST, USER_AGENT},
};
use ithildin_panics::essential;
use tokio::{
    process::Command,
    sync::watch,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{info, warn};
use url::Url;

use self::config::Method;
pub use self::config::{WorkloadProbe, WorkloadProbeError};
use crate::{
    client::{Connector, Source},
    probe::{Error, HttpProbe, ProbeTarget, check_grpc, tls_config},
    readiness::Readiness,
};

/// As Istio's agent names itself.
static AGENT: HeaderValue = HeaderValue::from_static("istio-probe/1.0");

/// What istiod is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadHealth {
    Healthy,
    /// Why not.
    Unhealthy(String),
}

impl WorkloadProbe {
    /// Probes until nobody listens; nothing is said before the first threshold is reached.
    ///
    /// `target` is where the workload is, unless the probe says it.
    ///
    /// # Errors
    /// A host or path that is part of no URL.
    pub fn start(
        self,
        readiness: Readiness,
        target: ProbeTarget,
    ) -> Result<watch::Receiver<Option<WorkloadHealth>>, WorkloadProbeError> {
        let probe = Probe::new(&self.method, target)?;
        let (health, receiver) = watch::channel(None);
        let probing = async move {
            tokio::select! {
                () = self.follow(&probe, &readiness, &health) => {}
                () = health.closed() => {}
            }
        };
        tokio::spawn(essential("probe of the workload", probing));
        Ok(receiver)
    }

    async fn follow(
        &self,
        probe: &Probe,
        readiness: &Readiness,
        health: &watch::Sender<Option<WorkloadHealth>>,
    ) {
        sleep(self.initial_delay).await;
        let mut ticks = interval(self.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut row = Row::default();
        loop {
            ticks.tick().await;
            let outcome = match readiness.reasons() {
                reasons if reasons.is_empty() => self.run(probe).await,
                reasons => Err(format!("the proxy is not ready: {}", reasons.join("; "))),
            };
            row.count(outcome.is_ok());
            let next = match outcome {
                Ok(()) if row.length >= self.successes => WorkloadHealth::Healthy,
                Err(error) if row.length >= self.failures => WorkloadHealth::Unhealthy(error),
                _ => continue,
            };
            tell(health, next);
        }
    }

    async fn run(&self, probe: &Probe) -> Result<(), String> {
        match timeout(self.timeout, Box::pin(probe.run())).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::Timeout(self.timeout).to_string()),
        }
    }
}

/// Only a change of state is news: another reason for the same state is not.
fn tell(health: &watch::Sender<Option<WorkloadHealth>>, next: WorkloadHealth) {
    health.send_if_modified(|health| {
        let same =
            health.as_ref().map(std::mem::discriminant) == Some(std::mem::discriminant(&next));
        if same {
            return false;
        }
        match &next {
            WorkloadHealth::Healthy => info!("the workload is healthy"),
            WorkloadHealth::Unhealthy(reason) => warn!(reason, "the workload is not healthy"),
        }
        *health = Some(next);
        true
    });
}

/// Equal outcomes in a row.
#[derive(Debug, Default)]
struct Row {
    healthy: bool,
    length: u64,
}

impl Row {
    fn count(&mut self, healthy: bool) {
        if self.healthy != healthy {
            *self = Self { healthy, length: 0 };
        }
        self.length += 1;
    }
}

/// A method, made ready.
enum Probe {
    Http(Box<HttpProbe>, Option<HeaderValue>, HeaderMap),
    Tcp(String, u16),
    Grpc(String, u16, String),
    Exec(String, Vec<String>),
}

impl Probe {
    fn new(method: &Method, target: ProbeTarget) -> Result<Self, WorkloadProbeError> {
        let or_ours = |host: &Option<String>| host.clone().unwrap_or_else(|| target.host());
        Ok(match method {
            Method::Http {
                host,
                port,
                path,
                https,
                headers,
            } => {
                let scheme = if *https { "https" } else { "http" };
                let url = format!("{scheme}://{}:{port}{path}", bracketed(or_ours(host)));
                let url = Url::parse(&url)
                    .map_err(|error| WorkloadProbeError::of_http(&format!("{url}: {error}")))?;
                let mut headers = headers.clone();
                let host = headers.remove(HOST);
                headers.entry(USER_AGENT).or_insert_with(|| AGENT.clone());
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
                let connector = Connector::with_tls(Source::Probe, Arc::new(tls_config(false)));
                let probe = HttpProbe::new(url, connector, false);
                Self::Http(Box::new(probe), host, headers)
            }
            Method::Tcp { host, port } => Self::Tcp(or_ours(host), port.get()),
            Method::Grpc { port, service } => {
                Self::Grpc(target.host(), port.get(), service.clone())
            }
            Method::Exec { command, arguments } => Self::Exec(command.clone(), arguments.clone()),
        })
    }

    /// Says why the workload is not healthy.
    async fn run(&self) -> Result<(), String> {
        let plain = Connector::plain(Source::Any);
        match self {
            Self::Http(probe, host, headers) => {
                let (status, _) = probe.ask(host.clone(), headers).await.map_err(text)?;
                match status.as_u16() {
                    200..400 => Ok(()),
                    code => Err(format!(
                        "status code was not from [200,400), bad code {code}"
                    )),
                }
            }
            Self::Tcp(host, port) => plain.dial(host, *port).await.map(drop).map_err(text),
            Self::Grpc(host, port, service) => {
                let checked = check_grpc(&plain, host, *port, service, Some(&AGENT));
                checked.await.map_err(text)
            }
            Self::Exec(command, arguments) => exec(command, arguments).await,
        }
    }
}

/// Runs it, and ends it when nobody waits for it any more.
async fn exec(command: &str, arguments: &[String]) -> Result<(), String> {
    let status = Command::new(command)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await;
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command}: {status}")),
        Err(error) => Err(format!("{command}: {error}")),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A literal of IPv6 as a URL has it.
fn bracketed(host: String) -> String {
    match host.parse::<std::net::Ipv6Addr>() {
        Ok(ip) => format!("[{ip}]"),
        Err(_) => host,
    }
}
