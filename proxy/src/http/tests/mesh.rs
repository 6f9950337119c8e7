//! Istio's filters on requests: what proxies tell each other, and what is counted of it.

use std::sync::Arc;

use bytes::Bytes;
use ithildin_proto::{from_yaml, pb::envoy::config::core::v3::Node as NodeProto};

use super::support::{Origin, Site, header_values, manager, ok, route, send, table, to};
use crate::{
    config::{
        Cluster, HttpManager,
        filters::{FilterKind, HttpFilter},
    },
    istio::{
        Node, PeerMetadata, Service, Telemetry, Tell,
        telemetry::{Changes, Dimension, MeshMetric, MeshRegistry, Reporter},
    },
    rbac::{Action, Rbac, RuleSet},
    stats::{Metric, Value},
    testing,
};

const METADATA: &str = "x-envoy-peer-metadata";
const ID: &str = "x-envoy-peer-metadata-id";

fn node(name: &str) -> Arc<Node> {
    let node: NodeProto = from_yaml(&format!(
        "{{id: sidecar~{name}, metadata: {{NAME: {name}-0, NAMESPACE: default, \
         WORKLOAD_NAME: {name}, CLUSTER_ID: Kubernetes, ISTIO_VERSION: '1.0', LABELS: {{app: {name}, \
         version: v1, service.istio.io/canonical-name: {name}}}}}}}"
    ))
    .expect("valid");
    Arc::new(Node::new(Some(&node)))
}

fn filter(kind: FilterKind) -> HttpFilter {
    HttpFilter {
        name: "f".into(),
        disabled: false,
        kind,
    }
}

/// A sidecar of the workload `name`.
fn sidecar(manager: &mut HttpManager, name: &str, reporter: Reporter) -> Arc<MeshRegistry> {
    let node = node(name);
    let (hears, tells) = match reporter {
        Reporter::Source => ([false, true], [Tell::Nobody, Tell::TheMesh]),
        _ => ([true, false], [Tell::Everybody, Tell::Nobody]),
    };
    let peers = PeerMetadata::new(&node, &[], hears, tells);
    let registry: Arc<MeshRegistry> = Arc::default();
    let mut changes = Changes::default();
    changes.change(MeshMetric::Requests, "request_host", Dimension::Computed(0));
    changes.change(MeshMetric::Requests, "source_app", Dimension::Removed);
    changes.drop_metric(MeshMetric::ResponseBytes);
    let telemetry = Arc::new(Telemetry {
        id: testing::generation(),
        reporter,
        node,
        host_fallback: reporter == Reporter::Source,
        changes,
        expressions: vec![crate::access_log::Expression::parse("request.host").expect("valid")],
        registry: Arc::clone(&registry),
    });
    manager
        .filters
        .push(filter(FilterKind::PeerMetadata(peers)));
    manager
        .filters
        .push(filter(FilterKind::Telemetry(telemetry)));
    registry
}

async fn site(origin: &Origin, name: &str, reporter: Reporter) -> (Site, Arc<MeshRegistry>) {
    site_to(origin, name, reporter, |_| ()).await
}

async fn site_to(
    origin: &Origin,
    name: &str,
    reporter: Reporter,
    change: impl FnOnce(&mut Cluster),
) -> (Site, Arc<MeshRegistry>) {
    let mut manager = manager(table(vec![route("/", to("origin"))]));
    let registry = sidecar(&mut manager, name, reporter);
    let mut cluster = testing::cluster("origin", &[origin.address]);
    change(&mut cluster);
    (Site::start(manager, vec![cluster]).await, registry)
}

fn metadata(name: &str) -> String {
    let filter = PeerMetadata::new(&node(name), &[], [false; 2], [Tell::Nobody; 2]);
    String::from_utf8(filter.metadata.to_vec()).expect("base64")
}

/// The one metric of this family, once it is there.
async fn metric(registry: &MeshRegistry, family: &str) -> Metric {
    let mut found = Vec::new();
    testing::eventually(family, || {
        found.clear();
        registry.read(&mut |metric| {
            if metric.family == format!("istiocustom.{family}") {
                found.push(metric);
            }
        });
        !found.is_empty()
    })
    .await;
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

fn label<'m>(metric: &'m Metric, key: &str) -> Option<&'m str> {
    let tag = metric.tags.iter().find(|tag| tag.key == key)?;
    Some(&tag.value)
}

#[tokio::test]
async fn a_client_tells_the_mesh_and_hears_the_server() {
    let answer = format!(
        "HTTP/1.1 200 OK\r\n{METADATA}: {}\r\n{ID}: sidecar~b\r\ncontent-length: 0\r\n\r\n",
        metadata("b")
    );
    let origin = Origin::start(move |_| send(&answer)).await;
    let (site, registry) = site_to(&origin, "a", Reporter::Source, |cluster| {
        cluster.mesh.service = Some(Service {
            host: "b.default.svc".into(),
            name: "b".into(),
            namespace: "default".into(),
        });
    })
    .await;
    let own = "GET / HTTP/1.1\r\nHost: asked.test\r\nx-envoy-peer-metadata: forged\r\n\r\n";
    let answer = site.ask(own).await;
    assert_eq!(answer.header(METADATA), None, "{}", answer.head);
    assert_eq!(answer.header(ID), None, "{}", answer.head);
    let request = &origin.requests()[0];
    assert_eq!(header_values(request, METADATA), [metadata("a")]);
    assert_eq!(header_values(request, ID), ["sidecar~a"]);

    let metric = metric(&registry, "istio_requests_total").await;
    assert_eq!(metric.value, Value::Counter(1));
    for (key, value) in [
        ("reporter", Some("source")),
        ("source_workload", Some("a")),
        ("source_app", None),
        ("source_principal", Some("unknown")),
        ("destination_workload", Some("b")),
        ("destination_workload_namespace", Some("default")),
        ("destination_app", Some("b")),
        ("destination_version", Some("v1")),
        ("destination_canonical_revision", Some("latest")),
        ("destination_service", Some("b.default.svc")),
        ("destination_service_name", Some("b")),
        ("destination_service_namespace", Some("default")),
        ("destination_cluster", Some("Kubernetes")),
        ("request_protocol", Some("http")),
        ("response_code", Some("200")),
        ("grpc_response_status", Some("")),
        ("response_flags", Some("-")),
        ("connection_security_policy", Some("unknown")),
        ("request_host", Some("asked.test")),
    ] {
        assert_eq!(label(&metric, key), value, "{key}");
    }
    let mut families = Vec::new();
    registry.read(&mut |metric| families.push(metric.family));
    assert!(!families.contains(&"istiocustom.istio_response_bytes".to_owned()));
    assert!(families.contains(&"istiocustom.istio_request_duration_milliseconds".to_owned()));
    assert!(families.contains(&"istiocustom.istio_build".to_owned()));
}

#[tokio::test]
async fn a_server_answers_those_who_told_it_who_they_are() {
    let origin = Origin::echo().await;
    let (site, registry) = site(&origin, "b", Reporter::Destination).await;
    let told = format!(
        "GET / HTTP/1.1\r\nHost: b\r\n{METADATA}: {}\r\n{ID}: sidecar~a\r\n\r\n",
        metadata("a")
    );
    let answer = site.ask(&told).await;
    assert_eq!(answer.header(METADATA), Some(&*metadata("b")));
    assert_eq!(answer.header(ID), Some("sidecar~b"));
    assert!(header_values(&origin.requests()[0], METADATA).is_empty());
    let first = metric(&registry, "istio_requests_total").await;
    assert_eq!(label(&first, "source_workload"), Some("a"));
    assert_eq!(label(&first, "source_canonical_service"), Some("a"));
    assert_eq!(label(&first, "destination_workload"), Some("b"));
    assert_eq!(label(&first, "destination_service"), Some("b"));
    assert_eq!(label(&first, "connection_security_policy"), Some("none"));

    let answer = site.ask("GET / HTTP/1.1\r\nHost: b\r\n\r\n").await;
    assert_eq!(answer.header(METADATA), None);
    assert_eq!(answer.header(ID), None);
}

#[tokio::test]
async fn strangers_learn_nothing() {
    let origin = Origin::echo().await;
    for external in [false, true] {
        let (site, _) = site_to(&origin, "a", Reporter::Source, |cluster| {
            cluster.mesh.external = external;
        })
        .await;
        let answer = site.ask("GET / HTTP/1.1\r\nHost: b\r\n\r\n").await;
        assert_eq!(header_values(&answer.body, METADATA).is_empty(), external);
    }
}

#[tokio::test]
async fn failures_are_counted_with_their_flags() {
    let origin = Origin::start(|_| super::support::Act::Close).await;
    let (site, registry) = site(&origin, "a", Reporter::Source).await;
    let answer = site
        .ask("POST / HTTP/1.1\r\nHost: b\r\ncontent-length: 0\r\n\r\n")
        .await;
    assert_eq!(answer.status, 503);
    let metric = metric(&registry, "istio_requests_total").await;
    assert_eq!(label(&metric, "response_code"), Some("503"));
    assert_eq!(label(&metric, "response_flags"), Some("UC"));
    assert_eq!(label(&metric, "destination_workload"), Some("unknown"));
    assert_eq!(label(&metric, "destination_service"), Some("b"));
}

/// Whoever answers in its place: a filter before the one that counts, or nobody's route.
#[tokio::test]
async fn what_goes_no_further_is_counted_too() {
    let origin = Origin::echo().await;
    let mut manager = manager(table(vec![route("/shop", to("origin"))]));
    let registry = sidecar(&mut manager, "b", Reporter::Destination);
    let nobody = RuleSet {
        action: Action::Allow,
        policies: Vec::new(),
    };
    let rbac = Rbac {
        rules: Some(nobody),
        shadow_rules: None,
        shadow_keys: Default::default(),
        stats: None,
    };
    let before_telemetry = manager.filters.len() - 1;
    manager
        .filters
        .insert(before_telemetry, filter(FilterKind::Rbac(rbac)));
    let mut cluster = testing::cluster("origin", &[origin.address]);
    cluster.mesh.service = Some(Service {
        host: "shop.default.svc".into(),
        name: "shop".into(),
        namespace: "default".into(),
    });
    let site = Site::start(manager, vec![cluster]).await;
    let told = format!(
        "GET /shop HTTP/1.1\r\nHost: b\r\n{METADATA}: {}\r\n\r\n",
        metadata("a")
    );
    assert_eq!(site.ask(&told).await.status, 403);
    let metric = metric(&registry, "istio_requests_total").await;
    for (key, value) in [
        ("response_code", "403"),
        ("source_workload", "a"),
        ("destination_service", "shop.default.svc"),
        ("request_protocol", "http"),
    ] {
        assert_eq!(label(&metric, key), Some(value), "{key}");
    }
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn grpc_is_told_apart_and_its_messages_are_counted() {
    let frame = |body: &str| {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(body.len()).expect("small").to_be_bytes());
        bytes.extend(body.as_bytes());
        Bytes::from(bytes)
    };
    let answer = [
        &b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 5\r\ncontent-length: 12\r\n\r\n"[..],
        &frame("x"),
        &frame("y"),
    ]
    .concat();
    let origin = Origin::start(move |_| super::support::Act::Send(answer.clone())).await;
    let (site, registry) = site(&origin, "a", Reporter::Source).await;
    let mut client = site.client().await;
    let head = "POST /s/m HTTP/1.1\r\nHost: b\r\ncontent-type: application/grpc\r\ncontent-length: 8\r\n\r\n";
    client.send(head).await;
    client.send(frame("abc")).await;
    client.head().await.expect("a response");
    client.take(12).await.expect("its body");
    drop(client);
    let requests = metric(&registry, "istio_requests_total").await;
    assert_eq!(label(&requests, "request_protocol"), Some("grpc"));
    assert_eq!(label(&requests, "grpc_response_status"), Some("5"));
    let sent = metric(&registry, "istio_request_messages_total").await;
    assert_eq!(sent.value, Value::Counter(1));
    assert_eq!(label(&sent, "response_code"), None);
    let received = metric(&registry, "istio_response_messages_total").await;
    assert_eq!(received.value, Value::Counter(2));
}

#[tokio::test]
async fn the_exposition_has_istios_names() {
    let origin = Origin::start(|_| ok("")).await;
    let (site, registry) = site(&origin, "a", Reporter::Source).await;
    site.ask("GET / HTTP/1.1\r\nHost: b\r\n\r\n").await;
    let metric = metric(&registry, "istio_requests_total").await;
    let text = crate::stats::prometheus([metric].iter());
    assert!(
        text.starts_with(
            "# TYPE istio_requests_total counter\nistio_requests_total{reporter=\"source\","
        ),
        "{text}"
    );
}
