//! VirtualServices.

use ithildin_tests::{Mesh, eventually};

use crate::support::GRPC;

use super::{FIRST, SECOND, SLEEP, expect};

pub(super) fn all(mesh: &Mesh) {
    authorities(mesh);
    redirects(mesh);
    matches(mesh);
    without_headers(mesh);
    sources(mesh);
    faults(mesh);
    delegates(mesh);
    mirrors(mesh);
}

/// What a route says goes before what its destination says.
fn authorities(mesh: &Mesh) {
    for (path, host) in [
        ("route", "by-the-route"),
        ("destination", "by-the-destination"),
        ("host", "by-the-destination"),
        ("both", "by-the-route"),
        ("one-of-two", "by-the-route"),
        ("two", "by-the-destination"),
    ] {
        let url = format!("http://authority/{path}");
        let request = expect(mesh, &url, &[], 200).echoed();
        assert_eq!(request["headers"]["host"], host, "{path}");
    }
}

fn redirects(mesh: &Mesh) {
    let host = |host: &str| format!("host: {host}");
    for (url, asked_for, status, location) in [
        (
            "/path?key=value",
            "redirects",
            301,
            "http://redirects/new/path?key=value",
        ),
        (
            "/port-and-scheme",
            "redirects",
            301,
            "https://redirects:80/port-and-scheme",
        ),
        (
            "/request-port",
            "redirects",
            301,
            "http://redirects/request-port",
        ),
        (
            "/request-port",
            "redirects:80",
            301,
            "http://redirects:80/request-port",
        ),
        (
            ":85/request-port",
            "redirects",
            301,
            "http://redirects:85/request-port",
        ),
        (
            ":85/request-port",
            "redirects:85",
            301,
            "http://redirects:85/request-port",
        ),
        (
            "/default-port",
            "redirects",
            307,
            "http://redirects/default-port",
        ),
        ("/port", "redirects", 308, "https://redirects:8443/port"),
        ("/foo/bar", "redirects", 301, "http://redirects/new/bar"),
    ] {
        let url = format!("http://redirects{url}");
        let answer = expect(mesh, &url, &["-H", &host(asked_for)], status);
        assert_eq!(
            answer.header("location"),
            Some(location),
            "{url} {asked_for}"
        );
    }
    let request = expect(mesh, "http://redirects/rewritten?key=value", &[], 200).echoed();
    assert_eq!(
        (&request["path"], &request["query"]),
        (&"/new/path".into(), &"key=value".into())
    );
}

fn matches(mesh: &Mesh) {
    for (url, arguments, status) in [
        ("/odd", &[][..], 404),
        ("/odd", &["-H", "a!#$%&'*+-.^_`|~z: why"], 200),
        ("/odd", &["-H", "a!#$%&'*+-.^_`|~z: because"], 404),
        ("/pseudo", &[], 200),
        ("/pseudo", &["-X", "POST"], 404),
        ("/case", &[], 200),
        ("/CaSe", &[], 200),
        ("/cases", &[], 404),
        ("/scheme", &[], 200),
        ("/authority", &[], 200),
        ("/retried", &[], 200),
        ("/all/others", &[], 418),
    ] {
        let url = format!("http://matches{url}");
        expect(mesh, &url, arguments, status);
    }
    for (url, port) in [
        ("http://matches:85/port", Some("85")),
        ("http://matches/port", None),
    ] {
        let answer = expect(mesh, url, &[], 200);
        assert_eq!(answer.header("x-port"), port, "{url}");
    }
}

fn without_headers(mesh: &Mesh) {
    let user = ["-H", "end-user: jason"];
    let other = ["-H", "end-user: not-jason"];
    // curl sends an empty one for a semicolon.
    let empty = ["-H", "end-user;"];
    for (path, jason, not_jason, nobody, none) in [
        ("not-jason", 200, 403, 403, 403),
        ("not-there", 200, 200, 200, 403),
        ("not-anything", 200, 200, 200, 200),
    ] {
        let url = format!("http://matches/{path}");
        expect(mesh, &url, &user, jason);
        expect(mesh, &url, &other, not_jason);
        expect(mesh, &url, &empty, nobody);
        expect(mesh, &url, &[], none);
    }
}

/// Routes for who asks: other sidecars have others.
fn sources(mesh: &Mesh) {
    for (pod, source) in [(SLEEP.name, "sleep"), (FIRST.name, "other")] {
        let answer = mesh.curl(pod, "http://matches/labels", &[]);
        assert_eq!(answer.header("x-source"), Some(source), "{pod}: {answer:?}");
    }
}

fn faults(mesh: &Mesh) {
    let answer = expect(mesh, "http://matches:7070/aborted.Echo/Say", &GRPC, 200);
    assert_eq!(answer.header("grpc-status"), Some("14"), "{answer:?}");
}

fn delegates(mesh: &Mesh) {
    for (path, delegate) in [("/delegated", "once"), ("/delegated/twice", "twice")] {
        let answer = expect(mesh, &format!("http://matches{path}"), &[], 200);
        assert_eq!(answer.header("x-delegate"), Some(delegate), "{answer:?}");
    }
}

/// Of three that have the request one answers.
fn mirrors(mesh: &Mesh) {
    expect(mesh, "http://matches/mirrors", &[], 200);
    eventually("all have the request", || {
        let asked = [FIRST, SECOND].map(|pod| {
            let url = "http://127.0.0.1:8080/count/mirrors";
            mesh.curl(pod.name, url, &[]).body.parse().unwrap_or(0)
        });
        let times: u32 = asked.iter().sum();
        (times == 3).then_some(()).ok_or(asked)
    });
}
