//! Which path does what, and who may ask for it.

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderValue, Method, Request, Response, StatusCode, header::LOCATION};
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

    /// Whether connections to `port` begin with a header of the PROXY protocol.
    pub(crate) fn has_proxy_header(&self, port: Port) -> bool {
        port == Port::Health && self.options.health_proxy_protocol
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
                match is_local(peer, request) || !self.options.local_metrics {
                    true => self.metrics.of_the_data_plane(request).await,
                    false => forbidden(),
                }
            }
            (Port::Status, path) => match clean(path) {
                Some(path) => elsewhere(&path, request.uri().query()),
                None => self.status(path, peer, request).await,
            },
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

/// What `path` is without repetitions and steps, if that differs; folders end with a slash. Istio's agent sends
/// its clients there, so a probe with a slash too many works.
fn clean(path: &str) -> Option<String> {
    const FOLDERS: [&str; 3] = ["/app-health", "/app-lifecycle", "/debug/pprof"];
    if !path.starts_with('/') {
        return None;
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut clean = format!("/{}", parts.join("/"));
    let is_folder = ["/", "/.", "/.."].iter().any(|end| path.ends_with(end));
    if clean.len() > 1 && (is_folder || FOLDERS.contains(&clean.as_str())) {
        clean.push('/');
    }
    (clean != path).then_some(clean)
}

fn elsewhere(path: &str, query: Option<&str>) -> Response<Body> {
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut response = answer(StatusCode::TEMPORARY_REDIRECT, TEXT, "");
    match HeaderValue::try_from(target) {
        Ok(target) => response.headers_mut().insert(LOCATION, target),
        Err(_) => return not_found(),
    };
    response
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (path, expected) in [
            ("/healthz/ready", None),
            ("/", None),
            ("/debug/pprof/", None),
            ("//debug/pprof/cmdline", Some("/debug/pprof/cmdline")),
            ("/debug/pprof", Some("/debug/pprof/")),
            ("/app-health", Some("/app-health/")),
            ("/app-health/c/../c/livez", Some("/app-health/c/livez")),
            ("/./metrics", Some("/metrics")),
            ("/a/..", Some("/")),
            ("//example.com/", Some("/example.com/")),
            ("/../../etc", Some("/etc")),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(clean(path).as_deref(), expected, "{path}");
        }
    }
}
