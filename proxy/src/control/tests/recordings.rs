//! What a real istiod sends to an Envoy without Istio's own extensions compiles, except for what
//! the table names.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use ithildin_proto::{pb::envoy::service::discovery::v3::DeltaDiscoveryResponse, unpack};
use ithildin_xds::{ResourceSet, SecretState, ads::Candidate};
use prost::{Message, Name};

use super::support::Bench;
use crate::control::check_resource;

/// What is refused, by kind, place and message, and how often. Traffic capture is not there, so
/// neither are listeners that need it; injecting faults is not either.
const ROUTER: &[(&str, usize)] = &[];
const SIDECAR: &[(&str, usize)] = &[
    (
        "Listener listener_filters: envoy.filters.listener.http_inspector is not supported where a \
         filter chain is chosen by what it finds",
        8,
    ),
    (
        "Listener listener_filters[0].typed_config: type \
         envoy.extensions.filters.listener.original_dst.v3.OriginalDst is not supported",
        1,
    ),
    (
        "Listener listener_filters[1].filter_disabled: is not supported",
        1,
    ),
    ("Listener use_original_dst: true is not supported", 1),
    (
        "Route virtual_hosts[].routes[].typed_per_filter_config[\"envoy.filters.http.fault\"]: is not supported",
        2,
    ),
];

#[tokio::test]
async fn router() {
    check("router", ROUTER).await;
}

#[tokio::test]
async fn sidecar() {
    check("sidecar-productpage", SIDECAR).await;
}

async fn check(node: &str, expected: &[(&str, usize)]) {
    let set = load(node);
    let mut found = BTreeMap::<String, usize>::new();
    let mut add = |kind: &str, checked: Result<(), String>| {
        let errors = checked.err().unwrap_or_default();
        for error in errors.lines() {
            let place = error.split_once("\".").map_or(error, |(_, place)| place);
            *found
                .entry(format!("{kind} {}", without_hosts(place)))
                .or_default() += 1;
        }
    };
    for cluster in set.clusters.values() {
        add("Cluster", check_resource(Candidate::Cluster(cluster)));
    }
    for endpoints in set.endpoints.values() {
        add("Endpoints", check_resource(Candidate::Endpoints(endpoints)));
    }
    for listener in set.listeners.values() {
        add("Listener", check_resource(Candidate::Listener(listener)));
    }
    for routes in set.routes.values() {
        add("Route", check_resource(Candidate::Route(routes)));
    }
    let table = expected
        .iter()
        .map(|(text, count)| (text.to_string(), *count));
    assert_eq!(found, table.collect());
    serves(set, expected).await;
}

/// What is not refused goes live, once the secrets are there.
async fn serves(set: ResourceSet, expected: &[(&str, usize)]) {
    let refused = |kind: &str| {
        let of_kind = expected.iter().filter(|(text, _)| text.starts_with(kind));
        of_kind.map(|(_, count)| count).sum::<usize>()
    };
    let (clusters, listeners) = (set.clusters.len(), set.listeners.len());
    let bench = Bench::start(set);
    for name in ["default", "ROOTCA"] {
        bench
            .secrets
            .set(name, SecretState::Unavailable("not in this test".into()));
    }
    bench
        .until("all is warm", |state| {
            state.started && state.waiting.is_empty()
        })
        .await;
    let snapshot = bench.snapshot();
    assert_eq!(snapshot.clusters.len(), clusters - refused("Cluster"));
    // One listener has two errors, and two share a route configuration that is refused.
    assert!(snapshot.listeners.len() + refused("Listener") >= listeners);
}

/// Virtual hosts and routes without their numbers.
fn without_hosts(place: &str) -> String {
    let digit = |c: char| c.is_ascii_digit();
    let mut parts = place.split('.');
    let short = parts.by_ref().map(|part| match part.split_once('[') {
        Some((name @ ("virtual_hosts" | "routes"), rest)) => {
            format!("{name}[{}", rest.trim_start_matches(digit))
        }
        _ => part.to_owned(),
    });
    short.collect::<Vec<_>>().join(".")
}

fn load(node: &str) -> ResourceSet {
    ResourceSet {
        clusters: read(node, "Cluster"),
        listeners: read(node, "Listener"),
        endpoints: read(node, "ClusterLoadAssignment"),
        routes: read(node, "RouteConfiguration"),
    }
}

fn read<M: Message + Name + Default>(node: &str, kind: &str) -> BTreeMap<String, Arc<M>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/istiod");
    let path = path.join(node).join(format!("{kind}.pb"));
    let bytes = std::fs::read(&path).expect("the recording is there");
    let response = DeltaDiscoveryResponse::decode(bytes.as_slice()).expect("a response");
    assert!(!response.resources.is_empty(), "{kind} is empty");
    let resources = response.resources.into_iter();
    resources
        .map(|resource| {
            let any = resource.resource.expect("a resource");
            (
                resource.name,
                Arc::new(unpack(&any).expect("the type that it says")),
            )
        })
        .collect()
}
