//! A real SPIRE on loopback: a server and an agent for each trust domain, in one of the forms that
//! the walk-throughs have. Needs `SPIRE_SERVER_BIN` and `SPIRE_AGENT_BIN`.

mod configuration;
mod forge;

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Process, authority::Files, eventually, net::free_port, peers, process::output};

/// Where a server's CA comes from.
#[derive(Clone, Debug)]
pub enum Upstream {
    /// Its own, self-signed.
    None,
    /// The lab's root on disk, which all such servers share.
    Disk,
    /// The server of another cluster of the lab, which is above this one.
    Nested(&'static str),
}

/// One cluster's SPIRE, as it is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    pub cluster: &'static str,
    pub trust_domain: &'static str,
    pub upstream: Upstream,
    /// `ec-p256` or `rsa-2048`.
    pub ca_key_type: &'static str,
    /// The agent's socket; one in the lab's folder by default.
    pub socket: Option<PathBuf>,
}

impl Plan {
    pub fn new(cluster: &'static str, trust_domain: &'static str) -> Self {
        Self {
            cluster,
            trust_domain,
            upstream: Upstream::None,
            ca_key_type: "ec-p256",
            socket: None,
        }
    }
}

/// All clusters of a test.
pub struct Spire {
    clusters: Vec<Cluster>,
    dir: TempDir,
}

struct Cluster {
    _server: Process,
    agent: Process,
    plan: Plan,
    dir: PathBuf,
    socket: PathBuf,
    port: u16,
}

/// Whom every SPIRE agent of the lab is, below its trust domain.
const NODE: &str = "/node";

impl Spire {
    /// Starts them in order; one that is nested comes after the one above it. `None`, said by name,
    /// without the binaries.
    pub fn start(test: &str, plans: &[Plan]) -> Option<Self> {
        let binaries = peers::spire(test)?;
        let dir = TempDir::with_prefix("spire-").expect("a scratch folder can be made");
        let mut spire = Self {
            clusters: Vec::new(),
            dir,
        };
        if plans
            .iter()
            .any(|plan| matches!(plan.upstream, Upstream::Disk))
        {
            disk_root(&spire.disk());
        }
        for plan in plans {
            let cluster = spire.cluster(plan, &binaries);
            spire.clusters.push(cluster);
        }
        Some(spire)
    }

    fn cluster(&self, plan: &Plan, binaries: &(PathBuf, PathBuf)) -> Cluster {
        let dir = self.dir.path().join(plan.cluster);
        for name in ["data", "agent-data", "public", "admin"] {
            fs::create_dir_all(dir.join(name)).expect("the scratch folder is writable");
        }
        let socket = plan.socket.clone();
        let socket = socket.unwrap_or_else(|| dir.join("public/agent.sock"));
        let above = match plan.upstream {
            Upstream::Nested(cluster) => Some(self.find(cluster)),
            Upstream::None | Upstream::Disk => None,
        };
        if let Some(above) = above {
            above.entry(
                &format!("spiffe://{}/nested/{}", plan.trust_domain, plan.cluster),
                &own_user(),
                &["-downstream"],
            );
            let fetched = above.dir.join("fetched");
            fs::create_dir_all(&fetched).expect("the scratch folder is writable");
            eventually("the server above has an identity for this one", || {
                above.fetch(&fetched)
            });
        }
        let port = free_port();
        let above = above.map(|above| (above.port, &*above.socket));
        let server = configuration::server(plan, &dir, port, &self.disk(), above);
        fs::write(dir.join("server.conf"), server).expect("the scratch folder is writable");
        let agent = configuration::agent(plan, &dir, port, &socket);
        fs::write(dir.join("agent.conf"), agent).expect("the scratch folder is writable");
        let mut server = Command::new(&binaries.0);
        server.args(["run", "-config"]).arg(dir.join("server.conf"));
        let server = Process::spawn("spire-server", &dir, server);
        eventually("the SPIRE server is healthy", || {
            ctl(&dir, &["healthcheck"]).map(|_| ())
        });
        let bundle = ctl(&dir, &["bundle", "show"]).expect("a healthy server has a bundle");
        fs::write(dir.join("bootstrap.pem"), bundle).expect("the scratch folder is writable");
        let agent = run_agent(plan, &dir, &socket, &binaries.1);
        Cluster {
            _server: server,
            agent,
            plan: plan.clone(),
            dir,
            socket,
            port,
        }
    }

    /// Registers everybody of our own user as `id`, with the bundles of `federates_with`.
    pub fn register(&self, cluster: &str, id: &str, federates_with: &[&str]) {
        let domains: Vec<String> = federates_with
            .iter()
            .flat_map(|domain| ["-federatesWith".to_owned(), format!("spiffe://{domain}")])
            .collect();
        let arguments: Vec<&str> = domains.iter().map(String::as_str).collect();
        self.find(cluster).entry(id, &own_user(), &arguments);
    }

    /// Registers what runs as this group.
    pub fn register_group(&self, cluster: &str, id: &str, gid: u32) {
        let selector = format!("unix:gid:{gid}");
        self.find(cluster).entry(id, &selector, &[]);
    }

    /// Changes the trust domains that all entries of `cluster` federate with.
    pub fn federates_with(&self, cluster: &str, domains: &[&str]) {
        self.find(cluster).federates_with(domains);
    }

    /// Deletes the entry of `id`.
    pub fn withdraw(&self, cluster: &str, id: &str) {
        let cluster = self.find(cluster);
        let found = cluster.json(&["entry", "show", "-spiffeID", id, "-output", "json"]);
        for entry in found["entries"].as_array().into_iter().flatten() {
            let id = entry["id"].as_str().unwrap_or_default();
            cluster.run(&["entry", "delete", "-entryID", id]);
        }
    }

    /// Gives `who` the bundle of the trust domain of `whom`.
    pub fn trust(&self, who: &str, whom: &str) {
        let whom = self.find(whom);
        let bundle = whom.run(&["bundle", "show", "-format", "spiffe"]);
        let path = self.find(who).dir.join("federated.json");
        fs::write(&path, bundle).expect("the scratch folder is writable");
        let id = format!("spiffe://{}", whom.plan.trust_domain);
        let path = path.display().to_string();
        self.find(who).run(&[
            "bundle", "set", "-format", "spiffe", "-id", &id, "-path", &path,
        ]);
    }

    /// An SVID of `cluster` for `id` in files.
    pub fn mint(&self, cluster: &str, id: &str, ttl: &str) -> Files {
        self.mint_with(cluster, id, &["-ttl", ttl])
    }

    /// One for a name of DNS too, that outlives the test.
    pub fn mint_for_name(&self, cluster: &str, id: &str, name: &str) -> Files {
        self.mint_with(cluster, id, &["-ttl", "9m", "-dns", name])
    }

    fn mint_with(&self, cluster: &str, id: &str, more: &[&str]) -> Files {
        let dir = TempDir::new_in(self.dir.path()).expect("the scratch folder is writable");
        let files = Files::in_dir(dir.keep());
        let dir = files.dir.display().to_string();
        let mut arguments = vec!["x509", "mint", "-spiffeID", id, "-write", &dir];
        arguments.extend(more);
        self.find(cluster).run(&arguments);
        files
    }

    /// A certificate that must be refused, by the root on disk; see [`forge`].
    pub fn forge(&self, id: &str, forgery: &str) -> Option<Files> {
        forge::forge(&self.disk(), self.dir.path(), id, forgery)
    }

    /// The folder of [`Upstream::Disk`].
    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    /// The roots of a cluster as PEM.
    pub fn bundle(&self, cluster: &str) -> String {
        self.find(cluster).run(&["bundle", "show"])
    }

    /// Makes the server sign with a new CA.
    pub fn rotate_ca(&self, cluster: &str) {
        self.prepare_root(cluster);
        self.activate_root(cluster);
    }

    /// Makes the next CA, and publishes it if it is a root.
    pub fn prepare_root(&self, cluster: &str) {
        self.find(cluster).local_authority("prepare", &[]);
    }

    /// Signs with the prepared CA.
    pub fn activate_root(&self, cluster: &str) {
        let cluster = self.find(cluster);
        let shown = cluster.local_authority("show", &[]);
        let id = shown["prepared"]["authority_id"].as_str();
        let id = id.unwrap_or_else(|| panic!("nothing is prepared: {shown}"));
        cluster.local_authority("activate", &["-authorityID", id]);
    }

    /// Waits until the workloads of `cluster` have so many roots.
    pub fn wait_for_roots(&self, cluster: &str, roots: usize) {
        let cluster = self.find(cluster);
        let dir = cluster.dir.join("fetched");
        fs::create_dir_all(&dir).expect("the scratch folder is writable");
        eventually("the workloads have the roots", || {
            cluster.fetch(&dir)?;
            let bundle = fs::read_to_string(dir.join("bundle.0.pem")).unwrap_or_default();
            let found = bundle.matches("BEGIN CERTIFICATE").count();
            if found == roots {
                Ok(())
            } else {
                Err(format!("{found} roots"))
            }
        });
    }

    /// Ends the agent of `cluster` as a crash does.
    pub fn kill_agent(&mut self, cluster: &str) {
        self.find_mut(cluster).agent.kill();
    }

    /// Starts it again; what it knew is gone.
    pub fn restart_agent(&mut self, cluster: &str) {
        let (_, binary) = peers::spire("").expect("they were there at the start");
        let cluster = self.find_mut(cluster);
        cluster.agent = run_agent(&cluster.plan, &cluster.dir, &cluster.socket, &binary);
    }

    /// The agent's socket.
    pub fn socket(&self, cluster: &str) -> PathBuf {
        self.find(cluster).socket.clone()
    }

    fn find(&self, name: &str) -> &Cluster {
        let found = self.clusters.iter().find(|c| c.plan.cluster == name);
        found.unwrap_or_else(|| panic!("there is no cluster {name}"))
    }

    fn find_mut(&mut self, name: &str) -> &mut Cluster {
        let found = self.clusters.iter_mut().find(|c| c.plan.cluster == name);
        found.unwrap_or_else(|| panic!("there is no cluster {name}"))
    }
}

/// The selector of processes that run as we do.
fn own_user() -> String {
    format!("unix:uid:{}", rustix::process::geteuid().as_raw())
}

/// An agent that has joined the server of `plan`, and listens.
fn run_agent(plan: &Plan, dir: &Path, socket: &Path, binary: &Path) -> Process {
    let node = format!("spiffe://{}{NODE}-{}", plan.trust_domain, plan.cluster);
    let token = ctl(dir, &["token", "generate", "-spiffeID", &node]);
    let token = token.expect("the server makes a token");
    let token = token.trim().trim_start_matches("Token: ");
    let mut agent = Command::new(binary);
    agent.args(["run", "-joinToken", token, "-config"]);
    agent.arg(dir.join("agent.conf"));
    let agent = Process::spawn("spire-agent", dir, agent);
    eventually("the SPIRE agent listens", || {
        UnixStream::connect(socket)
            .map(drop)
            .map_err(|error| (error, agent.log()))
    });
    agent
}

impl Cluster {
    fn run(&self, arguments: &[&str]) -> String {
        ctl(&self.dir, arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.run(arguments);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    fn entry(&self, id: &str, selector: &str, more: &[&str]) {
        let parent = format!(
            "spiffe://{}{NODE}-{}",
            self.plan.trust_domain, self.plan.cluster
        );
        let mut arguments = vec!["entry", "create", "-parentID", &parent];
        arguments.extend(["-spiffeID", id, "-selector", selector]);
        arguments.extend(more);
        self.run(&arguments);
    }

    fn federates_with(&self, domains: &[&str]) {
        let entries = self.json(&["entry", "show", "-output", "json"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for entry in entries["entries"].as_array().into_iter().flatten() {
            let id = |field: &str| {
                let id = &entry[field];
                format!(
                    "spiffe://{}{}",
                    text(&id["trust_domain"]),
                    text(&id["path"])
                )
            };
            let selectors = entry["selectors"].as_array().into_iter().flatten();
            let selectors: Vec<String> = selectors
                .map(|s| format!("{}:{}", text(&s["type"]), text(&s["value"])))
                .collect();
            let mut arguments: Vec<String> =
                ["entry", "update", "-entryID"].map(str::to_owned).into();
            arguments.push(text(&entry["id"]));
            arguments.extend(["-spiffeID".to_owned(), id("spiffe_id")]);
            arguments.extend(["-parentID".to_owned(), id("parent_id")]);
            for selector in selectors {
                arguments.extend(["-selector".to_owned(), selector]);
            }
            for domain in domains {
                arguments.extend(["-federatesWith".to_owned(), format!("spiffe://{domain}")]);
            }
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            self.run(&arguments);
        }
    }

    fn local_authority(&self, step: &str, more: &[&str]) -> Value {
        let mut arguments = vec!["localauthority", "x509", step, "-output", "json"];
        arguments.extend(more);
        self.json(&arguments)
    }

    /// Fetches what a workload gets into files of `dir`.
    fn fetch(&self, dir: &Path) -> Result<(), String> {
        let agent = std::env::var_os("SPIRE_AGENT_BIN").unwrap_or_default();
        let mut fetch = Command::new(agent);
        fetch.args(["api", "fetch", "x509", "-timeout", "3s", "-socketPath"]);
        let out = fetch.arg(&self.socket).arg("-write").arg(dir).output();
        let out = out.map_err(|error| error.to_string())?;
        let text = || String::from_utf8_lossy(&out.stderr).into_owned();
        out.status.success().then_some(()).ok_or_else(text)
    }
}

/// A command of the server at `dir`; its output if it succeeded, or else what it printed.
fn ctl(dir: &Path, arguments: &[&str]) -> Result<String, String> {
    let binary = std::env::var_os("SPIRE_SERVER_BIN").unwrap_or_default();
    let mut command = Command::new(binary);
    command
        .args(arguments)
        .arg("-socketPath")
        .arg(dir.join("api.sock"));
    let out = command.output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if out.status.success() {
        return Ok(text(&out.stdout));
    }
    Err(text(&out.stdout) + &text(&out.stderr))
}

/// A root in `dir`, by openssl.
fn disk_root(dir: &Path) {
    fs::create_dir_all(dir).expect("the scratch folder is writable");
    let mut command = Command::new("openssl");
    command
        .current_dir(dir)
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args([
            "-subj",
            "/C=US/O=SPIFFE",
            "-keyout",
            "root.key",
            "-out",
            "root.pem",
        ])
        .args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"]);
    output(command);
}
