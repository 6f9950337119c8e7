//! The relay between an istiod and an Envoy that are machines too: no sockets, every interleaving.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use ithildin_proto::{
    pack,
    pb::envoy::{
        config::{
            cluster::v3::{Cluster, cluster},
            core::v3::Node,
            endpoint::v3::ClusterLoadAssignment,
            listener::v3::Listener,
        },
        service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    },
};
use ithildin_xds::{
    ResourceKind, TypeUrl,
    ads::{Errand, Follower as _, Want},
    subscription::{
        Catalog, Client, DeltaClient, DeltaServer, Heard, Interest, Resource, Server, Verdict,
    },
};
use proptest::prelude::*;

use super::{Shared, downstream::EnvoyStream, upstream::Follower};

const CLUSTER: ResourceKind = ResourceKind::Cluster;
const ENDPOINTS: ResourceKind = ResourceKind::Endpoints;
const LISTENER: ResourceKind = ResourceKind::Listener;
const KINDS: [ResourceKind; 3] = [CLUSTER, ENDPOINTS, LISTENER];

/// The resource `name` in its form `form`.
fn resource(kind: ResourceKind, name: &str, form: u8) -> Arc<Resource> {
    let body = match kind {
        ResourceKind::Cluster => pack(&Cluster {
            name: name.to_owned(),
            alt_stat_name: form.to_string(),
            cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
                cluster::DiscoveryType::Eds.into(),
            )),
            ..Default::default()
        }),
        ResourceKind::Endpoints => pack(&ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            ..Default::default()
        }),
        _ => pack(&Listener {
            name: name.to_owned(),
            stat_prefix: form.to_string(),
            ..Default::default()
        }),
    };
    let version = form.to_string().into();
    Arc::new(Resource { version, body })
}

/// istiod, the relay and Envoy, with queues between them.
struct World {
    catalogs: BTreeMap<ResourceKind, Catalog>,
    istiod: BTreeMap<ResourceKind, DeltaServer>,
    /// What istiod heard: kind, and the reason if it was a refusal.
    heard: Vec<(ResourceKind, Option<String>)>,
    follower: Follower,
    clients: BTreeMap<TypeUrl, DeltaClient>,
    up: VecDeque<DeltaDiscoveryRequest>,
    from_istiod: VecDeque<DeltaDiscoveryResponse>,
    shared: Arc<Shared>,
    stream: EnvoyStream<DeltaServer>,
    envoy: BTreeMap<ResourceKind, DeltaClient>,
    held: BTreeMap<ResourceKind, BTreeMap<String, String>>,
    requests: VecDeque<DeltaDiscoveryRequest>,
    responses: VecDeque<DeltaDiscoveryResponse>,
    /// The order in which kinds came to Envoy.
    order: Vec<ResourceKind>,
    refuse: bool,
    connected: bool,
}

impl World {
    fn new() -> Self {
        let mut world = Self::without_envoy();
        world.restart_envoy();
        world.connect_istiod();
        world
    }

    /// An Envoy will come.
    fn expecting() -> Self {
        let mut world = Self::without_envoy();
        world.shared.state.lock().expect(Node::default());
        world.connect_istiod();
        world
    }

    fn without_envoy() -> Self {
        let shared = Arc::new(Shared::new(None));
        Self {
            catalogs: KINDS.map(|kind| (kind, Catalog::new())).into(),
            istiod: BTreeMap::new(),
            heard: Vec::new(),
            follower: Follower::new(Arc::clone(&shared)),
            clients: BTreeMap::new(),
            up: VecDeque::new(),
            from_istiod: VecDeque::new(),
            stream: EnvoyStream::new(Arc::clone(&shared)),
            shared,
            envoy: BTreeMap::new(),
            held: BTreeMap::new(),
            requests: VecDeque::new(),
            responses: VecDeque::new(),
            order: Vec::new(),
            refuse: false,
            connected: false,
        }
    }

    fn has_envoy(&self) -> bool {
        !self.envoy.is_empty()
    }

    fn set(&mut self, kind: ResourceKind, name: &str, form: u8) {
        let catalog = self.catalogs.get_mut(&kind).unwrap();
        match form {
            0 => catalog.remove(name),
            form => catalog.insert(name.to_owned(), resource(kind, name, form)),
        };
    }

    /// A resource whose bytes are no message.
    fn set_broken(&mut self, kind: ResourceKind, name: &str, form: u8) {
        let mut broken = (*resource(kind, name, form)).clone();
        broken.body.value = vec![0xff; 3];
        let catalog = self.catalogs.get_mut(&kind).unwrap();
        catalog.insert(name.to_owned(), Arc::new(broken));
    }

    /// istiod is gone: what is under way is lost.
    fn lose_istiod(&mut self) {
        self.connected = false;
        self.up.clear();
        self.from_istiod.clear();
    }

    fn connect_istiod(&mut self) {
        self.lose_istiod();
        self.connected = true;
        self.istiod = KINDS.map(|kind| (kind, DeltaServer::new(kind))).into();
        self.follower.begin();
        self.clients.values_mut().for_each(Client::disconnect);
        self.relay_speaks();
    }

    /// A new process, which knows nothing.
    fn restart_envoy(&mut self) {
        self.stream = EnvoyStream::new(Arc::clone(&self.shared));
        self.requests.clear();
        self.responses.clear();
        self.held = KINDS.map(|kind| (kind, BTreeMap::new())).into();
        self.envoy = KINDS
            .map(|kind| (kind, DeltaClient::new(kind, Interest::default())))
            .into();
        for kind in [CLUSTER, LISTENER] {
            let client = self.envoy.get_mut(&kind).unwrap();
            let mut request = client.subscribe(Interest::everything()).unwrap();
            request.node = Some(Node::default());
            self.requests.push_back(request);
        }
    }

    /// What the loop around the follower does.
    fn relay_speaks(&mut self) {
        if !self.connected {
            return;
        }
        for errand in self.follower.errands() {
            match errand {
                Errand::Judge(url, receipt, verdict) => {
                    let client = self.clients.get_mut(&url).unwrap();
                    self.up.push_back(client.judge(&receipt, &verdict));
                }
                Errand::Renew(url, names) => {
                    let client = self.clients.get_mut(&url).unwrap();
                    self.up.extend(client.renew(&names));
                }
                Errand::Restart => panic!("the node has not changed"),
            }
        }
        for want in self.follower.wanted() {
            let Want::Resources(url, interest) = want else {
                panic!("the relay sends no notices");
            };
            let new = || DeltaClient::new(url.clone(), Interest::default());
            let client = self.clients.entry(url.clone()).or_insert_with(new);
            self.up.extend(client.subscribe(interest));
        }
    }

    fn istiod_reads(&mut self) {
        let Some(request) = self.up.pop_front() else {
            return;
        };
        let kind = ResourceKind::from_url(&request.type_url).unwrap();
        match self.istiod.get_mut(&kind).unwrap().request(&request) {
            Heard::Ack => self.heard.push((kind, None)),
            Heard::Nack(reason) => self.heard.push((kind, Some(reason))),
            Heard::First | Heard::Spontaneous | Heard::Stale => {}
        }
    }

    fn istiod_sends(&mut self) -> bool {
        let mut sent = false;
        for kind in KINDS.into_iter().filter(|_| self.connected) {
            let server = self.istiod.get_mut(&kind).unwrap();
            let response = server.respond(&self.catalogs[&kind], &Default::default());
            sent |= response.is_some();
            self.from_istiod.extend(response);
        }
        sent
    }

    fn relay_reads(&mut self) {
        if let Some(response) = self.from_istiod.pop_front() {
            let update = DeltaClient::update(response);
            let client = self.clients.get_mut(&update.url).unwrap();
            client.hold(&update.receipt);
            assert_eq!(self.follower.take(update), None);
        }
        if let Some(request) = self.requests.pop_front() {
            self.stream.take(&request).unwrap();
        }
        self.relay_speaks();
    }

    fn relay_sends(&mut self) -> bool {
        if !self.has_envoy() {
            return false;
        }
        let response = self.stream.next();
        let sent = response.is_some();
        self.responses.extend(response);
        self.relay_speaks();
        sent
    }

    fn envoy_reads(&mut self) {
        let Some(response) = self.responses.pop_front() else {
            return;
        };
        let kind = ResourceKind::from_url(&response.type_url).unwrap();
        self.order.push(kind);
        let held = self.held.get_mut(&kind).unwrap();
        let whole = self.refuse.then(|| "no".to_owned());
        let refused = std::mem::take(&mut self.refuse);
        for resource in response.resources.iter().filter(|_| !refused) {
            held.insert(resource.name.clone(), resource.version.clone());
        }
        for name in response.removed_resources.iter().filter(|_| !refused) {
            held.remove(name);
        }
        let client = self.envoy.get_mut(&kind).unwrap();
        let verdict = Verdict {
            whole,
            ..Default::default()
        };
        self.requests.push_back(client.answer(&response, &verdict));
        let wanted = Interest::of(self.held[&CLUSTER].keys().cloned());
        let endpoints = self.envoy.get_mut(&ENDPOINTS).unwrap();
        self.requests.extend(endpoints.subscribe(wanted.clone()));
        let held = self.held.get_mut(&ENDPOINTS).unwrap();
        held.retain(|name, _| wanted.contains(name));
    }

    /// Until nobody has anything to say.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let mut busy = self.istiod_sends();
            busy |= self.relay_sends();
            busy |= !(self.up.is_empty() && self.from_istiod.is_empty());
            busy |= !(self.requests.is_empty() && self.responses.is_empty());
            self.istiod_reads();
            self.relay_reads();
            self.envoy_reads();
            if !busy {
                return;
            }
        }
        panic!("somebody spins");
    }

    /// Names and versions that Envoy has.
    fn has(&self, kind: ResourceKind) -> String {
        let held = self.held[&kind].iter();
        held.map(|(name, version)| format!("{name}{version}"))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// What it should have.
    fn should_have(&self, kind: ResourceKind) -> String {
        let clusters = &self.catalogs[&CLUSTER];
        let wanted = |name: &str| kind != ENDPOINTS || clusters.contains_key(name);
        let catalog = self.catalogs[&kind].iter();
        catalog
            .filter(|(name, _)| wanted(name))
            .map(|(name, resource)| format!("{name}{}", resource.version))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

#[tokio::test]
async fn what_envoy_will_ask_for_is_there_before_it_comes() {
    let mut world = World::expecting();
    for (kind, name) in [(CLUSTER, "a"), (ENDPOINTS, "a"), (LISTENER, "l")] {
        world.set(kind, name, 1);
    }
    for _ in 0..6 {
        world.istiod_reads();
        world.istiod_sends();
        world.relay_reads();
    }
    assert_eq!(world.heard, [], "nothing is accepted in Envoy's place");
    world.lose_istiod();
    world.restart_envoy();
    world.settle();
    let held = KINDS.map(|kind| world.has(kind));
    assert_eq!(held, ["a1", "a1", "l1"]);
}

#[tokio::test]
async fn a_restarted_envoy_is_served_while_istiod_is_gone() {
    let mut world = World::new();
    for (kind, name) in [(CLUSTER, "a"), (ENDPOINTS, "a"), (LISTENER, "l")] {
        world.set(kind, name, 1);
    }
    world.settle();
    world.lose_istiod();
    world.restart_envoy();
    world.settle();
    assert_eq!(world.has(CLUSTER), "a1");
    assert_eq!(world.has(ENDPOINTS), "a1");
    assert_eq!(world.has(LISTENER), "l1");
    // istiod comes back with something new.
    world.set(CLUSTER, "b", 2);
    world.set(CLUSTER, "a", 0);
    world.set(LISTENER, "l", 2);
    world.connect_istiod();
    world.settle();
    assert_eq!(world.has(CLUSTER), "b2");
    assert_eq!(world.has(LISTENER), "l2");
}

#[tokio::test]
async fn istiod_hears_what_envoy_says() {
    let mut world = World::new();
    world.set(CLUSTER, "a", 1);
    world.set(LISTENER, "l", 1);
    // Nothing is said before Envoy has spoken.
    world.istiod_sends();
    assert!(world.heard.is_empty());
    world.settle();
    assert!(world.heard.contains(&(CLUSTER, None)));
    assert!(world.heard.contains(&(LISTENER, None)));
    world.heard.clear();
    world.set(LISTENER, "l", 2);
    world.refuse = true;
    world.settle();
    assert_eq!(world.heard, [(LISTENER, Some("no".to_owned()))]);
    world.heard.clear();
    world.set(LISTENER, "l", 3);
    world.settle();
    assert_eq!(world.heard, [(LISTENER, None)]);
}

#[tokio::test]
async fn what_envoy_cannot_decode_is_left_out_and_istiod_is_told() {
    let mut world = World::new();
    world.set(CLUSTER, "a", 1);
    world.set_broken(CLUSTER, "b", 1);
    world.settle();
    assert_eq!(world.has(CLUSTER), "a1");
    let refusal = |world: &mut World| {
        let heard = std::mem::take(&mut world.heard);
        let last = heard.into_iter().rfind(|(kind, _)| *kind == CLUSTER);
        last.expect("an answer").1
    };
    let reason = refusal(&mut world).expect("a refusal");
    let expected = "b: malformed envoy.config.cluster.v3.Cluster: ";
    assert!(reason.starts_with(expected), "{reason}");
    let status = world.shared.recorder.subscribe();
    assert_eq!(status.borrow().kinds[&CLUSTER].refusals, 1);
    // A good form of it is taken; the last good one outlives a broken one, and Envoy itself.
    world.set(CLUSTER, "b", 2);
    world.settle();
    assert_eq!(
        (world.has(CLUSTER).as_str(), refusal(&mut world)),
        ("a1 b2", None)
    );
    world.set_broken(CLUSTER, "a", 3);
    world.set(CLUSTER, "c", 3);
    world.settle();
    assert!(refusal(&mut world).is_some_and(|it| it.starts_with("a: malformed")));
    world.lose_istiod();
    world.restart_envoy();
    world.settle();
    assert_eq!(world.has(CLUSTER), "a1 b2 c3");
}

#[tokio::test]
async fn endpoints_of_a_changed_cluster_are_sent_again_and_clusters_go_first() {
    let mut world = World::new();
    for (kind, name) in [(CLUSTER, "a"), (ENDPOINTS, "a"), (LISTENER, "l")] {
        world.set(kind, name, 1);
    }
    world.settle();
    world.order.clear();
    world.set(LISTENER, "l", 2);
    world.set(CLUSTER, "a", 2);
    // Both lie ready before Envoy is sent any of it.
    world.istiod_sends();
    world.relay_reads();
    world.relay_reads();
    world.settle();
    assert_eq!(world.order[..3], [CLUSTER, ENDPOINTS, LISTENER]);
}

#[tokio::test]
async fn a_type_that_is_not_for_envoy_is_not_passed_on() {
    let mut world = World::new();
    for url in [
        "type.googleapis.com/istio.networking.nds.v1.NameTable",
        "type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig",
        "istio.io/debug/syncz",
        "",
    ] {
        let request = DeltaDiscoveryRequest {
            type_url: url.into(),
            node: Some(Node::default()),
            ..Default::default()
        };
        world.stream.take(&request).unwrap();
        assert!(world.follower.wanted().is_empty(), "{url}");
    }
    let mut request = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/istio.workload.Workload".into(),
        ..Default::default()
    };
    let error = world.stream.take(&request).unwrap_err();
    assert!(error.message().contains("node"), "{error}");
    request.node = Some(Node::default());
    world.stream.take(&request).unwrap();
    assert_eq!(world.follower.wanted().len(), 1);
}

#[derive(Clone, Debug)]
enum Event {
    Set(usize, usize, u8),
    RefuseNext,
    IstiodReads,
    IstiodSends,
    RelayReads,
    RelaySends,
    EnvoyReads,
    LoseIstiod,
    ConnectIstiod,
    RestartEnvoy,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (0..3usize, 0..3usize, 0..4u8).prop_map(|(k, n, f)| Event::Set(k, n, f)),
        1 => Just(Event::RefuseNext),
        4 => Just(Event::IstiodReads),
        4 => Just(Event::IstiodSends),
        6 => Just(Event::RelayReads),
        4 => Just(Event::RelaySends),
        4 => Just(Event::EnvoyReads),
        1 => Just(Event::LoseIstiod),
        1 => Just(Event::ConnectIstiod),
        1 => Just(Event::RestartEnvoy),
    ];
    prop::collection::vec(event, 0..80)
}

proptest! {
    /// Whatever happens on the way, Envoy ends with what istiod has, and istiod with an answer to
    /// the newest response of each type.
    #[test]
    fn envoy_ends_with_what_istiod_has(events in events(), expected: bool) {
        let mut world = match expected {
            true => World::expecting(),
            false => World::new(),
        };
        for event in events {
            match event {
                Event::Set(kind, name, form) => world.set(KINDS[kind], ["a", "b", "c"][name], form),
                Event::RefuseNext => world.refuse = true,
                Event::IstiodReads => world.istiod_reads(),
                Event::IstiodSends => { world.istiod_sends(); }
                Event::RelayReads => world.relay_reads(),
                Event::RelaySends => { world.relay_sends(); }
                Event::EnvoyReads => world.envoy_reads(),
                Event::LoseIstiod => world.lose_istiod(),
                Event::ConnectIstiod => world.connect_istiod(),
                Event::RestartEnvoy => world.restart_envoy(),
            }
        }
        world.settle();
        for kind in KINDS.into_iter().filter(|_| world.connected && world.has_envoy()) {
            prop_assert!(world.istiod[&kind].settled(), "{:?} has no answer", kind);
        }
        world.connect_istiod();
        world.refuse = false;
        world.restart_envoy();
        world.settle();
        for kind in KINDS {
            prop_assert_eq!(world.has(kind), world.should_have(kind), "{:?}", kind);
            prop_assert!(world.istiod[&kind].settled(), "{:?} has no answer", kind);
        }
    }
}
