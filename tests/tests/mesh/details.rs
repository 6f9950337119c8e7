//! What is rarely set: kinds of retries, shares of faults and mirrors, protocols of ports, connections to
//! hosts outside, and several certificates of one host.

mod connections;
mod routes;

use ithildin_tests::{
    Identities, Mesh, Net, Process,
    curl::{self, Answer},
    eventually,
    mesh::{Cluster, INGRESS, PodSpec, Program, SLEEP, serve},
    process::output,
};
use serde_json::json;

use crate::support::{assert_refused, on_each, read};

const WEB: PodSpec<'static> = PodSpec::server("web-0", "web", [10, 0, 4, 2], &[("app", "web")]);

/// Whoever is not of the mesh.
const MACHINE: [u8; 4] = [10, 0, 4, 60];
/// The algorithms of the keys of one host, and a cipher of TLS 1.2 that takes such a key.
const KEYS: [(&str, &[&str], &str); 2] = [
    ("rsa", &["rsa:2048"], "ECDHE-RSA-AES128-GCM-SHA256"),
    (
        "ecdsa",
        &["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
        "ECDHE-ECDSA-AES128-GCM-SHA256",
    ),
];

on_each!(details, and_istios_agent);

fn details(test: &str, program: Program) {
    let Some(identities) = Identities::of_mesh(test) else {
        return;
    };
    let files = ["details.yaml", "details-routes.yaml"];
    let Some(mut mesh) = Mesh::start_in(test, program, identities, Cluster::ONLY, &files) else {
        return;
    };
    let machine = mesh.host(MACHINE);
    certificates(&mesh, &machine);
    for pod in [SLEEP, WEB, INGRESS] {
        mesh.add(&pod);
    }
    let _services = services(&mesh, &machine);
    mesh.wait_ready();
    eventually("web", || get(&mesh, "/get").expect_status(200));
    routes::all(&mesh);
    connections::all(&mesh);
    by_cipher(&mesh, &machine);
}

fn services(mesh: &Mesh, machine: &Net) -> Vec<Process> {
    let web = mesh.pod(WEB.name);
    let ports = (8081..=8087).map(|port| {
        let on = format!("0.0.0.0:{port}");
        web.peer(&port.to_string(), &["serve", &on])
    });
    let outside = [
        serve(machine, "http", &["serve", "0.0.0.0:8080"]),
        serve(machine, "tcp", &["echo", "0.0.0.0:9000", ""]),
    ];
    ports.chain(outside).collect()
}

/// Two certificates of one host.
fn certificates(mesh: &Mesh, machine: &Net) {
    for (name, algorithm, _) in KEYS {
        let file = |kind: &str| machine.dir().join(format!("{name}.{kind}"));
        let mut openssl = machine.command("openssl");
        openssl
            .args([
                "req",
                "-x509",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=both.test",
            ])
            .args(["-addext", "subjectAltName=DNS:both.test", "-newkey"])
            .args(algorithm)
            .arg("-keyout")
            .arg(file("key"))
            .arg("-out")
            .arg(file("crt"));
        output(openssl);
        let read = |kind| std::fs::read_to_string(file(kind)).expect("it has just been written");
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": format!("both-{name}"), "namespace": "istio-system"},
            "stringData": {"tls.crt": read("crt"), "tls.key": read("key")},
        });
        mesh.istiod
            .apply(&format!("secret-{name}.json"), &object.to_string());
    }
}

/// `credentialNames`: the client's ciphers choose.
fn by_cipher(mesh: &Mesh, machine: &Net) {
    mesh.istiod
        .apply("gateway.yaml", &read("details-gateway.yaml"));
    let ask = |trusted: &str, arguments: &[&str]| {
        let roots = machine.dir().join(format!("{trusted}.crt"));
        let roots = roots.display().to_string();
        let to = "both.test:8443:10.0.4.10:8443";
        let usual = ["--no-insecure", "--cacert", &*roots, "--connect-to", to];
        let url = "https://both.test:8443/get";
        curl::get(machine, url, &[&usual, arguments].concat())
    };
    for (name, _, cipher) in KEYS {
        let arguments = ["--tls-max", "1.2", "--ciphers", cipher];
        eventually(name, || ask(name, &arguments).expect_status(200));
        let [other] = KEYS
            .map(|(other, ..)| other)
            .into_iter()
            .filter(|it| *it != name)
            .collect::<Vec<_>>()[..]
        else {
            unreachable!("there are two");
        };
        // Who trusts the other certificate alone sees that it is not that one.
        assert_refused(other, &ask(other, &arguments));
    }
    // A client that takes both.
    let insecure = ask("rsa", &["-k"]);
    assert_eq!(insecure.status, 200, "{insecure:?}");
}

/// `curl http://webPATH` from sleep.
fn get(mesh: &Mesh, path: &str) -> Answer {
    mesh.curl(SLEEP.name, &format!("http://web{path}"), &[])
}
