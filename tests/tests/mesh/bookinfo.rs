//! Bookinfo's services in one mesh: each hop is mTLS between SPIRE's identities, names are resolved by the
//! agent, and policies by principal hold.

use ithildin_tests::{
    Mesh,
    curl::Answer,
    eventually,
    mesh::{App, INGRESS, PodSpec, Program},
};
use serde_json::Value;

use crate::support::{caller, on_each};

on_each!(bookinfo, and_istios_agent);

const PRODUCTPAGE: PodSpec<'static> = PodSpec {
    name: "productpage-v1-0",
    namespace: "default",
    account: "bookinfo-productpage",
    ip: [10, 0, 4, 1],
    role: "sidecar",
    labels: &[("app", "productpage"), ("version", "v1")],
    app: Some(App {
        port: 9080,
        calls: &[
            "http://details:9080/details/0",
            "http://reviews:9080/reviews/0",
        ],
    }),
    env: &[],
    annotations: &[],
};

const DETAILS: PodSpec<'static> = PodSpec {
    name: "details-v1-0",
    account: "bookinfo-details",
    ip: [10, 0, 4, 2],
    labels: &[("app", "details"), ("version", "v1")],
    app: Some(App {
        port: 9080,
        calls: &[],
    }),
    ..PRODUCTPAGE
};

/// Its first version does without stars: it does not call ratings.
const REVIEWS_V1: PodSpec<'static> = PodSpec {
    name: "reviews-v1-0",
    account: "bookinfo-reviews",
    ip: [10, 0, 4, 3],
    labels: &[("app", "reviews"), ("version", "v1")],
    ..DETAILS
};

const REVIEWS_V2: PodSpec<'static> = PodSpec {
    name: "reviews-v2-0",
    ip: [10, 0, 4, 4],
    labels: &[("app", "reviews"), ("version", "v2")],
    app: Some(App {
        port: 9080,
        calls: &["http://ratings:9080/ratings/0"],
    }),
    ..REVIEWS_V1
};

const REVIEWS_V3: PodSpec<'static> = PodSpec {
    name: "reviews-v3-0",
    ip: [10, 0, 4, 5],
    labels: &[("app", "reviews"), ("version", "v3")],
    ..REVIEWS_V2
};

const RATINGS: PodSpec<'static> = PodSpec {
    name: "ratings-v1-0",
    account: "bookinfo-ratings",
    ip: [10, 0, 4, 6],
    labels: &[("app", "ratings"), ("version", "v1")],
    ..DETAILS
};

const ALL: [PodSpec<'static>; 7] = [
    PRODUCTPAGE,
    DETAILS,
    REVIEWS_V1,
    REVIEWS_V2,
    REVIEWS_V3,
    RATINGS,
    INGRESS,
];
const FRONT: &str = "http://10.0.4.10:8080";

fn bookinfo(test: &str, program: Program) {
    let mesh = Mesh::start(test, program, &["bookinfo.yaml"], &ALL);
    let Some(mesh) = mesh else {
        return;
    };
    front_page(&mesh);
    policies(&mesh);
    strict(&mesh);
}

/// The page through the gateway: every service answers, and has seen the identity of its caller.
fn front_page(mesh: &Mesh) {
    let from = INGRESS.name;
    let page = eventually("the front page", || {
        let answer = mesh.curl(from, &format!("{FRONT}/productpage"), &[]);
        whole(&answer).ok_or(answer)
    });
    assert_eq!(caller(&page), mesh.pod(from).id);
    let [details, reviews] = [&page["calls"][0], &page["calls"][1]];
    assert_eq!(caller(&details["body"]), mesh.pod("productpage-v1-0").id);
    assert_eq!(caller(&reviews["body"]), mesh.pod("productpage-v1-0").id);
    let ratings = &reviews["body"]["calls"][0];
    assert_eq!(caller(&ratings["body"]), mesh.pod("reviews-v3-0").id);

    let user = ["-H", "end-user: jason"];
    let answer = mesh.curl(from, &format!("{FRONT}/productpage"), &user);
    assert!(whole(&answer).is_some(), "{answer:?}");
    // Istio's agent waits for the cluster's name server here, and there is none.
    if mesh.program != Program::Stock {
        let url = "http://details.default.svc.cluster.local:9080/details/0";
        let answer = mesh.curl("productpage-v1-0", url, &[]);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let unknown = mesh.curl(from, &format!("{FRONT}/elsewhere"), &[]);
    assert_eq!(unknown.status, 404, "{unknown:?}");
}

/// The page, if every service that it is made of has answered with 200.
fn whole(answer: &Answer) -> Option<Value> {
    let page: Value = serde_json::from_str(&answer.body).ok()?;
    fn answered(body: &Value) -> bool {
        let calls = body["calls"].as_array().into_iter().flatten();
        calls
            .into_iter()
            .all(|call| call["status"] == 200 && answered(&call["body"]))
    }
    (answer.status == 200 && answered(&page)).then_some(page)
}

/// Who is not among the principals gets 403 from the sidecar of the service.
fn policies(mesh: &Mesh) {
    for (from, url, status) in [
        ("reviews-v2-0", "http://ratings:9080/ratings/0", 200),
        ("productpage-v1-0", "http://ratings:9080/ratings/0", 403),
        ("productpage-v1-0", "http://details:9080/details/0", 200),
        ("reviews-v1-0", "http://details:9080/details/0", 403),
    ] {
        let answer = mesh.curl(from, url, &[]);
        assert_eq!(answer.status, status, "{from} to {url}: {answer:?}");
        if status == 403 {
            assert_eq!(answer.body, "RBAC: access denied");
        }
    }
    let answer = mesh.curl(
        "reviews-v2-0",
        "http://ratings:9080/ratings/0",
        &["-X", "POST"],
    );
    assert_eq!(
        answer.status, 403,
        "a method that no rule allows: {answer:?}"
    );
}

/// Without mTLS nobody gets in.
fn strict(mesh: &Mesh) {
    // The gateway's own traffic is not captured, so this is plain text to the Pod.
    let answer = mesh.curl(INGRESS.name, "http://10.0.4.2:9080/", &[]);
    assert_ne!(answer.exit, 0, "{answer:?}");
}
