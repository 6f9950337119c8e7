//! The families of Istio's own tests of what leaves a workload: TLS that its sidecar or an egress gateway
//! originates, localities, tunnels through a forward proxy, and mTLS by every pair of policies.

mod localities;
mod reachability;
mod tls;
mod tunnels;

use ithildin_tests::{
    Identities, Mesh,
    mesh::{self, Cluster, EGRESS, PodSpec, Program},
    pki::Ca,
};

use crate::support::on_each;

const SLEEP: PodSpec<'static> = PodSpec {
    labels: &[("app", "sleep"), ("istio-locality", "region.zone.subzone")],
    ..mesh::SLEEP
};

const WEB: PodSpec<'static> = PodSpec::server("web-0", "web", [10, 0, 4, 2], &[("app", "web")]);

/// What is not of the mesh.
const OUTSIDE: [[u8; 4]; 3] = [[10, 0, 4, 51], [10, 0, 4, 52], [10, 0, 4, 53]];

on_each!(outbound, and_istios_agent);

fn outbound(test: &str, program: Program) {
    let Some(identities) = Identities::of_mesh(test) else {
        return;
    };
    let files = ["outbound.yaml"];
    let mesh = Mesh::start_in(test, program, identities, Cluster::ONLY, &files);
    let Some(mut mesh) = mesh else {
        return;
    };
    let ca = Ca::plain("outside");
    tls::secrets(&mesh, &ca);
    mesh.add(&SLEEP);
    mesh.add(&WEB);
    mesh.add(&EGRESS);
    let outside = OUTSIDE.map(|address| mesh.host(address));
    mesh.wait_ready();
    tls::all(&mesh, &ca, &outside[0]);
    localities::all(&mesh, &outside);
    tunnels::all(&mesh, &outside);
    reachability::all(&mesh, &outside[1]);
}
