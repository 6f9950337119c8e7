//! Pods of a StatefulSet, each by its name.

use std::net::Ipv4Addr;

use ithildin_tests::{Mesh, eventually, mesh::Program};

use super::{FIRST, SECOND, SLEEP, WEB};
use crate::support::callers;

pub(super) fn all(mesh: &Mesh) {
    let sleep = mesh.pod(SLEEP.name);
    for pod in [FIRST, SECOND] {
        let name = pod.name;
        for domain in ["db.data", "db.data.svc", "db.data.svc.cluster.local"] {
            // Istio's agent waits for the cluster's name server here, and there is none.
            if mesh.program == Program::Stock && domain.ends_with(".local") {
                continue;
            }
            let host = format!("{name}.{domain}");
            let url = format!("http://{host}:8080/get");
            let answer = eventually(&url, || mesh.curl(SLEEP.name, &url, &[]).expect_status(200));
            assert_eq!(
                answer.address(),
                Ipv4Addr::from(pod.ip).to_string(),
                "{url}"
            );
            let known = std::slice::from_ref(&sleep.id);
            assert_eq!(callers(&answer.echoed()), known, "{url}");
            let greeting = format!("<220 {name}");
            let steps = [&*greeting, ">hello", "<hello"];
            eventually(&host, || sleep.talk(&format!("{host}:9000"), &steps));
            // Its protocol is found out.
            let steps = [">hello\r\n", "<hello"];
            eventually(&host, || sleep.talk(&format!("{host}:9001"), &steps));
        }
    }
    // Each Service leads to its own Pods, though the port is the same.
    let greeting = format!("<220 {}", WEB.name);
    eventually("the other Service", || {
        sleep.talk("queue:9000", &[&greeting, ">hello", "<hello"])
    });
    let met = (0..20).map(|_| sleep.talk("db.data:9000", &["<220 db-", ">hello", "<hello"]));
    for told in met {
        assert!(told.is_ok(), "{told:?}");
    }
    // Nobody else of this name is there.
    let answer = mesh.curl(
        SLEEP.name,
        "http://db-7.db.data:8080/get",
        &["--max-time", "5"],
    );
    assert_ne!((answer.exit, answer.status), (0, 200), "{answer:?}");
}
