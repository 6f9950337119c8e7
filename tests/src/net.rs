//! A network of one's own: a namespace with a loopback interface and a hosts file, so that tests
//! use the very ports and paths that manifests name, and still run in parallel.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

use crate::{
    eventually,
    process::{Process, output},
};

/// A network and mount namespace, and a scratch folder. Needs root, or user namespaces.
///
/// Its `/run` is the folder `run` of the scratch folder, and its `/dev/shm` its own, as an Envoy with
/// hot restart wants it.
pub struct Net {
    holder: Process,
    dir: TempDir,
}

/// Namespaces that reach each other, as the Pods of clusters in one network do.
pub struct Lan {
    hub: Net,
}

/// A port of loopback, outside all namespaces, that nobody has now.
pub fn free_port() -> u16 {
    ithildin_sys::port::unused().expect("loopback has free ports")
}

/// Addresses of a [`Lan`] share their first 16 bits.
const LAN_PREFIX: u8 = 16;

impl Lan {
    #[allow(clippy::new_without_default, reason = "it starts processes")]
    pub fn new() -> Self {
        let hub = Net::new(&[]);
        for arguments in [
            &["link", "add", "lan", "type", "bridge"][..],
            &["link", "set", "lan", "up"],
        ] {
            let mut ip = hub.command("ip");
            ip.args(arguments);
            output(ip);
        }
        Self { hub }
    }

    /// A namespace at `address`, in which each of `hosts` resolves.
    pub fn host(&self, address: Ipv4Addr, hosts: &[&str]) -> Net {
        let net = Net::start(Some(&self.hub), hosts);
        let [_, _, high, low] = address.octets();
        let port = format!("to-{high}-{low}");
        let peer = net.holder.pid().to_string();
        let mut link = self.hub.command("ip");
        link.args(["link", "add", &port, "type", "veth", "peer", "name", "eth0"])
            .args(["netns", &peer]);
        output(link);
        let mut attach = self.hub.command("ip");
        attach.args(["link", "set", &port, "master", "lan", "up"]);
        output(attach);
        let address = format!("{address}/{LAN_PREFIX}");
        for arguments in [
            &["addr", "add", &address, "dev", "eth0"][..],
            &["link", "set", "eth0", "up"],
        ] {
            let mut ip = net.command("ip");
            ip.args(arguments);
            output(ip);
        }
        net
    }
}

impl Net {
    /// A new namespace in which each of `hosts` (`"127.0.0.1 app.example.org"`) resolves.
    pub fn new(hosts: &[&str]) -> Self {
        Self::start(None, hosts)
    }

    /// With a `hub`, the namespace belongs to the hub's user namespace, so that links may join them.
    fn start(hub: Option<&Self>, hosts: &[&str]) -> Self {
        let dir = TempDir::with_prefix("ithildin-").expect("a scratch folder can be made");
        let path = dir.path().display();
        let text = format!("127.0.0.1 localhost\n{}\n", hosts.join("\n"));
        fs::write(dir.path().join("hosts"), text).expect("the scratch folder is writable");
        fs::create_dir(dir.path().join("run")).expect("the scratch folder is writable");
        let script = format!(
            "ip link set lo up && mount --bind {path}/hosts /etc/hosts && mount --bind {path}/run /run \
             && mount -t tmpfs tmpfs /dev/shm \
             && touch {path}/ready && exec sleep infinity"
        );
        let mut command = match hub {
            Some(hub) => hub.command("unshare"),
            None => Command::new("unshare"),
        };
        if hub.is_none() && !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args(["--net", "--mount", "sh", "-c", &script]);
        let mut holder = Process::spawn("namespace", dir.path(), command);
        let ready = dir.path().join("ready");
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

    /// Runs `work` on a thread whose sockets are inside; its files are those of the test. Needs root.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/proc/{}/ns/net", self.holder.pid());
        let space = File::open(path).expect("the holder of the namespace lives");
        let work = || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(space.as_fd(), network).expect("we are root");
            work()
        };
        thread::scope(|scope| scope.spawn(work).join().expect("the work does not panic"))
    }

    /// Starts `command`, made by [`Net::command`], with its log in the scratch folder.
    pub fn spawn(&self, name: &str, command: Command) -> Process {
        Process::spawn(name, self.dir.path(), command)
    }

    /// The same for a command in a [`CONTAINER`](crate::process::CONTAINER).
    pub fn spawn_contained(&self, name: &str, command: Command) -> Process {
        Process::contained(name, self.dir.path(), command)
    }
}
