//! VirtualServices.

use std::time::{Duration, Instant};

use ithildin_tests::{Mesh, eventually};

use super::{FIRST, FIRST_IP, SECOND, SECOND_IP, SLEEP, WEB, expect, get};

pub(super) fn all(mesh: &Mesh) {
    weights(mesh);
    matches(mesh);
    redirects_and_rewrites(mesh);
    faults(mesh);
    retries_and_timeouts(mesh);
    mirror(mesh);
    cors(mesh);
    headers(mesh);
}

fn weights(mesh: &Mesh) {
    let url = format!("{WEB}/weighted?[1-60]");
    let answer = mesh.curl(SLEEP.name, &url, &[]);
    let count = |ip| {
        let told = format!("\"address\":\"{ip}\"");
        answer.body.matches(&told).count()
    };
    let (first, second) = (count(FIRST_IP), count(SECOND_IP));
    assert_eq!(first + second, 60, "{answer:?}");
    assert!(
        first > second && second > 0,
        "80 to 20: {first} to {second}"
    );
}

fn matches(mesh: &Mesh) {
    for (path, arguments, ip) in [
        ("/matched", &["-H", "end-user: jason"][..], SECOND_IP),
        ("/matched", &["-H", "end-user: json"], FIRST_IP),
        ("/matched?beta=yes", &[], SECOND_IP),
        ("/matched?beta=yess", &[], FIRST_IP),
        ("/matched", &["-X", "PUT"], SECOND_IP),
        ("/matched", &["-H", "x-build: v12"], SECOND_IP),
        ("/matched", &["-H", "x-build: v12a"], FIRST_IP),
        (
            "/matched",
            &["-H", "x-build: v12", "-H", "x-stable: 1"],
            FIRST_IP,
        ),
        ("/matched", &[], FIRST_IP),
    ] {
        let answer = expect(mesh, path, arguments, 200);
        assert_eq!(answer.address(), ip, "{path} {arguments:?}");
    }
}

fn redirects_and_rewrites(mesh: &Mesh) {
    let answer = expect(mesh, "/moved/away", &[], 302);
    assert_eq!(
        answer.header("location"),
        Some("http://elsewhere.test/new"),
        "{answer:?}"
    );
    let request = expect(mesh, "/old/page", &[], 200).echoed();
    assert_eq!(request["path"], "/new/page");
    assert_eq!(request["headers"]["host"], "rewritten.test");
    let request = expect(mesh, "/item/42/shoes", &[], 200).echoed();
    assert_eq!(request["path"], "/shoes");
}

fn faults(mesh: &Mesh) {
    let answer = expect(mesh, "/aborted", &[], 418);
    assert_eq!(answer.body, "fault filter abort");
    let started = Instant::now();
    expect(mesh, "/delayed", &[], 200);
    assert!(started.elapsed() >= Duration::from_secs(1));
    let answer = expect(mesh, "/direct", &[], 503);
    assert_eq!(answer.body, "closed for today");
}

fn retries_and_timeouts(mesh: &Mesh) {
    expect(mesh, "/flaky/2/retried", &[], 200);
    expect(mesh, "/flaky/1/given-up", &[], 500);
    expect(mesh, "/flaky/1/given-up", &[], 200);
    let started = Instant::now();
    let answer = expect(mesh, "/delay/3", &[], 504);
    assert_eq!(answer.body, "upstream request timeout");
    assert!(started.elapsed() < Duration::from_secs(2));
    expect(mesh, "/delay/0", &[], 200);
}

/// Who asks gets the first version's answer, and the second one has seen the request too.
fn mirror(mesh: &Mesh) {
    let asked = |pod: &str| {
        let url = "http://127.0.0.1:8080/count/mirrored/once";
        mesh.curl(pod, url, &[]).body
    };
    let answer = expect(mesh, "/mirrored/once", &[], 200);
    assert_eq!(answer.address(), FIRST_IP);
    eventually("the mirror has the request", || {
        let times = asked(SECOND.name);
        (times == "1").then_some(()).ok_or(times)
    });
    assert_eq!(asked(FIRST.name), "1");
}

fn cors(mesh: &Mesh) {
    let preflight = |origin: &str| {
        let origin = format!("origin: {origin}");
        let method = "access-control-request-method: PUT";
        get(
            mesh,
            "/shared",
            &["-X", "OPTIONS", "-H", &origin, "-H", method],
        )
    };
    let answer = preflight("https://example.org");
    assert_eq!(answer.status, 200, "{answer:?}");
    for (name, value) in [
        ("access-control-allow-origin", "https://example.org"),
        ("access-control-allow-methods", "GET,PUT"),
        ("access-control-allow-headers", "x-token"),
        ("access-control-max-age", "86400"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{answer:?}");
    }
    let answer = preflight("https://example.com");
    assert_eq!(
        answer.header("access-control-allow-origin"),
        None,
        "{answer:?}"
    );
    let answer = expect(mesh, "/shared", &["-H", "origin: https://example.org"], 200);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://example.org"),
        "{answer:?}"
    );
}

fn headers(mesh: &Mesh) {
    let sent = ["-H", "x-set: 0", "-H", "x-removed: 0"];
    let answer = expect(mesh, "/headers", &sent, 200);
    assert_eq!(answer.header("x-answer"), Some("3"), "{answer:?}");
    assert_eq!(answer.header("content-type"), None, "{answer:?}");
    let request = answer.echoed();
    let header = |name: &str| request["headers"][name].as_str();
    assert_eq!(header("x-set"), Some("1"), "{request}");
    assert_eq!(header("x-added"), Some("2"), "{request}");
    assert_eq!(header("x-removed"), None, "{request}");
}
