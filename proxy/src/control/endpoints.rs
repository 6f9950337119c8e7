//! Load assignments of EDS: which cluster runs on which, and what was refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ithildin_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use ithildin_xds::{NameMap, ResourceKind};

use super::{
    Rejection,
    clusters::{ClusterRun, Clusters},
    compile::Compiler,
    held::{Held, Refused, Source},
    provenance::Arrival,
    resources::refused,
};

/// All load assignments that clusters follow.
#[derive(Default)]
pub(super) struct Assignments {
    active: BTreeMap<String, Source<ClusterLoadAssignment>>,
    refused: BTreeMap<String, Refused<ClusterLoadAssignment>>,
    /// The names of the clusters that follow each.
    followers: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Of the clusters that `followers` tells of.
    revision: u64,
}

impl Assignments {
    /// Gives clusters their load assignments: where these changed to those that follow them, and to each that
    /// is new.
    pub(super) fn replace(
        &mut self,
        set: &NameMap<ClusterLoadAssignment>,
        changed: &BTreeSet<&str>,
        arrival: &Arrival<'_>,
        clusters: &mut Clusters,
        compiler: &Compiler,
    ) {
        if self.revision == clusters.revision() {
            for name in changed {
                self.give(name, set.get(name), arrival, clusters, compiler);
            }
            return;
        }
        self.revision = clusters.revision();
        self.followers = followers(clusters.runs());
        let followers = &self.followers;
        let is_followed = |name: &String| followers.contains_key(name.as_str());
        self.active.retain(|name, _| is_followed(name));
        self.refused.retain(|name, _| is_followed(name));
        let names: Vec<_> = followers.keys().cloned().collect();
        for name in names {
            self.give(&name, set.get(&name), arrival, clusters, compiler);
        }
    }

    fn give(
        &mut self,
        name: &str,
        assignment: Option<&Arc<ClusterLoadAssignment>>,
        arrival: &Arrival<'_>,
        clusters: &mut Clusters,
        compiler: &Compiler,
    ) {
        let Some(assignment) = assignment else {
            self.active.remove(name);
            self.refused.remove(name);
            return;
        };
        for cluster in self.followers.get(name).into_iter().flatten() {
            let runs = clusters.runs_of_mut(cluster);
            for run in runs.filter(|run| run.follows(name)) {
                let Some(outcome) = run.assign(assignment, compiler) else {
                    continue;
                };
                let source = Source {
                    message: Some(Arc::clone(assignment)),
                    stamp: arrival.stamp_of(name),
                };
                match outcome {
                    Ok(()) => {
                        self.active.insert(name.to_owned(), source);
                        self.refused.remove(name);
                    }
                    Err(errors) => {
                        let reason = refused(name, &errors);
                        let refused = Refused { source, reason };
                        self.refused.insert(name.to_owned(), refused);
                    }
                }
            }
        }
    }

    /// The clusters that follow it.
    pub(super) fn followers_of<'a>(
        &self,
        name: &'a str,
        clusters: &'a Clusters,
    ) -> impl Iterator<Item = &'a ClusterRun> {
        let names = self.followers.get(name).into_iter().flatten();
        names
            .flat_map(|cluster| clusters.runs_of(cluster))
            .filter(|run| run.follows(name))
    }

    pub(super) fn rejections(&self) -> impl Iterator<Item = Rejection> {
        self.refused.iter().map(|(name, refused)| Rejection {
            kind: ResourceKind::Endpoints,
            name: name.as_str().into(),
            reason: Arc::clone(&refused.reason),
        })
    }

    pub(super) fn held(&self) -> Vec<Held<ClusterLoadAssignment>> {
        let names: BTreeSet<_> = self.active.keys().chain(self.refused.keys()).collect();
        let held = names.into_iter().map(|name| Held {
            name: name.clone(),
            active: self.active.get(name).cloned(),
            warming: None,
            refused: self.refused.get(name).cloned(),
        });
        held.collect()
    }
}

fn followers<'a>(
    clusters: impl Iterator<Item = &'a ClusterRun>,
) -> BTreeMap<Arc<str>, BTreeSet<Arc<str>>> {
    let mut followers: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for run in clusters {
        if let Some(name) = run.eds_name() {
            let of_name = followers.entry(Arc::clone(name)).or_default();
            of_name.insert(Arc::clone(&run.compiled.cluster.name));
        }
    }
    followers
}
