//! What operators write every day: routes, policies of traffic, services of every kind, protocols and
//! authorization, all in one small mesh. Istio's own agent gives the same answers.

mod policy;
mod protocols;
mod routes;
mod services;
mod traffic;

use ithildin_tests::{
    Identities, Mesh, Net, Process,
    curl::Answer,
    eventually,
    mesh::{Cluster, PodSpec, Program, SLEEP, serve},
};

use crate::support::{on_each, read};

const CLUSTER: Cluster = Cluster {
    host_aliases: &["10.0.4.60 machine.corp.test direct.test closed.test"],
    ..Cluster::ONLY
};

const FIRST: PodSpec<'static> = PodSpec::server(
    "web-0",
    "web",
    [10, 0, 4, 2],
    &[("app", "nodes"), ("version", "v1")],
);

const SECOND: PodSpec<'static> = PodSpec::server(
    "web-1",
    "web",
    [10, 0, 4, 3],
    &[("app", "nodes"), ("version", "v2")],
);

const FIRST_IP: &str = "10.0.4.2";
const SECOND_IP: &str = "10.0.4.3";
/// Whoever is not of the mesh.
const MACHINE: [u8; 4] = [10, 0, 4, 60];
const MACHINE_IP: &str = "10.0.4.60";
const WEB: &str = "http://web:8000";
const GREETING: &str = "220 welcome";

on_each!(everyday, and_istios_agent);

fn everyday(test: &str, program: Program) {
    let Some(identities) = Identities::of_mesh(test) else {
        return;
    };
    let files = ["everyday.yaml", "everyday-routes.yaml"];
    let Some(mut mesh) = Mesh::start_in(test, program, identities, CLUSTER, &files) else {
        return;
    };
    for pod in [SLEEP, FIRST, SECOND] {
        mesh.add(&pod);
    }
    let machine = mesh.host(MACHINE);
    let _services = services(&mesh, &machine);
    mesh.wait_ready();
    for ip in [FIRST_IP, SECOND_IP] {
        eventually("both Pods answer", || {
            let answer = get(&mesh, "/get", &[]).expect_status(200)?;
            (answer.address() == ip).then_some(()).ok_or(answer)
        });
    }
    routes::all(&mesh);
    traffic::all(&mesh);
    services::all(&mesh);
    protocols::all(&mesh);
    policy::all(&mesh);
    without_routes(&mesh);
}

/// What listens beside the applications, and on the machine.
fn services(mesh: &Mesh, machine: &Net) -> Vec<Process> {
    let mut services = vec![
        serve(machine, "http", &["serve", "0.0.0.0:8080"]),
        serve(machine, "direct", &["serve", "0.0.0.0:8090"]),
    ];
    for pod in [FIRST, SECOND] {
        let pod = mesh.pod(pod.name);
        services.push(pod.peer("tcp", &["echo", "0.0.0.0:9000", GREETING]));
        services.push(pod.peer("grpc", &["serve", "0.0.0.0:8082"]));
    }
    services
}

/// What is deleted holds no longer.
fn without_routes(mesh: &Mesh) {
    mesh.istiod.delete("everyday-routes.yaml");
    eventually("no VirtualService", || {
        get(mesh, "/direct", &[]).expect_status(200)
    });
    mesh.istiod
        .apply("everyday-routes.yaml", &read("everyday-routes.yaml"));
    eventually("the VirtualService again", || {
        get(mesh, "/direct", &[]).expect_status(503)
    });
}

/// `curl http://web:8000PATH` from sleep.
fn get(mesh: &Mesh, path: &str, arguments: &[&str]) -> Answer {
    mesh.curl(SLEEP.name, &format!("{WEB}{path}"), arguments)
}

/// The same, answered with `status`.
#[track_caller]
fn expect(mesh: &Mesh, path: &str, arguments: &[&str], status: u16) -> Answer {
    let answer = get(mesh, path, arguments);
    assert_eq!(
        (answer.exit, answer.status),
        (0, status),
        "{path} {arguments:?}: {answer:?}"
    );
    answer
}
