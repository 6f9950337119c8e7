//! Which path does what, and who may ask for it.

use std::{net::SocketAddr, sync::Arc};

use http::{Method, Request, Response, StatusCode};
use serde_json::Value;
use tracing::info;

use crate::{
    agent::Agent,
    local::is_local,
    metrics::Metrics,
    options::{Options, Port},
    pprof,
    probe::Probes,
    response::{Body, JSON, TEXT, answer},
};

/// Answers all requests, whatever port they come from.
pub(crate) struct Routes {
    options: Options,
    metrics: Metrics,
    probes: Probes,
    agent: Arc<dyn Agent>,
}

impl Routes {
    pub(crate) fn new(options: Options, agent: Arc<dyn Agent>) -> Self {
        Self {
            metrics: Metrics::new(&options, Arc::clone(&agent)),
            probes: Probes::new(&options.probes, options.ports.status),
            options,
            agent,
        }
    }

    pub(crate) async fn answer<B>(
        &self,
        port: Port,
        peer: SocketAddr,
        request: &Request<B>,
    ) -> Response<Body> {
        match (port, request.uri().path()) {
            (Port::Health | Port::Status, "/healthz/ready") => self.ready(),
            (Port::Prometheus, "/stats/prometheus") => {
                self.metrics.of_the_data_plane(request).await
            }
            (Port::Status, path) => self.status(path, peer, request).await,
            _ => not_found(),
        }
    }

    async fn status<B>(
        &self,
        path: &str,
        peer: SocketAddr,
        request: &Request<B>,
    ) -> Response<Body> {
        let local = is_local(peer, request);
        match path {
            "/stats/prometheus" | "/metrics" if local || !self.options.local_metrics => {
                self.metrics.merged(request).await
            }
            "/stats/prometheus" | "/metrics" => forbidden(),
            path if path.starts_with("/app-health/") || path.starts_with("/app-lifecycle/") => {
                self.probes.answer(path, request).await
            }
            "/quitquitquit" => self.command(local, request.method(), "quit", Agent::quit),
            "/drain" => self.command(local, request.method(), "drain", Agent::drain),
            _ if !path.starts_with("/debug/") => not_found(),
            path if path.starts_with(pprof::PREFIX) && !self.options.profiling => not_found(),
            _ if !local => forbidden(),
            "/debug/ndsz" => match self.agent.name_table() {
                Some(table) => json(StatusCode::OK, &table),
                None => json(StatusCode::NOT_FOUND, &Value::Object(Default::default())),
            },
            "/debug/status" => json(StatusCode::OK, &self.agent.describe().await),
            path => pprof::respond(path).unwrap_or_else(not_found),
        }
    }

    /// 200 when all is there; else what is waited for, a line each.
    fn ready(&self) -> Response<Body> {
        let reasons = self.agent.not_ready();
        if reasons.is_empty() {
            return answer(StatusCode::OK, TEXT, "ready\n");
        }
        let lines = reasons
            .iter()
            .map(|reason| format!("not ready: {reason}\n"));
        answer(
            StatusCode::SERVICE_UNAVAILABLE,
            TEXT,
            lines.collect::<String>(),
        )
    }

    /// Something that changes the agent's state: by `POST`, from this host.
    fn command(
        &self,
        local: bool,
        method: &Method,
        name: &str,
        run: fn(&dyn Agent),
    ) -> Response<Body> {
        if !local {
            return forbidden();
        }
        if method != Method::POST {
            return answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method Not Allowed\n");
        }
        info!(command = name, "asked on the status port");
        run(&*self.agent);
        answer(StatusCode::OK, TEXT, "OK")
    }
}

fn forbidden() -> Response<Body> {
    let text = "Only requests from localhost are allowed\n";
    answer(StatusCode::FORBIDDEN, TEXT, text)
}

fn not_found() -> Response<Body> {
    answer(StatusCode::NOT_FOUND, TEXT, "404 page not found\n")
}

fn json(status: StatusCode, value: &Value) -> Response<Body> {
    answer(status, JSON, value.to_string())
}
