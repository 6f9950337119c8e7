//! PeerAuthentication: one port takes plain text and mTLS, another mTLS alone, a third plain text alone; and
//! clients do what the other side can, without a DestinationRule.

use ithildin_tests::{
    Mesh, Net,
    curl::{self, ClientCertificate},
    eventually,
    mesh::{PodSpec, Program, SLEEP, TRUST_DOMAIN, serve, talk},
};

use crate::support::{assert_refused, callers, on_each, read};

const BOTH: PodSpec<'static> = PodSpec::server("both-0", "both", [10, 0, 4, 2], &[("app", "both")]);

const STRICT: PodSpec<'static> =
    PodSpec::server("strict-0", "strict", [10, 0, 4, 3], &[("app", "strict")]);

const BARE: [u8; 4] = [10, 0, 4, 30];
const OUTSIDE: [u8; 4] = [10, 0, 4, 60];
const GREETING: &str = "220 welcome";
const CONVERSATION: [&str; 3] = ["<220 welcome", ">hello", "<hello"];

on_each!(permissive, and_istios_agent);

fn permissive(test: &str, program: Program) {
    let files = ["permissive.yaml", "permissive-policy.yaml"];
    let pods = [SLEEP, BOTH, STRICT];
    let Some(mesh) = Mesh::start(test, program, &files, &pods) else {
        return;
    };
    let bare = mesh.host(BARE);
    let _services = [
        mesh.pod(BOTH.name)
            .peer("tcp", &["echo", "0.0.0.0:9000", GREETING]),
        mesh.pod(BOTH.name)
            .peer("plain", &["serve", "0.0.0.0:8081"]),
        mesh.pod(STRICT.name)
            .peer("tcp", &["echo", "0.0.0.0:9000", GREETING]),
        serve(&bare, "http", &["serve", "0.0.0.0:8080"]),
        serve(&bare, "tcp", &["echo", "0.0.0.0:9000", GREETING]),
    ];
    from_a_sidecar(&mesh);
    let outside = mesh.host(OUTSIDE);
    from_outside(&outside);
    with_a_certificate(&mesh, &outside);
    becomes_strict(&mesh, &outside);
}

/// mTLS wherever the other side can, else plain text.
fn from_a_sidecar(mesh: &Mesh) {
    let sleep = mesh.pod(SLEEP.name);
    for (url, by_mtls) in [
        ("http://both:8000/get", true),
        ("http://strict:8000/get", true),
        ("http://both:8001/get", false),
        ("http://bare:8000/get", false),
    ] {
        eventually(url, || {
            let answer = mesh.curl(SLEEP.name, url, &[]).expect_status(200)?;
            let request = answer.echoed();
            let expected = match by_mtls {
                true => vec![sleep.id.clone()],
                false => Vec::new(),
            };
            (callers(&request) == expected).then_some(()).ok_or(answer)
        });
    }
    for to in ["both:9000", "strict:9000", "bare:9000"] {
        eventually(to, || sleep.talk(to, &CONVERSATION));
    }
}

/// Plain text by somebody without a proxy.
fn from_outside(outside: &Net) {
    let forged = "x-forwarded-client-cert: URI=spiffe://example.org/ns/default/sa/forged";
    for url in ["http://10.0.4.2:8080/get", "http://10.0.4.2:8081/get"] {
        let answer = curl::get(outside, url, &["-H", forged]);
        assert_eq!((answer.exit, answer.status), (0, 200), "{url}: {answer:?}");
        let request = answer.echoed();
        assert!(callers(&request).is_empty(), "{url}: {request}");
    }
    // Whoever speaks first is heard at once; a server that does would wait for the TLS inspector, which
    // waits for the client.
    let told = talk(
        outside,
        "10.0.4.2:9000",
        &[">hello", "<220 welcome", ">again", "<again"],
    );
    assert!(told.is_ok(), "{told:?}");

    let answer = curl::get(outside, "http://10.0.4.3:8080/get", &[]);
    assert_refused("plain text where mTLS is strict", &answer);
    let told = talk(outside, "10.0.4.3:9000", &[">hello", "<220 welcome"]);
    assert!(told.is_err(), "{told:?}");
}

/// mTLS with what the mesh does not offer.
fn with_a_certificate(mesh: &Mesh, outside: &Net) {
    let id = "spiffe://example.org/ns/default/sa/visitor";
    let svid = mesh.identities.mint(TRUST_DOMAIN, id);
    let certificate = ClientCertificate {
        chain: &svid.chain,
        key: &svid.key,
    };
    let get = |url| curl::get_mtls(outside, url, certificate, &[]);
    let answer = get("https://10.0.4.3:8080/get");
    assert_eq!(answer.status, 200, "strict: {answer:?}");
    let request = answer.echoed();
    assert_eq!(callers(&request), [id]);
    // A permissive HTTP port takes TLS of the mesh only, which its ALPN tells.
    assert_refused(
        "TLS that is not the mesh's",
        &get("https://10.0.4.2:8080/get"),
    );
    let answer = get("https://10.0.4.2:8081/get");
    assert!(
        answer.exit != 0 && answer.status == 0,
        "no TLS here: {answer:?}"
    );
}

/// The policy changes while everything runs.
fn becomes_strict(mesh: &Mesh, outside: &Net) {
    let url = "http://10.0.4.2:8080/get";
    let policy = read("permissive-policy.yaml");
    let strict = policy.replace("PERMISSIVE", "STRICT");
    mesh.istiod.apply("permissive-policy.yaml", &strict);
    eventually("strict", || {
        let answer = curl::get(outside, url, &[]);
        (answer.exit != 0).then_some(()).ok_or(answer)
    });
    let answer = mesh.curl(SLEEP.name, "http://both:8000/get", &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    mesh.istiod.apply("permissive-policy.yaml", &policy);
    eventually("permissive again", || {
        curl::get(outside, url, &[]).expect_status(200)
    });
}
