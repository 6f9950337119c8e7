//! Services that overlap, calls to oneself, hashes, and who listens where.

use std::collections::BTreeSet;

use ithildin_tests::{Mesh, curl::Answer, eventually};

use super::{BIND, FIRST, FIRST_IP, MACHINE_IP, SLEEP, expect};
use crate::support::callers;

const CONVERSATION: [&str; 3] = ["<220", ">hello", "<hello"];

pub(super) fn all(mesh: &Mesh) {
    overlapping(mesh);
    to_oneself(mesh);
    loops(mesh);
    hashes(mesh);
    cookie(mesh);
    bound(mesh);
    external(mesh);
    alias(mesh);
}

/// Several Services lead to the same Pods, with the same ports and others.
fn overlapping(mesh: &Mesh) {
    for url in [
        "http://alt-1/get",
        "http://alt-3:12345/get",
        "http://alt-4:12346/get",
        "http://web/get",
    ] {
        let request = expect(mesh, url, &[], 200).echoed();
        assert_eq!(
            callers(&request),
            [mesh.pod(SLEEP.name).id.clone()],
            "{url}"
        );
    }
    let told = mesh.pod(SLEEP.name).talk("alt-2:80", &CONVERSATION);
    assert!(told.is_ok(), "{told:?}");
}

/// By the name of a Service through both halves of the sidecar; by address through none.
fn to_oneself(mesh: &Mesh) {
    let attempts = |url: &str| {
        let answer = mesh.curl(FIRST.name, url, &[]);
        assert_eq!((answer.exit, answer.status), (0, 200), "{url}: {answer:?}");
        let request = answer.echoed();
        request["headers"]["x-envoy-attempt-count"]
            .as_str()
            .map(str::to_owned)
    };
    assert_eq!(attempts("http://self/get").as_deref(), Some("1"));
    for url in ["http://localhost:8080/get", "http://10.0.4.2:8080/get"] {
        assert_eq!(attempts(url), None, "{url}");
    }
}

/// Who asks for the ports of a proxy does not make it talk to itself.
fn loops(mesh: &Mesh) {
    for port in [15001, 15006] {
        let url = format!("http://{FIRST_IP}:{port}/");
        let answer = mesh.curl(SLEEP.name, &url, &["--max-time", "5"]);
        assert_ne!((answer.exit, answer.status), (0, 200), "{url}: {answer:?}");
    }
    expect(mesh, "http://web/get", &[], 200);
}

fn hashes(mesh: &Mesh) {
    let who = |url: &str| {
        let answers = (0..8).map(|_| expect(mesh, url, &[], 200).address());
        answers.collect::<BTreeSet<_>>()
    };
    assert_eq!(who("http://hash-source/get").len(), 1);
    let users = (0..12).map(|user| {
        let found = who(&format!("http://hash-query/get?user={user}"));
        assert_eq!(found.len(), 1, "user {user}");
        found
    });
    assert_eq!(
        users.flatten().collect::<BTreeSet<_>>().len(),
        2,
        "all at one Pod"
    );
    let sleep = mesh.pod(SLEEP.name);
    let met = (0..8).map(|_| {
        sleep
            .talk("hash-source:90", &CONVERSATION)
            .expect("a conversation")
    });
    assert_eq!(met.collect::<BTreeSet<_>>().len(), 1);
}

/// The proxy gives a cookie to who has none, and knows it again.
fn cookie(mesh: &Mesh) {
    let url = "http://hash-cookie/get";
    let mut met = BTreeSet::new();
    for _ in 0..12 {
        let first = expect(mesh, url, &[], 200);
        let cookie = first
            .header("set-cookie")
            .unwrap_or_else(|| panic!("{first:?}"));
        assert!(
            cookie.starts_with("session=") && cookie.contains("Max-Age=3600"),
            "{cookie}"
        );
        let (pair, _) = cookie.split_once(';').expect("attributes");
        let again = expect(mesh, url, &["-H", &format!("cookie: {pair}")], 200);
        assert_eq!(again.header("set-cookie"), None, "{again:?}");
        assert_eq!(again.address(), first.address());
        met.insert(first.address());
    }
    assert_eq!(met.len(), 2, "all at one Pod");
}

/// An application that listens on one address, and a sidecar that is told another one.
fn bound(mesh: &Mesh) {
    for (port, status, what) in [
        (7001, 200, "by address, anywhere"),
        (7002, 503, "by address, at loopback"),
        (7003, 503, "at loopback, anywhere"),
        (7004, 200, "at loopback, at loopback"),
        (7005, 200, "everywhere, anywhere"),
        (7006, 200, "everywhere, at loopback"),
        (8091, 200, "by address, untold"),
        (8092, 503, "at loopback, untold"),
    ] {
        let url = format!("http://bind:{port}/get");
        let answer: Answer = mesh.curl(SLEEP.name, &url, &[]);
        assert_eq!(
            (answer.exit, answer.status),
            (0, status),
            "{what}: {answer:?}"
        );
    }
    assert!(mesh.pod(BIND.name).admin("/listeners").status == 200);
}

/// Ranges of addresses and names with a star, for those who reach nothing else.
fn external(mesh: &Mesh) {
    for pod in [SLEEP.name, FIRST.name] {
        let to = format!("{MACHINE_IP}:9443");
        eventually("a range", || mesh.pod(pod).talk(&to, &CONVERSATION));
        let answer = wild(mesh, pod, "a.wild.test");
        assert_eq!(answer.address(), MACHINE_IP, "{pod}: {answer:?}");
    }
    let other = wild(mesh, FIRST.name, "a.tame.test");
    assert_ne!((other.exit, other.status), (0, 200), "{other:?}");
}

fn wild(mesh: &Mesh, pod: &str, host: &str) -> Answer {
    let url = format!("http://{host}:8095/get");
    let to = format!("{host}:8095:{MACHINE_IP}:8095");
    mesh.curl(pod, &url, &["--connect-to", &to])
}

/// A Service that is another one's name: without ports by name, with ports as a destination.
fn alias(mesh: &Mesh) {
    let id = mesh.pod(SLEEP.name).id.clone();
    let to = "alias:80:10.96.5.11:80";
    let answer = expect(mesh, "http://alias/get", &["--connect-to", to], 200);
    assert_eq!(callers(&answer.echoed()), std::slice::from_ref(&id));
    let answer = expect(mesh, "http://routed/get", &[], 200);
    assert_eq!(callers(&answer.echoed()), [id]);
}
