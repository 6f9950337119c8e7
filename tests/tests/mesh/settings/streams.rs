//! Calls of gRPC that are made again.

use std::fs;

use ithildin_tests::{Mesh, curl::Answer, eventually};

use super::SLEEP;
use crate::support::GRPC;

const ROUTE: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: default}
spec:
  hosts: [web]
  http:
  - match: [{port: 7070}]
    retries: {attempts: 3, perTryTimeout: 2s, retryOn: 'unavailable,cancelled,connect-failure', backoff: 25ms}
    headers: {response: {set: {x-route: retried}}}
    route: [{destination: {host: web, port: {number: 7070}}}]
  - route: [{destination: {host: web, port: {number: 80}}}]
";
/// What a proxy keeps for another attempt, and what passes through.
const SHORT: usize = 10_000;
const LONG: usize = 4_000_000;

pub(super) fn all(mesh: &Mesh) {
    mesh.istiod.apply("streams.yaml", ROUTE);
    eventually("the route", || {
        let answer = call(mesh, "/any", &[]);
        (answer.header("x-route") == Some("retried"))
            .then_some(())
            .ok_or(answer)
    });
    let folder = mesh.pod(SLEEP.name).net.dir();
    let body = |size: usize| {
        let file = folder.join(format!("body-{size}"));
        fs::write(&file, vec![0; size]).expect("the scratch folder is writable");
        format!("@{}", file.display())
    };
    let (short, long) = (body(SHORT), body(LONG));
    for (path, body, status) in [
        ("/flaky/2/none", "@/dev/null", "0"),
        ("/flaky/3/short", &*short, "0"),
        ("/flaky/5/given-up", &*short, "14"),
        ("/long", &*long, "0"),
    ] {
        let answer = call(mesh, path, &["--data-binary", body]);
        let told = format!("grpc-status: {status}");
        assert!(answer.error.contains(&told), "{path}: {answer:?}");
    }
    mesh.istiod.delete("streams.yaml");
}

fn call(mesh: &Mesh, path: &str, more: &[&str]) -> Answer {
    let url = format!("http://web:7070{path}");
    let usual: Vec<&str> = GRPC
        .iter()
        .copied()
        .filter(|it| !["--data-binary", "@/dev/null"].contains(it))
        .collect();
    mesh.curl(SLEEP.name, &url, &[&usual, more].concat())
}
