//! One host in several ServiceEntries.

use std::collections::BTreeSet;

use ithildin_tests::{Mesh, eventually};

use super::{FIRST, ONE, SLEEP, TWO};

/// Who asks, for which host and port, and who answers, if anybody does.
const ROWS: &[(&str, &str, u16, &[&str])] = &[
    // Both ports are of one service, which has all endpoints.
    (SLEEP.name, "ports.test", 80, &[ONE, TWO]),
    (SLEEP.name, "ports.test", 81, &[ONE, TWO]),
    (SLEEP.name, "same.test", 80, &[ONE, TWO]),
    // What one's own namespace has of a host is all that there is, its ports too.
    (SLEEP.name, "own.test", 80, &[ONE]),
    (FIRST.name, "own.test", 80, &[TWO]),
    (SLEEP.name, "apart.test", 80, &[ONE]),
    (SLEEP.name, "apart.test", 81, &[]),
    (FIRST.name, "apart.test", 81, &[TWO]),
    (FIRST.name, "apart.test", 80, &[]),
];
/// Nobody has it: the name alone leads on.
const ANY_ADDRESS: &str = "10.96.9.99";
const TIMES: usize = 12;

pub(super) fn all(mesh: &Mesh) {
    let mut differences = Vec::new();
    for (pod, host, port, expected) in ROWS {
        let url = format!("http://{host}:{port}/get");
        let to = format!("{host}:{port}:{ANY_ADDRESS}:{port}");
        let ask = || mesh.curl(pod, &url, &["--connect-to", &to]);
        if !expected.is_empty() {
            eventually(&format!("{pod}: {url}"), || ask().expect_status(200));
        }
        let met: BTreeSet<String> = (0..TIMES)
            .map(|_| ask())
            .filter(|answer| answer.status == 200)
            .map(|answer| answer.address())
            .collect();
        let expected: BTreeSet<_> = expected.iter().map(ToString::to_string).collect();
        if met != expected {
            differences.push(format!("{pod}: {url}: {met:?}, not {expected:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
