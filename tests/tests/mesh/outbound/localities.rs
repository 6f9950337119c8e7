//! Which locality requests go to.

use ithildin_tests::{Mesh, Net, Process, eventually, mesh::serve};

use super::SLEEP;

const NEAR: &str = "10.0.4.51";
const FAR: &str = "10.0.4.52";
const OTHER: &str = "10.0.4.53";
const NOBODY: &str = "10.0.4.99";
const FAILOVER: &str = "localityLbSetting: {failover: [{from: region, to: nearregion}]}";
const PRIORITY: &str = "localityLbSetting: {failoverPriority: [topology.kubernetes.io/region, \
                        topology.kubernetes.io/zone, topology.istio.io/subzone]}";
const DISTRIBUTE: &str =
    "localityLbSetting: {distribute: [{from: region, to: {nearregion: 80, region: 20}}]}";

/// A host, where its endpoints are (here, in the next region, far away), the setting, and the share of
/// the first two.
type Row<'a> = (&'a str, [&'a str; 3], &'a str, [usize; 2]);

pub(super) fn all(mesh: &Mesh, outside: &[Net; 3]) {
    let _services: [Process; 3] = outside
        .each_ref()
        .map(|net| serve(net, "http", &["serve", "0.0.0.0:8080"]));
    let rows: [Row<'_>; 6] = [
        ("prioritized", [NEAR, "", FAR], FAILOVER, [REQUESTS, 0]),
        ("failed-over", [NOBODY, FAR, OTHER], FAILOVER, [0, REQUESTS]),
        ("by-priority", [NEAR, FAR, OTHER], PRIORITY, [REQUESTS, 0]),
        (
            "distributed",
            [NEAR, FAR, NOBODY],
            DISTRIBUTE,
            [REQUESTS / 5, REQUESTS * 4 / 5],
        ),
        ("failed-over-far", [NOBODY, "", FAR], FAILOVER, [0, 0]),
        ("only-far", ["", "", FAR], FAILOVER, [0, 0]),
    ];
    let objects: Vec<String> = rows.iter().map(objects).collect();
    mesh.istiod.apply("localities.yaml", &objects.join("---\n"));
    for (host, [near, next, far], _, [first, second]) in rows {
        let url = format!("http://{host}.locality.test/get");
        // Until it is known who is not there.
        eventually(host, || {
            let answer = mesh.curl(SLEEP.name, &format!("{url}?[1-{REQUESTS}]"), &[]);
            let count = |ip: &str| {
                answer
                    .body
                    .matches(&format!("\"address\":\"{ip}\""))
                    .count()
            };
            let is_about =
                |ip: &str, share: usize| ip.is_empty() || count(ip).abs_diff(share) <= TOLERANCE;
            let others = REQUESTS - first - second;
            let all = is_about(near, first) && is_about(next, second) && is_about(far, others);
            let told = [near, next, far].map(|ip| (ip, count(ip)));
            all.then_some(()).ok_or((told, answer.status))
        });
    }
    mesh.istiod.delete("localities.yaml");
}

const REQUESTS: usize = 50;
/// Of a share, either way.
const TOLERANCE: usize = 4;

fn objects((host, endpoints, setting, _): &Row<'_>) -> String {
    let places = [
        "region/zone/subzone",
        "nearregion/zone/subzone",
        "notregion/notzone/notsubzone",
    ];
    let endpoints: String = endpoints
        .iter()
        .zip(places)
        .filter(|(address, _)| !address.is_empty())
        .map(|(address, place)| format!("  - {{address: {address}, locality: {place}}}\n"))
        .collect();
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {host}, namespace: default}}
spec:
  hosts: [{host}.locality.test]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8080}}]
  endpoints:
{endpoints}---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {host}, namespace: default}}
spec:
  host: {host}.locality.test
  trafficPolicy:
    connectionPool: {{tcp: {{connectTimeout: 250ms}}}}
    loadBalancer:
      simple: ROUND_ROBIN
      {setting}
    outlierDetection: {{interval: 1s, baseEjectionTime: 10m, maxEjectionPercent: 100}}
"
    )
}
