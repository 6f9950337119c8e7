use super::*;
use crate::{
    model::{ClientTlsMode, SimpleLb},
    node::Interception,
    registry::Registry,
    resources::Resources,
    testing::{resources, sidecar},
};

const WEB: &str = "web.prod.svc.cluster.local";

/// A rule whose SNI tells it from the others.
fn rule(namespace: &str, name: &str, host: &str, more: &str) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  host: '{host}'
  trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL, sni: {namespace}-{name}}}}}
{more}"
    )
}

fn with_service(rules: &[String]) -> Resources {
    let service = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: prod}
spec: {clusterIP: 10.1.0.1, ports: [{name: http, port: 80}, {name: tcp, port: 90}]}
";
    resources(&format!("{service}{}", rules.concat()))
}

/// Which of the rules applies to the service, for a client in `default`.
fn winner(rules: &[String]) -> Option<String> {
    let resources = with_service(rules);
    let node = sidecar(Interception::Redirect);
    let registry = Registry::new(&resources, "cluster.local", &mut Vec::new());
    let rules = Rules::new(&resources.destination_rules, &node, "istio-system");
    let found = rules.find(registry.get(WEB).unwrap())?;
    found.settings(80, None).tls?.sni.clone()
}

#[test]
fn the_clients_namespace_is_asked_first_then_the_services_then_the_root() {
    let client = rule("default", "client", "*", "");
    let service = rule("prod", "service", WEB, "");
    let root = rule("istio-system", "root", WEB, "");
    let other = rule("other", "other", WEB, "");
    let all = [client, service.clone(), root.clone(), other.clone()];
    // Even a worse match decides, when it is in the nearer namespace.
    assert_eq!(winner(&all).as_deref(), Some("default-client"));
    assert_eq!(
        winner(&[service, root.clone(), other.clone()]).as_deref(),
        Some("prod-service")
    );
    assert_eq!(
        winner(&[root, other.clone()]).as_deref(),
        Some("istio-system-root")
    );
    assert_eq!(winner(&[other]), None);
}

#[test]
fn within_a_namespace_the_most_specific_host_wins() {
    let any = rule("prod", "any", "*", "");
    let local = rule("prod", "local", "*.svc.cluster.local", "");
    let prod = rule("prod", "prod", "*.prod.svc.cluster.local", "");
    let exact = rule("prod", "exact", WEB, "");
    let all = [any.clone(), local.clone(), prod.clone(), exact];
    assert_eq!(winner(&all).as_deref(), Some("prod-exact"));
    assert_eq!(
        winner(&[prod, local.clone(), any.clone()]).as_deref(),
        Some("prod-prod")
    );
    assert_eq!(winner(&[any.clone(), local]).as_deref(), Some("prod-local"));
    assert_eq!(winner(&[any]).as_deref(), Some("prod-any"));
}

#[test]
fn short_hosts_are_services_of_the_rules_namespace() {
    assert_eq!(
        winner(&[rule("prod", "short", "web", "")]).as_deref(),
        Some("prod-short")
    );
    assert_eq!(winner(&[rule("default", "short", "web", "")]), None);
}

#[test]
fn rules_that_are_not_exported_stay_at_home() {
    let private = rule("prod", "private", WEB, "  exportTo: ['.']\n");
    let root = rule("istio-system", "root", WEB, "");
    assert_eq!(
        winner(&[private, root]).as_deref(),
        Some("istio-system-root")
    );
    let own = rule("default", "own", WEB, "  exportTo: ['.']\n");
    assert_eq!(winner(&[own]).as_deref(), Some("default-own"));
}

#[test]
fn a_rule_for_selected_workloads_comes_first_and_only_in_their_namespace() {
    let selector = "  workloadSelector: {matchLabels: {app: own}}\n";
    let all = rule("default", "all", WEB, "");
    let selected = rule("default", "selected", WEB, selector);
    assert_eq!(
        winner(&[all.clone(), selected]).as_deref(),
        Some("default-selected")
    );
    let others = "  workloadSelector: {matchLabels: {app: other}}\n";
    let other = rule("default", "other", WEB, others);
    assert_eq!(winner(&[all, other]).as_deref(), Some("default-all"));
    assert_eq!(winner(&[rule("prod", "far", WEB, selector)]), None);
}

#[test]
fn rules_of_one_host_merge_oldest_first() {
    let first = rule(
        "prod",
        "a",
        WEB,
        "  subsets: [{name: v1, labels: {version: v1}}]\n",
    );
    let more = "  subsets: [{name: v1, labels: {version: x}}, {name: v2, labels: {version: v2}}]\n";
    let resources = with_service(&[rule("prod", "b", WEB, more), first]);
    let node = sidecar(Interception::Redirect);
    let registry = Registry::new(&resources, "cluster.local", &mut Vec::new());
    let rules = Rules::new(&resources.destination_rules, &node, "istio-system");
    let merged = rules.find(registry.get(WEB).unwrap()).unwrap();
    assert_eq!(merged.source.name(), "a");
    let subsets: Vec<_> = merged
        .subsets
        .iter()
        .map(|(_, subset)| (subset.name.as_str(), subset.labels["version"].as_str()))
        .collect();
    assert_eq!(subsets, [("v1", "v1"), ("v2", "v2")]);
}

#[test]
fn ports_replace_everything_and_subsets_replace_blocks() {
    let rule = "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: r, namespace: prod}
spec:
  host: web
  trafficPolicy:
    loadBalancer: {simple: RANDOM}
    tls: {mode: ISTIO_MUTUAL}
    portLevelSettings:
    - {port: {number: 90}, tls: {mode: DISABLE}}
  subsets:
  - name: blocks
    trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}
  - name: ports
    trafficPolicy:
      loadBalancer: {simple: ROUND_ROBIN}
      portLevelSettings:
      - {port: {number: 80}, connectionPool: {tcp: {maxConnections: 1}}}
  - name: plain
";
    let resources = with_service(&[rule.to_owned()]);
    let node = sidecar(Interception::Redirect);
    let registry = Registry::new(&resources, "cluster.local", &mut Vec::new());
    let rules = Rules::new(&resources.destination_rules, &node, "istio-system");
    let merged = rules.find(registry.get(WEB).unwrap()).unwrap();
    let of = |port, subset: &str| {
        let settings = merged.settings(port, merged.subset(subset));
        (
            settings.load_balancer.map(|lb| lb.simple),
            settings.tls.map(|tls| tls.mode),
            settings.connection_pool.is_some(),
        )
    };
    use ClientTlsMode::{Disable, IstioMutual};
    use SimpleLb::{Random, RoundRobin};
    assert_eq!(of(80, ""), (Some(Random), Some(IstioMutual), false));
    // The port's settings inherit nothing.
    assert_eq!(of(90, ""), (None, Some(Disable), false));
    assert_eq!(of(80, "plain"), (Some(Random), Some(IstioMutual), false));
    assert_eq!(
        of(80, "blocks"),
        (Some(RoundRobin), Some(IstioMutual), false)
    );
    assert_eq!(of(90, "blocks"), (Some(RoundRobin), Some(Disable), false));
    assert_eq!(of(80, "ports"), (None, None, true));
    assert_eq!(of(90, "ports"), (Some(RoundRobin), Some(Disable), false));
}
