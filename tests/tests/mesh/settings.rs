//! What operators set beside routes and policies: telemetry, the headers that proxies add, where a gateway
//! stands, patches of the configuration, who listens where, and how names are resolved.

mod access_logs;
mod endpoints;
mod headers;
mod metrics;
mod patches;
mod streams;
mod topology;

use ithildin_tests::{
    DataPlane, Identities, Mesh, Process,
    curl::Answer,
    eventually,
    mesh::{Cluster, INGRESS, PodSpec, Program, SLEEP, serve},
};

use crate::support::on_each;

const CLUSTER: Cluster = Cluster {
    host_aliases: &["10.0.4.60 machine.corp.test"],
    ..Cluster::ONLY
};

const WEB: PodSpec<'static> = PodSpec::server("web-0", "web", [10, 0, 4, 2], &[("app", "web")]);

/// Its proxy adds nothing that it need not.
const PLAIN: PodSpec<'static> = PodSpec {
    env: &[("PROXY_CONFIG", headers::PROXY_CONFIG)],
    ..PodSpec::server("plain-0", "plain", [10, 0, 4, 3], &[("app", "plain")])
};

/// A proxy that speaks the PROXY protocol stands before it.
const GATEWAY: PodSpec<'static> = PodSpec {
    env: &[("PROXY_CONFIG", topology::PROXY_CONFIG)],
    ..INGRESS
};

/// Whoever is not of the mesh.
const MACHINE: [u8; 4] = [10, 0, 4, 60];
const MACHINE_IP: &str = "10.0.4.60";
const GREETING: &str = "220 welcome";

on_each!(settings);

fn settings(test: &str, program: Program) {
    let Some(identities) = Identities::of_mesh(test) else {
        return;
    };
    let mesh = Mesh::start_in(test, program, identities, CLUSTER, &["settings.yaml"]);
    let Some(mut mesh) = mesh else {
        return;
    };
    for pod in [SLEEP, WEB, PLAIN, GATEWAY] {
        mesh.add(&pod);
    }
    let machine = mesh.host(MACHINE);
    let _services: [Process; 3] = [
        serve(&machine, "http", &["serve", "0.0.0.0:8080"]),
        mesh.pod(WEB.name).peer("grpc", &["serve", "0.0.0.0:8082"]),
        mesh.pod(WEB.name)
            .peer("tcp", &["echo", "0.0.0.0:9000", GREETING]),
    ];
    mesh.wait_ready();
    for url in [
        "http://web/get",
        "http://plain/get",
        "http://machine.test/get",
    ] {
        eventually(url, || mesh.curl(SLEEP.name, url, &[]).expect_status(200));
    }
    topology::all(&mesh, &machine);
    headers::all(&mesh, &machine);
    access_logs::all(&mesh);
    metrics::all(&mesh);
    patches::all(&mesh);
    endpoints::all(&mesh);
    streams::all(&mesh);
}

fn is_builtin(mesh: &Mesh) -> bool {
    mesh.program == Program::Ithildin(DataPlane::Builtin)
}

/// `curl http://webPATH` from sleep.
fn get(mesh: &Mesh, path: &str, arguments: &[&str]) -> Answer {
    mesh.curl(SLEEP.name, &format!("http://web{path}"), arguments)
}
