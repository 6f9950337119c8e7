//! DestinationRules.

use std::collections::BTreeSet;

use ithildin_tests::{Mesh, curl::Answer, eventually};

use super::{FIRST_IP, SECOND_IP, SLEEP};

pub(super) fn all(mesh: &Mesh) {
    consistent_hash(mesh);
    connection_pool(mesh);
    outliers(mesh);
}

/// The same user meets the same Pod; not all users do.
fn consistent_hash(mesh: &Mesh) {
    let who = |user: usize| {
        let header = format!("x-user: {user}");
        let url = "http://hashed:8000/get";
        let answer = eventually("an answer", || {
            mesh.curl(SLEEP.name, url, &["-H", &header])
                .expect_status(200)
        });
        answer.address()
    };
    let first: Vec<String> = (0..12).map(who).collect();
    let again: Vec<String> = (0..12).map(who).collect();
    assert_eq!(first, again);
    assert_eq!(BTreeSet::from_iter(first).len(), 2, "all at one Pod");
}

/// One request runs and one waits; the others are told at once that there is no room.
fn connection_pool(mesh: &Mesh) {
    eventually("the one connection is open", || {
        let answer = mesh.curl(SLEEP.name, "http://pooled:8000/get", &[]);
        answer.expect_status(200)
    });
    let url = "http://pooled:8000/delay/1?[1-6]";
    let at_once = ["--parallel", "--parallel-immediate"];
    let Answer { status, body, .. } = mesh.curl(SLEEP.name, url, &at_once);
    let all = format!("HTTP/1.1 {status} {body}");
    let count = |text: &str| all.matches(text).count();
    let (served, refused) = (count("HTTP/1.1 200"), count("HTTP/1.1 503"));
    assert_eq!(served + refused, 6, "{all}");
    // One that waits for a new connection is the one that may wait; a late one finds the room of one that
    // is done.
    assert!((1..=3).contains(&served), "{served} are served: {all}");
    assert_eq!(count("reset reason: overflow"), refused, "{all}");
}

/// A Pod that fails twice is left alone.
fn outliers(mesh: &Mesh) {
    let url = format!("http://ejecting:8000/broken/{FIRST_IP}");
    let ask = || mesh.curl(SLEEP.name, &url, &[]);
    eventually("the broken Pod is ejected", || {
        let answers: Vec<_> = (0..12).map(|_| ask()).collect();
        let healthy = answers.iter().all(|answer| answer.status == 200);
        healthy.then_some(()).ok_or(answers)
    });
    assert_eq!(ask().address(), SECOND_IP);
    let clusters = mesh.pod(SLEEP.name).admin("/clusters").body;
    let ejected = format!(
        "outbound|8000||ejecting.default.svc.cluster.local::{FIRST_IP}:8080::health_flags::/failed_outlier_check"
    );
    assert!(clusters.contains(&ejected), "{clusters}");
}
