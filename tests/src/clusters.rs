//! Two clusters, as the walk-throughs have them: in one a workload and its sidecar, in the other an
//! ISTIO_MUTUAL gateway before a service with a sidecar. Each Pod has a namespace and an address.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    Agent, DataPlane, Lan, Net, Process,
    agent::{Identity, Pod},
    curl::{self, Answer, ClientCertificate},
    identities::Identities,
    process::binary,
};

/// Who the ingress gateway is, without the trust domain.
pub const INGRESS: &str = "/ns/istio-system/sa/istio-ingressgateway-service-account";
pub const SLEEP: &str = "/ns/default/sa/sleep";

/// The gateway from outside: what the walk-throughs expose it as, and call `app.example.org`.
pub const GATEWAY: &str = "10.0.1.50:8000";
const GATEWAY_IP: &str = "10.0.1.50";

/// What the server cluster serves.
#[derive(Clone, Copy, Debug)]
pub struct App {
    /// Its file in `tests/data/walkthroughs`: Gateway, VirtualService and DestinationRule.
    pub gateway: &'static str,
    pod: Pod<'static>,
    /// Where it listens, behind its sidecar.
    listen: &'static str,
}

/// Bookinfo's front page.
pub const PRODUCTPAGE: App = App {
    gateway: "bookinfo-gateway.yaml",
    pod: Pod {
        name: "productpage-v1-0",
        namespace: "default",
        account: "bookinfo-productpage",
        ip: "10.0.1.10",
        role: "sidecar",
        labels: r#"{"app":"productpage","version":"v1","security.istio.io/tlsMode":"istio"}"#,
    },
    listen: "127.0.0.1:9080",
};

pub const HTTPBIN: App = App {
    gateway: "httpbin-gateway.yaml",
    pod: Pod {
        name: "httpbin-0",
        namespace: "default",
        account: "httpbin",
        ip: "10.0.1.11",
        role: "sidecar",
        labels: r#"{"app":"httpbin","version":"v1","security.istio.io/tlsMode":"istio"}"#,
    },
    listen: "127.0.0.1:80",
};

const GATEWAY_POD: Pod<'_> = Pod {
    name: "istio-ingressgateway-0",
    namespace: "istio-system",
    account: "istio-ingressgateway-service-account",
    ip: GATEWAY_IP,
    role: "router",
    labels: r#"{"istio":"ingressgateway"}"#,
};

const SLEEP_POD: Pod<'_> = Pod {
    name: "sleep-0",
    namespace: "default",
    account: "sleep",
    ip: "10.0.2.10",
    role: "sidecar",
    labels: r#"{"app":"sleep","security.istio.io/tlsMode":"istio"}"#,
};

/// One proxy with its namespace.
pub struct Workload {
    pub agent: Agent,
    // After the agent, whose log is there.
    pub net: Net,
    /// Its SPIFFE ID.
    pub id: String,
}

/// The cluster that serves.
pub struct Server {
    pub gateway: Workload,
    pub app: Workload,
    /// The folder of Istio resources of both.
    pub config: PathBuf,
    _service: Process,
    _port_forward: Process,
}

/// The cluster that calls, or a workload without a proxy.
pub struct Client {
    pub sleep: Workload,
    pub config: PathBuf,
}

impl Server {
    /// Starts the gateway and the app of `cluster` and waits until both are ready.
    pub fn start(
        lan: &Lan,
        identities: &Identities,
        cluster: &str,
        app: &App,
        data_plane: DataPlane,
    ) -> Self {
        let path = format!("/ns/{}/sa/{}", GATEWAY_POD.namespace, GATEWAY_POD.account);
        let gateway = identities.workload(cluster, &path);
        Self::start_with(lan, identities, cluster, app, data_plane, gateway)
    }

    /// The same with another identity for the gateway.
    pub fn start_with(
        lan: &Lan,
        identities: &Identities,
        cluster: &str,
        app: &App,
        data_plane: DataPlane,
        gateway: (String, Identity),
    ) -> Self {
        let net = lan.host(ip(GATEWAY_IP), &[]);
        let config = net.subdir("istio");
        copy("clusters/server.yaml", &config);
        copy(&format!("walkthroughs/{}", app.gateway), &config);
        let app_net = lan.host(ip(app.pod.ip), &[]);
        let mut serve = app_net.command(binary("ithildin-test-peer"));
        serve.args(["serve", app.listen]);
        let serve = app_net.spawn("app", serve);
        let mut relay = net.command(binary("ithildin-test-peer"));
        relay.args(["relay", GATEWAY, "127.0.0.1:8080"]);
        let relay = net.spawn("port-forward", relay);
        let path = format!("/ns/{}/sa/{}", app.pod.namespace, app.pod.account);
        let app_identity = identities.workload(cluster, &path);
        let mut server = Self {
            gateway: Workload::start(net, &GATEWAY_POD, gateway, &config, data_plane),
            app: Workload::start(app_net, &app.pod, app_identity, &config, data_plane),
            config,
            _service: serve,
            _port_forward: relay,
        };
        server.gateway.wait_ready();
        server.app.wait_ready();
        server
    }

    /// Requests to the gateway with a client certificate, from outside.
    pub fn knock(
        &self,
        from: &Net,
        path: &str,
        certificate: ClientCertificate<'_>,
        arguments: &[&str],
    ) -> Answer {
        let url = format!("https://{GATEWAY}{path}");
        curl::get_mtls(from, &url, certificate, arguments)
    }
}

impl Client {
    /// Starts sleep and its sidecar in `cluster`.
    pub fn start(lan: &Lan, identities: &Identities, cluster: &str, data_plane: DataPlane) -> Self {
        let hosts = format!("{GATEWAY_IP} app.example.org");
        let net = lan.host(ip(SLEEP_POD.ip), &[&hosts]);
        let config = net.subdir("istio");
        copy("clusters/client.yaml", &config);
        copy("walkthroughs/app-egress.yaml", &config);
        let identity = identities.workload(cluster, SLEEP);
        let sleep = Workload::start(net, &SLEEP_POD, identity, &config, data_plane);
        let mut client = Self { sleep, config };
        client.sleep.wait_ready();
        client
    }

    /// `curl http://app.example.org:8000PATH` from the workload. Without traffic capture the sidecar is
    /// at the same port of loopback.
    pub fn curl(&self, path: &str, arguments: &[&str]) -> Answer {
        let url = format!("http://app.example.org:8000{path}");
        let mut all = vec!["--connect-to", "app.example.org:8000:127.0.0.1:8000"];
        all.extend(arguments);
        curl::get(&self.sleep.net, &url, &all)
    }
}

impl Workload {
    fn start(
        net: Net,
        pod: &Pod<'_>,
        (id, identity): (String, Identity),
        config: &Path,
        data_plane: DataPlane,
    ) -> Self {
        Self {
            agent: Agent::start(&net, pod, &identity, config, data_plane),
            net,
            id,
        }
    }

    pub fn wait_ready(&mut self) {
        self.agent.wait_ready(&self.net);
    }

    pub fn log(&self) -> String {
        self.agent.process.log()
    }
}

/// A file of `tests/data`.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data")
        .join(name)
}

fn copy(name: &str, to: &Path) {
    let from = data(name);
    let name = from.file_name().expect("it is a file");
    fs::copy(&from, to.join(name)).expect("the project's own file can be copied");
}

fn ip(text: &str) -> std::net::Ipv4Addr {
    text.parse().expect("a constant address")
}
