//! Where the identities of a scenario come from: the development authority, or a real SPIRE.

use serde_json::json;

use crate::{Authority, agent::Identity, authority::Files};

/// The issuers of all clusters of a scenario. A cluster is named as its trust domain, or otherwise
/// where two share one.
pub enum Identities {
    Authority(Authority),
}

impl Identities {
    /// Two federated clusters, `example.org` and `domain.test`, and `third.test`, which is not.
    pub fn federated() -> Self {
        Self::Authority(Authority::start(
            "\
trust_domains:
- name: example.org
  intermediate: ec-p256
- name: domain.test
- name: third.test
federation:
- [example.org, domain.test]
",
        ))
    }

    /// Two clusters, `server` and `client`, of the one trust domain `example.org`: each has an RSA
    /// intermediate `OU=DOWNSTREAM-1` below the one EC root. A third, `elsewhere`, is another domain.
    pub fn shared_root() -> Self {
        Self::Authority(Authority::start(
            "\
trust_domains:
- {name: example.org, authority: server, root: upstream, intermediate: rsa-2048}
- {name: example.org, authority: client, root: upstream, intermediate: rsa-2048}
- {name: elsewhere.test, authority: elsewhere}
",
        ))
    }

    /// Registers the workload with this path of its ID; returns its ID and where it finds it.
    pub fn workload(&self, cluster: &str, path: &str) -> (String, Identity) {
        let trust_domain = self.trust_domain(cluster);
        let id = format!("spiffe://{trust_domain}{path}");
        let (socket, svid) = match self {
            Self::Authority(authority) => (authority.workload(cluster, &id), None),
        };
        let identity = Identity {
            trust_domain,
            socket,
            svid,
        };
        (id, identity)
    }

    /// An SVID in files for `id`, issued by `cluster`, for an hour.
    pub fn mint(&self, cluster: &str, id: &str) -> Files {
        match self {
            Self::Authority(authority) => authority.mint(cluster, id, "1h"),
        }
    }

    /// Takes the identity of a workload away.
    pub fn withdraw(&self, cluster: &str, id: &str) {
        match self {
            Self::Authority(authority) => {
                authority.call(json!({"op": "withdraw", "id": id, "authority": cluster}));
            }
        }
    }

    /// Federates two trust domains in both directions.
    pub fn federate(&self, a: &str, b: &str) {
        match self {
            Self::Authority(authority) => {
                authority.call(json!({"op": "federate", "a": a, "b": b}));
            }
        }
    }

    /// Ends it.
    pub fn unfederate(&self, a: &str, b: &str) {
        match self {
            Self::Authority(authority) => {
                authority.call(json!({"op": "unfederate", "a": a, "b": b}));
            }
        }
    }

    /// The trust domain of a cluster.
    fn trust_domain(&self, cluster: &str) -> String {
        match cluster {
            "server" | "client" => "example.org".to_owned(),
            "elsewhere" => "elsewhere.test".to_owned(),
            _ => cluster.to_owned(),
        }
    }
}
