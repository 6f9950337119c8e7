//! What a Pod is, and the Kubernetes objects of it.

use serde_json::{Value, json};

const FIRST_GROUP: u32 = 2000;

/// What a Pod is.
#[derive(Clone, Copy, Debug)]
pub struct PodSpec<'a> {
    pub name: &'a str,
    pub namespace: &'a str,
    pub account: &'a str,
    pub ip: [u8; 4],
    /// `sidecar`, whose traffic is captured, or `router`.
    pub role: &'a str,
    pub labels: &'a [(&'a str, &'a str)],
    pub app: Option<App<'a>>,
    /// Further variables of the proxy's container.
    pub env: &'a [(&'a str, &'a str)],
    /// The Pod's annotations, as the proxy's container reads them.
    pub annotations: &'a [(&'a str, &'a str)],
}

/// The application's container.
#[derive(Clone, Copy, Debug)]
pub struct App<'a> {
    pub port: u16,
    /// What it asks, in order, before it answers.
    pub calls: &'a [&'a str],
}

/// Who asks, in most scenes.
pub const SLEEP: PodSpec<'static> =
    PodSpec::client("sleep-0", "sleep", [10, 0, 4, 1], &[("app", "sleep")]);

/// The ingress gateway, with the account of Istio's chart.
pub const INGRESS: PodSpec<'static> = PodSpec {
    name: "istio-ingressgateway-0",
    namespace: "istio-system",
    account: "istio-ingressgateway",
    ip: [10, 0, 4, 10],
    role: "router",
    labels: &[("istio", "ingressgateway")],
    ..SLEEP
};

/// The egress gateway, likewise.
pub const EGRESS: PodSpec<'static> = PodSpec {
    name: "istio-egressgateway-0",
    account: "istio-egressgateway",
    ip: [10, 0, 4, 11],
    labels: &[("istio", "egressgateway")],
    ..INGRESS
};

impl<'a> PodSpec<'a> {
    /// A Pod with a sidecar in the namespace `default`, and nothing that listens.
    pub const fn client(
        name: &'a str,
        account: &'a str,
        ip: [u8; 4],
        labels: &'a [(&'a str, &'a str)],
    ) -> Self {
        Self {
            name,
            namespace: "default",
            account,
            ip,
            role: "sidecar",
            labels,
            app: None,
            env: &[],
            annotations: &[],
        }
    }

    /// The same with an application that answers HTTP on port 8080.
    pub const fn server(
        name: &'a str,
        account: &'a str,
        ip: [u8; 4],
        labels: &'a [(&'a str, &'a str)],
    ) -> Self {
        let app = App {
            port: 8080,
            calls: &[],
        };
        Self {
            app: Some(app),
            ..Self::client(name, account, ip, labels)
        }
    }
}

impl PodSpec<'_> {
    /// The Kubernetes objects: the Pod and its service account. Services lead to it once it is `ready`.
    pub(super) fn object(&self, ready: bool) -> String {
        let mut labels: serde_json::Map<String, Value> = self
            .labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect();
        if self.role == "sidecar" {
            labels.insert("security.istio.io/tlsMode".into(), "istio".into());
        }
        let ports: Vec<Value> = self
            .app
            .iter()
            .map(|app| json!({"containerPort": app.port}))
            .collect();
        let app = self.labels.iter().find(|(name, _)| *name == "app");
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": labels},
            "spec": {
                "serviceAccountName": self.account,
                // As of a StatefulSet.
                "hostname": self.name,
                "subdomain": app.map(|(_, app)| app),
                "containers": [{"name": "app", "image": "app", "ports": ports}],
            },
            "status": {
                "podIP": self.address(),
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            },
        });
        let items = [self.account_object(), pod];
        json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
    }

    pub(super) fn account_object(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": self.account, "namespace": self.namespace},
        })
    }

    pub(super) fn address(&self) -> String {
        std::net::Ipv4Addr::from(self.ip).to_string()
    }

    /// The group of its proxy, by which SPIRE of the tests knows it, as SPIRE of a cluster knows Pods.
    pub(super) fn group(&self) -> u32 {
        FIRST_GROUP + u32::from(self.ip[3])
    }

    /// The Deployment's name.
    pub(super) fn workload(&self) -> &str {
        self.name
            .rsplit_once('-')
            .map_or(self.name, |(name, _)| name)
    }
}
