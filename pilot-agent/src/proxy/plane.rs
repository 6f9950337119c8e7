//! The data plane, whichever it is.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use ithildin_proxy::{Proxy, ProxyOptions, Readiness};
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
            bootstrap: bootstrap::builtin(settings),
            resources: configuration.resources(),
            secrets: configuration.secrets(identity.local()),
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

    /// Waits for an end that nobody asked for; for ever, if it cannot end.
    pub(super) async fn ended(&self) -> Arc<str> {
        match self {
            Self::Envoy(envoy) => envoy.ended().await,
            Self::Builtin(..) => std::future::pending().await,
        }
    }

    /// Stops accepting; live requests go on.
    pub(super) async fn drain(&self) {
        match self {
            Self::Envoy(envoy) => envoy.drain().await,
            Self::Builtin(proxy, _) => proxy.drain(),
        }
    }

    /// Stops accepting, gives live requests their time, and ends it.
    pub(super) async fn shut_down(self, drain: Drain) {
        match self {
            Self::Envoy(envoy) => {
                envoy.drain().await;
                if drain.until_idle {
                    tokio::time::sleep(drain.minimum).await;
                    envoy.idle().await;
                } else {
                    tokio::time::sleep(drain.termination).await;
                }
                envoy.kill().await;
            }
            Self::Builtin(proxy, _) if drain.until_idle => {
                proxy.drain();
                tokio::time::sleep(drain.minimum).await;
                while proxy.active_connections() > 0 {
                    tokio::time::sleep(IDLE_POLL).await;
                }
                proxy.shutdown(Duration::ZERO).await;
            }
            Self::Builtin(proxy, _) => proxy.shutdown(drain.termination).await,
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

fn proxy_waits(proxy: &Proxy) -> Vec<String> {
    match &*proxy.ready().borrow() {
        Readiness::Ready => Vec::new(),
        Readiness::Waiting(reasons) => reasons.iter().map(ToString::to_string).collect(),
        Readiness::Draining => vec!["the proxy drains".into()],
    }
}
