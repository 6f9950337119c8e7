//! The manifests in `istio-templates/standalone`: they parse, they hold what keeps a Pod safe, and the
//! resources in their ConfigMaps can be built.

use std::{fs, path::Path};

use ithildin_istio_config::{Built, DataPlane, Node, NodeKind, build, load};
use saphyr::{LoadableYamlNode, Yaml};

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../istio-templates")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn parse(text: &str) -> Vec<Yaml<'_>> {
    Yaml::load_from_str(text).expect("YAML")
}

/// The document of this kind.
fn kind<'a>(documents: &'a [Yaml<'a>], kind: &str) -> &'a Yaml<'a> {
    let found = documents
        .iter()
        .find(|document| text(document, &["kind"]) == kind);
    found.unwrap_or_else(|| panic!("no {kind}"))
}

fn at<'a>(yaml: &'a Yaml<'a>, path: &[&str]) -> &'a Yaml<'a> {
    path.iter().fold(yaml, |at, key| {
        let inner = match key.parse::<usize>() {
            Ok(index) => at.as_sequence().and_then(|items| items.get(index)),
            Err(_) => at.as_mapping_get(key),
        };
        inner.unwrap_or_else(|| panic!("no {key} of {path:?}"))
    })
}

fn text<'a>(yaml: &'a Yaml<'a>, path: &[&str]) -> &'a str {
    at(yaml, path)
        .as_str()
        .unwrap_or_else(|| panic!("{path:?} is not a text"))
}

/// The entry of a list with this name.
fn named<'a>(yaml: &'a Yaml<'a>, path: &[&str], name: &str) -> &'a Yaml<'a> {
    let items = at(yaml, path).as_sequence().expect("a list");
    let found = items.iter().find(|item| text(item, &["name"]) == name);
    found.unwrap_or_else(|| panic!("no {name} in {path:?}"))
}

fn is(yaml: &Yaml<'_>, path: &[&str], expected: bool) {
    assert_eq!(at(yaml, path).as_bool(), Some(expected), "{path:?}");
}

/// What the ConfigMap makes of a gateway with these labels.
fn built(documents: &[Yaml<'_>], namespace: &str, label: &str, trust_domain: &str) -> Built {
    let dir = tempfile::tempdir().expect("a folder");
    let data = at(kind(documents, "ConfigMap"), &["data"])
        .as_mapping()
        .expect("files");
    for (name, content) in data {
        let file = dir.path().join(name.as_str().expect("a name"));
        fs::write(file, content.as_str().expect("a file")).expect("written");
    }
    let mut node = Node::new(NodeKind::Router, "gateway-0", namespace, trust_domain);
    node.labels = [("istio".to_owned(), label.to_owned())].into();
    node.data_plane = DataPlane::Builtin;
    node.unprivileged = true;
    let resources = load(dir.path()).unwrap_or_else(|errors| panic!("{errors:?}"));
    build(&resources, &node).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn check_deployment(documents: &[Yaml<'_>], trust_domain: &str) {
    let deployment = kind(documents, "Deployment");
    let pod = at(deployment, &["spec", "template", "spec"]);
    is(pod, &["securityContext", "runAsNonRoot"], true);
    is(pod, &["automountServiceAccountToken"], false);
    let csi = named(pod, &["volumes"], "spiffe-workload-api");
    assert_eq!(text(csi, &["csi", "driver"]), "csi.spiffe.io");
    is(csi, &["csi", "readOnly"], true);

    let proxy = named(pod, &["containers"], "istio-proxy");
    is(proxy, &["securityContext", "readOnlyRootFilesystem"], true);
    is(
        proxy,
        &["securityContext", "allowPrivilegeEscalation"],
        false,
    );
    assert_eq!(
        text(proxy, &["securityContext", "capabilities", "drop", "0"]),
        "ALL"
    );
    assert_eq!(
        text(named(proxy, &["env"], "TRUST_DOMAIN"), &["value"]),
        trust_domain
    );
    let socket = text(named(proxy, &["env"], "SPIFFE_ENDPOINT_SOCKET"), &["value"]);
    let mount = named(proxy, &["volumeMounts"], "spiffe-workload-api");
    is(mount, &["readOnly"], true);
    assert!(socket.starts_with(&format!("unix://{}/", text(mount, &["mountPath"]))));
    // Every mount has its volume, and the labels of the Pod are those that the Gateway selects.
    for mount in at(proxy, &["volumeMounts"]).as_sequence().expect("mounts") {
        named(pod, &["volumes"], text(mount, &["name"]));
    }
    let selector = at(deployment, &["spec", "selector", "matchLabels"])
        .as_mapping()
        .expect("labels");
    let labels = at(deployment, &["spec", "template", "metadata", "labels"]);
    for (name, value) in selector {
        let name = name.as_str().expect("a label");
        assert_eq!(Some(text(labels, &[name])), value.as_str());
        let service = at(kind(documents, "Service"), &["spec", "selector"]);
        assert_eq!(Some(text(service, &[name])), value.as_str());
    }
    let account = text(kind(documents, "ServiceAccount"), &["metadata", "name"]);
    assert_eq!(text(pod, &["serviceAccountName"]), account);
    let volume = named(pod, &["volumes"], "istio-resources");
    let map = text(kind(documents, "ConfigMap"), &["metadata", "name"]);
    assert_eq!(text(volume, &["configMap", "name"]), map);
}

#[test]
fn the_ingress_gateway_serves_httpbin() {
    let manifest = read("standalone/ingress-gateway.yaml");
    let documents = parse(&manifest);
    check_deployment(&documents, "example.org");
    let built = built(&documents, "istio-system", "ingressgateway", "example.org");
    assert!(built.warnings.is_empty(), "{:?}", built.warnings);
    assert!(built.resources.listeners.contains_key("0.0.0.0_8080"));
    let cluster = &built.resources.clusters["outbound|8000||httpbin.default.svc.cluster.local"];
    assert!(cluster.transport_socket.is_some());
}

#[test]
fn the_egress_gateway_originates_mtls() {
    let manifest = read("standalone/egress-gateway.yaml");
    let documents = parse(&manifest);
    check_deployment(&documents, "domain.test");
    let built = built(&documents, "istio-system", "egressgateway", "domain.test");
    assert!(built.warnings.is_empty(), "{:?}", built.warnings);
    assert!(built.resources.listeners.contains_key("0.0.0.0_8000"));
    let cluster = &built.resources.clusters["outbound|8000||app.example.org"];
    assert!(cluster.transport_socket.is_some());
}
