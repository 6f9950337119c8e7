//! What a control plane said of its resources besides their content: versions, and what we refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::SystemTime,
};

use ithildin_proto::pb::google::protobuf::Any;

use crate::{
    NameMap, ResourceKind,
    subscription::{Update, Verdict, Version},
};

/// By type of resource. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Provenance(BTreeMap<ResourceKind, Arc<KindProvenance>>);

/// One type of resource.
#[derive(Clone, Debug)]
pub struct KindProvenance {
    /// Of the newest response of which something was accepted.
    pub version: Version,
    /// Responses so far.
    pub responses: u64,
    /// Responses so far of which something was refused.
    pub rejected: u64,
    /// Of single resources, by name, as they were sent last. istiod gives them none over delta.
    pub versions: NameMap<str>,
    /// Resources whose newest form is refused, by name.
    pub refused: NameMap<RefusedResource>,
}

/// The newest form of a resource, which is refused; the form before it is in force.
pub struct RefusedResource {
    /// As it came. `None` if it came empty, or may hold a key.
    pub body: Option<Any>,
    pub version: Version,
    /// What is wrong with it, each with its path.
    pub reason: Arc<str>,
    pub at: SystemTime,
}

impl Provenance {
    /// `None` before the first response.
    pub fn of(&self, kind: ResourceKind) -> Option<&KindProvenance> {
        self.0.get(&kind).map(|of| &**of)
    }

    /// Notes a response, and what became of it.
    pub(crate) fn note(&mut self, kind: ResourceKind, update: &Update, verdict: &Verdict) {
        let of = Arc::make_mut(self.0.entry(kind).or_default());
        of.responses += 1;
        let refused = verdict.reason().is_some();
        of.rejected += u64::from(refused);
        if !refused || verdict.refused.len() < update.resources.len() {
            of.version = update.receipt.version.as_str().into();
        }
        for incoming in &update.resources {
            let (name, version) = (&incoming.name, &incoming.version);
            if let Some(reason) = verdict.refused.get(name) {
                let refused = RefusedResource {
                    body: incoming
                        .body
                        .clone()
                        .filter(|_| kind != ResourceKind::Secret),
                    version: Arc::clone(version),
                    reason: reason.as_str().into(),
                    at: SystemTime::now(),
                };
                of.refused.insert(name.clone(), Arc::new(refused));
                continue;
            }
            of.refused.remove(name);
            match version.is_empty() {
                true => of.versions.remove(name),
                false => of.versions.insert(name.clone(), Arc::clone(version)),
            };
        }
        if update.full {
            let there: BTreeSet<_> = update.resources.iter().map(|it| it.name.as_str()).collect();
            of.retain(|name| there.contains(name));
        }
        for name in &update.removed {
            of.forget(name);
        }
    }

    /// Forgets one resource, which nobody wants.
    pub(crate) fn forget(&mut self, kind: ResourceKind, name: &str) {
        if let Some(of) = self.0.get_mut(&kind) {
            Arc::make_mut(of).forget(name);
        }
    }

    /// Forgets what nobody wants any more.
    pub(crate) fn retain(&mut self, kind: ResourceKind, wanted: impl Fn(&str) -> bool) {
        if let Some(of) = self.0.get_mut(&kind) {
            Arc::make_mut(of).retain(wanted);
        }
    }
}

impl FromIterator<(ResourceKind, KindProvenance)> for Provenance {
    fn from_iter<I: IntoIterator<Item = (ResourceKind, KindProvenance)>>(kinds: I) -> Self {
        let kinds = kinds.into_iter();
        Self(kinds.map(|(kind, of)| (kind, Arc::new(of))).collect())
    }
}

impl KindProvenance {
    fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.versions.retain(|name, _| wanted(name));
        self.refused.retain(|name, _| wanted(name));
    }

    fn forget(&mut self, name: &str) {
        self.versions.remove(name);
        self.refused.remove(name);
    }
}

impl Default for KindProvenance {
    fn default() -> Self {
        Self {
            version: "".into(),
            responses: 0,
            rejected: 0,
            versions: NameMap::default(),
            refused: NameMap::default(),
        }
    }
}

impl fmt::Debug for RefusedResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefusedResource")
            .field("version", &self.version)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}
