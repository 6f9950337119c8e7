//! The mTLS mode that PeerAuthentications demand of a workload's port.

use std::collections::BTreeMap;

use crate::model::{MutualTlsMode, Object, PeerAuthentication, selects};

/// All PeerAuthentications, oldest first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MtlsPolicies<'a> {
    policies: &'a [Object<PeerAuthentication>],
    root_namespace: &'a str,
}

/// A mode with nothing left to inherit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MtlsMode {
    Disable,
    Permissive,
    Strict,
}

impl<'a> MtlsPolicies<'a> {
    pub(crate) fn new(policies: &'a [Object<PeerAuthentication>], root_namespace: &'a str) -> Self {
        Self {
            policies,
            root_namespace,
        }
    }

    /// The mode of a namespace: its own policy, else the mesh's, else PERMISSIVE.
    pub(crate) fn of_namespace(&self, namespace: &str) -> MtlsMode {
        let mesh = self.without_selector(self.root_namespace);
        let own = self.without_selector(namespace);
        inherit(own, inherit(mesh, MtlsMode::Permissive))
    }

    /// The mode of a workload, or of one of its ports.
    pub(crate) fn of_workload(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        port: Option<u16>,
    ) -> MtlsMode {
        let outer = self.of_namespace(namespace);
        let Some(policy) = self.selecting(namespace, labels) else {
            return outer;
        };
        let workload = inherit(policy.spec.mtls.mode, outer);
        let of_port = port.and_then(|port| policy.spec.port_level_mtls.get(&port));
        of_port.map_or(workload, |port| inherit(port.mode, workload))
    }

    /// Ports with a mode of their own.
    pub(crate) fn ports(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<u16> {
        self.selecting(namespace, labels)
            .map(|policy| policy.spec.port_level_mtls.keys().copied().collect())
            .unwrap_or_default()
    }

    fn selecting(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Option<&'a Object<PeerAuthentication>> {
        self.policies.iter().find(|policy| {
            policy.namespace() == namespace
                && selector(policy).is_some_and(|selector| selects(selector, labels))
        })
    }

    fn without_selector(&self, namespace: &str) -> MutualTlsMode {
        self.policies
            .iter()
            .find(|policy| policy.namespace() == namespace && selector(policy).is_none())
            .map_or(MutualTlsMode::Unset, |policy| policy.spec.mtls.mode)
    }
}

/// `None` for a policy of a whole namespace.
fn selector(policy: &Object<PeerAuthentication>) -> Option<&BTreeMap<String, String>> {
    policy
        .spec
        .selector
        .as_ref()
        .map(|selector| &selector.match_labels)
        .filter(|labels| !labels.is_empty())
}

fn inherit(mode: MutualTlsMode, outer: MtlsMode) -> MtlsMode {
    match mode {
        MutualTlsMode::Unset => outer,
        MutualTlsMode::Disable => MtlsMode::Disable,
        MutualTlsMode::Permissive => MtlsMode::Permissive,
        MutualTlsMode::Strict => MtlsMode::Strict,
    }
}
