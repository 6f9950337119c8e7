//! A folder, a development authority, and agents on free ports.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Longer than anything takes that works.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_pilot-agent");

/// A child that ends with the test.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn spawn(mut command: Command, log: &Path) -> Self {
        let file = fs::File::create(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self {
            child,
            log: log.to_path_buf(),
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Stops it where it is, or lets it go on.
    pub(crate) fn suspend(&self, suspended: bool) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let signal = match suspended {
            true => rustix::process::Signal::STOP,
            false => rustix::process::Signal::CONT,
        };
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Lab {
    folder: tempfile::TempDir,
    authority: Option<Process>,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let lab = Self {
            folder: tempfile::tempdir().unwrap(),
            authority: None,
        };
        fs::create_dir(lab.path("istio")).unwrap();
        lab
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the Workload API is, or will be.
    pub(crate) fn workload_api(&self) -> PathBuf {
        self.path("auth/domain.test/agent.sock")
    }

    /// Starts the authority: from now on there is an identity.
    pub(crate) fn authority(&mut self) {
        self.authority_with(&["--workload", "spiffe://domain.test/gw"]);
    }

    /// As [`Lab::authority`], with these arguments instead of one workload.
    pub(crate) fn authority_with(&mut self, arguments: &[&str]) {
        let mut command = Command::new(BINARY);
        command
            .args(["authority", "--trust-domain", "domain.test", "--dir"])
            .arg(self.path("auth"))
            .args(arguments);
        self.authority = Some(Process::spawn(command, &self.path("authority.log")));
        until("the Workload API is there", || self.workload_api().exists());
    }

    /// Registers a workload at the running authority.
    pub(crate) fn grant(&self, id: &str) {
        let mut command = Command::new(BINARY);
        command.args(["authority", "ctl", "--control"]);
        command.arg(self.path("auth/control.sock"));
        let done = command.args(["grant", id]).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    /// Stops the authority's process, as a machine that is suspended does, or lets it go on.
    pub(crate) fn suspend_authority(&self, suspended: bool) {
        self.authority.as_ref().unwrap().suspend(suspended);
    }

    /// A gateway that routes to itself, on a free port.
    pub(crate) fn gateway(&self) -> u16 {
        let port = free_port();
        let yaml = format!(
            "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: gw, namespace: default}}
spec:
  selector: {{app: gateway}}
  servers:
  - port: {{number: {port}, name: https, protocol: HTTPS}}
    tls: {{mode: ISTIO_MUTUAL}}
    hosts: [\"*\"]
"
        );
        fs::write(self.path("istio/gateway.yaml"), yaml).unwrap();
        port
    }

    /// An agent with ports of its own; everything else is the same for all agents of this lab.
    pub(crate) fn agent(&self, name: &str, data_plane: &str) -> Agent {
        self.agent_with(name, data_plane, &[])
    }

    /// As [`Lab::agent`], with these variables too.
    pub(crate) fn agent_with(
        &self,
        name: &str,
        data_plane: &str,
        variables: &[(&str, &str)],
    ) -> Agent {
        self.agent_of_kind(name, data_plane, "router", variables)
    }

    /// As [`Lab::agent_with`], but a sidecar, say. In variables `${status}` stands for the status port.
    pub(crate) fn agent_of_kind(
        &self,
        name: &str,
        data_plane: &str,
        kind: &str,
        variables: &[(&str, &str)],
    ) -> Agent {
        self.agent_as(name, data_plane, kind, |command, ports| {
            for (name, value) in variables {
                command.env(name, value.replace("${status}", &ports.status.to_string()));
            }
        })
    }

    /// As [`Lab::agent_of_kind`], with whatever else differs.
    pub(crate) fn agent_as(
        &self,
        name: &str,
        data_plane: &str,
        kind: &str,
        differ: impl FnOnce(&mut Command, &Ports),
    ) -> Agent {
        let ports = Ports {
            admin: free_port(),
            status: free_port(),
            health: free_port(),
            prometheus: free_port(),
        };
        let config = format!(
            "{{configPath: {}, proxyAdminPort: {}, statusPort: {}, concurrency: 1, drainDuration: 1s, terminationDrainDuration: 1s, sampling: 1}}",
            self.path("etc").display(),
            ports.admin,
            ports.status
        );
        let mut command = Command::new(BINARY);
        command
            .args(["proxy", kind, "--dataPlane", data_plane, "--configDir"])
            .arg(self.path("istio"))
            .env(
                "SPIFFE_ENDPOINT_SOCKET",
                format!("unix://{}", self.workload_api().display()),
            )
            .env("PROXY_CONFIG", config)
            .env("ENVOY_STATUS_PORT", ports.health.to_string())
            .env("ENVOY_PROMETHEUS_PORT", ports.prometheus.to_string())
            .env("TRUST_DOMAIN", "domain.test")
            .env("ISTIO_METAJSON_LABELS", r#"{"app":"gateway"}"#);
        differ(&mut command, &ports);
        let log = self.path(&format!("{name}.log"));
        Agent {
            process: Process::spawn(command, &log),
            ports,
        }
    }
}

pub(crate) struct Ports {
    pub(crate) admin: u16,
    pub(crate) status: u16,
    pub(crate) health: u16,
    pub(crate) prometheus: u16,
}

pub(crate) struct Agent {
    pub(crate) process: Process,
    pub(crate) ports: Ports,
}

impl Agent {
    /// Waits until readiness answers so, with this in its body.
    pub(crate) fn until_ready(&self, status: u16, text: &str) {
        let mut last = None;
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            // Envoy serves the other port itself, once it has its configuration.
            last = http(self.ports.status, "GET", "/healthz/ready")
                .or_else(|| http(self.ports.health, "GET", "/healthz/ready"));
            if last
                .as_ref()
                .is_some_and(|(got, body)| *got == status && body.contains(text))
            {
                return;
            }
            std::thread::sleep(POLL);
        }
        panic!("not {status} {text:?} but {last:?}\n{}", self.process.log());
    }
}

/// One request to a local port: the status and the body, if there is an answer.
pub(crate) fn http(port: u16, method: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    let body = if chunked {
        unchunked(body)?
    } else {
        body.to_owned()
    };
    Some((status, body))
}

fn unchunked(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.push_str(rest.get(..size)?);
        body = rest.get(size + 2..)?;
    }
}

pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "{what}: not in time");
        std::thread::sleep(POLL);
    }
}

pub(crate) fn free_port() -> u16 {
    ithildin_sys::port::unused().unwrap()
}

/// Of loopback, and of nobody for as long as the test lives.
pub(crate) fn refusing_port() -> u16 {
    ithildin_sys::port::refusing().unwrap().port()
}

/// Whether Envoy is here; if not, the test says so by its name.
pub(crate) fn has_envoy(test: &str) -> bool {
    let found = std::env::var_os("ENVOY_BIN").is_some();
    if !found {
        println!("{test}: skipped, ENVOY_BIN is not set");
    }
    found
}
