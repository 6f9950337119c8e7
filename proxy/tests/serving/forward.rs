//! Dynamic forward proxies: the same requests to this proxy and to a real Envoy with the same file.

use std::path::PathBuf;

use crate::{
    like_envoy::{Case, compare_answers, origin},
    support::{Bench, dead_address, exchange},
};

const YAML: &str = include_str!("forward.yaml");

fn request(host: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

#[tokio::test]
async fn names_of_requests_lead_where_envoy_s_lead() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED names_of_requests_lead_where_envoy_s_lead: ENVOY_BIN is not set");
        return;
    };
    let (origin, dead) = (origin().port(), dead_address().port());
    let hosts = [
        ("many", format!("localhost:{origin}")),
        ("many", format!("LocalHost:{origin}")),
        ("many", format!("127.0.0.1:{origin}")),
        // The same name, at another port.
        ("many", format!("localhost:{dead}")),
        ("many", "nobody.invalid:80".into()),
        ("few", format!("localhost:{origin}")),
        ("few", format!("127.0.0.1:{origin}")),
        ("none", format!("localhost:{origin}")),
    ];
    let cases: Vec<Case> = hosts
        .iter()
        .map(|(listener, host)| (*listener, request(host)))
        .collect();
    compare_answers(&binary, YAML, &cases).await;
}

#[tokio::test]
async fn a_name_without_addresses_is_told_of() {
    let ours = Bench::start(YAML).await;
    let long = "a.".repeat(200);
    for host in ["nobody.invalid", &long, "..", "a b"] {
        let answer = exchange(ours.address("many"), &request(host)).await;
        let status = answer.split(' ').nth(1);
        assert!(matches!(status, Some("503" | "400")), "{host}: {answer}");
    }
}
