//! A mesh under a real istiod: each Pod has a namespace, an address, its traffic captured, and the
//! agent as the injected container has it: user 1337, the arguments, variables and mounts of Istio's
//! sidecar template with our `spire` on top.

mod pod;
mod spec;

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf};

use crate::{
    Identities, Istiod, Lan, Net, clusters, curl,
    curl::Answer,
    istiod::{self, Dialect, Options},
    peers,
};

pub use pod::{Pod, Program, serve, talk};
pub use spec::{App, EGRESS, INGRESS, PodSpec, SLEEP};

/// The trust domain of a mesh if nothing else is said, and the cluster of its [`Identities`].
pub const TRUST_DOMAIN: &str = "example.org";

/// A running mesh.
pub struct Mesh {
    // Before istiod: proxies that lose it would only fill the log.
    pods: BTreeMap<&'static str, Member>,
    pub istiod: Istiod,
    pub identities: Identities,
    pub program: Program,
    cluster: Cluster,
    /// The second cluster.
    other: Option<(Cluster, Istiod)>,
    lan: Lan,
}

/// One cluster of a mesh, or a mesh of its own beside the first.
#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    /// Its name in the [`Identities`].
    pub name: &'static str,
    pub trust_domain: &'static str,
    /// Its istiod.
    pub istiod: Ipv4Addr,
    /// Whether istiod's certificate is by SPIRE, and SPIRE's certificates are shown to it.
    pub istiod_by_spire: bool,
    /// `"10.0.4.10 app.example.org"`: names that its Pods know.
    pub host_aliases: &'static [&'static str],
}

impl Cluster {
    /// The only one of most meshes.
    pub const ONLY: Self = Self {
        name: TRUST_DOMAIN,
        trust_domain: TRUST_DOMAIN,
        istiod: istiod::ADDRESS,
        istiod_by_spire: false,
        host_aliases: &[],
    };
}

struct Member {
    spec: PodSpec<'static>,
    pod: Pod,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    First,
    /// In the second cluster.
    Other,
    /// No Pod but a machine that Kubernetes does not know.
    Machine,
}

impl Mesh {
    /// istiod with the objects of `files` in `tests/data/mesh`, and `pods`, all of which are ready, with
    /// identities of one trust domain. `None`, said by name, if a peer is missing or we are not root: Pods
    /// have two users.
    pub fn start(
        test: &str,
        program: Program,
        files: &[&str],
        pods: &[PodSpec<'static>],
    ) -> Option<Self> {
        let identities = Identities::of_mesh(test)?;
        let mut mesh = Self::start_in(test, program, identities, Cluster::ONLY, files)?;
        for spec in pods {
            mesh.add(spec);
        }
        mesh.wait_ready();
        Some(mesh)
    }

    /// The same as `cluster`, with these identities and without Pods.
    pub fn start_in(
        test: &str,
        program: Program,
        identities: Identities,
        cluster: Cluster,
        files: &[&str],
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
        let istiod = start_istiod(test, program, &identities, &lan, &cluster, files)?;
        Some(Self {
            pods: BTreeMap::new(),
            istiod,
            identities,
            program,
            cluster,
            other: None,
            lan,
        })
    }

    /// Starts the istiod of a second cluster in the same network.
    pub fn start_other(&mut self, test: &str, cluster: Cluster, files: &[&str]) {
        let (program, identities) = (self.program, &self.identities);
        let istiod = start_istiod(test, program, identities, &self.lan, &cluster, files);
        let istiod = istiod.expect("the first has started");
        self.other = Some((cluster, istiod));
    }

    /// [`Mesh::add`] to the second cluster.
    pub fn add_to_other(&mut self, spec: &PodSpec<'static>) {
        self.insert(spec, self.program, Place::Other);
    }

    /// Starts a machine with an agent, which Kubernetes knows by a service account alone.
    pub fn add_machine(&mut self, spec: &PodSpec<'static>) {
        self.insert(spec, self.program, Place::Machine);
    }

    /// The istiod of the second cluster.
    pub fn other_istiod(&self) -> &Istiod {
        self.home(Place::Other).1
    }

    fn home(&self, place: Place) -> (&Cluster, &Istiod) {
        match &self.other {
            Some((cluster, istiod)) if place == Place::Other => (cluster, istiod),
            _ => (&self.cluster, &self.istiod),
        }
    }

    fn insert(&mut self, spec: &PodSpec<'static>, program: Program, place: Place) {
        let (cluster, istiod) = self.home(place);
        let object = match place {
            Place::Machine => spec.account_object().to_string(),
            _ => spec.object(false),
        };
        istiod.apply(&file(spec.name), &object);
        let pod = Pod::start(&self.lan, istiod, &self.identities, cluster, spec, program);
        let member = Member {
            spec: *spec,
            pod,
            place,
        };
        self.pods.insert(spec.name, member);
    }

    /// Makes a Pod known to the Kubernetes API and starts it.
    pub fn add(&mut self, spec: &PodSpec<'static>) {
        self.add_with(spec, self.program);
    }

    /// The same with this program.
    pub fn add_with(&mut self, spec: &PodSpec<'static>, program: Program) {
        self.insert(spec, program, Place::First);
    }

    /// Waits for the readiness of all, from when on Services lead to them.
    pub fn wait_ready(&mut self) {
        for member in self.pods.values_mut() {
            member.pod.wait_ready();
        }
        for member in self.pods.values() {
            let spec = &member.spec;
            let (_, istiod) = self.home(member.place);
            if member.place != Place::Machine {
                istiod.apply(&file(spec.name), &spec.object(true));
            }
        }
    }

    /// The Pod of this name.
    pub fn pod(&self, name: &str) -> &Pod {
        let found = self.pods.get(name);
        &found.unwrap_or_else(|| panic!("no Pod {name}")).pod
    }

    /// A namespace at this address that belongs to no Pod.
    pub fn host(&self, address: [u8; 4]) -> Net {
        self.lan.host(address.into(), &[])
    }

    /// Ends a Pod as Kubernetes does: its object goes, its proxy is told and drains, the application ends
    /// last.
    pub fn evict(&mut self, name: &str) {
        let found = self.pods.remove(name);
        let found = found.unwrap_or_else(|| panic!("no Pod {name}"));
        self.home(found.place).1.delete(&file(name));
        let mut pod = found.pod;
        let status = pod.agent.terminate();
        assert!(status.success(), "{name}: {status}: {}", pod.log());
    }

    /// Kills the proxy's container of a Pod, which starts anew; nobody else is told.
    pub fn restart(&mut self, name: &str) {
        let program = self.pod(name).program();
        self.restart_with(name, program);
    }

    /// The same with this program in its place.
    pub fn restart_with(&mut self, name: &str, program: Program) {
        let found = self.pods.remove_entry(name);
        let (name, mut member) = found.unwrap_or_else(|| panic!("no Pod {name}"));
        let (cluster, _) = self.home(member.place);
        member.pod.restart(cluster, &member.spec, program);
        self.pods.insert(name, member);
    }

    /// `curl URL` as the application of a Pod does it.
    pub fn curl(&self, pod: &str, url: &str, arguments: &[&str]) -> Answer {
        curl::get(&self.pod(pod).net, url, arguments)
    }
}

fn start_istiod(
    test: &str,
    program: Program,
    identities: &Identities,
    lan: &Lan,
    cluster: &Cluster,
    files: &[&str],
) -> Option<Istiod> {
    let files: Vec<PathBuf> = ["mesh.yaml"]
        .iter()
        .chain(files)
        .map(|name| clusters::data(&format!("mesh/{name}")))
        .collect();
    let dialect = match program.runs_envoy() {
        false => Dialect::Istio,
        true => Dialect::Plain,
    };
    let svid = cluster.istiod_by_spire;
    let options = Options {
        address: cluster.istiod,
        trust_domain: cluster.trust_domain,
        svid: svid.then(|| identities.mint_istiod(cluster.name, istiod::HOST)),
        ..Options::new(dialect)
    };
    Istiod::start_with(test, lan, &files, options)
}

/// The file that a Pod's objects are applied from.
fn file(pod: &str) -> String {
    format!("pod-{pod}.json")
}
