use super::*;
use crate::testing::resources;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.1.0.1
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: web}, {name: tcp, port: 9000, targetPort: 9001}]
";

fn registry(yaml: &str) -> (Registry, Vec<String>) {
    let mut warnings = Vec::new();
    let registry = Registry::new(&resources(yaml), "cluster.local", &mut warnings);
    (registry, warnings.iter().map(ToString::to_string).collect())
}

fn web(yaml: &str) -> Vec<(String, BTreeMap<u16, u16>)> {
    let (registry, _) = registry(&format!("{SERVICE}---{yaml}"));
    let service = registry.get("web.default.svc.cluster.local").unwrap();
    let endpoints = service.endpoints.iter();
    endpoints
        .map(|endpoint| (endpoint.address.clone(), endpoint.ports.clone()))
        .collect()
}

#[test]
fn selected_pods_that_are_ready_are_endpoints() {
    let pods = "
apiVersion: v1
kind: Pod
metadata: {name: good, labels: {app: web}}
spec: {serviceAccountName: web, containers: [{name: c, ports: [{name: web, containerPort: 8080}]}]}
status: {podIP: 10.0.0.1, phase: Running, conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: not-ready, labels: {app: web}}
status: {podIP: 10.0.0.2, conditions: [{type: Ready, status: 'False'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: going, labels: {app: web}, deletionTimestamp: '2026-01-01T00:00:00Z'}
status: {podIP: 10.0.0.3}
---
apiVersion: v1
kind: Pod
metadata: {name: over, labels: {app: web}}
status: {podIP: 10.0.0.4, phase: Succeeded}
---
apiVersion: v1
kind: Pod
metadata: {name: other, labels: {app: other}}
status: {podIP: 10.0.0.5}
---
apiVersion: v1
kind: Pod
metadata: {name: elsewhere, namespace: other, labels: {app: web}}
status: {podIP: 10.0.0.6}
";
    let expected = [("10.0.0.1".to_owned(), [(80, 8080), (9000, 9001)].into())];
    assert_eq!(web(pods), expected);
}

#[test]
fn slices_win_over_endpoints_and_pods() {
    let slice = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints:
- {addresses: [10.0.1.1], conditions: {ready: true}}
- {addresses: [10.0.1.2], conditions: {ready: false}}
ports: [{name: http, port: 8080, protocol: TCP}]
---
apiVersion: v1
kind: Endpoints
metadata: {name: web}
subsets: [{addresses: [{ip: 10.0.2.1}], ports: [{name: http, port: 8081}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, labels: {app: web}}
status: {podIP: 10.0.3.1}
";
    assert_eq!(web(slice), [("10.0.1.1".to_owned(), [(80, 8080)].into())]);
}

#[test]
fn endpoints_are_read_where_there_is_no_slice() {
    let endpoints = "
apiVersion: v1
kind: Endpoints
metadata: {name: web}
subsets:
- addresses: [{ip: 10.0.2.1}, {ip: 10.0.2.2}]
  ports: [{name: http, port: 8081}, {name: tcp, port: 9002}]
";
    let ports: BTreeMap<u16, u16> = [(80, 8081), (9000, 9002)].into();
    let expected = [
        ("10.0.2.1".to_owned(), ports.clone()),
        ("10.0.2.2".to_owned(), ports),
    ];
    assert_eq!(web(endpoints), expected);
}

#[test]
fn an_endpoint_of_a_slice_knows_its_pod() {
    let (registry, _) = registry(&format!(
        "{SERVICE}---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
endpoints: [{{addresses: [10.0.1.1], targetRef: {{kind: Pod, name: web-0, namespace: default}}}}]
ports: [{{name: http, port: 8080}}]
---
apiVersion: v1
kind: Pod
metadata:
  name: web-0
  labels: {{app: web, security.istio.io/tlsMode: istio, pod-template-hash: abc}}
  ownerReferences: [{{kind: ReplicaSet, name: web-v1-abc, apiVersion: apps/v1, uid: x}}]
spec: {{serviceAccountName: web-account, nodeName: n1}}
status: {{podIP: 10.0.1.1}}
---
apiVersion: v1
kind: Node
metadata: {{name: n1, labels: {{topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z}}}}
"
    ));
    let service = registry.get("web.default.svc.cluster.local").unwrap();
    let endpoint = &service.endpoints[0];
    assert!(endpoint.mesh_tls);
    assert_eq!(endpoint.workload, "web-v1");
    assert_eq!(endpoint.locality, Locality::parse("r/z"));
    let identities: Vec<String> = service
        .identities(&["example.org", "old.org"])
        .into_iter()
        .collect();
    assert_eq!(
        identities,
        [
            "spiffe://example.org/ns/default/sa/web-account",
            "spiffe://old.org/ns/default/sa/web-account"
        ]
    );
}

#[test]
fn a_service_entry_has_a_service_for_each_host() {
    let (registry, warnings) = registry(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext}
spec:
  hosts: [a.example.org, B.example.org]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: second}
spec:
  hosts: [a.example.org]
  ports: [{number: 81, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.0.0.1, ports: {http: 90}, serviceAccount: vm}]
",
    );
    let a = registry.get("a.example.org").unwrap();
    assert!(a.external);
    assert_eq!(a.discovery, Discovery::Dns);
    assert_eq!(a.endpoints[0].address, "a.example.org");
    assert_eq!(a.endpoints[0].ports, [(80, 8080)].into());
    assert!(registry.get("b.example.org").is_some());
    assert_eq!(
        warnings,
        [
            "mesh.yaml: ServiceEntry default/second: spec.hosts: another resource declares \
             a.example.org, and the first one wins"
        ]
    );
}

#[test]
fn workload_entries_are_selected_in_their_namespace() {
    let entries = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: vm}
spec:
  hosts: [vm.example.org]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  workloadSelector: {labels: {app: vm}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm-1}
spec: {address: 10.0.0.1, labels: {app: vm}, serviceAccount: vm, weight: 2}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm-2, namespace: other}
spec: {address: 10.0.0.2, labels: {app: vm}}
";
    let (registry, _) = registry(entries);
    let endpoints = &registry.get("vm.example.org").unwrap().endpoints;
    assert_eq!(endpoints.len(), 1);
    assert_eq!((endpoints[0].weight, endpoints[0].mesh_tls), (2, true));
    assert_eq!(endpoints[0].ports, [(80, 8080)].into());
}

#[test]
fn export_to_decides_who_sees_a_resource() {
    let to = |values: &[&str]| {
        values
            .iter()
            .map(|&value| value.to_owned())
            .collect::<Vec<_>>()
    };
    assert!(exported(&[], "a", "b"));
    assert!(exported(&to(&["*"]), "a", "b"));
    assert!(exported(&to(&["."]), "a", "a"));
    assert!(!exported(&to(&["."]), "a", "b"));
    assert!(exported(&to(&[".", "b"]), "a", "b"));
    assert!(!exported(&to(&["~"]), "a", "a"));
}
