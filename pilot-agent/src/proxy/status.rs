//! The agent's HTTP servers.
//!
//! | port | paths |
//! |---|---|
//! | `ENVOY_STATUS_PORT` (15021) | `/healthz/ready` |
//! | `statusPort` (15020) | the same, `/stats/prometheus` (all metrics merged), and from this host alone `POST /quitquitquit` and `/debug/status` |
//! | `ENVOY_PROMETHEUS_PORT` (15090) | `/stats/prometheus` of the data plane; Envoy serves its own |

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use ithildin_spiffe::IdentityState;
use serde_json::json;
use tokio::{net::TcpListener, sync::Notify};
use tower::{limit::ConcurrencyLimit, service_fn, util::MapRequest};
use tracing::{debug, warn};

use super::{health::Health, metrics, settings::Settings};
use crate::http_client;

/// Requests at a time on one port: probes and scrapes are few.
const CONCURRENT: usize = 64;
/// A client that sends no request for so long is hung up on.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between the answer to `/quitquitquit` and the end, so that the answer still leaves.
const QUIT_PAUSE: Duration = Duration::from_millis(100);
const TEXT: &str = "text/plain; charset=utf-8";
/// Prometheus' text format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The servers' way to end the agent.
pub(super) struct Servers {
    quit: Arc<Notify>,
}

impl Servers {
    /// Waits for `/quitquitquit`.
    pub(super) async fn quit(&self) {
        self.quit.notified().await;
    }
}

/// What the handlers look at.
struct Shared {
    settings: Arc<Settings>,
    health: Arc<Health>,
    quit: Arc<Notify>,
}

/// Which paths a port has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Health,
    Status,
    Prometheus,
}

/// Opens all ports, and serves them until the runtime ends.
///
/// # Errors
/// The port that cannot be opened, and where it comes from.
pub(super) fn start(settings: Arc<Settings>, health: Arc<Health>) -> anyhow::Result<Servers> {
    let quit = Arc::new(Notify::new());
    let ports = settings.ports;
    let mut wanted = vec![
        (Port::Status, ports.status, "statusPort of PROXY_CONFIG"),
        (Port::Health, ports.health, "ENVOY_STATUS_PORT"),
    ];
    if !settings.is_envoy() {
        wanted.push((Port::Prometheus, ports.prometheus, "ENVOY_PROMETHEUS_PORT"));
    }
    let shared = Arc::new(Shared {
        settings,
        health,
        quit: Arc::clone(&quit),
    });
    for (port, number, origin) in wanted {
        let addr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, number));
        let listener = listen(addr).with_context(|| {
            format!("{origin} {number}: cannot listen there; free the port or choose another one")
        })?;
        tokio::spawn(accept(listener, port, Arc::clone(&shared)));
    }
    Ok(Servers { quit })
}

fn listen(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = StdListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn accept(listener: TcpListener, port: Port, shared: Arc<Shared>) {
    let handler = service_fn(move |(peer, request): (SocketAddr, Request<Incoming>)| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(handle(port, peer, &request, &shared).await) }
    });
    let handler = ConcurrencyLimit::new(handler, CONCURRENT);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(?port, %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let handler = handler.clone();
        let service = MapRequest::new(handler, move |request: Request<Incoming>| (peer, request));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%peer, %error, "a status connection has failed");
            }
        });
    }
}

async fn handle(
    port: Port,
    peer: SocketAddr,
    request: &Request<Incoming>,
    shared: &Shared,
) -> Response<Full<Bytes>> {
    let local = peer.ip().is_loopback();
    match (port, request.uri().path()) {
        (Port::Health | Port::Status, "/healthz/ready") => ready(&shared.health).await,
        (Port::Status, "/stats/prometheus" | "/metrics") => {
            answer(StatusCode::OK, METRICS, merged(shared).await)
        }
        (Port::Prometheus, "/stats/prometheus") => data_plane_metrics(shared).await,
        (Port::Status, "/quitquitquit" | "/debug/status") if !local => answer(
            StatusCode::FORBIDDEN,
            TEXT,
            "only requests from this host are allowed\n",
        ),
        (Port::Status, "/quitquitquit") if request.method() == Method::POST => {
            let quit = Arc::clone(&shared.quit);
            tokio::spawn(async move {
                tokio::time::sleep(QUIT_PAUSE).await;
                quit.notify_one();
            });
            answer(StatusCode::OK, TEXT, "OK\n")
        }
        (Port::Status, "/quitquitquit") => {
            answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "use POST\n")
        }
        (Port::Status, "/debug/status") => debug_status(shared).await,
        _ => answer(StatusCode::NOT_FOUND, TEXT, "not found\n"),
    }
}

/// 200 when all is warm; else what is waited for, a line each.
async fn ready(health: &Health) -> Response<Full<Bytes>> {
    let reasons = health.reasons().await;
    if reasons.is_empty() {
        return answer(StatusCode::OK, TEXT, "ready\n");
    }
    let text: String = reasons
        .iter()
        .map(|reason| format!("not ready: {reason}\n"))
        .collect();
    answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
}

/// The agent's metrics, the data plane's and the workload's.
async fn merged(shared: &Shared) -> Vec<u8> {
    let mut text = metrics::render(&shared.health).await;
    let mut sources = vec![(shared.settings.ports.admin, "/stats/prometheus".to_owned())];
    for target in &shared.settings.status.scrape {
        sources.push((target.port, target.path.clone()));
    }
    for (port, path) in sources {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match http_client::get(addr, &path).await {
            Ok(body) => {
                text.extend_from_slice(&body);
                if !body.ends_with(b"\n") {
                    text.push(b'\n');
                }
            }
            Err(error) => text.extend_from_slice(format!("# {error:#}\n").as_bytes()),
        }
    }
    text
}

async fn data_plane_metrics(shared: &Shared) -> Response<Full<Bytes>> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, shared.settings.ports.admin));
    match http_client::get(addr, "/stats/prometheus").await {
        Ok(body) => answer(StatusCode::OK, METRICS, body),
        Err(error) => answer(StatusCode::BAD_GATEWAY, TEXT, format!("{error:#}\n")),
    }
}

/// For whoever is paged: all that the agent knows of itself, without secrets.
async fn debug_status(shared: &Shared) -> Response<Full<Bytes>> {
    let health = &shared.health;
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
    let status = json!({
        "node": shared.settings.node_id,
        "settings": shared.settings.to_string(),
        "notReady": health.reasons().await,
        "identity": describe(&health.identity()),
        "configurationErrors": errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "xds": ads,
    });
    answer(StatusCode::OK, "application/json", format!("{status:#}\n"))
}

fn describe(identity: &IdentityState) -> serde_json::Value {
    match identity {
        IdentityState::Waiting(reason) => json!({"waiting": reason.as_ref()}),
        IdentityState::Withdrawn(reason) => json!({"withdrawn": reason.as_ref()}),
        IdentityState::Ready(snapshot) => json!({
            "svids": snapshot.svids.iter().map(|svid| svid.id.as_str()).collect::<Vec<_>>(),
            "trustDomains": snapshot.bundles.keys().map(|td| td.as_str()).collect::<Vec<_>>(),
        }),
    }
}

fn answer(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let content_type = http::HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
