//! What a real istiod sends for a mesh, field by field beside what we build for it.
//!
//! `data/mesh` is the mesh, `data/recorded` what istiod (1.32-dev, without its own Envoy filters)
//! sent for it to an ingress gateway and to a sidecar. All listeners, routes, clusters and
//! endpoints must be the same, except for what [`EXPECTED`] lists.

#[path = "support/tree.rs"]
mod tree;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    fs,
    path::{Path, PathBuf},
};

use ithildin_istio_config::{Built, DataPlane, Node, NodeKind, build, load};
use ithildin_proto::pb::envoy::{
    config::{
        cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
        route::v3::RouteConfiguration,
    },
    service::discovery::v3::DeltaDiscoveryResponse,
};
use ithildin_xds::NameMap;
use prost::Message;
use serde_json::Value;

use tree::Tree;

/// A difference that stays.
struct Expected {
    kind: &'static str,
    /// Resources in which it may be.
    names: fn(&str) -> bool,
    /// End of the path.
    field: &'static str,
    reason: &'static str,
}

const EXPECTED: [Expected; 3] = [
    Expected {
        kind: "listener",
        names: |_| true,
        field: "tracing",
        reason: "without a tracing provider istiod's block only sets tags that nobody reads",
    },
    Expected {
        kind: "listener",
        names: |name| name == "virtualInbound",
        field: "default_validation_context.match_subject_alt_names",
        reason: "istiod admits its own trust domain by prefix; we leave that to the bundles, each \
                 of which verifies its own domain only, so that federated peers come in",
    },
    Expected {
        kind: "routes",
        names: |name| name == "80" || name == "8080",
        field: "typed_per_filter_config.envoy.filters.http.fault",
        reason: "the recorded mesh has a VirtualService with a fault, which we refuse; ours is \
                 the same without it",
    },
];

#[test]
fn the_configuration_is_istiods() {
    let resources = load(&data().join("mesh")).unwrap_or_else(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        panic!("{}", errors.join("\n"))
    });
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    for (name, kind) in [
        ("router", NodeKind::Router),
        ("productpage", NodeKind::Sidecar),
    ] {
        let built = build(&resources, &node(name, kind)).expect("the mesh can be built");
        assert!(built.warnings.is_empty(), "{:?}", built.warnings);
        for (number, text) in compare_all(name, &built) {
            match number {
                Some(number) => {
                    seen.insert(number);
                }
                None => problems.push(text),
            }
        }
    }
    for (number, expected) in EXPECTED.iter().enumerate() {
        if !seen.contains(&number) {
            problems.push(format!(
                "listed, but gone: {} {} ({})",
                expected.kind, expected.field, expected.reason
            ));
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// Each difference, with its number in the table if it is there.
fn compare_all(node: &str, built: &Built) -> Vec<(Option<usize>, String)> {
    let ours = &built.resources;
    let mut found = Vec::new();
    found.extend(compare::<Listener>(
        node,
        "listener",
        "listeners.pb",
        &ours.listeners,
    ));
    found.extend(compare::<RouteConfiguration>(
        node,
        "routes",
        "routes.pb",
        &ours.routes,
    ));
    found.extend(compare::<Cluster>(
        node,
        "cluster",
        "clusters.pb",
        &ours.clusters,
    ));
    found.extend(compare::<ClusterLoadAssignment>(
        node,
        "endpoints",
        "endpoints.pb",
        &ours.endpoints,
    ));
    found
}

fn compare<M: Message + Default + Debug>(
    node: &str,
    kind: &str,
    file: &str,
    ours: &NameMap<M>,
) -> Vec<(Option<usize>, String)> {
    let theirs = recorded::<M>(node, file);
    let mut found = Vec::new();
    for name in ours.keys().filter(|name| !theirs.contains_key(*name)) {
        found.push((None, format!("{node}: {kind} {name}: istiod sends none")));
    }
    for (name, theirs) in &theirs {
        let Some(ours) = ours.get(name) else {
            found.push((None, format!("{node}: {kind} {name}: we build none")));
            continue;
        };
        for difference in Tree::of(ours.as_ref()).differences(&Tree::of(theirs)) {
            let number = EXPECTED.iter().position(|expected| {
                expected.kind == kind
                    && (expected.names)(name)
                    && difference.path.ends_with(expected.field)
            });
            let text = format!(
                "{node}: {kind} {name}: {}\n    ours   {}\n    istiod {}",
                difference.path, difference.ours, difference.theirs
            );
            found.push((number, text));
        }
    }
    found
}

fn recorded<M: Message + Default>(node: &str, file: &str) -> BTreeMap<String, M> {
    let bytes = read(&data().join("recorded").join(node).join(file));
    let response = DeltaDiscoveryResponse::decode(bytes.as_slice()).expect("a recorded response");
    let resources = response.resources.into_iter().map(|resource| {
        let any = resource.resource.expect("a resource");
        let message = M::decode(any.value.as_slice()).expect("a resource of this type");
        (resource.name, message)
    });
    resources.collect()
}

/// The node that the recorded proxy said it was.
fn node(name: &str, kind: NodeKind) -> Node {
    let path = data().join("recorded").join(name).join("node.json");
    let json: Value = serde_json::from_slice(&read(&path)).expect("a recorded node");
    let metadata = &json["node"]["metadata"];
    let text = |field: &str| metadata[field].as_str().expect("a text").to_owned();
    let mut node = Node::new(kind, &text("NAME"), &text("NAMESPACE"), "cluster.local");
    node.ips = vec![text("INSTANCE_IPS").parse().expect("an address")];
    node.labels = serde_json::from_value(metadata["LABELS"].clone()).expect("labels");
    node.cluster_id = text("CLUSTER_ID");
    node.unprivileged = metadata["UNPRIVILEGED_POD"] == "true";
    node.data_plane = DataPlane::Envoy;
    node
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
