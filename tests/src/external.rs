//! A workload outside the mesh with a hand-written Envoy file, in a namespace where everything that
//! the file names is at its place.

use std::{fs, path::PathBuf};

use crate::{
    DataPlane, Net, Process,
    authority::Files,
    clusters::data,
    curl::{self, Answer},
    peers,
    process::binary,
};

pub const DOMAIN: &str = "spire.cityos-dev.woven-planet.tech";
pub const WORKLOAD: &str =
    "spiffe://spire.cityos-dev.woven-planet.tech/ns/spire-tutorial/sa/workload-mtls-envoy";
pub const NGINX: &str = "spiffe://spire.cityos-dev.woven-planet.tech/ns/spire-tutorial/sa/nginx";
pub const HOSTS: &[&str] = &["127.0.0.1 nginx.spire-tutorial.cityos-dev.woven-planet.tech"];

/// The arguments that the walk-through's manifest gives Envoy.
const ARGUMENTS: [&str; 8] = [
    "-l",
    "debug",
    "--local-address-ip-version",
    "v4",
    "-c",
    "/run/envoy/envoy-conf.yaml",
    "--base-id",
    "1",
];

/// The namespace of the workload, with the file in its place.
pub struct External {
    pub proxy: Process,
    // After the proxy, whose log is there.
    pub net: Net,
}

impl External {
    /// Starts the proxy. There is no socket yet.
    pub fn start(data_plane: DataPlane) -> Self {
        let net = Net::new(HOSTS);
        let folder = net.subdir("run/envoy");
        fs::copy(
            data("walkthroughs/envoy-conf.yaml"),
            folder.join("envoy-conf.yaml"),
        )
        .expect("the project's own file can be copied");
        net.subdir("run/spire/sockets");
        let mut command = net.command(program(data_plane));
        command.args(ARGUMENTS);
        let proxy = net.spawn("proxy", command);
        Self { proxy, net }
    }

    /// What the manifest mounts at `/run/spire/sockets/agent.sock`.
    pub fn socket(&self) -> PathBuf {
        self.net.dir().join("run/spire/sockets/agent.sock")
    }

    /// A request of the workload.
    pub fn get(&self, path: &str) -> Answer {
        let url = format!("http://127.0.0.1:3001{path}");
        curl::get(&self.net, &url, &[])
    }

    /// A service at the address that the file names, with this certificate.
    pub fn upstream(&self, svid: &Files, bundle: &str) -> Process {
        fs::write(&svid.bundle, bundle).expect("the folder is writable");
        let mut serve = self.net.command(binary("ithildin-test-peer"));
        serve.args(["serve", "127.0.0.1:7029", "--tls"]);
        serve.arg(&svid.dir);
        self.net.spawn("upstream", serve)
    }

    /// The access log that the file names.
    pub fn access_log(&self) -> String {
        let path = self.net.dir().join("run/envoy/outbound-proxy.log");
        fs::read_to_string(path).unwrap_or_default()
    }
}

/// The proxy alone.
pub fn program(data_plane: DataPlane) -> PathBuf {
    match data_plane {
        DataPlane::Builtin => binary("ithildin-proxy"),
        DataPlane::Envoy => peers::envoy("").expect("the caller has asked for it"),
    }
}
