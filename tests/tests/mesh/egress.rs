//! A workload outside of the mesh with a SPIFFE identity, reached by plain `http://` from a Pod: by its
//! sidecar itself, and through an egress gateway. All else is closed.

use ithildin_tests::{
    Mesh, Net, Process,
    authority::Files,
    eventually,
    mesh::{EGRESS, Program, SLEEP, TRUST_DOMAIN},
};

use crate::support::{on_each, read};

const EXTERNAL: [u8; 4] = [10, 0, 4, 50];
const EXTERNAL_ID: &str = "spiffe://example.org/external";
/// As much of the SNI `spiffe://example.org/my-sni` as openssl prints on a line.
const SNI_START: &str = "spiffe://ex";

on_each!(egress, and_istios_agent);

fn egress(test: &str, program: Program) {
    let files = ["egress.yaml"];
    let Some(mesh) = Mesh::start(test, program, &files, &[SLEEP, EGRESS]) else {
        return;
    };
    let svid = mesh.identities.mint(TRUST_DOMAIN, EXTERNAL_ID);
    let net = mesh.host(EXTERNAL);
    let server = external(&net, &svid);

    let direct = read("egress-direct.yaml");
    mesh.istiod.apply("external.yaml", &direct);
    goes_through(&mesh, "sleep");
    assert!(server.log().contains(SNI_START), "{}", server.log());

    let elsewhere = mesh.curl("sleep-0", "http://10.0.4.50:7777/", &["--max-time", "3"]);
    assert!(
        elsewhere.exit != 0 || elsewhere.status == 502,
        "what is not registered is closed: {elsewhere:?}"
    );

    let by_gateway = read("egress-gateway.yaml");
    mesh.istiod.apply("external.yaml", &by_gateway);
    goes_through(&mesh, "istio-egressgateway");
}

/// Waits until `curl http://example.org` from the Pod is 200, and the external workload's page has the
/// certificate of `account`.
#[track_caller]
fn goes_through(mesh: &Mesh, account: &str) {
    eventually("the external workload answers", || {
        let answer = mesh.curl("sleep-0", "http://example.org/", &[]);
        let answer = answer.expect_status(200)?;
        let client = format!("/sa/{account}");
        answer.body.contains(&client).then_some(()).ok_or(answer)
    });
}

/// `openssl s_server`, whose page shows the client's certificate, and which takes whatever name a client
/// sends as SNI and prints it.
fn external(net: &Net, svid: &Files) -> Process {
    let mut command = net.command("openssl");
    command
        .args(["s_server", "-accept", "9443", "-www", "-Verify", "3"])
        .args(["-verify_return_error", "-tlsextdebug"])
        .arg("-cert")
        .arg(&svid.chain)
        .arg("-cert_chain")
        .arg(&svid.chain)
        .arg("-key")
        .arg(&svid.key)
        .arg("-CAfile")
        .arg(&svid.bundle);
    net.spawn("external", command)
}
