//! What is registered, and how: Pods by their names, one host several times, hosts with a star, and what
//! resources say of the proxies themselves and of where they listen.

mod bound;
mod duplicates;
mod dynamic;
mod ingress;
mod named_pods;
mod proxy_config;
mod wildcards;

use ithildin_tests::{
    Identities, Mesh, Net, Process,
    mesh::{Cluster, PodSpec, Program, SLEEP, serve},
    pki::Ca,
};

use crate::support::on_each;

const CLUSTER: Cluster = Cluster {
    host_aliases: &["10.0.4.51 a.dyn.test one.free.test", "10.0.4.52 b.dyn.test"],
    ..Cluster::ONLY
};

const WEB: PodSpec<'static> = PodSpec::server("web-0", "web", [10, 0, 4, 2], &[("app", "web")]);

const FIRST: PodSpec<'static> = PodSpec {
    namespace: "data",
    ..PodSpec::server("db-0", "db", [10, 0, 4, 3], &[("app", "db")])
};

const SECOND: PodSpec<'static> = PodSpec {
    namespace: "data",
    env: &[("PROXY_CONFIG", proxy_config::INJECTED)],
    annotations: &[("proxy.istio.io/config", proxy_config::ANNOTATION)],
    ..PodSpec::server("db-1", "db", [10, 0, 4, 4], &[("app", "db")])
};

/// What is not of the mesh.
const OUTSIDE: [[u8; 4]; 2] = [[10, 0, 4, 51], [10, 0, 4, 52]];
const ONE: &str = "10.0.4.51";
const TWO: &str = "10.0.4.52";

on_each!(registry, and_istios_agent);

fn registry(test: &str, program: Program) {
    let Some(identities) = Identities::of_mesh(test) else {
        return;
    };
    let files = ["registry.yaml"];
    let mesh = Mesh::start_in(test, program, identities, CLUSTER, &files);
    let Some(mut mesh) = mesh else {
        return;
    };
    for pod in [SLEEP, WEB, FIRST, SECOND] {
        mesh.add(&pod);
    }
    let outside = OUTSIDE.map(|address| mesh.host(address));
    let ca = Ca::plain("outside");
    let _services = peers(&mesh, &outside);
    mesh.wait_ready();
    proxy_config::all(&mesh);
    named_pods::all(&mesh);
    duplicates::all(&mesh);
    bound::all(&mesh);
    wildcards::all(&mesh, &ca, &outside);
    dynamic::all(&mesh, &ca, &outside);
    ingress::all(&mesh, &ca, &outside[0]);
}

fn peers(mesh: &Mesh, outside: &[Net]) -> Vec<Process> {
    let mut peers: Vec<_> = outside
        .iter()
        .map(|net| serve(net, "http", &["serve", "0.0.0.0:8080"]))
        .collect();
    for pod in [WEB, FIRST, SECOND] {
        let greeting = format!("220 {}", pod.name);
        let pod = mesh.pod(pod.name);
        peers.push(pod.peer("tcp", &["echo", "0.0.0.0:9000", &greeting]));
        peers.push(pod.peer("any", &["echo", "0.0.0.0:9001", ""]));
    }
    peers
}
