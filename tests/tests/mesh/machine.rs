//! A machine outside of Kubernetes: it registers itself, and its agent tells istiod whether the application
//! is well. Only then requests go there.

use ithildin_tests::{
    Identities, Mesh, eventually,
    mesh::{Cluster, PodSpec, Program, SLEEP},
};

use crate::support::{callers, on_each};

/// As `istioctl x workload entry configure` sets it up.
const MACHINE: PodSpec<'static> = PodSpec {
    env: &[
        ("ISTIO_META_AUTO_REGISTER_GROUP", "machines"),
        (
            "PROXY_CONFIG",
            r#"{"binaryPath": "/run/bin/envoy", "concurrency": 1,
                "readinessProbe": {
                    "periodSeconds": 1, "failureThreshold": 1, "successThreshold": 1,
                    "httpGet": {"port": 8081, "path": "/healthy"}}}"#,
        ),
    ],
    ..PodSpec::server("machine-0", "machine", [10, 0, 4, 2], &[("app", "machine")])
};

const ENTRIES: &str = "/apis/networking.istio.io/v1/namespaces/default/workloadentries";
const URL: &str = "http://machine.test:8000/get";

on_each!(machine, and_istios_agent);

fn machine(test: &str, program: Program) {
    let Some(identities) = Identities::of_mesh(test) else {
        return;
    };
    let files = ["machine.yaml"];
    let Some(mut mesh) = Mesh::start_in(test, program, identities, Cluster::ONLY, &files) else {
        return;
    };
    mesh.add(&SLEEP);
    mesh.add_machine(&MACHINE);
    mesh.wait_ready();
    told(&mesh, "False");
    nobody_goes_there(&mesh);

    let mut healthy = health(&mesh);
    told(&mesh, "True");
    knows_its_service(&mesh);
    eventually("the machine answers, and has seen who asks", || {
        let answer = mesh.curl(SLEEP.name, URL, &[]).expect_status(200)?;
        let request = answer.echoed();
        let seen = callers(&request) == [mesh.pod(SLEEP.name).id.clone()];
        let here = request["address"] == "10.0.4.2";
        (seen && here).then_some(()).ok_or(answer)
    });

    healthy.kill();
    told(&mesh, "False");
    nobody_goes_there(&mesh);

    // A new istiod has to be told again.
    mesh.istiod.kill();
    let _healthy = health(&mesh);
    mesh.istiod.restart();
    told(&mesh, "True");
    eventually("the machine answers again", || {
        mesh.curl(SLEEP.name, URL, &[]).expect_status(200)
    });
}

/// What the probe asks.
fn health(mesh: &Mesh) -> ithildin_tests::Process {
    let machine = mesh.pod(MACHINE.name);
    machine.peer("health", &["serve", "0.0.0.0:8081"])
}

/// istiod may tell others of the machine before it tells the machine of its port. A connection that comes
/// between the two is passed through by a chain that does not read HTTP, and stays with it while it lives.
fn knows_its_service(mesh: &Mesh) {
    eventually("the machine has a chain for its port", || {
        let listeners = mesh
            .pod(MACHINE.name)
            .admin("/config_dump?resource=dynamic_listeners");
        let knows = listeners.body.contains("inbound|8080||");
        knows.then_some(()).ok_or(listeners)
    });
}

fn nobody_goes_there(mesh: &Mesh) {
    eventually("nobody goes there", || {
        let answer = mesh.curl(SLEEP.name, URL, &[]).expect_status(503)?;
        let none = answer.body == "no healthy upstream";
        none.then_some(()).ok_or(answer)
    });
}

/// Waits until the machine's WorkloadEntry says `True` or `False` of its health.
fn told(mesh: &Mesh, healthy: &str) {
    eventually("istiod is told", || {
        let entries = mesh.istiod.objects(ENTRIES);
        let conditions = entries["items"][0]["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        let told = conditions
            .any(|condition| condition["type"] == "Healthy" && condition["status"] == healthy);
        told.then_some(()).ok_or(entries)
    });
}
