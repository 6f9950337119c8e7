//! A real SPIRE, when `SPIRE_SERVER_BIN` and `SPIRE_AGENT_BIN` name one.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ithildin_spiffe::{
    Source,
    workload_api::{SourceOptions, WorkloadApiClient, WorkloadApiSource},
    x509::{certificate_validity, check_leaf},
};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::support::*;

/// A server and an agent of one trust domain; both end with the test.
struct Spire {
    folder: TempDir,
    binaries: (PathBuf, PathBuf),
    children: Vec<Child>,
}

impl Spire {
    /// `None`, said on standard error, without binaries.
    async fn start(test: &str, ca_key_type: &str) -> Option<Self> {
        let binary = |variable: &str| {
            let path = env::var_os(variable).map(PathBuf::from);
            if path.is_none() {
                eprintln!("SKIPPED {test}: {variable} is not set");
            }
            path
        };
        let binaries = (binary("SPIRE_SERVER_BIN")?, binary("SPIRE_AGENT_BIN")?);
        let folder = tempfile::tempdir().unwrap();
        let mut spire = Self {
            folder,
            binaries,
            children: Vec::new(),
        };
        spire.configure(ca_key_type);
        spire.start_server().await;
        spire.start_agent().await;
        Some(spire)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("public/agent.sock")
    }

    fn configure(&self, ca_key_type: &str) {
        let port = ithildin_sys::port::unused().unwrap();
        let folder = self.folder.path().display();
        for name in ["data", "agent-data", "public"] {
            fs::create_dir(self.path(name)).unwrap();
        }
        let server = format!(
            r#"
server {{
  trust_domain = "domain.test"
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{folder}/api.sock"
  data_dir = "{folder}/data"
  ca_key_type = "{ca_key_type}"
  ca_ttl = "10m"
  default_x509_svid_ttl = "20s"
  experimental {{ cache_reload_interval = "1s" }}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{folder}/data/db" }} }}
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"#
        );
        let agent = format!(
            r#"
agent {{
  trust_domain = "domain.test"
  server_address = "127.0.0.1"
  server_port = "{port}"
  data_dir = "{folder}/agent-data"
  socket_path = "{folder}/public/agent.sock"
  trust_bundle_path = "{folder}/bootstrap.pem"
  experimental {{ sync_interval = "1s" }}
}}
plugins {{
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "memory" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"#
        );
        fs::write(self.path("server.conf"), server).unwrap();
        fs::write(self.path("agent.conf"), agent).unwrap();
    }

    fn spawn(&mut self, binary: &Path, config: &str, more: &[&str], log: &str) {
        let log = fs::File::create(self.path(log)).unwrap();
        let child = Command::new(binary)
            .arg("run")
            .arg("-config")
            .arg(self.path(config))
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    async fn start_server(&mut self) {
        let binary = self.binaries.0.clone();
        self.spawn(&binary, "server.conf", &[], "server.log");
        eventually("the SPIRE server is healthy", || {
            self.ctl(&["healthcheck"]).is_some()
        })
        .await;
        let bundle = self.ctl(&["bundle", "show"]).unwrap();
        fs::write(self.path("bootstrap.pem"), bundle).unwrap();
    }

    async fn start_agent(&mut self) {
        let token = self.ctl(&[
            "token",
            "generate",
            "-spiffeID",
            "spiffe://domain.test/node",
        ]);
        let token = token.unwrap();
        let token = token.trim().strip_prefix("Token: ").unwrap().to_owned();
        let binary = self.binaries.1.clone();
        self.spawn(&binary, "agent.conf", &["-joinToken", &token], "agent.log");
        let socket = self.socket();
        eventually("the SPIRE agent listens", || socket.exists()).await;
    }

    /// Runs a command of the server; `None` if it failed.
    fn ctl(&self, arguments: &[&str]) -> Option<String> {
        let output = Command::new(&self.binaries.0)
            .args(arguments)
            .arg("-socketPath")
            .arg(self.path("api.sock"))
            .output()
            .unwrap();
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// Registers everybody of our own user; returns the id of the entry.
    fn register(&self, dns: &[&str]) -> String {
        let uid = std::os::unix::fs::MetadataExt::uid(&fs::metadata(self.folder.path()).unwrap());
        let selector = format!("unix:uid:{uid}");
        let mut arguments = vec!["entry", "create", "-parentID", "spiffe://domain.test/node"];
        arguments.extend(["-spiffeID", WEB, "-selector", &selector]);
        for name in dns {
            arguments.extend(["-dns", name]);
        }
        let output = self.ctl(&arguments).unwrap();
        let id = output
            .lines()
            .find_map(|line| line.strip_prefix("Entry ID"))
            .unwrap();
        id.trim_start_matches([' ', ':']).trim().to_owned()
    }
}

impl Drop for Spire {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "in time: {what}");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn spire_issues_rotates_and_withdraws() {
    let test = "spire_issues_rotates_and_withdraws";
    for ca_key_type in ["ec-p256", "rsa-2048"] {
        let Some(spire) = Spire::start(test, ca_key_type).await else {
            return;
        };
        let source = WorkloadApiSource::start(endpoint(&spire.socket()), SourceOptions::default());
        let mut states = source.subscribe();
        withdrawn(&mut states).await;
        let entry = spire.register(&["web.domain.test"]);
        let first = ready(&mut states, |_| true).await;
        assert_eq!(first.svids[0].id.as_str(), WEB);
        assert_eq!(check_leaf(first.svids[0].leaf()), Ok(id(WEB)));
        for root in &first.bundles["domain.test"].roots {
            certificate_validity(root).unwrap();
        }
        // Half of 20 seconds at most.
        ready(&mut states, |now| {
            now.svids[0].chain != first.svids[0].chain
        })
        .await;
        let mut client = WorkloadApiClient::connect(&endpoint(&spire.socket()))
            .await
            .unwrap();
        let jwt = client
            .fetch_jwt_svids(&["api".to_owned()], None)
            .await
            .unwrap()
            .remove(0);
        assert_eq!(jwt.id.as_str(), WEB);
        let bundles = client.fetch_jwt_bundles().await.unwrap();
        ithildin_spiffe::JwtSvid::validate(jwt.token(), "api", &bundles).unwrap();
        client.validate_jwt_svid("api", jwt.token()).await.unwrap();
        spire.ctl(&["entry", "delete", "-entryID", &entry]).unwrap();
        withdrawn(&mut states).await;
    }
}
