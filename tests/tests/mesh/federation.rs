//! Two meshes, each with an istiod and a SPIRE of its own. What federates them is a bundle at SPIRE, while
//! everything runs: no alias of a trust domain, no push of istiod, no restart.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use ithildin_tests::{
    DataPlane, Identities, Mesh, Net,
    authority::Files,
    curl::{self, Answer, ClientCertificate},
    eventually, eventually_within,
    mesh::{self, Cluster, INGRESS, PodSpec, Program},
};

use crate::support::{assert_refused, caller, callers, on_each};

const FOREIGN: &str = "domain.test";

const OTHER: Cluster = Cluster {
    name: FOREIGN,
    trust_domain: FOREIGN,
    istiod: Ipv4Addr::new(10, 0, 0, 11),
    ..Cluster::ONLY
};

/// As istiod has it: it lets in nobody but its own trust domain.
const CLOSED: PodSpec<'static> =
    PodSpec::server("httpbin-0", "httpbin", [10, 0, 4, 2], &[("app", "httpbin")]);

const OPEN: PodSpec<'static> = PodSpec {
    name: "open-0",
    account: "open",
    ip: [10, 0, 4, 3],
    labels: &[("app", "open")],
    env: &[("ITHILDIN_FEDERATED_TRUST_DOMAINS", FOREIGN)],
    ..CLOSED
};

const SLEEP: PodSpec<'static> = PodSpec {
    ip: [10, 0, 4, 20],
    ..mesh::SLEEP
};

const EGRESS: PodSpec<'static> = PodSpec {
    ip: [10, 0, 4, 21],
    ..mesh::EGRESS
};

const OUTSIDE: [u8; 4] = [10, 0, 4, 60];
/// Through both gateways.
const APP: &str = "http://app.example.org/status/200";
const TO_OPEN: &str = "http://open.example.org:8080/get";
const TO_CLOSED: &str = "http://closed.example.org:8080/get";
/// From the agent's word that it has a bundle to the first request that it lets through. The handshake and
/// our looking for it are within that.
const PROMPT: Duration = Duration::from_secs(2);

on_each!(federation);

fn federation(test: &str, program: Program) {
    let identities = Identities::of_two_meshes(test);
    let files = [
        "gateways.yaml",
        "open.yaml",
        "../walkthroughs/httpbin-gateway.yaml",
    ];
    let mesh = Mesh::start_in(test, program, identities, Cluster::ONLY, &files);
    let Some(mut mesh) = mesh else {
        return;
    };
    mesh.start_other(test, OTHER, &["federation.yaml"]);
    for pod in [INGRESS, CLOSED, OPEN] {
        mesh.add(&pod);
    }
    mesh.add_to_other(&SLEEP);
    mesh.add_to_other(&EGRESS);
    mesh.wait_ready();
    let outside = mesh.host(OUTSIDE);
    let visitor = "spiffe://domain.test/ns/default/sa/visitor";
    let visitor = mesh.identities.mint(FOREIGN, visitor);

    apart(&mesh, &outside, &visitor);
    joins(test, &mesh, &outside, &visitor);
    the_switch(&mesh);
    leaves(&mesh, &outside, &visitor);
    mesh.identities.federate("example.org", FOREIGN);
    eventually("federated again", || get(&mesh, APP).expect_status(200));
}

/// Nobody gets from one to the other.
fn apart(mesh: &Mesh, outside: &Net, visitor: &Files) {
    eventually("the way is there, and closed", || {
        let answer = get(mesh, APP).expect_status(503)?;
        let tried = answer.body.contains("upstream connect error");
        tried.then_some(()).ok_or(answer)
    });
    for url in [TO_OPEN, TO_CLOSED] {
        eventually(url, || get(mesh, url).expect_status(503));
    }
    eventually("the gateway listens", || {
        let answer = knock(outside, visitor);
        (answer.exit != 7).then_some(()).ok_or(answer)
    });
    assert_refused("a domain that is not federated", &knock(outside, visitor));
    told(
        mesh,
        EGRESS.name,
        &["no bundle for its trust domain example.org"],
    );
    told(
        mesh,
        INGRESS.name,
        &["no bundle for its trust domain domain.test"],
    );
}

/// A bundle at SPIRE is all that it takes.
fn joins(test: &str, mesh: &Mesh, outside: &Net, visitor: &Files) {
    let started = Instant::now();
    mesh.identities.federate("example.org", FOREIGN);
    let knows = |name: &str, domain: &str| {
        let log = mesh.pod(name).log();
        let told = |line: &str| line.contains("identity received") && line.contains(domain);
        log.lines().any(told)
    };
    let both_know = || knows(INGRESS.name, FOREIGN) && knows(EGRESS.name, "\"example.org\"");
    assert!(!both_know(), "not before they are federated");
    let mut seen = None;
    eventually("federated", || {
        if seen.is_none() && both_know() {
            seen = Some(Instant::now());
        }
        get(mesh, APP).expect_status(200)
    });
    assert!(both_know(), "who lets it in has told of the bundle");
    let took = seen.map_or(Duration::ZERO, |seen| seen.elapsed());
    let all = started.elapsed();
    println!("{test}: let in {took:?} after the agents had the bundles, {all:?} after SPIRE");
    assert!(took < PROMPT, "{took:?}");
    let answer = get(mesh, APP);
    let request = answer.echoed();
    // A gateway of the edge says whom it met, and passes on nothing of what others say.
    let hops = [EGRESS, INGRESS].map(|pod| mesh.pod(pod.name).id.clone());
    assert_eq!(callers(&request), hops);
    let answer = knock(outside, visitor);
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Straight to a workload: its own istiod names who may come, unless an operator says more.
fn the_switch(mesh: &Mesh) {
    let answer = eventually("the workload with the switch", || {
        get(mesh, TO_OPEN).expect_status(200)
    });
    let request = answer.echoed();
    assert_eq!(caller(&request), mesh.pod(SLEEP.name).id);
    let answer = get(mesh, TO_CLOSED);
    assert_eq!(answer.status, 503, "without the switch: {answer:?}");
    told(mesh, CLOSED.name, &[&mesh.pod(SLEEP.name).id]);
}

/// The bundle goes, and with it whoever came by it.
fn leaves(mesh: &Mesh, outside: &Net, visitor: &Files) {
    mesh.identities.unfederate("example.org", FOREIGN);
    eventually_within(Duration::from_secs(10), "nobody new comes in", || {
        let answer = knock(outside, visitor);
        (answer.exit != 0).then_some(()).ok_or(answer)
    });
    // Envoy does not look again at connections that it has let in.
    if mesh.program == Program::Ithildin(DataPlane::Builtin) {
        for url in [APP, TO_OPEN] {
            eventually_within(Duration::from_secs(10), "live connections end", || {
                get(mesh, url).expect_status(503)
            });
        }
    }
}

fn get(mesh: &Mesh, url: &str) -> Answer {
    mesh.curl(SLEEP.name, url, &[])
}

/// With a certificate of the foreign mesh, from outside.
fn knock(from: &Net, visitor: &Files) -> Answer {
    let certificate = ClientCertificate {
        chain: &visitor.chain,
        key: &visitor.key,
    };
    curl::get_mtls(from, "https://10.0.4.10:8080/status/200", certificate, &[])
}

/// The built-in proxy of a Pod says why it refused somebody.
fn told(mesh: &Mesh, pod: &str, words: &[&str]) {
    if mesh.program == Program::Ithildin(DataPlane::Builtin) {
        eventually("the reason is in the log", || {
            let log = mesh.pod(pod).log();
            let told = |line: &str| words.iter().all(|word| line.contains(word));
            log.lines().any(told).then_some(()).ok_or(log)
        });
    }
}
