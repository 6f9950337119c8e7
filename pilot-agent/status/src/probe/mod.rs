//! The workload's own probes, on behalf of the kubelet.
//!
//! The kubelet's requests would be refused where mutual TLS is required, so the injector points them at us,
//! and we do them from an address that the sidecar lets through. Status codes are those of Istio's agent:
//! what the workload answers, 200 for what is not followed, 500 for no answer, 400 for an unknown path.

mod config;
mod grpc;
mod http;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU16, sync::Arc, time::Duration};

use ::http::{
    HeaderMap, Request, Response, StatusCode,
    header::{HOST, USER_AGENT},
};
use rustls::ClientConfig;
use tokio::{sync::Semaphore, time::timeout};
use tracing::warn;
use url::Url;

use self::config::Action;
pub use self::config::{AppProbers, PROBERS_ENV, ProberError};
pub(crate) use self::{grpc::check as check_grpc, http::HttpProbe};
use crate::{
    client::{ClientError, Connector, Source},
    redirect,
    response::{Body, TEXT, answer},
};

/// For a probe without a limit of its own; Kubernetes sets one on each.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// Probes at a time; more wait.
const PROBES: usize = 64;

/// How probes are done.
#[derive(Clone, Debug, Default)]
pub struct ProbeOptions {
    pub probers: AppProbers,
    /// Where the workload is.
    pub target: ProbeTarget,
    /// `ISTIO_ENABLE_HTTP2_PROBING`: offer HTTP/2 to HTTPS probes.
    pub http2: bool,
    /// `ENABLE_PROBE_KEEPALIVE_CONNECTIONS`: keep connections between probes.
    pub keepalive: bool,
}

/// Where the workload is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProbeTarget {
    /// `REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION`
    #[default]
    Localhost,
    /// The Pod's address, as the kubelet does it.
    Ip(IpAddr),
}

impl ProbeTarget {
    /// As the host of a URL.
    pub(crate) fn host(self) -> String {
        match self {
            Self::Localhost => "localhost".into(),
            Self::Ip(IpAddr::V6(ip)) => format!("[{ip}]"),
            Self::Ip(ip) => ip.to_string(),
        }
    }
}

/// Why a probe has failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Redirect(#[from] redirect::Error),
    #[error("no connection for gRPC: {0}")]
    Grpc(#[from] tonic::transport::Error),
    #[error("the health check has failed: {0}")]
    Check(#[from] Box<tonic::Status>),
    #[error("the service's status is {0}, not SERVING")]
    NotServing(i32),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// The probes by path.
pub(crate) struct Probes {
    by_path: BTreeMap<String, Probe>,
    /// In the kubelet's `Host`.
    status_port: Option<u16>,
    keepalive: bool,
    places: Semaphore,
}

struct Probe {
    kind: Kind,
    timeout: Duration,
}

enum Kind {
    Http(HttpProbe, NonZeroU16),
    Tcp(Dial, NonZeroU16),
    Grpc(Dial, NonZeroU16, String),
}

/// A host, and how to get there.
struct Dial {
    connector: Connector,
    host: String,
}

impl Probes {
    pub(crate) fn new(options: &ProbeOptions, status_port: Option<u16>) -> Self {
        let probers = options.probers.0.iter();
        let tls = Arc::new(tls_config(options.http2));
        Self {
            by_path: probers
                .filter_map(|(path, prober)| {
                    let kind = Kind::new(&prober.action, options, &tls)?;
                    let timeout = prober.timeout.unwrap_or(DEFAULT_TIMEOUT);
                    Some((path.clone(), Probe { kind, timeout }))
                })
                .collect(),
            status_port,
            keepalive: options.keepalive,
            places: Semaphore::new(PROBES),
        }
    }

    pub(crate) async fn answer<B>(&self, path: &str, request: &Request<B>) -> Response<Body> {
        let Some(probe) = self.by_path.get(path) else {
            let text = format!("app prober config does not exists for {path}");
            return answer(StatusCode::BAD_REQUEST, TEXT, text);
        };
        let Ok(_place) = self.places.acquire().await else {
            return answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "");
        };
        let done = timeout(
            probe.timeout,
            Box::pin(self.run(&probe.kind, request.headers())),
        );
        match done.await.unwrap_or(Err(Error::Timeout(probe.timeout))) {
            Ok((status, body)) => answer(status, TEXT, body),
            Err(error) => {
                warn!(path, %error, "a probe of the workload has failed");
                let text = format!("{error}\n");
                answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, text)
            }
        }
    }

    async fn run(
        &self,
        kind: &Kind,
        headers: &HeaderMap,
    ) -> Result<(StatusCode, bytes::Bytes), Error> {
        match kind {
            Kind::Http(probe, port) => {
                let host = http::host(headers.get(HOST), self.status_port, port.get());
                let headers = http::forwarded(headers, self.keepalive);
                return probe.ask(host, &headers).await;
            }
            Kind::Tcp(dial, port) => {
                dial.connector.dial(&dial.host, port.get()).await?;
            }
            Kind::Grpc(dial, port, service) => {
                let agent = headers.get(USER_AGENT);
                check_grpc(&dial.connector, &dial.host, port.get(), service, agent).await?;
            }
        }
        Ok((StatusCode::OK, bytes::Bytes::new()))
    }
}

/// As the kubelet does it: whoever listens on the Pod's own port is the workload.
pub(crate) fn tls_config(http2: bool) -> ClientConfig {
    let mut config = ithildin_web_tls::trusting_anybody();
    if http2 {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    config
}

impl Kind {
    /// `None` for a path that is part of no URL, which Kubernetes does not let through.
    fn new(action: &Action, options: &ProbeOptions, tls: &Arc<ClientConfig>) -> Option<Self> {
        let host = options.target.host();
        let dial = || Dial {
            connector: Connector::plain(Source::Probe),
            host: host.clone(),
        };
        Some(match action {
            Action::Http { port, path, https } => {
                let scheme = if *https { "https" } else { "http" };
                let url = Url::parse(&format!("{scheme}://{host}:{port}{path}")).ok()?;
                let connector = Connector::with_tls(Source::Probe, Arc::clone(tls));
                Self::Http(HttpProbe::new(url, connector, options.keepalive), *port)
            }
            Action::Tcp { port } => Self::Tcp(dial(), *port),
            Action::Grpc { port, service } => Self::Grpc(dial(), *port, service.clone()),
        })
    }
}
