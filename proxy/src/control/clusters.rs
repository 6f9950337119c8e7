//! A cluster at run time: its endpoints as EDS and DNS bring them, and what it waits for.

use std::{net::IpAddr, sync::Arc, time::Duration};

use ithildin_proto::pb::envoy::config::{
    cluster::v3::Cluster as ClusterProto, endpoint::v3::ClusterLoadAssignment,
};
use tokio::time::Instant;

use super::{
    compile::{CompiledCluster, Compiler, Discovery, Questions},
    dns::{Dns, Resolved, Wanted},
    report::ConfigErrors,
    resources::Resources,
    secrets::SecretKey,
};
use crate::config::{
    Cluster,
    cluster::{EndpointSet, Health},
};

/// How long a new cluster waits for the first of its names: silent name servers must not keep all others
/// from serving. It is istiod's limit for endpoints, too.
const NAMES: Duration = Duration::from_secs(15);

pub(super) type Clusters = Resources<ClusterProto, ClusterRun>;

/// A compiled cluster with its endpoints.
pub(super) struct ClusterRun {
    pub(super) compiled: CompiledCluster,
    /// The load assignment that was applied last, good or not.
    assignment: Option<Arc<ClusterLoadAssignment>>,
    /// In the order of the targets.
    names: Vec<ResolvedName>,
    /// A first answer of EDS or DNS came.
    discovered: bool,
    /// Until then endpoints are waited for; `None`: for ever.
    deadline: Option<Instant>,
}

/// A name of a cluster.
#[derive(Default)]
struct ResolvedName {
    /// As it resolved last.
    addresses: Vec<IpAddr>,
    /// Why it does not resolve now.
    failure: Option<Arc<str>>,
}

impl ClusterRun {
    pub(super) fn new(compiled: CompiledCluster, dns: &mut Dns) -> Self {
        let mut run = Self {
            assignment: None,
            names: Vec::new(),
            discovered: false,
            deadline: None,
            compiled,
        };
        let CompiledCluster {
            cluster, discovery, ..
        } = &mut run.compiled;
        cluster.stats.set_limits(cluster.limits);
        match discovery {
            Discovery::Fixed => {
                run.discovered = true;
                // For who goes by our own cluster's localities.
                cluster.rebalance();
                count_members(cluster, &cluster.endpoints.load());
            }
            Discovery::Eds { timeout, .. } => {
                run.deadline = timeout.map(|timeout| Instant::now() + timeout);
            }
            Discovery::Forward(questions) => {
                run.discovered = true;
                if let Some(Questions { spec, asked }) = questions.take() {
                    dns.serve(spec, asked);
                }
            }
            Discovery::Dns(spec) => {
                let targets = spec.targets.len();
                run.names.resize_with(targets, ResolvedName::default);
                run.discovered = targets == 0;
                run.deadline = Some(Instant::now() + NAMES);
                for target in 0..targets {
                    run.ask(target, dns, Duration::ZERO);
                }
            }
        }
        run
    }

    /// The load assignment that this cluster follows.
    pub(super) fn eds_name(&self) -> Option<&Arc<str>> {
        match &self.compiled.discovery {
            Discovery::Eds { name, .. } => Some(name),
            Discovery::Fixed | Discovery::Dns(_) | Discovery::Forward(_) => None,
        }
    }

    pub(super) fn follows(&self, assignment: &str) -> bool {
        self.eds_name().is_some_and(|name| **name == *assignment)
    }

    /// Applies a load assignment, unless it is the one of before.
    pub(super) fn assign(
        &mut self,
        assignment: &Arc<ClusterLoadAssignment>,
        compiler: &Compiler,
    ) -> Option<Result<(), ConfigErrors>> {
        let known = self.assignment.as_ref();
        if known.is_some_and(|known| Arc::ptr_eq(known, assignment) || known == assignment) {
            return None;
        }
        self.assignment = Some(Arc::clone(assignment));
        let cluster = &self.compiled.cluster;
        let previous = cluster.endpoints.load_full();
        let path = format!("load assignment {:?}", assignment.cluster_name);
        let set = compiler.endpoints(assignment, &self.compiled, &previous, &path);
        let counters = &cluster.stats.control;
        counters.update_attempt.inc();
        match &set {
            Ok(_) => counters.update_success.inc(),
            Err(_) => counters.update_rejected.inc(),
        }
        Some(set.map(|set| {
            self.store(set);
            self.discovered = true;
        }))
    }

    /// Applies what a name resolved to, and asks again later. The first name is enough to serve.
    pub(super) fn resolve(&mut self, resolved: Resolved, compiler: &Compiler, dns: &mut Dns) {
        let cluster = &self.compiled.cluster;
        let counters = &cluster.stats.control;
        counters.update_attempt.inc();
        let Discovery::Dns(spec) = &self.compiled.discovery else {
            return;
        };
        let Some(name) = self.names.get_mut(resolved.target) else {
            return;
        };
        match resolved.addresses {
            Ok(addresses) => {
                counters.update_success.inc();
                name.failure = None;
                if name.addresses == addresses {
                    counters.update_no_rebuild.inc();
                } else {
                    name.addresses = addresses;
                    let known = self.names.iter().map(|name| &name.addresses[..]);
                    let previous = cluster.endpoints.load_full();
                    self.store(compiler.resolved(spec.targets.iter().zip(known), &previous));
                }
            }
            Err(error) => {
                counters.update_failure.inc();
                counters.update_no_rebuild.inc();
                // Said once, and not each time that it is tried again.
                if name.failure.as_ref() != Some(&error) {
                    let kept = name.addresses.len();
                    tracing::warn!(cluster = %cluster.name, %error, kept, "dns");
                }
                name.failure = Some(error);
            }
        }
        self.discovered = true;
        self.ask(resolved.target, dns, resolved.refresh);
    }

    /// Resolves one of the names after `delay`.
    fn ask(&self, target: usize, dns: &mut Dns, delay: Duration) {
        let Discovery::Dns(spec) = &self.compiled.discovery else {
            return;
        };
        let Some(named) = spec.targets.get(target) else {
            return;
        };
        let cluster = &self.compiled.cluster;
        let wanted = Wanted {
            cluster: &cluster.name,
            generation: cluster.generation,
            target,
            host: &named.host,
        };
        dns.resolve(&wanted, spec.of_one(), delay);
    }

    /// Counts an update of a secret, if it is one of this cluster's.
    pub(super) fn count_secret(&self, key: &SecretKey) {
        if self.compiled.secrets.contains(key) {
            let counters = &self.compiled.cluster.stats.control;
            counters.ssl_context_update_by_sds.inc();
        }
    }

    fn store(&self, set: EndpointSet) {
        let cluster = &self.compiled.cluster;
        count_members(cluster, &set);
        cluster.store_endpoints(set);
    }

    /// What is still waited for.
    pub(super) fn waiting(&self, compiler: &Compiler, now: Instant) -> Option<String> {
        let expired = self.deadline.is_some_and(|deadline| deadline <= now);
        if !self.discovered && !expired {
            let what = match &self.compiled.discovery {
                Discovery::Eds { name, .. } => format!("endpoints {name:?}"),
                Discovery::Dns(_) => "name resolution".into(),
                Discovery::Fixed | Discovery::Forward(_) => String::new(),
            };
            return Some(format!("cluster {:?}: {what}", self.compiled.cluster.name));
        }
        let secrets = self.compiled.secrets.iter();
        let waiting = secrets
            .filter_map(|key| compiler.secrets.waiting_for(key))
            .next()?;
        Some(format!(
            "cluster {:?}: {waiting}",
            self.compiled.cluster.name
        ))
    }

    /// When waiting for endpoints ends.
    pub(super) fn timeout(&self, now: Instant) -> Option<Instant> {
        let waiting = !self.discovered;
        self.deadline.filter(|deadline| waiting && *deadline > now)
    }
}

/// `membership_*`.
fn count_members(cluster: &Cluster, set: &EndpointSet) {
    let hosts = set.priorities.iter().flatten();
    let total = i64::try_from(hosts.count()).unwrap_or(i64::MAX);
    let counters = &cluster.stats.control;
    if total > 0 || counters.membership_total.get() > 0 {
        counters.membership_change.inc();
    }
    counters.membership_total.set(total);
    count_health(cluster, set);
}

/// `membership_healthy` and `membership_degraded`: ejected hosts are neither.
pub(super) fn count_health(cluster: &Cluster, set: &EndpointSet) {
    let hosts = set.priorities.iter().flatten();
    let count = |health: Health| {
        let hosts = hosts.clone().filter(|host| host.current_health() == health);
        i64::try_from(hosts.count()).unwrap_or(i64::MAX)
    };
    let counters = &cluster.stats.control;
    counters.membership_healthy.set(count(Health::Healthy));
    counters.membership_degraded.set(count(Health::Degraded));
}
