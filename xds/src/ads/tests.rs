//! The order of updates on one stream, with a peer that asks as Envoy does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ithildin_proto::{
    pb::envoy::{
        config::{
            cluster::v3::{Cluster, cluster},
            endpoint::v3::ClusterLoadAssignment,
            listener::v3::Listener,
            route::v3::RouteConfiguration,
        },
        service::discovery::v3::{DiscoveryRequest, DiscoveryResponse},
    },
    unpack,
};
use tokio::time::Instant;

use super::{session::Session, world::World};
use crate::{
    ResourceKind::{self, Cluster as Cds, Endpoints as Eds, Listener as Lds, Route as Rds},
    ResourceSet,
    subscription::{Interest, SotwClient, SotwServer},
};

/// Clusters that discover their endpoints, and one route configuration that mentions them.
fn set(clusters: &[&str]) -> ResourceSet {
    let cluster = |name: &&str| Cluster {
        name: (*name).into(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::Eds.into(),
        )),
        ..Default::default()
    };
    let route = RouteConfiguration {
        name: "route".into(),
        internal_only_headers: clusters.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    };
    let listener = Listener {
        name: "listener".into(),
        ..Default::default()
    };
    let endpoints = |name: &&str| ClusterLoadAssignment {
        cluster_name: (*name).into(),
        ..Default::default()
    };
    let named = |name: &&str| (*name).to_owned();
    ResourceSet {
        clusters: clusters
            .iter()
            .map(|n| (named(n), Arc::new(cluster(n))))
            .collect(),
        endpoints: clusters
            .iter()
            .map(|n| (named(n), Arc::new(endpoints(n))))
            .collect(),
        listeners: [("listener".into(), Arc::new(listener))].into(),
        routes: [("route".into(), Arc::new(route))].into(),
        provenance: None,
    }
}

/// A stream and its peer.
struct Peer {
    session: Session<SotwServer>,
    clients: BTreeMap<ResourceKind, SotwClient>,
    world: World,
    revision: u32,
    now: Instant,
}

impl Peer {
    fn new() -> Self {
        let client = |kind: ResourceKind| SotwClient::new(kind, Interest::default());
        Self {
            session: Session::new(),
            clients: ResourceKind::AGGREGATED
                .map(|kind| (kind, client(kind)))
                .into(),
            world: World::default(),
            revision: 0,
            now: Instant::now(),
        }
    }

    fn update(&mut self, set: &ResourceSet) {
        self.revision += 1;
        self.world = self.world.next(set, &self.revision.to_string().into());
    }

    fn ask(&mut self, kind: ResourceKind, names: &[&str]) {
        let interest = match names {
            [] => Interest::everything(),
            names => Interest::of(names.iter().copied()),
        };
        let request = self.clients.get_mut(&kind).unwrap().subscribe(interest);
        self.session.request(kind, &request.unwrap());
    }

    /// The next response: its type, and the names in it.
    fn next(&mut self) -> Option<(ResourceKind, Vec<String>, DiscoveryResponse)> {
        let (kind, response) = self.session.next(&self.world, self.now)?;
        let names = response.resources.iter().map(|any| match kind {
            Cds => unpack::<Cluster>(any).unwrap().name,
            Eds => unpack::<ClusterLoadAssignment>(any).unwrap().cluster_name,
            Lds => unpack::<Listener>(any).unwrap().name,
            Rds | ResourceKind::Secret => unpack::<RouteConfiguration>(any).unwrap().name,
        });
        Some((kind, names.collect(), response))
    }

    /// The next response must be this one. It is accepted.
    fn expect(&mut self, kind: ResourceKind, names: &[&str]) {
        let response = self.expect_unanswered(kind, names);
        self.answer(kind, &response, Ok(()));
    }

    fn expect_unanswered(&mut self, kind: ResourceKind, names: &[&str]) -> DiscoveryResponse {
        let (got, got_names, response) = self.next().expect("a response");
        assert_eq!(
            (
                got,
                got_names.iter().map(String::as_str).collect::<Vec<_>>()
            ),
            (kind, names.to_vec())
        );
        response
    }

    fn answer(&mut self, kind: ResourceKind, to: &DiscoveryResponse, verdict: Result<(), String>) {
        let answer: DiscoveryRequest = self.clients.get_mut(&kind).unwrap().answer(to, verdict);
        self.session.request(kind, &answer);
    }

    fn expect_nothing(&mut self) {
        let next = self.next();
        assert!(next.is_none(), "{next:?}");
    }

    /// Started as Envoy starts, with these clusters.
    fn serving(clusters: &[&str]) -> Self {
        let mut peer = Self::new();
        peer.update(&set(clusters));
        peer.expect_nothing();
        peer.ask(Cds, &[]);
        peer.expect(Cds, clusters);
        peer.ask(Eds, clusters);
        peer.expect(Eds, clusters);
        peer.ask(Lds, &[]);
        peer.expect(Lds, &["listener"]);
        peer.ask(Rds, &["route"]);
        peer.expect(Rds, &["route"]);
        peer.expect_nothing();
        peer
    }
}

#[test]
fn a_new_cluster_is_warm_before_a_route_leads_there() {
    let mut peer = Peer::serving(&["a"]);
    peer.update(&set(&["a", "b"]));
    let clusters = peer.expect_unanswered(Cds, &["a", "b"]);
    peer.expect_nothing();
    peer.answer(Cds, &clusters, Ok(()));
    peer.expect_nothing();
    peer.ask(Eds, &["a", "b"]);
    let endpoints = peer.expect_unanswered(Eds, &["b"]);
    peer.expect_nothing();
    peer.answer(Eds, &endpoints, Ok(()));
    peer.expect(Rds, &["route"]);
    peer.expect_nothing();
}

#[test]
fn a_cluster_goes_after_the_routes_that_led_there() {
    let mut peer = Peer::serving(&["a", "b"]);
    peer.update(&set(&["b"]));
    let route = peer.expect_unanswered(Rds, &["route"]);
    peer.expect_nothing();
    peer.answer(Rds, &route, Ok(()));
    peer.expect_nothing();
    let wake = peer.session.wake().expect("a time to look again");
    peer.now = wake;
    peer.expect(Cds, &["b"]);
    peer.expect_nothing();
    assert_eq!(peer.session.wake(), None);
}

#[test]
fn a_cluster_that_returns_in_time_never_goes() {
    let mut peer = Peer::serving(&["a", "b"]);
    peer.update(&set(&["b"]));
    peer.expect(Rds, &["route"]);
    peer.expect_nothing();
    peer.update(&set(&["a", "b"]));
    peer.expect(Cds, &["a", "b"]);
    peer.expect(Eds, &["a"]);
    peer.expect(Rds, &["route"]);
    peer.now += Duration::from_secs(60);
    peer.expect_nothing();
}

#[test]
fn a_changed_cluster_gets_its_endpoints_again() {
    let mut peer = Peer::serving(&["a", "b"]);
    let mut next = set(&["a", "b"]);
    let mut changed = Cluster::clone(&next.clusters["a"]);
    changed.alt_stat_name = "other".into();
    next.clusters.insert("a".into(), Arc::new(changed));
    peer.update(&next);
    peer.expect(Cds, &["a", "b"]);
    peer.expect(Eds, &["a"]);
    peer.expect_nothing();
}

#[test]
fn a_peer_that_never_warms_a_cluster_is_waited_for_only_so_long() {
    let mut peer = Peer::serving(&["a"]);
    peer.update(&set(&["a", "b"]));
    peer.expect(Cds, &["a", "b"]);
    peer.expect_nothing();
    peer.now = peer.session.wake().expect("a limit");
    peer.expect(Rds, &["route"]);
    peer.expect_nothing();
}

#[test]
fn refused_clusters_hold_nothing_up() {
    let mut peer = Peer::serving(&["a"]);
    peer.update(&set(&["a", "b"]));
    let clusters = peer.expect_unanswered(Cds, &["a", "b"]);
    peer.answer(Cds, &clusters, Err("no".into()));
    peer.expect(Rds, &["route"]);
    peer.expect_nothing();
}

#[test]
fn the_same_again_is_not_sent() {
    let mut peer = Peer::serving(&["a"]);
    peer.update(&set(&["a"]));
    peer.expect_nothing();
}

#[test]
fn a_cluster_without_endpoints_has_none_to_discover() {
    let mut empty = set(&["a"]);
    empty.endpoints.clear();
    let mut peer = Peer::new();
    peer.update(&empty);
    peer.ask(Cds, &[]);
    peer.expect(Cds, &["a"]);
    peer.ask(Eds, &["a"]);
    peer.expect(Eds, &["a"]);
}
