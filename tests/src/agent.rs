//! `pilot-agent proxy` in a namespace of its own, as Istio would start it in a Pod.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::{
    DataPlane, Net, Process,
    curl::{self, Answer},
    eventually,
    process::binary,
};

/// Istio's ports, which are free in each namespace.
const ADMIN_PORT: u16 = 15000;
const READY_PORT: u16 = 15021;

/// Who a proxy is and where its configuration and identity come from.
#[derive(Clone, Copy, Debug)]
pub struct Pod<'a> {
    pub name: &'a str,
    pub namespace: &'a str,
    pub account: &'a str,
    pub ip: &'a str,
    /// `router` or `sidecar`.
    pub role: &'a str,
    /// JSON.
    pub labels: &'a str,
}

/// Where a workload finds its identity.
#[derive(Clone, Debug)]
pub struct Identity {
    pub trust_domain: String,
    /// The Workload API.
    pub socket: PathBuf,
    /// `--svid`, where the socket has several for us.
    pub svid: Option<String>,
}

/// A running agent.
pub struct Agent {
    pub process: Process,
    pub data_plane: DataPlane,
}

impl Agent {
    /// Starts it in `net` on the Istio resources of `config`.
    pub fn start(
        net: &Net,
        pod: &Pod<'_>,
        identity: &Identity,
        config: &Path,
        data_plane: DataPlane,
    ) -> Self {
        let config_of_proxy = json!({
            "configPath": net.subdir("proxy"),
            "terminationDrainDuration": "1s",
            // Istio's agent, and so ours, has Envoy count only a little unless it is asked.
            "proxyStatsMatcher": {"inclusionPrefixes": ["listener", "cluster"]},
        });
        let mut command = net.command(binary("pilot-agent"));
        command
            .args(["proxy", pod.role, "--configDir"])
            .arg(config)
            .args(["--dataPlane", data_plane.as_str(), "--concurrency", "2"])
            .args(
                identity
                    .svid
                    .iter()
                    .flat_map(|svid| ["--svid", svid.as_str()]),
            )
            .env(
                "SPIFFE_ENDPOINT_SOCKET",
                format!("unix://{}", identity.socket.display()),
            )
            .env("PROXY_CONFIG", config_of_proxy.to_string())
            .env("TRUST_DOMAIN", &identity.trust_domain)
            .env("POD_NAME", pod.name)
            .env("POD_NAMESPACE", pod.namespace)
            .env("SERVICE_ACCOUNT", pod.account)
            .env("INSTANCE_IP", pod.ip)
            .env("ISTIO_META_INTERCEPTION_MODE", "NONE")
            .env("ISTIO_METAJSON_LABELS", pod.labels);
        Self {
            process: net.spawn(&format!("{}-agent", pod.name), command),
            data_plane,
        }
    }

    /// Waits until `/healthz/ready` is 200.
    pub fn wait_ready(&mut self, net: &Net) {
        eventually("the agent is ready", || {
            assert!(
                self.process.is_running(),
                "the agent ended: {}",
                self.process.log()
            );
            let url = format!("http://127.0.0.1:{READY_PORT}/healthz/ready");
            curl::get(net, &url, &[]).expect_status(200)
        });
    }

    /// A page of the data plane's admin.
    pub fn admin(&self, net: &Net, path: &str) -> Answer {
        let url = format!("http://127.0.0.1:{ADMIN_PORT}{path}");
        curl::get(net, &url, &[])
    }

    /// The value of one counter or gauge of `/stats`; 0 if it is not there yet.
    pub fn stat(&self, net: &Net, name: &str) -> u64 {
        let page = self.admin(net, "/stats").body;
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value
            .and_then(|value| value.trim().parse().ok())
            .unwrap_or(0)
    }
}
