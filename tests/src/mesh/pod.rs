//! One Pod: what the kubelet, the CNI and the injector make of it.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use serde_json::json;

use super::{Cluster, PodSpec};
use crate::{
    DataPlane, Identities, Istiod, Lan, Net, Process,
    agent::Identity,
    curl::{self, Answer},
    eventually,
    istiod::{HOST, kubernetes_network},
    process::{CONTAINER, DIE_WITH_PARENT, binary, output},
};

/// The user of the proxy container, whose traffic is not captured.
const PROXY_USER: u32 = 1337;
const ADMIN: &str = "http://127.0.0.1:15000";
const READY: &str = "http://127.0.0.1:15021/healthz/ready";
/// Programs, which the proxy's user may not reach where they were built.
const BIN: &str = "/run/bin";
/// The root of the container's own files.
const ROOT: &str = "/run/pod";
/// Where the CSI driver mounts the folder of the SPIRE agent's socket, below [`ROOT`].
const SOCKETS: &str = "var/run/secrets/workload-spiffe-uds";

/// The program in the proxy's container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Ithildin(DataPlane),
    /// Istio's own agent, which shows that the scene is right, and what it costs:
    /// `PILOT_AGENT_STOCK_BIN`, with the template of its image, `ENVOY_BOOTSTRAP_TEMPLATE`.
    Stock,
}

impl Program {
    pub(super) fn runs_envoy(self) -> bool {
        self != Self::Ithildin(DataPlane::Builtin)
    }
}

/// A running Pod.
pub struct Pod {
    pub agent: Process,
    /// When the agent was started.
    pub started: Instant,
    _app: Option<Process>,
    // After the processes, whose logs are there.
    pub net: Net,
    identity: Identity,
    program: Program,
    /// Its SPIFFE ID.
    pub id: String,
}

impl Pod {
    pub(super) fn start(
        lan: &Lan,
        istiod: &Istiod,
        identities: &Identities,
        cluster: &Cluster,
        spec: &PodSpec<'_>,
        program: Program,
    ) -> Self {
        let to_istiod = format!("{} {HOST}", cluster.istiod);
        let aliases = cluster.host_aliases.iter().copied();
        let hosts: Vec<&str> = aliases.chain([&*to_istiod]).collect();
        let net = lan.host(spec.ip.into(), &hosts);
        kubernetes_network(&net, spec.namespace);
        let path = format!("/ns/{}/sa/{}", spec.namespace, spec.account);
        let (id, identity) = identities.workload_of_group(cluster.name, &path, spec.group());
        mount_programs(&net, program);
        lay_out(&net, istiod, cluster, spec, &identity);
        if spec.role == "sidecar" {
            capture(&net);
        }
        let app = spec.app.map(|app| {
            let mut serve = net.command(binary("ithildin-test-peer"));
            serve.args(["serve", &format!("0.0.0.0:{}", app.port)]);
            serve.args(app.calls.iter().flat_map(|url| ["--call", url]));
            net.spawn("app", serve)
        });
        let command = agent_command(&net, cluster, spec, &identity, program);
        let started = Instant::now();
        let agent = net.spawn_contained("agent", command);
        Self {
            agent,
            started,
            _app: app,
            net,
            identity,
            program,
            id,
        }
    }

    /// Kills the agent and starts it anew, as the kubelet does with a container.
    pub(super) fn restart(&mut self, cluster: &Cluster, spec: &PodSpec<'_>, program: Program) {
        self.agent.kill();
        self.program = program;
        let command = agent_command(&self.net, cluster, spec, &self.identity, program);
        self.started = Instant::now();
        self.agent = self.net.spawn_contained("agent", command);
    }

    pub(super) fn program(&self) -> Program {
        self.program
    }

    /// Waits for its readiness probe.
    pub(super) fn wait_ready(&mut self) {
        eventually("the Pod is ready", || {
            assert!(self.agent.is_running(), "the agent ended");
            curl::get(&self.net, READY, &[]).expect_status(200)
        });
    }

    /// `ithildin-test-peer` in the Pod, beside the application.
    pub fn peer(&self, name: &str, arguments: &[&str]) -> Process {
        serve(&self.net, name, arguments)
    }

    /// A conversation of the application over TCP, in steps: `>TEXT` is sent, `<TEXT` waited for. What came,
    /// or why it went wrong.
    pub fn talk(&self, to: &str, steps: &[&str]) -> Result<String, String> {
        talk(&self.net, to, steps)
    }

    /// A page of the data plane's admin.
    pub fn admin(&self, path: &str) -> Answer {
        curl::get(&self.net, &format!("{ADMIN}{path}"), &[])
    }

    pub fn log(&self) -> String {
        self.agent.log()
    }
}

/// [`Pod::peer`] anywhere.
pub fn serve(net: &Net, name: &str, arguments: &[&str]) -> Process {
    let mut command = net.command(binary("ithildin-test-peer"));
    command.args(arguments);
    net.spawn(name, command)
}

/// [`Pod::talk`] from anywhere.
pub fn talk(from: &Net, to: &str, steps: &[&str]) -> Result<String, String> {
    let mut command = from.command(binary("ithildin-test-peer"));
    let out = command.args(["talk", to]).args(steps).output();
    let out = out.expect("the peer starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match out.status.success() {
        true => Ok(text(&out.stdout)),
        false => Err(text(&out.stdout) + &text(&out.stderr)),
    }
}

/// Makes the programs of the image reachable for the proxy's user.
fn mount_programs(net: &Net, program: Program) {
    let given = |name| std::env::var_os(name).map(PathBuf::from);
    let agent = match program {
        Program::Ithildin(_) => Some(binary("pilot-agent")),
        Program::Stock => given("PILOT_AGENT_STOCK_BIN"),
    };
    let programs = [
        ("pilot-agent", agent),
        ("envoy", given("ENVOY_BIN")),
        (
            "envoy_bootstrap_tmpl.json",
            given("ENVOY_BOOTSTRAP_TEMPLATE"),
        ),
    ];
    let programs = programs
        .into_iter()
        .filter_map(|(name, path)| Some((name, path?)));
    let bin = net.subdir("run/bin");
    for (name, path) in programs {
        fs::write(bin.join(name), "").expect("the scratch folder is writable");
        let path = path.canonicalize().expect("the program is there");
        let mut mount = net.command("mount");
        mount.arg("--bind").arg(path).arg(format!("{BIN}/{name}"));
        output(mount);
    }
}

/// What the kubelet mounts, below the working directory of the agent.
fn lay_out(net: &Net, istiod: &Istiod, cluster: &Cluster, spec: &PodSpec<'_>, identity: &Identity) {
    let lines = |pairs: &[(&str, &str)]| {
        let lines = pairs
            .iter()
            .map(|(name, value)| format!("{name}={value:?}\n"));
        lines.collect::<String>()
    };
    let mut files = vec![
        ("etc/istio/pod/labels", lines(spec.labels)),
        ("etc/istio/pod/annotations", lines(spec.annotations)),
        (
            "var/run/secrets/istio/root-cert.pem",
            istiod.roots(spec.namespace),
        ),
    ];
    if !cluster.istiod_by_spire {
        let token = istiod.token(spec.namespace, spec.account, spec.name);
        files.push(("var/run/secrets/tokens/istio-token", token));
    }
    let root = net.subdir("run/pod");
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("it is below the root"))
            .and_then(|()| fs::write(path, text))
            .expect("the scratch folder is writable");
    }
    // The folders that the container may write.
    for path in [
        "etc/istio/proxy",
        "var/lib/istio/data",
        "var/run/secrets/credential-uds",
    ] {
        let own = net.subdir(&format!("run/pod/{path}"));
        chown(own, Some(PROXY_USER), Some(spec.group())).expect("we are root");
    }
    mount_socket(net, &identity.socket);
}

/// Mounts the folder of the Workload API's socket read-only, as the CSI driver does.
fn mount_socket(net: &Net, socket: &Path) {
    let folder = socket.parent().expect("a socket is in a folder");
    net.subdir(&format!("run/pod/{SOCKETS}"));
    let mut mount = net.command("mount");
    mount
        .args(["--bind", "-o", "ro"])
        .arg(folder)
        .arg(format!("{ROOT}/{SOCKETS}"));
    output(mount);
}

/// Redirects the Pod's traffic, with the arguments of Istio's init container.
fn capture(net: &Net) {
    let mut command = net.command(binary("pilot-agent"));
    command.args(["istio-iptables", "-p", "15001", "-z", "15006", "-u"]);
    command.arg(PROXY_USER.to_string());
    command.args(["-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*"]);
    command.args(["-d", "15090,15021,15020", "--redirect-dns"]);
    output(command);
}

/// The agent's container, as the templates write it.
fn agent_command(
    net: &Net,
    cluster: &Cluster,
    spec: &PodSpec<'_>,
    identity: &Identity,
    program: Program,
) -> Command {
    let user = PROXY_USER.to_string();
    let group = spec.group().to_string();
    let domain = format!("{}.svc.cluster.local", spec.namespace);
    // Istio's agent does not take its Envoy along when it is killed: a container does.
    let [unshare, arguments @ ..] = CONTAINER;
    let mut command = net.command(unshare);
    command
        .args(arguments)
        .arg("setpriv")
        .args(DIE_WITH_PARENT)
        .args(["--reuid", &user, "--regid", &group, "--clear-groups", "--"])
        .arg("sh")
        .args(["-c", &format!("cd {ROOT} && exec {BIN}/pilot-agent \"$@\"")])
        .args(["pilot-agent", "proxy", spec.role, "--domain", &domain])
        .args(["--proxyLogLevel=warning", "--log_output_level=default:info"])
        .envs(environment(cluster, spec, identity));
    match program {
        Program::Ithildin(data_plane) => {
            command.env("ITHILDIN_DATA_PLANE", data_plane.as_str());
        }
        Program::Stock => {
            command.arg(format!("--templateFile={BIN}/envoy_bootstrap_tmpl.json"));
        }
    }
    match spec.role {
        "sidecar" => command.env("ISTIO_META_DNS_CAPTURE", "true"),
        _ => command.env("ISTIO_META_UNPRIVILEGED_POD", "true"),
    };
    command.envs(spec.env.iter().copied());
    command
}

/// The variables that Istio's template sets in every proxy.
fn environment(
    cluster: &Cluster,
    spec: &PodSpec<'_>,
    identity: &Identity,
) -> [(&'static str, String); 17] {
    let config = json!({
        "binaryPath": format!("{BIN}/envoy"),
        "concurrency": 1,
    });
    let file = identity.socket.file_name().unwrap_or_default();
    let workload = spec.workload();
    let owner = format!(
        "kubernetes://apis/apps/v1/namespaces/{}/deployments/{workload}",
        spec.namespace
    );
    [
        ("POD_NAME", spec.name.to_owned()),
        ("POD_NAMESPACE", spec.namespace.to_owned()),
        ("INSTANCE_IP", spec.address()),
        ("HOST_IP", cluster.istiod.to_string()),
        ("SERVICE_ACCOUNT", spec.account.to_owned()),
        ("PILOT_CERT_PROVIDER", "istiod".to_owned()),
        ("CA_ADDR", format!("{HOST}:15012")),
        ("TRUST_DOMAIN", cluster.trust_domain.to_owned()),
        ("ISTIO_CPU_LIMIT", "1".to_owned()),
        ("PROXY_CONFIG", config.to_string()),
        ("ISTIO_META_CLUSTER_ID", "Kubernetes".to_owned()),
        ("ISTIO_META_NODE_NAME", "node1".to_owned()),
        ("ISTIO_META_MESH_ID", cluster.trust_domain.to_owned()),
        ("ISTIO_META_WORKLOAD_NAME", workload.to_owned()),
        ("ISTIO_META_OWNER", owner),
        ("ISTIO_META_INTERCEPTION_MODE", "REDIRECT".to_owned()),
        (
            "WORKLOAD_IDENTITY_SOCKET_FILE",
            file.to_string_lossy().into_owned(),
        ),
    ]
}
