//! Where services are: on sockets of the file system, behind names, and as workloads told one by one.

use ithildin_tests::{Mesh, Process, eventually};

use super::{MACHINE_IP, SLEEP, WEB};

const OBJECTS: &str = "apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: web, namespace: default}
spec:
  workloadSelector: {labels: {app: web}}
  egress: [{hosts: ['./*']}]
  ingress:
  - {port: {number: 8080, name: http, protocol: HTTP}, defaultEndpoint: 'unix:///run/app.sock'}
  - {port: {number: 9000, name: tcp, protocol: TCP}, defaultEndpoint: '127.0.0.1:9000'}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: on-socket, namespace: default}
spec:
  hosts: [on-socket.test]
  addresses: [10.96.9.11]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 'unix:///run/app.sock'}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: round-robin, namespace: default}
spec:
  hosts: [round-robin.test]
  addresses: [10.96.9.12]
  location: MESH_EXTERNAL
  resolution: DNS_ROUND_ROBIN
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  endpoints: [{address: machine.corp.test}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: by-own-name, namespace: default}
spec:
  hosts: [machine.corp.test]
  addresses: [10.96.9.13]
  location: MESH_EXTERNAL
  resolution: DNS_ROUND_ROBIN
  ports: [{number: 8080, name: http, protocol: HTTP}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: machines, namespace: default}
spec:
  hosts: [machines.test]
  addresses: [10.96.9.14]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  workloadSelector: {labels: {kind: machine}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: machine, namespace: default}
spec:
  address: 10.0.4.60
  labels: {kind: machine}
  ports: {http: 8080}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: hidden, namespace: default}
spec:
  hosts: [hidden.test]
  exportTo: [istio-system]
  addresses: [10.96.9.15]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  endpoints: [{address: 10.0.4.60}]
";

pub(super) fn all(mesh: &Mesh) {
    let _sockets: [Process; 2] = [SLEEP, WEB].map(|pod| {
        mesh.pod(pod.name)
            .peer("socket", &["serve", "/run/app.sock"])
    });
    mesh.istiod.apply("endpoints.yaml", OBJECTS);
    for host in [
        "round-robin.test",
        "machine.corp.test:8080",
        "machines.test",
    ] {
        let url = format!("http://{host}/get");
        let answer = eventually(host, || mesh.curl(SLEEP.name, &url, &[]).expect_status(200));
        assert_eq!(answer.address(), MACHINE_IP, "{host}");
    }
    for host in ["on-socket.test", "web"] {
        let url = format!("http://{host}/get");
        eventually(host, || {
            let answer = mesh.curl(SLEEP.name, &url, &[]).expect_status(200)?;
            // A service on a socket has no address.
            answer.echoed()["address"]
                .is_null()
                .then_some(())
                .ok_or(answer)
        });
    }
    let hidden = mesh.curl(SLEEP.name, "http://hidden.test/get", &["--max-time", "5"]);
    assert_ne!(hidden.status, 200, "{hidden:?}");
    mesh.istiod.delete("endpoints.yaml");
    eventually("web is where it was", || {
        let answer = mesh
            .curl(SLEEP.name, "http://web/get", &[])
            .expect_status(200)?;
        (answer.address() == "10.0.4.2").then_some(()).ok_or(answer)
    });
}
