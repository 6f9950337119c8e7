//! The servers, from start to end.

use std::{io, sync::Arc};

use ithildin_panics::essential;
use tokio::sync::mpsc;
use tracing::info;

use crate::{
    accept,
    agent::Agent,
    options::{Options, Port},
    routes::Routes,
};

/// The servers under way; they serve until the runtime ends.
///
/// | path | who | |
/// |---|---|---|
/// | `/healthz/ready` | any | 200, or 503 with what is waited for |
/// | `/stats/prometheus`, `/metrics` | any | all metrics, merged |
/// | `/app-health/`, `/app-lifecycle/` | any | the workload's probes and hooks |
/// | `/quitquitquit`, `/drain` | this host | `POST` |
/// | `/debug/ndsz`, `/debug/status`, `/debug/pprof/` | this host | |
#[derive(Debug)]
pub struct Server {
    failures: mpsc::Receiver<(Port, io::Error)>,
}

/// A server that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "{origin} {number}: cannot listen there: {source}; free the port or choose another one"
    )]
    Listen {
        origin: &'static str,
        number: u16,
        source: io::Error,
    },
}

impl Server {
    /// Opens the ports, and serves them.
    ///
    /// # Errors
    /// The port that cannot be opened, and where it comes from.
    pub fn start(options: Options, agent: Arc<dyn Agent>) -> Result<Self, StartError> {
        let ports = options.ports;
        let routes = Arc::new(Routes::new(options, agent));
        let (failed, failures) = mpsc::channel(1);
        for (port, number) in [
            (Port::Status, ports.status),
            (Port::Health, ports.health),
            (Port::Prometheus, ports.prometheus),
        ] {
            let Some(number) = number else { continue };
            let listener = accept::listen(number).map_err(|source| StartError::Listen {
                origin: port.origin(),
                number,
                source,
            })?;
            info!(%port, number, "listening");
            let (routes, failed) = (Arc::clone(&routes), failed.clone());
            let serving = async move {
                let error = accept::serve(listener, port, routes).await;
                let _ = failed.send((port, error)).await;
            };
            tokio::spawn(essential("status server", serving));
        }
        Ok(Self { failures })
    }

    /// Waits for a server that has failed for good, after which no probe can succeed; for ever, if none does.
    pub async fn failed(&mut self) -> (Port, io::Error) {
        match self.failures.recv().await {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }
}
