//! Properties: whatever the interleaving of updates, refusals, subscriptions, lost streams and slow
//! peers, the client ends with what the server has, and nobody spins.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use ithildin_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use proptest::prelude::*;

use super::{catalog, respond};
use crate::{
    ResourceKind,
    subscription::{
        Catalog, DeltaClient, DeltaServer, Interest, Server, SotwClient, SotwServer, Verdict,
    },
};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Debug)]
enum Event {
    /// A resource gets a version; 0 removes it.
    Set(usize, u8),
    /// The client wants the names of this bit mask.
    Want(u8),
    /// The client refuses the next response that it sees.
    RefuseNext,
    ServerReads,
    ServerSends,
    ClientReads,
    Reconnect,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => (0..NAMES.len(), 0..4u8).prop_map(|(name, version)| Event::Set(name, version)),
        1 => (0..16u8).prop_map(Event::Want),
        1 => Just(Event::RefuseNext),
        3 => Just(Event::ServerReads),
        3 => Just(Event::ServerSends),
        3 => Just(Event::ClientReads),
        1 => Just(Event::Reconnect),
    ];
    prop::collection::vec(event, 0..60)
}

fn wanted(mask: u8) -> Interest {
    Interest::of(
        (0..NAMES.len())
            .filter(|bit| mask & (1 << bit) != 0)
            .map(|bit| NAMES[bit]),
    )
}

fn set(world: &mut Catalog, name: usize, version: u8) {
    match version {
        0 => {
            world.remove(NAMES[name]);
        }
        _ => world.extend(catalog(&format!("{}={version}", NAMES[name]))),
    }
}

/// A pair of machines and the wires between them. What differs between the two protocols.
trait Pair {
    type Up;
    type Down;
    fn connect(&mut self) -> Option<Self::Up>;
    fn want(&mut self, interest: Interest) -> Option<Self::Up>;
    fn serve(&mut self, request: &Self::Up);
    fn respond(&mut self, world: &Catalog) -> Option<Self::Down>;
    fn take(&mut self, response: &Self::Down, refuse: bool) -> Self::Up;
    /// What the client holds, as body texts by name, and whether absence is told to it.
    fn held(&self) -> &BTreeMap<String, Vec<u8>>;
    const TELLS_REMOVAL: bool;
}

struct Sim<P: Pair> {
    pair: P,
    world: Catalog,
    up: VecDeque<P::Up>,
    down: VecDeque<P::Down>,
    interest: Interest,
    refuse: bool,
}

impl<P: Pair> Sim<P> {
    fn new(pair: P, interest: Interest) -> Self {
        let mut sim = Self {
            pair,
            world: Catalog::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            interest,
            refuse: false,
        };
        sim.up.extend(sim.pair.connect());
        sim
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Set(name, version) => set(&mut self.world, name, version),
            Event::Want(mask) if !self.interest.is_wildcard() => {
                self.interest = wanted(mask);
                self.up.extend(self.pair.want(self.interest.clone()));
            }
            Event::Want(_) => {}
            Event::RefuseNext => self.refuse = true,
            Event::ServerReads => {
                if let Some(request) = self.up.pop_front() {
                    self.pair.serve(&request);
                }
            }
            Event::ServerSends => self.down.extend(self.pair.respond(&self.world)),
            Event::ClientReads => {
                if let Some(response) = self.down.pop_front() {
                    let refuse = std::mem::take(&mut self.refuse);
                    self.up.push_back(self.pair.take(&response, refuse));
                }
            }
            Event::Reconnect => {
                self.up.clear();
                self.down.clear();
                self.up.extend(self.pair.connect());
            }
        }
    }

    /// Lets all that is under way arrive. Returns how many responses that took.
    fn settle(&mut self) -> usize {
        self.refuse = false;
        let mut responses = 0;
        loop {
            let before = (self.up.len(), self.down.len());
            self.step(Event::ServerReads);
            self.step(Event::ServerSends);
            responses += usize::from(self.down.len() > before.1);
            self.step(Event::ClientReads);
            if before == (0, 0) && self.up.is_empty() && self.down.is_empty() {
                return responses;
            }
            assert!(responses < 100, "the two never come to rest");
        }
    }

    fn check(mut self, events: Vec<Event>) {
        for event in events {
            self.step(event);
        }
        self.settle();
        // What was refused is not sent again; a new version of everything is.
        for (index, name) in NAMES.iter().enumerate() {
            if self.world.contains_key(*name) {
                set(&mut self.world, index, 9);
            }
        }
        assert!(self.settle() <= 1, "one update, more than one response");
        assert_eq!(self.settle(), 0, "responses without an update");
        for (name, resource) in &self.world {
            let expected = self.interest.contains(name).then_some(&resource.body.value);
            assert_eq!(self.pair.held().get(name), expected, "{name}");
        }
        if P::TELLS_REMOVAL {
            assert!(
                self.pair
                    .held()
                    .keys()
                    .all(|name| self.world.contains_key(name))
            );
        }
    }
}

struct Sotw {
    kind: ResourceKind,
    client: SotwClient,
    server: SotwServer,
    interest: Interest,
    held: BTreeMap<String, Vec<u8>>,
}

impl Sotw {
    fn new(kind: ResourceKind, interest: Interest) -> Self {
        Self {
            kind,
            client: SotwClient::new(kind, interest.clone()),
            server: SotwServer::new(kind),
            interest,
            held: BTreeMap::new(),
        }
    }
}

impl Pair for Sotw {
    type Up = DiscoveryRequest;
    type Down = DiscoveryResponse;
    const TELLS_REMOVAL: bool = false;

    fn connect(&mut self) -> Option<DiscoveryRequest> {
        self.server = SotwServer::new(self.kind);
        self.client.connect()
    }

    fn want(&mut self, interest: Interest) -> Option<DiscoveryRequest> {
        self.held.retain(|name, _| interest.contains(name));
        self.interest = interest.clone();
        self.client.subscribe(interest)
    }

    fn serve(&mut self, request: &DiscoveryRequest) {
        self.server.request(request);
    }

    fn respond(&mut self, world: &Catalog) -> Option<DiscoveryResponse> {
        respond(&mut self.server, world)
    }

    fn take(&mut self, response: &DiscoveryResponse, refuse: bool) -> DiscoveryRequest {
        if refuse {
            return self.client.answer(response, Err("refused".into()));
        }
        if self.kind.full_state() {
            self.held.clear();
        }
        for any in &response.resources {
            let name = String::from_utf8_lossy(&any.value[..1]).into_owned();
            if self.interest.contains(&name) {
                self.held.insert(name, any.value.clone());
            }
        }
        self.client.answer(response, Ok(()))
    }

    fn held(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.held
    }
}

struct Delta {
    client: DeltaClient,
    server: DeltaServer,
    interest: Interest,
    held: BTreeMap<String, Vec<u8>>,
}

impl Delta {
    fn new(interest: Interest) -> Self {
        Self {
            client: DeltaClient::new(ResourceKind::Cluster, interest.clone()),
            server: DeltaServer::new(ResourceKind::Cluster),
            interest,
            held: BTreeMap::new(),
        }
    }
}

impl Pair for Delta {
    type Up = DeltaDiscoveryRequest;
    type Down = DeltaDiscoveryResponse;
    const TELLS_REMOVAL: bool = true;

    fn connect(&mut self) -> Option<DeltaDiscoveryRequest> {
        self.server = DeltaServer::new(ResourceKind::Cluster);
        self.client.connect()
    }

    fn want(&mut self, interest: Interest) -> Option<DeltaDiscoveryRequest> {
        self.held.retain(|name, _| interest.contains(name));
        self.interest = interest.clone();
        self.client.subscribe(interest)
    }

    fn serve(&mut self, request: &DeltaDiscoveryRequest) {
        self.server.request(request);
    }

    fn respond(&mut self, world: &Catalog) -> Option<DeltaDiscoveryResponse> {
        respond(&mut self.server, world)
    }

    fn take(&mut self, response: &DeltaDiscoveryResponse, refuse: bool) -> DeltaDiscoveryRequest {
        let mut verdict = Verdict::default();
        for resource in &response.resources {
            let body = resource.resource.as_ref().unwrap().value.clone();
            if refuse {
                verdict
                    .refused
                    .insert(resource.name.clone(), "refused".into());
            } else if self.interest.contains(&resource.name) {
                self.held.insert(resource.name.clone(), body);
            }
        }
        for name in &response.removed_resources {
            self.held.remove(name);
        }
        self.client.answer(response, &verdict)
    }

    fn held(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.held
    }
}

proptest! {
    #[test]
    fn named_state_of_the_world_converges(mask in 0..16u8, events in events()) {
        let pair = Sotw::new(ResourceKind::Secret, wanted(mask));
        Sim::new(pair, wanted(mask)).check(events);
    }

    #[test]
    fn whole_state_of_the_world_converges(events in events()) {
        let pair = Sotw::new(ResourceKind::Cluster, Interest::everything());
        Sim::new(pair, Interest::everything()).check(events);
    }

    #[test]
    fn named_delta_converges(mask in 0..16u8, events in events()) {
        Sim::new(Delta::new(wanted(mask)), wanted(mask)).check(events);
    }

    #[test]
    fn whole_delta_converges(events in events()) {
        Sim::new(Delta::new(Interest::everything()), Interest::everything()).check(events);
    }

    /// The same version of a resource is sent once, unless the client asks for it anew.
    #[test]
    fn nothing_is_sent_twice(events in events()) {
        let mut server = DeltaServer::new(ResourceKind::Cluster);
        server.request(&DeltaDiscoveryRequest::default());
        let mut world = Catalog::new();
        let mut last: BTreeMap<String, Arc<str>> = BTreeMap::new();
        for event in events {
            if let Event::Set(name, version) = event {
                set(&mut world, name, version);
            }
            for resource in respond(&mut server, &world).into_iter().flat_map(|r| r.resources) {
                let version: Arc<str> = resource.version.into();
                let before = last.insert(resource.name.clone(), version.clone());
                prop_assert_ne!(before, Some(version));
            }
            last.retain(|name, _| world.contains_key(name));
        }
    }
}
