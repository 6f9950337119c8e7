//! A real istiod without a cluster: `pilot-discovery` on an in-memory Kubernetes API (`tests/kapi`), in
//! a namespace of their own.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    Lan, Net, Process,
    authority::Files,
    curl::{self, Answer},
    eventually,
    mesh::TRUST_DOMAIN,
    peers,
    process::output,
};

/// Where istiod is, in each [`Lan`].
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);
/// Its name, which its certificate has.
pub const HOST: &str = "istiod.istio-system.svc";

const KAPI: &str = "http://127.0.0.1:6443";
const DEBUG: &str = "http://127.0.0.1:8080";

/// istiod on an empty Kubernetes API. Dropping it ends both.
pub struct Istiod {
    istiod: Option<Process>,
    _kapi: Process,
    binary: PathBuf,
    options: Options,
    // After the processes, whose logs are there.
    net: Net,
}

/// Which istiod it is.
#[derive(Clone, Debug)]
pub struct Options {
    pub dialect: Dialect,
    /// Its address.
    pub address: Ipv4Addr,
    /// The trust domain of its mesh.
    pub trust_domain: &'static str,
    /// Its certificate by SPIRE, whose bundle vouches for clients too. Its own CA is off then.
    pub svid: Option<Files>,
}

impl Options {
    pub fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            address: ADDRESS,
            trust_domain: TRUST_DOMAIN,
            svid: None,
        }
    }

    /// What the objects say for this istiod.
    fn adapt(&self, objects: &str) -> String {
        let domain = format!("trustDomain: {}", self.trust_domain);
        let objects = objects.replace(&format!("trustDomain: {TRUST_DOMAIN}"), &domain);
        self.dialect.apply(objects)
    }
}

/// Which filters istiod sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// As it does by default: with Istio's own, which its build of Envoy has, and the built-in proxy.
    Istio,
    /// Without these.
    Plain,
}

impl Dialect {
    fn env(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Istio => &[],
            Self::Plain => &[
                ("PILOT_ENABLE_METADATA_EXCHANGE", "false"),
                ("PILOT_ENABLE_ALPN_FILTER", "false"),
            ],
        }
    }

    /// The objects without the provider of metrics, which is one of these filters.
    fn apply(self, objects: String) -> String {
        match self {
            Self::Istio => objects,
            Self::Plain => objects.replace("metrics: [prometheus]", "metrics: []"),
        }
    }
}

impl Istiod {
    /// Starts it with the objects of `files`, and waits until it is ready. `None`, said by name, without
    /// `PILOT_DISCOVERY_BIN`. An Envoy that is not Istio's own build needs `dialect` to be plain.
    pub fn start(test: &str, lan: &Lan, files: &[PathBuf], dialect: Dialect) -> Option<Self> {
        Self::start_with(test, lan, files, Options::new(dialect))
    }

    /// The same as `options` say.
    pub fn start_with(test: &str, lan: &Lan, files: &[PathBuf], options: Options) -> Option<Self> {
        let binary = peers::pilot_discovery(test)?;
        let net = lan.host(options.address, &[]);
        let objects = net.subdir("objects");
        for file in files {
            let name = file.file_name().expect("it is a file");
            let text = fs::read_to_string(file).expect("the project's own file");
            fs::write(objects.join(name), options.adapt(&text)).expect("the folder is writable");
        }
        let kubeconfig = net.dir().join("kubeconfig");
        let mut kapi = net.command("python3");
        kapi.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("kapi/kapi.py"))
            .args(["--port", "6443", "--interval", "0.05", "--dir"])
            .arg(&objects)
            .arg("--kubeconfig-out")
            .arg(&kubeconfig)
            .arg("--sa-key")
            .arg(net.dir().join("sa-key.json"));
        let mut kapi = net.spawn("kapi", kapi);
        eventually("the Kubernetes API", || {
            assert!(kapi.is_running(), "kapi ended: {}", kapi.log());
            kubeconfig.exists().then_some(()).ok_or("no kubeconfig")
        });
        let mut this = Self {
            istiod: None,
            _kapi: kapi,
            binary,
            options,
            net,
        };
        this.restart();
        Some(this)
    }

    /// Starts istiod, after [`Istiod::kill`] or at first, and waits until it is ready.
    pub fn restart(&mut self) {
        let mut command = self.net.command(&self.binary);
        command
            .current_dir(self.net.dir())
            .args(["discovery", "--kubeconfig"])
            .arg(self.net.dir().join("kubeconfig"))
            .args(["--keepaliveMaxServerConnectionAge", "30m"])
            .env("HOME", self.net.dir())
            .env("POD_NAME", "istiod-0")
            .env("POD_NAMESPACE", "istio-system")
            .env("SERVICE_ACCOUNT", "istiod")
            .env("CLUSTER_ID", "Kubernetes")
            .env("PILOT_CERT_PROVIDER", "istiod")
            // A workload may ask several services.
            .env("PILOT_ENABLE_MULTIPLE_CUSTOM_AUTHZ_PROVIDERS", "true")
            .env("PILOT_ENABLE_ALPHA_GATEWAY_API", "true")
            // What a Sidecar says of TLS where it listens holds.
            .env("ENABLE_TLS_ON_SIDECAR_INGRESS", "true")
            // Keys that a service of the mesh has are fetched by the proxies.
            .env("PILOT_JWT_ENABLE_REMOTE_JWKS", "hybrid")
            .env("REVISION", "default")
            .envs(self.options.dialect.env().iter().copied())
            // It runs as root, in a cgroup that is not its own.
            .env("GOMEMLIMIT", "512MiB");
        if let Some(svid) = &self.options.svid {
            command.env("ENABLE_CA_SERVER", "false");
            command.arg("--tlsCertFile").arg(&svid.chain);
            command.arg("--tlsKeyFile").arg(&svid.key);
            command.arg("--caCertFile").arg(&svid.bundle);
        }
        let istiod = self.istiod.insert(self.net.spawn("istiod", command));
        let net = &self.net;
        eventually("istiod is ready", || {
            assert!(istiod.is_running(), "istiod ended: {}", istiod.log());
            curl::get(net, &format!("{DEBUG}/ready"), &[]).expect_status(200)
        });
    }

    /// Ends istiod as a crash does. What it has told others stays.
    pub fn kill(&mut self) {
        if let Some(mut istiod) = self.istiod.take() {
            istiod.kill();
        }
    }

    /// Creates or replaces the objects of one file.
    pub fn apply(&self, name: &str, objects: &str) {
        let folder = self.net.dir().join("objects");
        // Written beside it first: the API looks at the folder while we write.
        let new = self.net.dir().join("new-objects");
        let objects = self.options.adapt(objects);
        fs::write(&new, objects).expect("the scratch folder is writable");
        fs::rename(new, folder.join(name)).expect("the scratch folder is writable");
    }

    /// Deletes the objects of one file.
    pub fn delete(&self, name: &str) {
        fs::remove_file(self.net.dir().join("objects").join(name)).expect("it was applied");
    }

    /// A token of a service account for istiod, as the kubelet projects it.
    pub fn token(&self, namespace: &str, account: &str, pod: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = json!({"spec": {
            "audiences": ["istio-ca"],
            "expirationSeconds": 43200,
            "boundObjectRef": {"kind": "Pod", "name": pod},
        }});
        let answer = self.kubernetes(&path, Some(&request));
        let token = answer["status"]["token"].as_str();
        token.expect("a token request is answered").to_owned()
    }

    /// The roots of istiod's certificate, from the ConfigMap that it writes into each namespace where it is
    /// a CA.
    pub fn roots(&self, namespace: &str) -> String {
        if let Some(svid) = &self.options.svid {
            return fs::read_to_string(&svid.bundle).expect("it has just been written");
        }
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/istio-ca-root-cert");
        let answer = self.kubernetes(&path, None);
        let roots = answer["data"]["root-cert.pem"].as_str();
        roots.expect("the ConfigMap has the roots").to_owned()
    }

    /// Objects of the Kubernetes API, or one of them.
    pub fn objects(&self, path: &str) -> Value {
        self.kubernetes(path, None)
    }

    /// A page of istiod's debug server.
    pub fn debug(&self, path: &str) -> Answer {
        curl::get(&self.net, &format!("{DEBUG}{path}"), &[])
    }

    pub fn log(&self) -> String {
        self.istiod.as_ref().map(Process::log).unwrap_or_default()
    }

    fn kubernetes(&self, path: &str, body: Option<&Value>) -> Value {
        let text = eventually(path, || {
            let mut arguments = vec!["-f"];
            let body = body.map(Value::to_string);
            if let Some(body) = &body {
                arguments.extend(["-H", "content-type: application/json", "-d", body]);
            }
            let answer = curl::get(&self.net, &format!("{KAPI}{path}"), &arguments);
            // istiod may yet write it, and the API may yet read its file.
            if answer.exit == 0 {
                Ok(answer.body)
            } else {
                Err(answer)
            }
        });
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }
}

/// What a Pod needs of the network that Kubernetes gives: a way to every address, and a name server,
/// which only answers if traffic capture redirects to the agent.
pub(crate) fn kubernetes_network(net: &Net, namespace: &str) {
    let mut route = net.command("ip");
    route.args(["route", "add", "default", "dev", "eth0"]);
    output(route);
    let text = format!(
        "search {namespace}.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"
    );
    let file = net.dir().join("resolv.conf");
    fs::write(&file, text).expect("the scratch folder is writable");
    let mut mount = net.command("mount");
    mount.arg("--bind").arg(file).arg("/etc/resolv.conf");
    output(mount);
}
