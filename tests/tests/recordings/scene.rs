//! One proxy in a namespace of its own, with what its recording knows: the services at the addresses that
//! istiod gave them, and istiod's place taken by [`Replay`].
//!
//! The recorded mesh lives on addresses of loopback, so that nothing of a recording has to be changed.
//! Traffic is captured by destination, so that no user but our own is needed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ithildin_tests::{
    Authority, DataPlane, Load, Net, Process, Replay,
    authority::Files,
    curl::{self, Answer, ClientCertificate},
    eventually,
    istiod::HOST,
    process::{binary, output},
    replay::{self, TOKEN},
};
use serde_json::{Value, json};

/// The recorded mesh's.
pub(crate) const TRUST_DOMAIN: &str = "cluster.local";

pub(crate) const PRODUCTPAGE_ID: &str = "spiffe://cluster.local/ns/default/sa/bookinfo-productpage";
pub(crate) const HTTPBIN_ID: &str = "spiffe://cluster.local/ns/default/sa/httpbin";
pub(crate) const SLEEP_ID: &str = "spiffe://cluster.local/ns/default/sa/sleep";

/// Where the recorded Pods serve.
pub(crate) const PRODUCTPAGE_POD: &str = "127.0.1.10:9080";
pub(crate) const HTTPBIN_POD: &str = "127.0.1.11:8080";
/// The Services' addresses, captured in sidecars.
pub(crate) const PRODUCTPAGE: &str = "127.0.10.10:9080";
pub(crate) const HTTPBIN: &str = "127.0.10.11:8000";
const SERVICES: &str = "127.0.10.0/24";
/// From where a sidecar calls its own application, which must not be captured again.
const INBOUND_SOURCE: &str = "127.0.0.6";

/// A node that was recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    /// In the names of the recordings.
    pub(crate) name: &'static str,
    role: &'static str,
    pod: &'static str,
    namespace: &'static str,
    account: &'static str,
    pub(crate) ip: &'static str,
    labels: &'static str,
    /// Where its application listens; that port is captured inbound.
    pub(crate) app: Option<u16>,
}

pub(crate) const SLEEP: Node = Node {
    name: "sidecar-sleep",
    role: "sidecar",
    pod: "sleep-0",
    namespace: "default",
    account: "sleep",
    ip: "127.0.1.12",
    labels: "app=\"sleep\"\nversion=\"v1\"\n",
    app: Some(80),
};

pub(crate) const PRODUCTPAGE_NODE: Node = Node {
    name: "sidecar-productpage",
    pod: "productpage-v1-0",
    account: "bookinfo-productpage",
    ip: "127.0.1.10",
    labels: "app=\"productpage\"\nversion=\"v1\"\n",
    app: Some(9080),
    ..SLEEP
};

pub(crate) const ROUTER: Node = Node {
    name: "router",
    role: "router",
    pod: "istio-ingressgateway-0",
    namespace: "istio-system",
    account: "istio-ingressgateway-service-account",
    ip: "127.0.1.20",
    labels: "app=\"istio-ingressgateway\"\nistio=\"ingressgateway\"\n",
    app: None,
};

impl Node {
    pub(crate) fn id(&self) -> String {
        let Self {
            namespace, account, ..
        } = self;
        format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}")
    }

    /// The first of its labels.
    pub(crate) fn app_label(&self) -> &'static str {
        self.labels.split('"').nth(1).unwrap_or_default()
    }

    /// As istiod wants to hear it.
    pub(crate) fn xds_id(&self) -> String {
        let Self {
            role,
            ip,
            pod,
            namespace,
            ..
        } = self;
        format!("{role}~{ip}~{pod}.{namespace}~{namespace}.svc.cluster.local")
    }
}

/// What a scene is made of.
#[derive(Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) node: Node,
    pub(crate) plane: DataPlane,
    /// Whether the agent asks by the delta protocol, as it does by default.
    pub(crate) delta: bool,
    pub(crate) env: &'a [(&'a str, &'a str)],
}

impl Plan<'static> {
    /// By the delta protocol.
    pub(crate) fn new(node: Node, plane: DataPlane) -> Self {
        Self {
            node,
            plane,
            delta: true,
            env: &[],
        }
    }
}

/// A running proxy and its surroundings.
pub(crate) struct Scene {
    pub(crate) agent: Process,
    pub(crate) istiod: Replay,
    services: Vec<(&'static str, Process)>,
    pub(crate) authority: Authority,
    node: Node,
    /// Of its Workload API.
    socket: PathBuf,
    /// The agent's working directory.
    pub(crate) folder: PathBuf,
    // After the processes, whose logs are there.
    pub(crate) net: Net,
}

impl Scene {
    /// Starts the services, istiod with `answers`, and the agent.
    pub(crate) fn start(plan: Plan<'_>, answers: &[replay::Answer]) -> Self {
        let net = Net::new(&[&format!("127.0.0.1 {HOST}")]);
        let config = format!("trust_domains: [{{name: {TRUST_DOMAIN}}}]\n");
        let authority = Authority::start(&config);
        let istiod = Replay::start(&net, answers);
        let node = plan.node;
        capture(&net, &node);
        let folder = lay_out(&net, &node, &istiod);
        let socket = authority.workload(TRUST_DOMAIN, &node.id());
        let mut scene = Self {
            agent: agent(&net, &plan, &socket, &folder),
            istiod,
            services: Vec::new(),
            authority,
            node,
            socket,
            folder,
            net,
        };
        if let Some(port) = node.app {
            let app = format!("{}:{port}", node.ip);
            let mut serve = scene.net.command(binary("ithildin-test-peer"));
            serve.args(["serve", &app]);
            let app = scene.net.spawn("app", serve);
            scene.services.push(("app", app));
        }
        if node.name != PRODUCTPAGE_NODE.name {
            scene.serve("productpage", PRODUCTPAGE_POD, PRODUCTPAGE_ID);
        }
        // A gateway has the port itself.
        if node.app.is_some() {
            scene.serve("httpbin", HTTPBIN_POD, HTTPBIN_ID);
        }
        scene
    }

    /// Starts the agent anew by another plan.
    pub(crate) fn restart_agent(&mut self, plan: Plan<'_>) {
        self.agent.terminate();
        self.agent = agent(&self.net, &plan, &self.socket, &self.folder);
    }

    /// Puts a service with the identity `id` behind mTLS at `address`, in place of one of that name.
    pub(crate) fn serve(&mut self, name: &'static str, address: &str, id: &str) {
        self.services.retain(|(other, _)| *other != name);
        let files = self.authority.mint(TRUST_DOMAIN, id, "1h");
        let mut serve = self.net.command(binary("ithildin-test-peer"));
        serve.args(["serve", address, "--tls"]).arg(&files.dir);
        let service = self.net.spawn(name, serve);
        self.services.push((name, service));
    }

    /// Waits for the readiness probe, and until istiod has had its answers.
    pub(crate) fn wait_ready(&mut self) {
        eventually("the agent is ready", || {
            assert!(self.agent.is_running(), "the agent ended");
            self.probe().expect_status(200)
        });
        self.wait_settled();
    }

    /// What the readiness probe hears.
    pub(crate) fn probe(&self) -> Answer {
        curl::get(&self.net, "http://127.0.0.1:15021/healthz/ready", &[])
    }

    /// Waits until istiod has had its answers.
    pub(crate) fn wait_settled(&self) {
        const KINDS: [&str; 4] = [
            "Cluster",
            "Listener",
            "ClusterLoadAssignment",
            "RouteConfiguration",
        ];
        eventually("all is answered", || self.istiod.settled(&KINDS));
    }

    /// A request of the workload to another one: of a sidecar's application to httpbin, and of a client
    /// of the gateway's to productpage.
    pub(crate) fn out(&self) -> Answer {
        match self.node.app {
            Some(_) => self.call(HTTPBIN, "httpbin:8000", "/status/200"),
            None => self.gateway("/productpage"),
        }
    }

    /// What a service has said.
    pub(crate) fn service_log(&self, name: &str) -> String {
        let service = self.services.iter().find(|(other, _)| *other == name);
        service
            .map(|(_, process)| process.log())
            .unwrap_or_default()
    }

    /// A request to a captured address.
    pub(crate) fn call(&self, address: &str, host: &str, path: &str) -> Answer {
        let host = format!("host: {host}");
        curl::get(
            &self.net,
            &format!("http://{address}{path}"),
            &["-H", &host],
        )
    }

    /// A request of sleep's to the gateway's listener.
    pub(crate) fn gateway(&self, path: &str) -> Answer {
        let client = self.mint(SLEEP_ID);
        let url = format!("https://127.0.1.20:8080{path}");
        curl::get_mtls(&self.net, &url, certificate(&client), &[])
    }

    /// A request to the workload itself by `client`.
    pub(crate) fn inbound(&self, client: &Files, path: &str) -> Answer {
        let port = self.node.app.expect("a sidecar has an application");
        let url = format!("https://{}:{port}{path}", self.node.ip);
        curl::get_mtls(&self.net, &url, certificate(client), &[])
    }

    pub(crate) fn mint(&self, id: &str) -> Files {
        self.authority.mint(TRUST_DOMAIN, id, "1h")
    }

    /// Requests to httpbin through the sidecar, without a pause.
    pub(crate) fn load(&self) -> Load {
        let load = Load::start(&self.net, HTTPBIN, "httpbin:8000", "/status/200");
        load.wait_beyond(0);
        load
    }

    /// A page of the data plane's admin.
    pub(crate) fn admin(&self, path: &str) -> Answer {
        curl::get(&self.net, &format!("http://127.0.0.1:15000{path}"), &[])
    }
}

pub(crate) fn certificate(files: &Files) -> ClientCertificate<'_> {
    ClientCertificate {
        chain: &files.chain,
        key: &files.key,
    }
}

/// The body of the test's service.
#[track_caller]
pub(crate) fn echoed(answer: &Answer) -> Value {
    assert_eq!((answer.exit, answer.status), (0, 200), "{answer:?}");
    let body = serde_json::from_str(&answer.body);
    body.unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// What `istio-iptables` would do, by address instead of user.
fn capture(net: &Net, node: &Node) {
    let Some(port) = node.app else {
        return;
    };
    let port = port.to_string();
    let outbound = ["-d", SERVICES, "-j", "REDIRECT", "--to-ports", "15001"];
    let inbound = [
        "-d",
        node.ip,
        "!",
        "-s",
        INBOUND_SOURCE,
        "--dport",
        &port,
        "-j",
        "REDIRECT",
        "--to-ports",
        "15006",
    ];
    for rule in [&outbound[..], &inbound[..]] {
        let mut iptables = net.command("iptables");
        iptables.args(["-w", "-t", "nat", "-A", "OUTPUT", "-p", "tcp"]);
        iptables.args(rule);
        output(iptables);
    }
}

/// What the kubelet mounts, below the agent's working directory.
fn lay_out(net: &Net, node: &Node, istiod: &Replay) -> PathBuf {
    let folder = net.subdir("pod");
    for (path, text) in [
        ("var/run/secrets/tokens/istio-token", TOKEN),
        ("var/run/secrets/istio/root-cert.pem", &istiod.roots),
        ("etc/istio/pod/labels", node.labels),
        ("etc/istio/pod/annotations", ""),
    ] {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().expect("it is below the folder"))
            .and_then(|()| fs::write(path, text))
            .expect("the scratch folder is writable");
    }
    folder
}

fn agent(net: &Net, plan: &Plan<'_>, socket: &Path, folder: &Path) -> Process {
    let node = &plan.node;
    let config = json!({
        "concurrency": 1,
        "terminationDrainDuration": "1s",
        "proxyStatsMatcher": {"inclusionPrefixes": ["listener", "cluster"]},
    });
    let mut command = net.command("sh");
    command
        .args(["-c", "cd \"$0\" && exec \"$@\""])
        .arg(folder)
        .arg(binary("pilot-agent"))
        .args(["proxy", node.role, "--dataPlane", plan.plane.as_str()])
        .args(["--domain", &format!("{}.svc.cluster.local", node.namespace)])
        .env(
            "SPIFFE_ENDPOINT_SOCKET",
            format!("unix://{}", socket.display()),
        )
        .env("PROXY_CONFIG", config.to_string())
        .env("TRUST_DOMAIN", TRUST_DOMAIN)
        .env("POD_NAME", node.pod)
        .env("POD_NAMESPACE", node.namespace)
        .env("SERVICE_ACCOUNT", node.account)
        .env("INSTANCE_IP", node.ip)
        .env("ISTIO_META_CLUSTER_ID", "Kubernetes")
        .env("ISTIO_META_MESH_ID", TRUST_DOMAIN)
        .env("ISTIO_DELTA_XDS", plan.delta.to_string())
        .envs(plan.env.iter().copied());
    net.spawn("agent", command)
}
