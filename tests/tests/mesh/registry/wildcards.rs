//! Hosts with a star, known by the SNI of the application's own TLS.

use ithildin_tests::{Mesh, Net, Process, authority::Files, curl::Answer, eventually, pki::Ca};

use super::{ONE, SLEEP, TWO};

/// A name, the address that the application takes it to, and the server that answers.
const ROWS: &[(&str, &str, Option<&str>)] = &[
    ("a.wild.test", ONE, Some("one")),
    ("a.wild.test", TWO, Some("two")),
    ("b.c.wild.test", TWO, Some("two")),
    ("a.known.test", ONE, Some("one")),
    // Who has a route.
    ("moved.wild.test", ONE, Some("two")),
    ("wild.test", ONE, None),
    ("a.tame.test", ONE, None),
];

pub(super) fn all(mesh: &Mesh, ca: &Ca, outside: &[Net; 2]) {
    let _servers = servers(ca, outside);
    for (name, address, expected) in ROWS {
        let Some(server) = expected else {
            let answer = ask(mesh, name, address);
            assert_eq!(answer.status, 0, "{name} {address}: {answer:?}");
            continue;
        };
        let answer = eventually(name, || ask(mesh, name, address).expect_status(200));
        let file = format!("/{server}/svid.pem");
        assert!(answer.body.contains(&file), "{name} {address}: {answer:?}");
    }
}

/// Known by the names `one` and `two`.
pub(super) fn servers(ca: &Ca, outside: &[Net; 2]) -> Vec<Process> {
    let named = outside.iter().zip(["one", "two"]);
    let start = |(net, name): (&Net, &str)| {
        let files = ca.server("server.test").write(net.subdir(name), ca);
        serve(net, 443, &files)
    };
    named.map(start).collect()
}

/// `openssl s_server`, whose page tells of its own files.
pub(super) fn serve(net: &Net, port: u16, files: &Files) -> Process {
    let mut command = net.command("openssl");
    command.args(["s_server", "-www", "-quiet", "-accept", &port.to_string()]);
    command.arg("-cert").arg(&files.chain);
    command.arg("-key").arg(&files.key);
    net.spawn(&format!("tls-{port}"), command)
}

fn ask(mesh: &Mesh, name: &str, address: &str) -> Answer {
    let to = format!("{name}:443:{address}:443");
    mesh.curl(
        SLEEP.name,
        &format!("https://{name}/"),
        &["--connect-to", &to],
    )
}
