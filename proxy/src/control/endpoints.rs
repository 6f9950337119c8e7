//! Load assignments of EDS: which cluster runs on which, and what was refused.

use std::{collections::BTreeMap, sync::Arc};

use ithildin_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use ithildin_xds::ResourceKind;

use super::{
    Rejection,
    clusters::ClusterRun,
    compile::Compiler,
    held::{Held, Refused, Source},
    provenance::Arrival,
    resources::refused,
};

/// All load assignments that clusters follow.
#[derive(Default)]
pub(super) struct Assignments(BTreeMap<String, Held<ClusterLoadAssignment>>);

impl Assignments {
    /// Gives each cluster its load assignment, if there is a newer one.
    pub(super) fn replace<'a>(
        &mut self,
        set: &BTreeMap<String, Arc<ClusterLoadAssignment>>,
        arrival: &Arrival<'_>,
        clusters: impl Iterator<Item = &'a mut ClusterRun>,
        compiler: &Compiler,
    ) {
        let mut before = std::mem::take(&mut self.0);
        for run in clusters {
            let Some(name) = run.eds_name().cloned() else {
                continue;
            };
            let Some(assignment) = set.get(&*name) else {
                continue;
            };
            let outcome = run.assign(assignment, compiler);
            let held = self.0.entry(name.to_string()).or_insert_with(|| {
                before.remove(&*name).unwrap_or_else(|| Held {
                    name: name.to_string(),
                    active: None,
                    warming: None,
                    refused: None,
                })
            });
            let source = Source {
                message: Some(Arc::clone(assignment)),
                stamp: arrival.stamp_of(&name),
            };
            match outcome {
                Some(Ok(())) => {
                    held.active = Some(source);
                    held.refused = None;
                }
                Some(Err(errors)) => {
                    let reason = refused(&name, &errors);
                    held.refused = Some(Refused { source, reason });
                }
                None => {}
            }
        }
    }

    pub(super) fn rejections(&self) -> impl Iterator<Item = Rejection> {
        self.0.values().filter_map(|held| {
            Some(Rejection {
                kind: ResourceKind::Endpoints,
                name: held.name.as_str().into(),
                reason: Arc::clone(&held.refused.as_ref()?.reason),
            })
        })
    }

    pub(super) fn held(&self) -> Vec<Held<ClusterLoadAssignment>> {
        self.0.values().cloned().collect()
    }
}
