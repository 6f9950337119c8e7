//! Localities as istiod sends them: zone-aware routing, failover by priority, weights. The same share
//! of requests reaches each host as through a real Envoy.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, io::Write, net::SocketAddr, path::PathBuf};

use crate::{
    envoy::Envoy,
    support::{Bench, exchange, read_head, server},
};

const REQUESTS: usize = 200;

/// Of [`REQUESTS`]; a fair coin strays so far less than once in a million times.
const CHANCE: usize = 36;

#[tokio::test]
async fn load_is_spread_over_localities_as_by_envoy() {
    // Of the own cluster, the path, and what host a gets of a hundred requests.
    let cases = [
        ("two-callers", "/same", 100),
        ("one-caller", "/same", 50),
        ("two-callers", "/elsewhere", 50),
        ("two-callers", "/small", 50),
        ("two-callers", "/off", 50),
        ("two-callers", "/failover", 100),
        ("two-callers", "/weighted", 20),
        ("none", "/same", 50),
    ];
    let envoy = std::env::var_os("ENVOY_BIN").map(PathBuf::from);
    if envoy.is_none() {
        eprintln!(
            "SKIPPED load_is_spread_over_localities_as_by_envoy with Envoy: ENVOY_BIN is not set"
        );
    }
    for local in ["one-caller", "two-callers", "none"] {
        let yaml = yaml(local);
        let ours = Bench::start(&yaml).await;
        let theirs = match &envoy {
            // It knows no cluster that is not there.
            Some(binary) if local != "none" => Some(Envoy::start(binary, &yaml, 1).await),
            _ => None,
        };
        for (_, path, percent) in cases.iter().filter(|(of, ..)| *of == local) {
            let mut fronts = vec![ours.address("front")];
            fronts.extend(theirs.as_ref().map(|envoy| envoy.address("front")));
            for (index, front) in fronts.into_iter().enumerate() {
                let found = share(front, path).await;
                let expected = REQUESTS * percent / 100;
                let near = match percent {
                    100 => found == expected,
                    _ => found.abs_diff(expected) <= CHANCE,
                };
                assert!(
                    near,
                    "{local} {path}: {found}, not {expected}; side {index}"
                );
            }
        }
    }
}

/// How many requests reach host a.
async fn share(front: SocketAddr, path: &str) -> usize {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    for _ in 0..REQUESTS {
        let answer = exchange(front, &request).await;
        let name = answer
            .lines()
            .find_map(|line| line.strip_prefix("x-host: "));
        *counts
            .entry(name.unwrap_or(&answer).to_owned())
            .or_default() += 1;
    }
    let known = |name: &String| name == "a" || name == "b";
    assert!(counts.keys().all(known), "{counts:?}");
    counts.get("a").copied().unwrap_or_default()
}

fn yaml(local: &str) -> String {
    let host = |name: &'static str| {
        let address = server(move |mut stream| {
            while !read_head(&mut stream).is_empty() {
                let head =
                    format!("HTTP/1.1 200 OK\r\nx-host: {name}\r\nContent-Length: 0\r\n\r\n");
                if stream.write_all(head.as_bytes()).is_err() {
                    return;
                }
            }
        });
        format!(
            "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}",
            address.port()
        )
    };
    let yaml = include_str!("zones.yaml")
        .replace("HOST_A", &host("a"))
        .replace("HOST_B", &host("b"))
        .replace("ZONES:", "common_lb_config: {zone_aware_lb_config:");
    match local {
        "none" => yaml.replace("cluster_manager: {local_cluster_name: LOCAL}\n", ""),
        local => yaml.replace("LOCAL", local),
    }
}
