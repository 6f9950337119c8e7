//! TCP through a forward proxy, which the application knows nothing of.

use ithildin_tests::{Mesh, Net, eventually, mesh::serve};

use super::SLEEP;

const OBJECTS: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: tunnelled, namespace: default}
spec:
  hosts: [tunnelled.test]
  addresses: [10.97.1.1]
  location: MESH_EXTERNAL
  resolution: NONE
  ports: [{number: 8085, name: tcp, protocol: TCP}, {number: 9444, name: tls, protocol: TLS}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: proxy, namespace: default}
spec:
  hosts: [proxy.test]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 3128, name: tcp, protocol: TCP}]
  endpoints: [{address: 10.0.4.51}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: proxy, namespace: default}
spec:
  host: proxy.test
  subsets:
  - name: tunnel
    trafficPolicy: {tunnel: {protocol: CONNECT, targetHost: 10.0.4.53, targetPort: 8085}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: tunnelled, namespace: default}
spec:
  hosts: [tunnelled.test]
  tcp:
  - match: [{port: 8085}]
    route: [{destination: {host: proxy.test, port: {number: 3128}, subset: tunnel}}]
";

pub(super) fn all(mesh: &Mesh, [proxy, _, server]: &[Net; 3]) {
    let forward = serve(proxy, "forward-proxy", &["connect", "0.0.0.0:3128"]);
    let _server = serve(server, "tunnelled", &["serve", "0.0.0.0:8085"]);
    mesh.istiod.apply("tunnels.yaml", OBJECTS);
    let answer = eventually("through the tunnel", || {
        let to = ["--connect-to", "tunnelled.test:8085:10.97.1.1:8085"];
        mesh.curl(SLEEP.name, "http://tunnelled.test:8085/get", &to)
            .expect_status(200)
    });
    assert_eq!(answer.address(), "10.0.4.53");
    assert!(
        forward.log().contains("CONNECT 10.0.4.53:8085"),
        "{}",
        forward.log()
    );
    mesh.istiod.delete("tunnels.yaml");
}
