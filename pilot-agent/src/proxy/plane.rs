//! The data plane, whichever it is.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use ithildin_istio_config::NodeKind;
use ithildin_proxy::{Proxy, ProxyOptions, Readiness, runtime::Drain as ListenerDrain};
use ithildin_xds::ads::{AdsStatus, StreamCounts};
use tokio::sync::watch;

use super::{
    bootstrap,
    configuration::Configuration,
    envoy::Envoy,
    identity::Identity,
    istiod::Awaited,
    settings::{Drain, Settings},
};

/// How often connections are counted while draining.
const IDLE_POLL: Duration = Duration::from_millis(100);

pub(super) enum Plane {
    Builtin(Proxy, Option<Awaited>),
    Envoy(Envoy),
}

/// See [`Plane::ended`].
pub(super) enum Ended {
    /// `/quitquitquit` on the built-in proxy's admin server.
    Asked,
    /// How Envoy's process ended.
    Process(Arc<str>),
}

impl Plane {
    pub(super) async fn start(
        settings: &Settings,
        configuration: &Configuration,
        identity: &Identity,
    ) -> anyhow::Result<Self> {
        if settings.is_envoy() {
            return Envoy::start(settings, configuration, identity.sds())
                .await
                .map(Self::Envoy);
        }
        let proxy = Proxy::start(ProxyOptions {
            bootstrap: bootstrap::builtin(settings)?,
            resources: configuration.resources(),
            secrets: configuration.secrets(settings, identity.local()),
            concurrency: settings.concurrency,
            drain_time: settings.proxy_config.drain_duration,
        });
        proxy
            .await
            .map(|proxy| Self::Builtin(proxy, configuration.awaited()))
            .context("the built-in proxy does not start")
    }

    /// Why it does not serve yet; empty once it does.
    pub(super) async fn waiting(&self) -> Vec<String> {
        match self {
            Self::Envoy(envoy) => envoy.waiting().await,
            Self::Builtin(proxy, awaited) => {
                let awaited = awaited.as_ref().and_then(Awaited::reason);
                awaited.into_iter().chain(proxy_waits(proxy)).collect()
            }
        }
    }

    /// What has happened on the way to istiod, if there is one.
    pub(super) fn istiod_counts(&self) -> Option<StreamCounts> {
        let awaited = match self {
            Self::Envoy(envoy) => envoy.awaited(),
            Self::Builtin(_, awaited) => awaited.as_ref(),
        };
        awaited.map(Awaited::counts)
    }

    /// What Envoy says of its configuration; the built-in proxy logs it itself.
    pub(super) fn ads_status(&self) -> Option<watch::Receiver<AdsStatus>> {
        match self {
            Self::Envoy(envoy) => Some(envoy.status()),
            Self::Builtin(..) => None,
        }
    }

    /// Waits for an end that is not ours.
    pub(super) async fn ended(&self) -> Ended {
        match self {
            Self::Envoy(envoy) => Ended::Process(envoy.ended().await),
            Self::Builtin(proxy, _) => {
                let mut requested = proxy.requested();
                match requested.wait_for(|requested| requested.quit).await {
                    Ok(_) => Ended::Asked,
                    // Nobody can ask any more.
                    Err(_) => std::future::pending().await,
                }
            }
        }
    }

    /// Asks clients to finish, for as long as it takes; who comes all the same is served.
    pub(super) async fn drain(&self, kind: NodeKind) {
        match self {
            Self::Envoy(envoy) => envoy.drain().await,
            Self::Builtin(proxy, _) => proxy.drain_listeners(ListenerDrain {
                skip_exit: true,
                ..listener_drain(kind)
            }),
        }
    }

    /// Asks clients to finish, gives live requests their time, and ends it.
    pub(super) async fn shut_down(self, drain: Drain, kind: NodeKind) {
        match self {
            Self::Envoy(envoy) => envoy.shut_down(drain).await,
            Self::Builtin(proxy, _) => {
                proxy.drain_listeners(listener_drain(kind));
                if drain.until_idle {
                    tokio::time::sleep(drain.minimum).await;
                    while proxy.active_connections() > 0 {
                        tokio::time::sleep(IDLE_POLL).await;
                    }
                } else {
                    tokio::time::sleep(drain.termination).await;
                }
                proxy.shutdown(Duration::ZERO).await;
            }
        }
    }

    /// Ends it at once.
    pub(super) async fn kill(self) {
        match self {
            Self::Envoy(envoy) => envoy.kill().await,
            Self::Builtin(proxy, _) => proxy.shutdown(Duration::ZERO).await,
        }
    }
}

/// As Istio's agent asks it of Envoy. A sidecar's workload still has calls of its own to make while it ends.
fn listener_drain(kind: NodeKind) -> ListenerDrain {
    ListenerDrain {
        inbound_only: kind == NodeKind::Sidecar,
        graceful: true,
        skip_exit: false,
    }
}

fn proxy_waits(proxy: &Proxy) -> Vec<String> {
    if proxy.requested().borrow().fail_health_checks {
        return vec!["an operator fails its health checks: /healthcheck/fail".into()];
    }
    match &*proxy.ready().borrow() {
        Readiness::Ready => Vec::new(),
        Readiness::Waiting(reasons) => reasons.iter().map(ToString::to_string).collect(),
        Readiness::Draining => vec!["the proxy drains".into()],
    }
}
