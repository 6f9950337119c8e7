//! What makes a proxy ask again, and what happens to a share of the requests alone.

use ithildin_tests::{Mesh, eventually};

use super::{SLEEP, WEB, get};

pub(super) fn all(mesh: &Mesh) {
    retries(mesh);
    timeouts(mesh);
    shares(mesh);
}

/// A path, the status that its client sees, and how often its service was asked.
const RETRIES: [(&str, u16, u32); 14] = [
    ("/flaky/1/5xx", 200, 2),
    ("/status/503/5xx", 503, 3),
    ("/status/404/5xx", 404, 1),
    ("/flaky/1/gateway", 500, 1),
    ("/status/502/gateway", 502, 3),
    ("/status/409/4xx", 409, 3),
    ("/status/404/4xx", 404, 1),
    ("/status/418/codes", 418, 3),
    ("/status/503/codes", 503, 1),
    ("/status/418/both", 418, 2),
    ("/status/500/both", 500, 2),
    ("/status/503/connect", 503, 1),
    ("/status/503/none", 503, 1),
    // By default only what is certain not to have been begun is.
    ("/status/503/usual", 503, 1),
];

fn retries(mesh: &Mesh) {
    for (path, status, times) in RETRIES {
        let answer = get(mesh, path);
        assert_eq!((answer.exit, answer.status), (0, status), "{answer:?}");
        assert_eq!(asked(mesh, path), times, "{path}");
    }
}

fn timeouts(mesh: &Mesh) {
    for (path, times) in [("/delay/1/tries", 3), ("/delay/3/whole", 2)] {
        let answer = get(mesh, path);
        assert_eq!(answer.status, 504, "{path}: {answer:?}");
        assert_eq!(asked(mesh, path), times, "{path}");
    }
}

/// How often each share is asked for.
const REQUESTS: u32 = 100;
/// What half of them is at the least and at the most; by chance it is not in one of a million runs.
const HALF: std::ops::RangeInclusive<u32> = 25..=75;

fn shares(mesh: &Mesh) {
    let aborted = |path: &str| {
        let answer = get(mesh, &format!("{path}?[1-{REQUESTS}]"));
        let count = answer.body.matches("fault filter abort").count();
        u32::try_from(count).expect("it is small")
    };
    assert_eq!(aborted("/aborted/0"), 0);
    let half = aborted("/aborted/50");
    assert!(HALF.contains(&half), "{half}");

    get(mesh, &format!("/mirrored/50?[1-{REQUESTS}]"));
    get(mesh, &format!("/mirrored/0?[1-{REQUESTS}]"));
    eventually("half are mirrored", || {
        let mirrored = asked(mesh, "/mirrored/50").saturating_sub(REQUESTS);
        HALF.contains(&mirrored).then_some(()).ok_or(mirrored)
    });
    assert_eq!(asked(mesh, "/mirrored/0"), REQUESTS);
}

/// As the service itself has counted.
fn asked(mesh: &Mesh, path: &str) -> u32 {
    let url = format!("http://127.0.0.1:8080/count{path}");
    let answer = mesh.curl(WEB.name, &url, &[]);
    let count = answer.body.parse();
    count.unwrap_or_else(|error| panic!("{error}: {answer:?}, {}", SLEEP.name))
}
