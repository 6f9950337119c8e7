//! Where the identities of a scenario come from: the development authority, or a real SPIRE.

use std::{cell::RefCell, collections::BTreeSet};

use serde_json::json;

use crate::{
    Authority, Spire,
    agent::Identity,
    authority::Files,
    spire::{Plan, Upstream},
};

/// The issuers of all clusters of a scenario. A cluster is named as its trust domain, or otherwise
/// where two share one.
pub enum Identities {
    Authority(Authority),
    Spire {
        spire: Spire,
        /// Pairs of trust domains, in both directions.
        federation: RefCell<BTreeSet<(String, String)>>,
    },
}

impl Identities {
    /// Two federated clusters, `example.org` and `domain.test`, and `third.test`, which is not.
    pub fn federated(_test: &str) -> Option<Self> {
        Some(Self::Authority(Authority::start(
            "\
trust_domains:
- name: example.org
  intermediate: ec-p256
- name: domain.test
- name: third.test
federation:
- [example.org, domain.test]
",
        )))
    }

    /// The same by SPIRE. The CA of `domain.test` is on disk, so that it can be abused.
    pub fn federated_by_spire(test: &str) -> Option<Self> {
        let mut client = Plan::new("domain.test", "domain.test");
        client.upstream = Upstream::Disk;
        let plans = [
            Plan::new("example.org", "example.org"),
            client,
            Plan::new("third.test", "third.test"),
        ];
        let identities = Self::by_spire(test, &plans)?;
        identities.federate("example.org", "domain.test");
        Some(identities)
    }

    /// The one trust domain of a [`Mesh`](crate::Mesh): by SPIRE where it is here, else by the authority.
    pub fn of_mesh(test: &str) -> Option<Self> {
        let plan = Plan::new("example.org", "example.org");
        Self::by_spire(test, &[plan]).or_else(|| {
            let config = "trust_domains: [{name: example.org}]\n";
            Some(Self::Authority(Authority::start(config)))
        })
    }

    /// Two meshes, `example.org` and `domain.test`, that are not federated yet: by SPIRE where it is here,
    /// else by the authority.
    pub fn of_two_meshes(test: &str) -> Self {
        let plans = ["example.org", "domain.test"].map(|domain| Plan::new(domain, domain));
        Self::by_spire(test, &plans).unwrap_or_else(|| {
            let config = "trust_domains: [{name: example.org}, {name: domain.test}]\n";
            Self::Authority(Authority::start(config))
        })
    }

    /// Two clusters, `server` and `client`, of the one trust domain `example.org`: each has an RSA
    /// intermediate `OU=DOWNSTREAM-1` below the one EC root. A third, `elsewhere`, is another domain.
    pub fn shared_root(_test: &str) -> Option<Self> {
        Some(Self::Authority(Authority::start(
            "\
trust_domains:
- {name: example.org, authority: server, root: upstream, intermediate: rsa-2048}
- {name: example.org, authority: client, root: upstream, intermediate: rsa-2048}
- {name: elsewhere.test, authority: elsewhere}
",
        )))
    }

    /// The same by SPIRE servers that share a CA from disk.
    pub fn shared_disk_by_spire(test: &str) -> Option<Self> {
        let on_disk = |cluster| {
            let mut plan = Plan::new(cluster, "example.org");
            plan.upstream = Upstream::Disk;
            plan
        };
        let elsewhere = Plan::new("elsewhere", "elsewhere.test");
        Self::by_spire(test, &[on_disk("server"), on_disk("client"), elsewhere])
    }

    /// The same by SPIRE servers with RSA keys that are nested below one with an EC key.
    pub fn nested_by_spire(test: &str) -> Option<Self> {
        let nested = |cluster| {
            let mut plan = Plan::new(cluster, "example.org");
            plan.upstream = Upstream::Nested("root");
            plan.ca_key_type = "rsa-2048";
            plan
        };
        let root = Plan::new("root", "example.org");
        Self::by_spire(test, &[root, nested("server"), nested("client")])
    }

    /// The clusters of `plans`, none of which is federated yet.
    pub fn by_spire(test: &str, plans: &[Plan]) -> Option<Self> {
        Some(Self::Spire {
            spire: Spire::start(test, plans)?,
            federation: RefCell::default(),
        })
    }

    /// Registers the workload with this path of its ID; returns its ID and where it finds it.
    pub fn workload(&self, cluster: &str, path: &str) -> (String, Identity) {
        let trust_domain = self.trust_domain(cluster);
        let id = format!("spiffe://{trust_domain}{path}");
        let (socket, svid) = match self {
            Self::Authority(authority) => (authority.workload(cluster, &id), None),
            Self::Spire { spire, .. } => {
                let federated = self.federated_with(&trust_domain);
                let federated: Vec<&str> = federated.iter().map(String::as_str).collect();
                spire.register(cluster, &id, &federated);
                (spire.socket(cluster), Some(id.clone()))
            }
        };
        let identity = Identity {
            trust_domain,
            socket,
            svid,
        };
        (id, identity)
    }

    /// The same for one that is told apart from others by the group that it runs as.
    pub fn workload_of_group(&self, cluster: &str, path: &str, gid: u32) -> (String, Identity) {
        let Self::Spire { spire, .. } = self else {
            return self.workload(cluster, path);
        };
        let trust_domain = self.trust_domain(cluster);
        let id = format!("spiffe://{trust_domain}{path}");
        spire.register_group(cluster, &id, gid);
        let identity = Identity {
            trust_domain,
            socket: spire.socket(cluster),
            svid: None,
        };
        (id, identity)
    }

    /// An SVID in files for `id`, issued by `cluster`, that outlives the test.
    pub fn mint(&self, cluster: &str, id: &str) -> Files {
        match self {
            Self::Authority(authority) => authority.mint(cluster, id, "1h"),
            Self::Spire { spire, .. } => spire.mint(cluster, id, "9m"),
        }
    }

    /// The certificate of an istiod, which is known by a name of DNS.
    ///
    /// # Panics
    /// Without SPIRE: SVIDs of the authority have no such name.
    pub fn mint_istiod(&self, cluster: &str, name: &str) -> Files {
        match self {
            Self::Authority(_) => panic!("istiod's certificate needs SPIRE"),
            Self::Spire { spire, .. } => {
                let trust_domain = self.trust_domain(cluster);
                let id = format!("spiffe://{trust_domain}/ns/istio-system/sa/istiod");
                spire.mint_for_name(cluster, &id, name)
            }
        }
    }

    /// A certificate for `id` that must be refused, signed by `cluster`; `forgery` as `authority ctl forge`
    /// names it. `None` for one that the issuer cannot be made to sign.
    pub fn forge(&self, cluster: &str, id: &str, forgery: &str) -> Option<Files> {
        match self {
            Self::Authority(authority) => Some(authority.forge(cluster, id, forgery)),
            Self::Spire { spire, .. } => spire.forge(id, forgery),
        }
    }

    /// The roots of a cluster as PEM.
    pub fn bundle(&self, cluster: &str) -> String {
        match self {
            Self::Authority(authority) => authority.bundle(&self.trust_domain(cluster)),
            Self::Spire { spire, .. } => spire.bundle(cluster),
        }
    }

    /// Takes the identity of a workload away.
    pub fn withdraw(&self, cluster: &str, id: &str) {
        match self {
            Self::Authority(authority) => {
                authority.call(json!({"op": "withdraw", "id": id, "authority": cluster}));
            }
            Self::Spire { spire, .. } => spire.withdraw(cluster, id),
        }
    }

    /// Federates two trust domains in both directions.
    pub fn federate(&self, a: &str, b: &str) {
        match self {
            Self::Authority(authority) => {
                authority.call(json!({"op": "federate", "a": a, "b": b}));
            }
            Self::Spire { spire, federation } => {
                spire.trust(a, b);
                spire.trust(b, a);
                federation.borrow_mut().insert((a.to_owned(), b.to_owned()));
                self.tell_entries(&[a, b]);
            }
        }
    }

    /// Ends it.
    pub fn unfederate(&self, a: &str, b: &str) {
        match self {
            Self::Authority(authority) => {
                authority.call(json!({"op": "unfederate", "a": a, "b": b}));
            }
            Self::Spire { federation, .. } => {
                federation
                    .borrow_mut()
                    .retain(|(c, d)| (&**c, &**d) != (a, b) && (&**c, &**d) != (b, a));
                self.tell_entries(&[a, b]);
            }
        }
    }

    fn tell_entries(&self, domains: &[&str]) {
        if let Self::Spire { spire, .. } = self {
            for domain in domains {
                let federated = self.federated_with(domain);
                let federated: Vec<&str> = federated.iter().map(String::as_str).collect();
                spire.federates_with(domain, &federated);
            }
        }
    }

    /// The trust domains that this one is federated with.
    fn federated_with(&self, domain: &str) -> Vec<String> {
        let Self::Spire { federation, .. } = self else {
            return Vec::new();
        };
        let pairs = federation.borrow();
        let other = |(a, b): &(String, String)| match (a == domain, b == domain) {
            (true, _) => Some(b.clone()),
            (_, true) => Some(a.clone()),
            _ => None,
        };
        pairs.iter().filter_map(other).collect()
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
