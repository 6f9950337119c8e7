//! Clusters: the one that serves, and the one that warms to replace it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use ithildin_proto::pb::envoy::config::{
    cluster::v3::Cluster as ClusterProto, endpoint::v3::ClusterLoadAssignment,
};
use tokio::time::Instant;

use super::{
    compile::{CompiledCluster, Compiler, Discovery},
    dns::{Dns, Resolved},
    report::ConfigErrors,
};

/// One cluster by its name.
pub(super) struct ClusterState {
    /// The newest message, good or not.
    pub(super) source: Arc<ClusterProto>,
    pub(super) active: Option<ClusterRun>,
    pub(super) warming: Option<ClusterRun>,
    pub(super) rejected: Option<ConfigErrors>,
}

/// A compiled cluster with its endpoints.
pub(super) struct ClusterRun {
    pub(super) compiled: CompiledCluster,
    /// The load assignment that was applied last, good or not.
    assignment: Option<Arc<ClusterLoadAssignment>>,
    /// Of each name, as it resolved last.
    resolved: Vec<Vec<IpAddr>>,
    /// A first answer of EDS or DNS came.
    discovered: bool,
    /// Until then endpoints are waited for; `None`: for ever.
    deadline: Option<Instant>,
}

impl ClusterRun {
    pub(super) fn new(compiled: CompiledCluster, dns: &mut Dns) -> Self {
        let mut run = Self {
            assignment: None,
            resolved: Vec::new(),
            discovered: false,
            deadline: None,
            compiled,
        };
        let cluster = &run.compiled.cluster;
        match &run.compiled.discovery {
            Discovery::Fixed => run.discovered = true,
            Discovery::Eds { timeout, .. } => {
                run.deadline = timeout.map(|timeout| Instant::now() + timeout);
            }
            Discovery::Dns(spec) => {
                run.resolved.resize(spec.targets.len(), Vec::new());
                dns.resolve(&cluster.name, cluster.generation, spec, Duration::ZERO);
            }
        }
        run
    }

    /// The load assignment that this cluster follows.
    pub(super) fn eds_name(&self) -> Option<&Arc<str>> {
        match &self.compiled.discovery {
            Discovery::Eds { name, .. } => Some(name),
            Discovery::Fixed | Discovery::Dns(_) => None,
        }
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
        let endpoints = &self.compiled.cluster.endpoints;
        let previous = endpoints.load_full();
        let path = format!("load assignment {:?}", assignment.cluster_name);
        let set = compiler.endpoints(assignment, &self.compiled, &previous, &path);
        Some(set.map(|set| {
            endpoints.store(Arc::new(set));
            self.discovered = true;
        }))
    }

    /// Applies what names resolved to, and asks again later.
    pub(super) fn resolve(&mut self, resolved: &Resolved, compiler: &Compiler, dns: &mut Dns) {
        let cluster = &self.compiled.cluster;
        let Discovery::Dns(spec) = &self.compiled.discovery else {
            return;
        };
        let mut changed = false;
        for (known, new) in self.resolved.iter_mut().zip(&resolved.addresses) {
            match new {
                Ok(new) if known != new => {
                    known.clone_from(new);
                    changed = true;
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(cluster = %cluster.name, %error, kept = known.len(), "dns");
                }
            }
        }
        if changed {
            let targets: Vec<_> = spec
                .targets
                .iter()
                .cloned()
                .zip(self.resolved.clone())
                .collect();
            let set = compiler.resolved(&targets, &cluster.endpoints.load_full());
            cluster.endpoints.store(Arc::new(set));
        }
        self.discovered = true;
        dns.resolve(&cluster.name, cluster.generation, spec, resolved.refresh);
    }

    /// What is still waited for.
    pub(super) fn waiting(&self, compiler: &Compiler, now: Instant) -> Option<String> {
        let expired = self.deadline.is_some_and(|deadline| deadline <= now);
        if !self.discovered && !expired {
            let what = match &self.compiled.discovery {
                Discovery::Eds { name, .. } => format!("endpoints {name:?}"),
                Discovery::Dns(_) => "name resolution".into(),
                Discovery::Fixed => String::new(),
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

impl ClusterState {
    /// The runs that there are.
    pub(super) fn runs_mut(&mut self) -> impl Iterator<Item = &mut ClusterRun> {
        self.active.iter_mut().chain(&mut self.warming)
    }

    /// Lets the warming cluster serve if it waits for nothing more.
    pub(super) fn promote(&mut self, compiler: &Compiler, now: Instant) -> bool {
        let ready = self
            .warming
            .as_ref()
            .is_some_and(|run| run.waiting(compiler, now).is_none());
        if ready {
            self.active = self.warming.take();
        }
        ready
    }
}
