//! istiod as the source of the configuration: how the settings say to reach it, and what comes of it.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use ithildin_istiod::{
    dial::{
        self, Address, CallHeaders, ClientCertificate, ClientFiles, Endpoint, Roots, Svid, Tls,
        Transport,
    },
    discovery::{self, AgentFeeds, AgentTypes, AgentTypesOptions, ClientOptions, HealthReport},
    relay::Relay,
};
use ithildin_panics::essential;
use ithildin_proxy::control;
use ithildin_spiffe::IdentityState;
use ithildin_status::WorkloadHealth;
use ithildin_wasm::Modules;
use ithildin_xds::{
    AdsClient, ResourceKind,
    ads::{AdsClientStatus, AdsProtocol, StreamCounts, StreamStatus},
};
use tokio::sync::watch;

use super::{
    bootstrap,
    proxy_config::ControlPlaneAuth,
    settings::{IstiodAuth, Root, Settings},
};

/// In a `PROV_CERT` folder.
const PROVISIONED_CERTIFICATE: &str = "cert-chain.pem";
const PROVISIONED_KEY: &str = "key.pem";

/// Between two attempts to reach an istiod that nobody asks yet.
const REACH_PAUSE: Duration = Duration::from_secs(1);

/// istiod under way.
pub(super) struct Istiod {
    address: String,
    consumer: Consumer,
    feeds: AgentFeeds,
    /// Why it has not been reached, where nobody is there to ask it yet.
    unreached: Option<watch::Receiver<Option<Arc<str>>>>,
    /// What istiod is told of the workload, if it has a probe of its own.
    health: watch::Sender<Option<HealthReport>>,
}

/// Whom the configuration is for.
enum Consumer {
    Builtin(AdsClient),
    Envoy(Relay),
}

/// What istiod has not said yet, and how it stands with it.
#[derive(Debug)]
pub(super) struct Awaited {
    address: String,
    stream: watch::Receiver<StreamStatus>,
    /// With Envoy it is Envoy who says what it has.
    client: Option<watch::Receiver<AdsClientStatus>>,
    unreached: Option<watch::Receiver<Option<Arc<str>>>>,
}

impl Awaited {
    /// Until there are clusters and listeners for the first time.
    pub(super) fn reason(&self) -> Option<String> {
        let Some(client) = &self.client else {
            return self.unconnected();
        };
        let client = client.borrow();
        let mut needed = [ResourceKind::Cluster, ResourceKind::Listener].into_iter();
        let kind = needed.find(|kind| !client.accepted.contains(kind))?;
        if let Some(reason) = client.refused.get(&kind) {
            let kind = kind.short();
            return Some(format!(
                "everything in istiod's {kind} is refused: {reason}"
            ));
        }
        let nothing = || format!("waits for istiod at {}: no {}", self.address, kind.short());
        Some(self.unconnected().unwrap_or_else(nothing))
    }

    /// Until istiod has been reached once, where nobody asks it before we are ready.
    pub(super) fn unreached(&self) -> Option<String> {
        let reason = self.unreached.as_ref()?.borrow().clone()?;
        Some(format!("waits for istiod at {}: {reason}", self.address))
    }

    /// What has happened on the way to istiod since the start.
    pub(super) fn counts(&self) -> StreamCounts {
        self.stream.borrow().counts
    }

    /// The error begins with the address.
    fn unconnected(&self) -> Option<String> {
        let error = self.stream.borrow().error.clone()?;
        Some(format!("waits for istiod at {error}"))
    }
}

impl Istiod {
    /// # Errors
    /// When the settings do not say how to reach and to trust it.
    pub(super) fn start(
        settings: &Settings,
        identity: watch::Receiver<IdentityState>,
    ) -> anyhow::Result<Self> {
        let endpoint = endpoint(settings, identity)?;
        let (health, reports) = watch::channel(None);
        let probed = settings.proxy_config.readiness_probe.is_some();
        let (types, feeds) = AgentTypes::new(AgentTypesOptions {
            names: settings.dns.enabled,
            roots: settings.istiod.proxy_config_updates,
            health: probed.then_some(reports),
            admit_federated: !settings.sds.federated.is_empty(),
        });
        let unreached = settings.envoy.disabled.then(|| reach(endpoint.clone()));
        let consumer = match settings.is_envoy() {
            true => {
                let modules = settings.wasm.clone().map(Modules::new);
                let protocol = protocol(settings);
                // Without an Envoy, workloads ask that are nodes of their own.
                let expected = (!settings.envoy.disabled).then(|| settings.xds_node());
                let relay = Relay::start(&endpoint, protocol, types, modules, expected);
                Consumer::Envoy(relay)
            }
            false => Consumer::Builtin(client(settings, endpoint, types)),
        };
        Ok(Self {
            address: settings.istiod.address.to_string(),
            consumer,
            feeds,
            unreached,
            health,
        })
    }

    /// Tells istiod what the workload's probe says. Must be called inside a tokio runtime.
    pub(super) fn report(&self, mut health: watch::Receiver<Option<WorkloadHealth>>) {
        let reports = self.health.clone();
        let telling = async move {
            while health.changed().await.is_ok() {
                let report = health.borrow_and_update().clone();
                reports.send_replace(report.map(|health| match health {
                    WorkloadHealth::Healthy => HealthReport::Healthy,
                    WorkloadHealth::Unhealthy(reason) => HealthReport::Unhealthy(reason),
                }));
            }
        };
        tokio::spawn(essential("health of the workload", telling));
    }

    /// The client, if the data plane is in this process.
    pub(super) fn client(&self) -> Option<&AdsClient> {
        match &self.consumer {
            Consumer::Builtin(client) => Some(client),
            Consumer::Envoy(_) => None,
        }
    }

    /// The relay, if the data plane is Envoy.
    pub(super) fn relay(&self) -> Option<&Relay> {
        match &self.consumer {
            Consumer::Builtin(_) => None,
            Consumer::Envoy(relay) => Some(relay),
        }
    }

    /// What istiod sends for the agent itself.
    pub(super) fn feeds(&self) -> &AgentFeeds {
        &self.feeds
    }

    pub(super) fn awaited(&self) -> Awaited {
        Awaited {
            address: self.address.clone(),
            stream: match &self.consumer {
                Consumer::Builtin(client) => client.stream(),
                Consumer::Envoy(relay) => relay.stream(),
            },
            client: self.client().map(AdsClient::status),
            unreached: self.unreached.clone(),
        }
    }
}

/// Tries until istiod is there: a workload without a proxy asks it through us once we are ready, and
/// Istio's agent is ready whether or not there is an istiod.
fn reach(endpoint: Endpoint) -> watch::Receiver<Option<Arc<str>>> {
    let (reason, unreached) = watch::channel(Some("it has not been reached yet".into()));
    let reaching = async move {
        while let Err(error) = endpoint.reach().await {
            reason.send_replace(Some(error.to_string().into()));
            tokio::time::sleep(REACH_PAUSE).await;
        }
        reason.send_replace(None);
    };
    tokio::spawn(essential("way to istiod", reaching));
    unreached
}

fn client(settings: &Settings, endpoint: Endpoint, types: AgentTypes) -> AdsClient {
    let options = ClientOptions {
        endpoint,
        node: settings.xds_node(),
        protocol: protocol(settings),
        endpoints: bootstrap::own_endpoints(settings),
        check: Arc::new(control::check_resource),
    };
    discovery::client(options, types)
}

fn protocol(settings: &Settings) -> AdsProtocol {
    match settings.istiod.delta {
        true => AdsProtocol::Delta,
        false => AdsProtocol::StateOfTheWorld,
    }
}

fn endpoint(
    settings: &Settings,
    identity: watch::Receiver<IdentityState>,
) -> anyhow::Result<Endpoint> {
    let istiod = &settings.istiod;
    let address = Address {
        host: istiod.address.host.clone(),
        port: istiod.address.port,
    };
    let headers = istiod.headers.iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.as_str()));
    let cluster = istiod.cluster_id.as_deref().unwrap_or_default();
    let token = Some(istiod.token.clone());
    Ok(Endpoint::new(dial::Options {
        transport: match istiod.auth {
            ControlPlaneAuth::None => Transport::Plaintext,
            ControlPlaneAuth::MutualTls => Transport::Tls(tls(settings, &address, identity)?),
        },
        address,
        headers: CallHeaders::new(token, cluster, headers).context("XDS_HEADER_*")?,
        keepalive: istiod.keepalive.interval,
        keepalive_timeout: istiod.keepalive.timeout,
    }))
}

fn tls(
    settings: &Settings,
    address: &Address,
    identity: watch::Receiver<IdentityState>,
) -> anyhow::Result<Tls> {
    let istiod = &settings.istiod;
    let san = istiod.san.as_deref().unwrap_or_default();
    let context = || match san {
        "" => "discoveryAddress of the proxy configuration",
        _ => "ISTIOD_SAN",
    };
    let svid = Svid {
        identity,
        selector: settings.sds.svid.clone(),
    };
    let own_bundle = istiod.shown == IstiodAuth::Svid && istiod.roots.explicit.is_none();
    Ok(Tls {
        server_name: dial::server_name(address, san).with_context(context)?,
        roots: match own_bundle {
            true => Roots::Spiffe(svid.clone()),
            false => match istiod.roots.for_xds()? {
                Root::System => Roots::System,
                Root::File(path) => Roots::File(path),
            },
        },
        client: match istiod.shown {
            IstiodAuth::Svid => ClientCertificate::Svid(svid),
            IstiodAuth::Token => client_files(settings),
        },
    })
}

/// Istio's `GetKeyCertsForXDS`.
fn client_files(settings: &Settings) -> ClientCertificate {
    if let Some(folder) = &settings.istiod.provisioned {
        return ClientCertificate::Files(ClientFiles {
            certificate: folder.join(PROVISIONED_CERTIFICATE),
            key: folder.join(PROVISIONED_KEY),
        });
    }
    match &settings.ca.files.client {
        Some(files) if settings.istiod.roots.mounted.is_some() => {
            ClientCertificate::Files(ClientFiles {
                certificate: files.chain.clone(),
                key: files.key.clone(),
            })
        }
        _ => ClientCertificate::None,
    }
}
