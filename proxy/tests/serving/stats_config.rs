//! `stats_config`: which statistics there are, and their tags, as in a real Envoy with the same file.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf};

use crate::{
    envoy::Envoy,
    support::{Bench, exchange},
};

/// Cells that Envoy has not.
const OURS: [&str; 2] = [
    "upstream_cx_reauthorization_closed",
    "upstream_rq_retry_active",
];

/// The file; and the same with Envoy's own tags beside the fixed one, and names without the dots that end
/// Envoy's own tags early.
fn files() -> [String; 2] {
    let only_rules = include_str!("stats_config.yaml");
    let own_too = only_rules
        .replace("use_all_default_tags: false", "use_all_default_tags: true")
        .replace("80||one.default.svc.cluster.local;", "80__one")
        .replace("outbound_0.0.0.0_80;", "outbound_80");
    let lines = own_too.lines().filter(|line| !line.contains("regex: '"));
    let own_too = lines.collect::<Vec<_>>().join("\n");
    [only_rules.to_owned(), own_too]
}

#[tokio::test]
async fn names_and_tags_are_envoys() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED names_and_tags_are_envoys: ENVOY_BIN is not set");
        return;
    };
    for yaml in files() {
        let ours = Bench::start(&yaml).await;
        let envoy = Envoy::start(&binary, &yaml, 1).await;
        let found = series(ours.address("front"), ours.proxy.admin_address().unwrap()).await;
        let expected = series(envoy.address("front"), envoy.admin).await;
        // Envoy counts more of a connection than we do; what we show, it shows under the same names.
        let only_ours = found.difference(&expected);
        let only_ours: Vec<_> = only_ours
            .filter(|it| !OURS.iter().any(|ours| it.contains(ours)))
            .collect();
        assert!(
            only_ours.is_empty(),
            "{only_ours:#?}\nEnvoy's: {expected:#?}"
        );
        for (family, label) in [
            ("envoy_cluster_upstream_rq_total{", "cluster_name=\"plain\""),
            ("envoy_cluster_manager_active_clusters{", "mesh=\"one\""),
            ("envoy_http_downstream_rq_total{", "prefix=\"outbound_"),
            ("envoy_cluster_upstream_rq_completed{", "outbound|80"),
        ] {
            let is_it = |it: &String| it.starts_with(family) && it.contains(label);
            assert!(found.iter().any(is_it), "{family} {label} {found:#?}");
        }
        assert!(!found.iter().any(|it| it.contains("unseen")), "{found:#?}");
    }
}

/// The names and labels on `/stats/prometheus` and the names on `/stats`, once there were requests.
async fn series(listener: SocketAddr, admin: SocketAddr) -> BTreeSet<String> {
    let ask = |address, path| async move {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        exchange(address, &request).await
    };
    for path in ["/", "/plain"] {
        let answer = ask(listener, path).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    }
    let exposition = ask(admin, "/stats/prometheus").await;
    let labelled = exposition
        .lines()
        .filter(|line| line.starts_with("envoy_"))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(series, _)| sorted(series));
    let names = ask(admin, "/stats").await;
    let named = names
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.contains('.'));
    labelled.chain(named).collect()
}

/// A series with its labels in order: Envoy's depends on the scope that a statistic comes from.
fn sorted(series: &str) -> String {
    let (name, labels) = series.trim_end_matches('}').split_once('{').unwrap();
    let mut labels: Vec<_> = labels.split(',').collect();
    labels.sort_unstable();
    format!("{name}{{{}}}", labels.join(","))
}
