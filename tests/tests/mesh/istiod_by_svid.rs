//! An istiod with a certificate by SPIRE and no CA: agents show it their SVIDs, and have no token.

use ithildin_tests::{
    Identities, Mesh, curl, eventually,
    mesh::{self, Cluster, PodSpec, Program, TRUST_DOMAIN},
    spire::Plan,
};

use crate::support::{caller, on_each};

const CLUSTER: Cluster = Cluster {
    istiod_by_spire: true,
    ..Cluster::ONLY
};

const BY_SVID: (&str, &str) = ("ITHILDIN_ISTIOD_AUTH", "svid");

const SLEEP: PodSpec<'static> = PodSpec {
    env: &[BY_SVID],
    ..mesh::SLEEP
};

const HTTPBIN: PodSpec<'static> = PodSpec {
    env: &[BY_SVID],
    ..PodSpec::server("httpbin-0", "httpbin", [10, 0, 4, 2], &[("app", "httpbin")])
};

/// Says that it is somebody else than its SVID says.
const IMPOSTOR: PodSpec<'static> = PodSpec {
    env: &[BY_SVID, ("SERVICE_ACCOUNT", "sleep")],
    ..PodSpec::client(
        "impostor-0",
        "impostor",
        [10, 0, 4, 3],
        &[("app", "impostor")],
    )
};

/// Has the settings of any other mesh, but no token.
const NOBODY: PodSpec<'static> =
    PodSpec::client("nobody-0", "nobody", [10, 0, 4, 4], &[("app", "nobody")]);

on_each!(by_svid);

fn by_svid(test: &str, program: Program) {
    let plans = [Plan::new(TRUST_DOMAIN, TRUST_DOMAIN)];
    let Some(identities) = Identities::by_spire(test, &plans) else {
        return;
    };
    let mesh = Mesh::start_in(test, program, identities, CLUSTER, &["httpbin.yaml"]);
    let Some(mut mesh) = mesh else {
        return;
    };
    mesh.add(&SLEEP);
    mesh.add(&HTTPBIN);
    mesh.wait_ready();
    let answer = eventually("httpbin answers", || {
        let url = "http://httpbin:8000/headers";
        mesh.curl(SLEEP.name, url, &[]).expect_status(200)
    });
    let request = answer.echoed();
    assert_eq!(caller(&request), mesh.pod(SLEEP.name).id);

    mesh.add(&IMPOSTOR);
    refused(&mesh, IMPOSTOR.name, "authorization failed: no identities");
    mesh.add(&NOBODY);
    refused(&mesh, NOBODY.name, "authentication failure");
}

/// The Pod is not ready, and says why.
fn refused(mesh: &Mesh, pod: &str, why: &str) {
    eventually("the reason is told", || {
        let pod = mesh.pod(pod);
        let url = "http://127.0.0.1:15020/healthz/ready";
        let answer = curl::get(&pod.net, url, &[]).expect_status(503)?;
        let told = answer.body.contains("waits for istiod") && answer.body.contains(why);
        told.then_some(()).ok_or(answer)
    });
}
