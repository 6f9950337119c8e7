//! A real Envoy beside the proxy, for tests that compare the two.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::support::exchange;

/// A real Envoy. It ends with the test.
pub(crate) struct Envoy {
    child: Child,
    folder: tempfile::TempDir,
    listeners: HashMap<String, SocketAddr>,
    /// Where its admin server listens.
    pub(crate) admin: SocketAddr,
}

impl Envoy {
    /// It accepts at `listeners` listeners when this returns.
    pub(crate) async fn start(binary: &Path, yaml: &str, listeners: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let yaml = yaml.replace("LOG_PATH", path("access.log").to_str().unwrap());
        std::fs::write(path("envoy.yaml"), yaml).unwrap();
        let log = std::fs::File::create(path("envoy.log")).unwrap();
        let child = Command::new(binary)
            .arg("-c")
            .arg(path("envoy.yaml"))
            .arg("--admin-address-path")
            .arg(path("admin"))
            .args(["--concurrency", "1", "--disable-hot-restart", "-l", "warn"])
            .args(["--file-flush-interval-msec", "100"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut envoy = Self {
            child,
            folder,
            listeners: HashMap::new(),
            admin: ([127, 0, 0, 1], 0).into(),
        };
        envoy.find_listeners(listeners).await;
        envoy
    }

    async fn find_listeners(&mut self, count: usize) {
        for _ in 0..3000 {
            // It may be there before it is written.
            let admin = std::fs::read_to_string(self.folder.path().join("admin"));
            if let Some(admin) = admin.ok().and_then(|it| it.parse().ok()) {
                let request = "GET /listeners HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
                self.admin = admin;
                let text = exchange(self.admin, request).await;
                let lines = text.lines().filter_map(|line| line.split_once("::"));
                self.listeners = lines
                    .filter_map(|(name, address)| Some((name.to_owned(), address.parse().ok()?)))
                    .collect();
                // It may name a port before it accepts there.
                if self.listeners.values().filter(|it| connects(**it)).count() == count {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!(
            "no Envoy: {:?}",
            std::fs::read_to_string(self.folder.path().join("envoy.log"))
        );
    }

    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        self.listeners[listener]
    }

    /// The access log's lines, once there are `count`; Envoy writes them every few seconds.
    pub(crate) async fn lines(&self, count: usize) -> Vec<String> {
        let path = self.folder.path().join("access.log");
        for _ in 0..3000 {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if text.lines().count() >= count {
                return text.lines().map(str::to_owned).collect();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no {count} lines: {:?}", std::fs::read_to_string(&path));
    }
}

fn connects(address: SocketAddr) -> bool {
    address.port() != 0 && TcpStream::connect(address).is_ok()
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
