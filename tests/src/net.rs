//! A network of one's own: a namespace with a loopback interface and a hosts file, so that tests
//! use the very ports that manifests name, and still run in parallel.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::{eventually, process::Process};

/// A network and mount namespace, and a scratch folder. Needs root, or user namespaces.
pub struct Net {
    holder: Process,
    dir: TempDir,
}

impl Net {
    /// A new namespace in which each of `hosts` (`"127.0.0.1 app.example.org"`) resolves.
    pub fn new(hosts: &[&str]) -> Self {
        let dir = TempDir::with_prefix("ithildin-").expect("a scratch folder can be made");
        let file = dir.path().join("hosts");
        let text = format!("127.0.0.1 localhost\n{}\n", hosts.join("\n"));
        fs::write(&file, text).expect("the scratch folder is writable");
        let ready = dir.path().join("ready");
        let script = format!(
            "ip link set lo up && mount --bind {} /etc/hosts && touch {} && exec sleep infinity",
            file.display(),
            ready.display()
        );
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args(["--net", "--mount", "sh", "-c", &script]);
        let mut holder = Process::spawn("namespace", dir.path(), command);
        eventually(
            "the network namespace (root or user namespaces, iproute2)",
            || {
                if !holder.is_running() {
                    panic!("no network namespace: {}", holder.log());
                }
                ready.exists().then_some(()).ok_or("not ready")
            },
        );
        Self { holder, dir }
    }

    /// The scratch folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A subfolder of it, made if need be.
    pub fn subdir(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path).expect("the scratch folder is writable");
        path
    }

    /// A command that runs inside.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.holder.pid()));
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command
            .args(["--net", "--mount", "--"])
            .arg(program.as_ref());
        command.stdin(Stdio::null());
        command
    }

    /// Starts `command`, made by [`Net::command`], with its log in the scratch folder.
    pub fn spawn(&self, name: &str, command: Command) -> Process {
        Process::spawn(name, self.dir.path(), command)
    }
}
