//! A mesh under a real istiod: each Pod has a namespace, an address, its traffic captured, and the
//! agent as the injected container has it: user 1337, the arguments, variables and mounts of Istio's
//! sidecar template with our `spire` on top.

mod pod;

use std::{collections::BTreeMap, path::PathBuf};

use crate::{Identities, Istiod, Lan, Net, clusters, curl, curl::Answer, istiod::Dialect, peers};

pub use pod::{App, Pod, PodSpec, Program};

/// The trust domain of the mesh, and the cluster of its [`Identities`].
pub const TRUST_DOMAIN: &str = "example.org";

/// A running mesh.
pub struct Mesh {
    // Before istiod: proxies that lose it would only fill the log.
    pods: BTreeMap<&'static str, (PodSpec<'static>, Pod)>,
    pub istiod: Istiod,
    pub identities: Identities,
    pub program: Program,
    lan: Lan,
}

impl Mesh {
    /// istiod with the objects of `files` in `tests/data/mesh`, and `pods`, all of which are ready.
    /// `None`, said by name, if a peer is missing or we are not root: Pods have two users.
    pub fn start(
        test: &str,
        program: Program,
        identities: Identities,
        files: &[&str],
        pods: &[PodSpec<'static>],
    ) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED {test}: needs root");
            return None;
        }
        if program == Program::Stock {
            peers::stock_agent(test)?;
        }
        if program.runs_envoy() {
            peers::envoy(test)?;
        }
        let lan = Lan::new();
        let files: Vec<PathBuf> = ["mesh.yaml"]
            .iter()
            .chain(files)
            .map(|name| clusters::data(&format!("mesh/{name}")))
            .collect();
        let dialect = match program.runs_envoy() {
            false => Dialect::Istio,
            true => Dialect::Plain,
        };
        let istiod = Istiod::start(test, &lan, &files, dialect)?;
        let mut mesh = Self {
            pods: BTreeMap::new(),
            istiod,
            identities,
            program,
            lan,
        };
        for spec in pods {
            mesh.add(spec);
        }
        mesh.wait_ready();
        Some(mesh)
    }

    /// Makes a Pod known to the Kubernetes API and starts it.
    pub fn add(&mut self, spec: &PodSpec<'static>) {
        self.add_with(spec, self.program);
    }

    /// The same with this program.
    pub fn add_with(&mut self, spec: &PodSpec<'static>, program: Program) {
        self.istiod.apply(&file(spec.name), &spec.object(false));
        let pod = Pod::start(&self.lan, &self.istiod, &self.identities, spec, program);
        self.pods.insert(spec.name, (*spec, pod));
    }

    /// Waits for the readiness of all, from when on Services lead to them.
    pub fn wait_ready(&mut self) {
        for (spec, pod) in self.pods.values_mut() {
            pod.wait_ready();
            self.istiod.apply(&file(spec.name), &spec.object(true));
        }
    }

    /// The Pod of this name.
    pub fn pod(&self, name: &str) -> &Pod {
        let found = self.pods.get(name);
        let (_, pod) = found.unwrap_or_else(|| panic!("no Pod {name}"));
        pod
    }

    /// A namespace at this address that belongs to no Pod.
    pub fn host(&self, address: [u8; 4]) -> Net {
        self.lan.host(address.into(), &[])
    }

    /// Ends a Pod as Kubernetes does: its object goes, its proxy is told and drains, the application ends
    /// last.
    pub fn evict(&mut self, name: &str) {
        self.istiod.delete(&file(name));
        let found = self.pods.remove(name);
        let (_, mut pod) = found.unwrap_or_else(|| panic!("no Pod {name}"));
        let status = pod.agent.terminate();
        assert!(status.success(), "{name}: {status}: {}", pod.log());
    }

    /// `curl URL` as the application of a Pod does it.
    pub fn curl(&self, pod: &str, url: &str, arguments: &[&str]) -> Answer {
        curl::get(&self.pod(pod).net, url, arguments)
    }
}

/// The file that a Pod's objects are applied from.
fn file(pod: &str) -> String {
    format!("pod-{pod}.json")
}
