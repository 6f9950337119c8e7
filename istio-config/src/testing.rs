//! Resources and nodes for unit tests.

use std::path::Path;

use crate::{
    build::build,
    load::load,
    node::{DataPlane, Interception, Node, NodeKind},
    resources::{Built, Resources},
};

/// Loads `yaml` as the only file of a folder.
pub(crate) fn resources(yaml: &str) -> Resources {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "mesh.yaml", yaml);
    load(dir.path()).unwrap_or_else(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        panic!("{}", errors.join("\n"));
    })
}

pub(crate) fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}

/// An ingress gateway.
pub(crate) fn router() -> Node {
    let mut node = Node::new(NodeKind::Router, "gateway-0", "istio-system", "example.org");
    node.ips = vec!["10.0.0.9".parse().unwrap()];
    node.labels = [("istio".to_owned(), "ingressgateway".to_owned())].into();
    node.data_plane = DataPlane::Envoy;
    node
}

/// The sidecar of a workload `app: own` in namespace `default`.
pub(crate) fn sidecar(interception: Interception) -> Node {
    let mut node = Node::new(NodeKind::Sidecar, "own-0", "default", "example.org");
    node.ips = vec!["10.0.0.1".parse().unwrap()];
    node.labels = [("app".to_owned(), "own".to_owned())].into();
    node.interception = interception;
    node.data_plane = DataPlane::Envoy;
    node
}

pub(crate) fn built(yaml: &str, node: &Node) -> Built {
    build(&resources(yaml), node).unwrap()
}

/// The warnings of a build, as the user sees them.
pub(crate) fn warnings(built: &Built) -> Vec<String> {
    built.warnings.iter().map(ToString::to_string).collect()
}
