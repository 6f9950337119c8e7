//! Which DestinationRule applies to a service, and what it says for one port and subset.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::{
    host,
    model::{
        ClientTlsSettings, ConnectionPool, DestinationRule, LoadBalancer, Object, OutlierDetection,
        Subset, TrafficPolicy, selects,
    },
    node::Node,
    registry::{Service, exported},
};

/// All DestinationRules that one proxy may see.
#[derive(Debug)]
pub(crate) struct Rules<'a> {
    node: &'a Node,
    root_namespace: &'a str,
    /// By namespace, then by full host, in the order in which they merge.
    by_host: BTreeMap<&'a str, BTreeMap<String, Vec<&'a Object<DestinationRule>>>>,
}

/// The rules of one host, merged.
#[derive(Debug)]
pub(crate) struct MergedRule<'a> {
    /// The rule that gave the top-level policy, else the first one.
    pub source: &'a Object<DestinationRule>,
    pub policy: Option<&'a TrafficPolicy>,
    pub subsets: Vec<(&'a Object<DestinationRule>, &'a Subset)>,
}

/// What applies to one port of one subset.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settings<'a> {
    pub load_balancer: Option<&'a LoadBalancer>,
    pub connection_pool: Option<&'a ConnectionPool>,
    pub outlier_detection: Option<&'a OutlierDetection>,
    pub tls: Option<&'a ClientTlsSettings>,
}

impl<'a> Rules<'a> {
    pub(crate) fn new(
        rules: &'a [Object<DestinationRule>],
        node: &'a Node,
        root_namespace: &'a str,
    ) -> Self {
        let mut by_host: BTreeMap<&str, BTreeMap<String, Vec<_>>> = BTreeMap::new();
        for rule in rules {
            let host = host::resolve(&rule.spec.host, rule.namespace(), &node.cluster_domain);
            by_host
                .entry(rule.namespace())
                .or_default()
                .entry(host)
                .or_default()
                .push(rule);
        }
        Self {
            node,
            root_namespace,
            by_host,
        }
    }

    /// Looks in the proxy's own namespace, then in the service's, then in the root namespace. The
    /// first of them that has a matching host decides alone.
    pub(crate) fn find(&self, service: &Service) -> Option<MergedRule<'a>> {
        let own = self.node.namespace.as_str();
        self.in_namespace(own, service, true)
            .or_else(|| self.in_namespace(&service.namespace, service, false))
            .or_else(|| self.in_namespace(self.root_namespace, service, false))
    }

    fn in_namespace(
        &self,
        namespace: &str,
        service: &Service,
        own: bool,
    ) -> Option<MergedRule<'a>> {
        let by_host = self.by_host.get(namespace)?;
        let applies = |rule: &&Object<DestinationRule>| match &rule.spec.workload_selector {
            Some(selector) => own && selects(&selector.match_labels, &self.node.labels),
            None => own || exported(&rule.spec.export_to, namespace, &self.node.namespace),
        };
        let hosts = by_host
            .iter()
            .filter(|(_, rules)| rules.iter().any(applies))
            .map(|(host, _)| host.as_str());
        let best = host::most_specific(&service.host, hosts)?;
        let rules: Vec<_> = by_host[best]
            .iter()
            .copied()
            .filter(|rule| applies(rule))
            .collect();
        merge(&rules)
    }
}

/// Rules for a selected workload come before the others; then the oldest one, and those that are
/// exported as it is. The first policy wins, and the first subset of each name.
fn merge<'a>(rules: &[&'a Object<DestinationRule>]) -> Option<MergedRule<'a>> {
    let mut rules = rules.to_vec();
    rules.sort_by_key(|rule| rule.spec.workload_selector.is_none());
    let first = *rules.first()?;
    let mut merged = MergedRule {
        source: first,
        policy: None,
        subsets: Vec::new(),
    };
    for rule in rules {
        if rule.spec.export_to != first.spec.export_to {
            continue;
        }
        if merged.policy.is_none() && rule.spec.traffic_policy.is_some() {
            merged.policy = rule.spec.traffic_policy.as_ref();
            merged.source = rule;
        }
        for subset in &rule.spec.subsets {
            if !merged
                .subsets
                .iter()
                .any(|(_, known)| known.name == subset.name)
            {
                merged.subsets.push((rule, subset));
            }
        }
    }
    Some(merged)
}

impl<'a> MergedRule<'a> {
    pub(crate) fn subset(&self, name: &str) -> Option<&'a Subset> {
        self.subsets
            .iter()
            .map(|(_, subset)| *subset)
            .find(|subset| subset.name == name)
    }

    /// The settings of `port`, for a subset or for the whole service.
    pub(crate) fn settings(&self, port: u16, subset: Option<&'a Subset>) -> Settings<'a> {
        let whole = Settings::default().overridden(self.policy, port);
        match subset {
            Some(subset) => whole.overridden(subset.traffic_policy.as_ref(), port),
            None => whole,
        }
    }
}

impl<'a> Settings<'a> {
    /// Each block of `policy` replaces ours. An entry for the port replaces all four, also by
    /// nothing: port settings inherit from nowhere.
    fn overridden(self, policy: Option<&'a TrafficPolicy>, port: u16) -> Self {
        let Some(policy) = policy else {
            return self;
        };
        let for_port = policy
            .port_level_settings
            .iter()
            .find(|settings| settings.port.number == port);
        match for_port {
            Some(settings) => Self {
                load_balancer: settings.load_balancer.as_ref(),
                connection_pool: settings.connection_pool.as_ref(),
                outlier_detection: settings.outlier_detection.as_ref(),
                tls: settings.tls.as_ref(),
            },
            None => Self {
                load_balancer: policy.load_balancer.as_ref().or(self.load_balancer),
                connection_pool: policy.connection_pool.as_ref().or(self.connection_pool),
                outlier_detection: policy.outlier_detection.as_ref().or(self.outlier_detection),
                tls: policy.tls.as_ref().or(self.tls),
            },
        }
    }
}
