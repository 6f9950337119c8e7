//! The families of Istio's own tests of traffic that no other scene has, in one mesh.

mod gateway;
mod hosts;
mod protocols;
mod routes;
mod services;
mod streams;

use ithildin_tests::{
    DataPlane, Identities, Mesh, Net, Process,
    curl::Answer,
    eventually,
    mesh::{Cluster, INGRESS, PodSpec, Program, SLEEP, serve},
};

use crate::support::on_each;

const FIRST: PodSpec<'static> = PodSpec::server(
    "web-0",
    "web",
    [10, 0, 4, 2],
    &[("app", "web"), ("version", "v1")],
);

const SECOND: PodSpec<'static> = PodSpec::server(
    "web-1",
    "web",
    [10, 0, 4, 3],
    &[("app", "web"), ("version", "v2")],
);

const BIND: PodSpec<'static> = PodSpec::server("bind-0", "bind", [10, 0, 4, 4], &[("app", "bind")]);

const GATEWAY: PodSpec<'static> = PodSpec {
    // As the operator of a gateway behind two trusted proxies writes it.
    env: &[(
        "PROXY_CONFIG",
        r#"{"binaryPath": "/run/bin/envoy", "concurrency": 1, "gatewayTopology": {"numTrustedProxies": 2}}"#,
    )],
    ..INGRESS
};

const FIRST_IP: &str = "10.0.4.2";
/// Whoever is not of the mesh.
const MACHINE: [u8; 4] = [10, 0, 4, 60];
const MACHINE_IP: &str = "10.0.4.60";

on_each!(cases);

fn cases(test: &str, program: Program) {
    let Some(identities) = Identities::of_mesh(test) else {
        return;
    };
    let files = ["cases.yaml", "cases-routes.yaml"];
    let Some(mut mesh) = Mesh::start_in(test, program, identities, Cluster::ONLY, &files) else {
        return;
    };
    for pod in [SLEEP, FIRST, SECOND, BIND, GATEWAY] {
        mesh.add(&pod);
    }
    let machine = mesh.host(MACHINE);
    let _services = peers(&mesh, &machine);
    mesh.wait_ready();
    eventually("both Pods answer", || {
        let answer = mesh.curl(SLEEP.name, "http://web/[1-10]", &[]);
        let all = [FIRST, SECOND].map(|pod| std::net::Ipv4Addr::from(pod.ip).to_string());
        let told = all.iter().all(|ip| answer.body.contains(ip));
        told.then_some(()).ok_or(answer)
    });
    routes::all(&mesh);
    hosts::all(&mesh);
    services::all(&mesh);
    protocols::all(&mesh);
    streams::all(&mesh);
    gateway::all(&mesh, &machine);
}

/// What listens beside the applications, and on the machine.
fn peers(mesh: &Mesh, machine: &Net) -> Vec<Process> {
    let mut peers = vec![
        serve(machine, "tcp", &["echo", "0.0.0.0:9443", "220 machine"]),
        serve(machine, "wild", &["serve", "0.0.0.0:8095"]),
    ];
    for pod in [FIRST, SECOND] {
        let greeting = format!("220 {}", pod.name);
        let pod = mesh.pod(pod.name);
        for port in ["8081", "8082", "8083", "8084", "8085", "8086"] {
            peers.push(pod.peer(port, &["serve", &format!("0.0.0.0:{port}")]));
        }
        peers.push(pod.peer("tcp", &["echo", "0.0.0.0:9000", &greeting]));
        peers.push(pod.peer("any-tcp", &["echo", "0.0.0.0:9001", ""]));
    }
    let bind = mesh.pod(BIND.name);
    peers.push(bind.peer("by-address", &["serve", "10.0.4.4:8091"]));
    peers.push(bind.peer("by-loopback", &["serve", "127.0.0.1:8092"]));
    peers
}

/// Whether the sidecar of a service is told what the client's has found out to be HTTP. A plain Envoy has not
/// Istio's filter for that: to the other side it is TCP.
fn tells_protocols(mesh: &Mesh) -> bool {
    mesh.program == Program::Ithildin(DataPlane::Builtin)
}

/// A request of sleep, answered with `status`.
#[track_caller]
fn expect(mesh: &Mesh, url: &str, arguments: &[&str], status: u16) -> Answer {
    let answer = mesh.curl(SLEEP.name, url, arguments);
    assert_eq!(
        (answer.exit, answer.status),
        (0, status),
        "{url} {arguments:?}: {answer:?}"
    );
    answer
}
