//! The two clusters: authorities, configurations, the service and the three proxies.

use std::{
    env, fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, bail};
use ithildin_spiffe::{
    SpiffeId, TrustDomain,
    authority::{Authority, AuthorityConfig, KeyType, TrustDomainConfig, WorkloadConfig},
};
use ithildin_sys::port;
use serde_json::json;
use tokio::{task::JoinHandle, time::sleep};

use super::{
    DataPlane, envoy, httpbin,
    plain::Client,
    process::Process,
    report::{Event, Report},
    socket,
};
use crate::authority::Sockets;

pub(super) const CLIENT_DOMAIN: &str = "domain.test";
pub(super) const SERVER_DOMAIN: &str = "example.org";
/// Not federated at first.
pub(super) const THIRD_DOMAIN: &str = "third.test";
/// The host that the ServiceEntry makes known in domain.test.
pub(super) const HOST: &str = "app.example.org";

pub(super) const EGRESS: &str = "spiffe://domain.test/ns/default/sa/sleep";
pub(super) const INGRESS: &str =
    "spiffe://example.org/ns/istio-system/sa/istio-ingressgateway-service-account";
pub(super) const HTTPBIN: &str = "spiffe://example.org/ns/default/sa/httpbin";

/// How long the proxies may take to be ready.
const READY_PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);
/// httpbin's sidecar has an address of its own, so that both may have the same port.
const SIDECAR_IP: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Everything that runs.
pub(super) struct Stage {
    pub(super) authority: Authority,
    /// Where the workload sends plain HTTP.
    pub(super) egress: SocketAddr,
    /// The ISTIO_MUTUAL gateway.
    pub(super) ingress: SocketAddr,
    pub(super) data_plane: DataPlane,
    folder: PathBuf,
    sockets: Sockets,
    proxies: Vec<Process>,
    httpbin: JoinHandle<()>,
}

impl Stage {
    /// Starts it all; returns when all proxies are ready.
    pub(super) async fn build(
        folder: &Path,
        data_plane: DataPlane,
        report: &mut Report,
    ) -> anyhow::Result<Self> {
        let envoy = match data_plane {
            DataPlane::Builtin => None,
            DataPlane::Envoy => Some(envoy::find()?),
        };
        let authority = Authority::start(authorities(folder)?)?;
        let sockets = Sockets::new(authority.clone());
        for domain in [CLIENT_DOMAIN, SERVER_DOMAIN] {
            for workload in workloads(folder, domain)? {
                sockets.open_workload(domain, &workload)?;
            }
        }
        tell_identities(&authority, report);
        let service = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = service.local_addr()?.port();
        let [egress, ingress] = free_ports()?;
        let proxies = proxies(folder, envoy.as_deref(), [egress, ingress, port]);
        let proxies = proxies.context("cannot start the proxies")?;
        let mut stage = Self {
            authority,
            egress: (Ipv4Addr::LOCALHOST, egress).into(),
            ingress: (Ipv4Addr::LOCALHOST, ingress).into(),
            data_plane,
            folder: folder.to_path_buf(),
            sockets,
            httpbin: tokio::spawn(httpbin::serve(service)),
            proxies: Vec::new(),
        };
        let (children, ports): (Vec<_>, Vec<_>) = proxies.into_iter().unzip();
        stage.proxies = children;
        stage.wait_ready(&ports, report).await?;
        Ok(stage)
    }

    /// What the ingress gateway has logged.
    pub(super) fn ingress_log(&self) -> String {
        let ingress = self.proxies.iter().find(|proxy| proxy.name == "ingress");
        ingress.map(Process::log).unwrap_or_default()
    }

    /// What to try by hand.
    pub(super) fn commands(&self) -> Vec<String> {
        let egress = self.egress;
        let url = format!("http://{HOST}:{}", egress.port());
        let resolve = format!(
            "curl -sS -i --resolve {HOST}:{}:{}",
            egress.port(),
            egress.ip()
        );
        vec![
            format!("{resolve} {url}/status/200"),
            format!("{resolve} {url}/headers"),
            format!("tail -f {}/*.log", self.folder.display()),
        ]
    }

    pub(super) async fn close(self) {
        let mut stopping = tokio::task::JoinSet::new();
        for proxy in self.proxies {
            stopping.spawn(proxy.stop());
        }
        stopping.join_all().await;
        self.httpbin.abort();
        self.sockets.close().await;
    }

    async fn wait_ready(&mut self, ports: &[u16], report: &mut Report) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut waiting: Vec<_> = (0..self.proxies.len()).collect();
        while !waiting.is_empty() {
            if started.elapsed() > READY_PATIENCE {
                let name = &self.proxies[waiting[0]].name;
                bail!(
                    "{name} is not ready after {READY_PATIENCE:?}; see {}",
                    self.folder.display()
                );
            }
            for index in waiting.clone() {
                let proxy = &mut self.proxies[index];
                proxy.check_running()?;
                if is_ready(ports[index]).await {
                    waiting.retain(|other| *other != index);
                    report.tell(Event::ProxyReady {
                        name: proxy.name.clone(),
                        millis: started.elapsed().as_millis() as u64,
                    });
                }
            }
            sleep(POLL).await;
        }
        Ok(())
    }
}

fn authorities(folder: &Path) -> anyhow::Result<AuthorityConfig> {
    let domain = |name| -> anyhow::Result<TrustDomainConfig> {
        let mut domain = TrustDomainConfig::new(TrustDomain::parse(name)?);
        domain.workloads = workloads(folder, name)?;
        Ok(domain)
    };
    let mut server = domain(SERVER_DOMAIN)?;
    server.intermediate = Some(KeyType::EcP256);
    Ok(AuthorityConfig {
        federation: vec![(TrustDomain::parse(CLIENT_DOMAIN)?, server.name.clone())],
        trust_domains: vec![domain(CLIENT_DOMAIN)?, server, domain(THIRD_DOMAIN)?],
    })
}

/// Each workload has a socket of its own.
fn workloads(folder: &Path, domain: &str) -> anyhow::Result<Vec<WorkloadConfig>> {
    let of = [
        (CLIENT_DOMAIN, EGRESS, "egress"),
        (SERVER_DOMAIN, INGRESS, "ingress"),
        (SERVER_DOMAIN, HTTPBIN, "httpbin"),
    ];
    let mut workloads = Vec::new();
    for (_, id, name) in of.into_iter().filter(|(of, _, _)| *of == domain) {
        let mut workload = WorkloadConfig::new(SpiffeId::parse(id)?);
        workload.socket = Some(socket(folder, name));
        workloads.push(workload);
    }
    Ok(workloads)
}

fn tell_identities(authority: &Authority, report: &mut Report) {
    for domain in authority.status().trust_domains {
        let root = domain.roots.first().map(|root| &root.serial);
        let issuer = match (&domain.intermediate, root) {
            (Some(serial), _) => format!("intermediate OU=DOWNSTREAM-1 {serial}"),
            (None, Some(serial)) => format!("root {serial}"),
            (None, None) => String::new(),
        };
        for workload in domain.workloads {
            let now = SystemTime::UNIX_EPOCH
                .elapsed()
                .unwrap_or_default()
                .as_secs();
            report.tell(Event::Identity {
                id: workload.id.to_string(),
                serial: workload.serial,
                issuer: issuer.clone(),
                seconds_left: workload.not_after.saturating_sub(now),
            });
        }
    }
}

/// One proxy, as Istio would describe it to its agent.
struct Proxy {
    name: &'static str,
    role: &'static str,
    domain: &'static str,
    pod: &'static str,
    namespace: &'static str,
    account: &'static str,
    ip: Ipv4Addr,
    labels: &'static str,
}

const PROXIES: [Proxy; 3] = [
    Proxy {
        name: "egress",
        role: "sidecar",
        domain: CLIENT_DOMAIN,
        pod: "sleep-0",
        namespace: "default",
        account: "sleep",
        ip: Ipv4Addr::LOCALHOST,
        labels: r#"{"app":"sleep","security.istio.io/tlsMode":"istio"}"#,
    },
    Proxy {
        name: "ingress",
        role: "router",
        domain: SERVER_DOMAIN,
        pod: "istio-ingressgateway-0",
        namespace: "istio-system",
        account: "istio-ingressgateway-service-account",
        ip: Ipv4Addr::LOCALHOST,
        labels: r#"{"istio":"ingressgateway"}"#,
    },
    Proxy {
        name: "httpbin",
        role: "sidecar",
        domain: SERVER_DOMAIN,
        pod: "httpbin-0",
        namespace: "default",
        account: "httpbin",
        ip: SIDECAR_IP,
        labels: r#"{"app":"httpbin","security.istio.io/tlsMode":"istio"}"#,
    },
];

/// Writes the configurations and starts the proxies, on `envoy` if it is given; returns each with its status port.
fn proxies(
    folder: &Path,
    envoy: Option<&Path>,
    [egress, ingress, httpbin]: [u16; 3],
) -> anyhow::Result<Vec<(Process, u16)>> {
    let [service, gateway] = free_ports()?;
    let fill = |yaml: &str| {
        yaml.replace("{service}", &service.to_string())
            .replace("{gateway}", &gateway.to_string())
            .replace("{egress}", &egress.to_string())
            .replace("{ingress}", &ingress.to_string())
            .replace("{httpbin}", &httpbin.to_string())
    };
    let configurations = [
        (CLIENT_DOMAIN, include_str!("istio/domain-test.yaml")),
        (SERVER_DOMAIN, include_str!("istio/example-org.yaml")),
    ];
    for (domain, yaml) in configurations {
        let istio = folder.join(domain);
        fs::create_dir_all(&istio)?;
        fs::write(istio.join("mesh.yaml"), fill(yaml))?;
    }
    let mut children = Vec::new();
    for proxy in &PROXIES {
        let [status, prometheus, admin, agent] = free_ports()?;
        let mut command = proxy.command(folder, [status, prometheus, admin, agent])?;
        match envoy {
            None => command.env("ITHILDIN_DATA_PLANE", "builtin"),
            Some(binary) => command
                .env("ITHILDIN_DATA_PLANE", "envoy")
                .env("ENVOY_BIN", binary),
        };
        let log = folder.join(format!("{}.log", proxy.name));
        children.push((Process::spawn(proxy.name, &log, command)?, status));
    }
    Ok(children)
}

impl Proxy {
    fn command(
        &self,
        folder: &Path,
        [status, prometheus, admin, agent]: [u16; 4],
    ) -> anyhow::Result<Command> {
        let own = folder.join(self.name);
        fs::create_dir_all(&own)?;
        let config = json!({
            "configPath": own,
            "proxyAdminPort": admin,
            "statusPort": agent,
            "concurrency": 1,
            "terminationDrainDuration": "1s",
        });
        let identity = format!("unix://{}", socket(folder, self.name).display());
        let mut command = Command::new(env::current_exe()?);
        command
            .args(["proxy", self.role, "--configDir"])
            .arg(folder.join(self.domain))
            .current_dir(&own)
            .env("SPIFFE_ENDPOINT_SOCKET", identity)
            .env("PROXY_CONFIG", config.to_string())
            .env("ENVOY_STATUS_PORT", status.to_string())
            .env("ENVOY_PROMETHEUS_PORT", prometheus.to_string())
            .env("TRUST_DOMAIN", self.domain)
            .env("POD_NAME", self.pod)
            .env("POD_NAMESPACE", self.namespace)
            .env("SERVICE_ACCOUNT", self.account)
            .env("INSTANCE_IP", self.ip.to_string())
            .env("ISTIO_META_INTERCEPTION_MODE", "NONE")
            .env("ISTIO_META_CLUSTER_ID", self.domain)
            .env("ISTIO_METAJSON_LABELS", self.labels);
        Ok(command)
    }
}

async fn is_ready(port: u16) -> bool {
    let ready = async {
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let response = Client::connect(address, "localhost")
            .await?
            .get("/healthz/ready")
            .await?;
        anyhow::Ok(response.status().is_success())
    };
    ready.await.unwrap_or(false)
}

fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    let mut ports = [0; N];
    for port in &mut ports {
        *port = port::unused()?;
    }
    Ok(ports)
}
