//! Resources of one kind by name: for each the form that serves, the one that warms to replace it,
//! and what was refused.

use std::{collections::BTreeMap, sync::Arc};

use ithildin_xds::ResourceKind;
use tokio::time::Instant;

use super::{
    ConfigErrors, Rejection,
    held::{Held, Refused, Source, Stamp},
    leaving::{Departure, Leaving},
    provenance::Arrival,
};

/// All resources of one kind.
pub(super) struct Resources<M, R> {
    kind: ResourceKind,
    all: BTreeMap<String, Resource<M, R>>,
    /// Names of the bootstrap that a control plane tries to use too.
    shadowed: BTreeMap<String, Arc<str>>,
}

/// One resource.
pub(super) struct Resource<M, R> {
    /// Stands in the bootstrap and never changes.
    is_static: bool,
    active: Option<Form<M, R>>,
    warming: Option<Form<M, R>>,
    /// The newest message, if it was refused.
    refused: Option<Refused<M>>,
    /// It was refused for what other resources are, which may change.
    hopes: bool,
    /// The control plane took it away; the active form serves who still names it.
    leaving: Option<Leaving>,
}

/// A message, and what was compiled from it.
struct Form<M, R> {
    source: Source<M>,
    run: R,
}

/// Why a message is refused.
pub(super) enum Refusal {
    /// For what it says itself.
    Own(ConfigErrors),
    /// For what other resources are: it is tried again with each update.
    Others(ConfigErrors),
}

/// What an update did, for counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) added: u64,
    pub(super) modified: u64,
    pub(super) removed: u64,
    pub(super) refused: u64,
}

impl Changes {
    pub(super) fn compiled(self) -> u64 {
        self.added + self.modified
    }
}

impl<M: PartialEq, R> Resources<M, R> {
    pub(super) fn new(kind: ResourceKind) -> Self {
        Self {
            kind,
            all: BTreeMap::new(),
            shadowed: BTreeMap::new(),
        }
    }

    /// Adds a resource of the bootstrap.
    pub(super) fn add_static(&mut self, name: &str, stamp: &Stamp, run: R) {
        let source = Source {
            message: None,
            stamp: stamp.clone(),
        };
        let resource = Resource {
            is_static: true,
            warming: Some(Form { source, run }),
            ..Resource::empty()
        };
        self.all.insert(name.to_owned(), resource);
    }

    /// Whether the control plane has something of before no more.
    pub(super) fn misses(&self, set: &BTreeMap<String, Arc<M>>) -> bool {
        let stays = |(name, it): (&String, &Resource<M, R>)| {
            it.is_static || it.leaving.is_some() || set.contains_key(name)
        };
        !self.all.iter().all(stays)
    }

    /// Keeps of what the control plane has no more, and serves, what others may still use, until
    /// [`depart`](Self::depart) lets it go. Returns how many there are.
    pub(super) fn retain_named(
        &mut self,
        set: &BTreeMap<String, Arc<M>>,
        named: impl Fn(&str) -> bool,
        now: Instant,
    ) -> u64 {
        let mut kept = 0;
        for (name, resource) in &mut self.all {
            let stays = resource.is_static || resource.leaving.is_some() || set.contains_key(name);
            if !stays && resource.active.is_some() && named(name) {
                resource.leaving = Some(Leaving::new(now));
                resource.warming = None;
                resource.forget_refusal();
                kept += 1;
            }
        }
        kept
    }

    pub(super) fn leave(&self) -> bool {
        self.all.values().any(|resource| resource.leaving.is_some())
    }

    /// Lets go of what nobody names any more, or for too long. Returns the latter.
    pub(super) fn depart(&mut self, named: impl Fn(&str) -> bool, now: Instant) -> Vec<String> {
        let mut overdue = Vec::new();
        self.all.retain(|name, resource| {
            let Some(leaving) = &mut resource.leaving else {
                return true;
            };
            match leaving.check(named(name), now) {
                Departure::NotYet => true,
                Departure::Unnamed => false,
                Departure::Overdue => {
                    overdue.push(name.clone());
                    false
                }
            }
        });
        overdue
    }

    /// When something that leaves is to go.
    pub(super) fn departure(&self) -> Option<Instant> {
        let leaving = self.all.values().filter_map(|it| it.leaving.as_ref());
        leaving.map(Leaving::due).min()
    }

    /// Takes all that the control plane has of this kind. Only what changed is compiled, and what was
    /// refused for the sake of others; `wanted` says what is asked for at all.
    pub(super) fn replace(
        &mut self,
        set: &BTreeMap<String, Arc<M>>,
        arrival: &Arrival<'_>,
        wanted: impl Fn(&str) -> bool,
        mut compile: impl FnMut(&M, &str) -> Result<R, Refusal>,
    ) -> Changes {
        let mut changes = self.remove_missing(|name| set.contains_key(name) && wanted(name));
        self.shadowed.clear();
        for (name, message) in set.iter().filter(|(name, _)| wanted(name)) {
            let known = self.all.get_mut(name);
            let came_back = known.and_then(|it| it.leaving.take()).is_some();
            let known = self.all.get(name);
            if known.is_some_and(|known| known.is_static) {
                let path = format!("{} {name:?}", kind_text(self.kind));
                let errors = ConfigErrors::one(path, "a static resource has this name");
                self.shadowed.insert(name.clone(), refused(name, &errors));
                changes.refused += 1;
                continue;
            }
            if known.is_some_and(|known| known.is_newest(message)) {
                changes.added += u64::from(came_back);
                if known.is_some_and(|known| known.hopes) {
                    self.retry(name, message, arrival, &mut changes, &mut compile);
                }
                continue;
            }
            match known {
                Some(_) if !came_back => changes.modified += 1,
                _ => changes.added += 1,
            }
            let known = self.all.get_mut(name);
            if known.is_some_and(|it| it.returns_to(message)) {
                continue;
            }
            let compiled = compile(message, &format!("{} {name:?}", kind_text(self.kind)));
            changes.refused += u64::from(compiled.is_err());
            self.offer(name, message, arrival, compiled);
        }
        changes
    }

    /// Compiles again what was refused for what others were. It counts if it can be used now.
    fn retry(
        &mut self,
        name: &str,
        message: &Arc<M>,
        arrival: &Arrival<'_>,
        changes: &mut Changes,
        compile: impl FnOnce(&M, &str) -> Result<R, Refusal>,
    ) {
        let compiled = compile(message, &format!("{} {name:?}", kind_text(self.kind)));
        let known = self.all.get(name);
        match (&compiled, known.is_some_and(|known| known.active.is_some())) {
            (Ok(_), true) => changes.modified += 1,
            (Ok(_), false) => changes.added += 1,
            (Err(refusal), _) => {
                let before = known.and_then(|known| known.refused.as_ref());
                let reason = refusal.errors().to_string();
                if before.is_some_and(|before| *before.reason == *reason) {
                    return;
                }
            }
        }
        self.offer(name, message, arrival, compiled);
    }

    /// Takes a newer message: what compiled warms; what did not leaves everything as it is.
    fn offer(
        &mut self,
        name: &str,
        message: &Arc<M>,
        arrival: &Arrival<'_>,
        compiled: Result<R, Refusal>,
    ) {
        let source = Source {
            message: Some(Arc::clone(message)),
            stamp: arrival.stamp_of(name),
        };
        let resource = self.all.entry(name.to_owned());
        let resource = resource.or_insert_with(Resource::empty);
        resource.hopes = matches!(compiled, Err(Refusal::Others(_)));
        match compiled {
            Ok(run) => {
                resource.warming = Some(Form { source, run });
                resource.refused = None;
            }
            Err(refusal) => {
                let reason = refused(name, refusal.errors());
                resource.refused = Some(Refused { source, reason });
            }
        }
    }

    fn remove_missing(&mut self, kept: impl Fn(&str) -> bool) -> Changes {
        let before = self.all.len();
        self.all
            .retain(|name, it| it.is_static || it.leaving.is_some() || kept(name));
        Changes {
            removed: (before - self.all.len()) as u64,
            ..Changes::default()
        }
    }

    /// Whether the configuration has it, in some form that was not refused.
    pub(super) fn contains(&self, name: &str) -> bool {
        let known = self.all.get(name);
        known.is_some_and(|known| known.leaving.is_none() && known.runs().next().is_some())
    }

    /// Whether its first form warms.
    pub(super) fn is_to_come(&self, name: &str) -> bool {
        let known = self.all.get(name);
        known.is_some_and(|known| known.warming.is_some() && known.active.is_none())
    }

    /// All compiled forms, those that warm too.
    pub(super) fn runs(&self) -> impl Iterator<Item = &R> + Clone {
        self.all.values().flat_map(Resource::runs)
    }

    pub(super) fn runs_mut(&mut self) -> impl Iterator<Item = &mut R> {
        self.all.values_mut().flat_map(Resource::runs_mut)
    }

    /// The newest forms of those that stay beside `set`.
    pub(super) fn staying(&self, set: &BTreeMap<String, Arc<M>>) -> impl Iterator<Item = &R> {
        let all = self.all.iter();
        let stay = all.filter(|(name, it)| it.is_static || set.contains_key(*name));
        stay.filter_map(|(_, it)| it.warming.as_ref().or(it.active.as_ref()))
            .map(|form| &form.run)
    }

    /// The forms of one resource.
    pub(super) fn runs_of(&mut self, name: &str) -> impl Iterator<Item = &mut R> {
        let resource = self.all.get_mut(name).into_iter();
        resource.flat_map(Resource::runs_mut)
    }

    /// By name.
    pub(super) fn active(&self) -> impl Iterator<Item = &R> + Clone {
        let active = self.all.values().filter_map(|it| it.active.as_ref());
        active.map(|form| &form.run)
    }

    pub(super) fn warming(&self) -> impl Iterator<Item = &R> {
        let warming = self.all.values().filter_map(|it| it.warming.as_ref());
        warming.map(|form| &form.run)
    }

    /// Whether some resource warms that has no form in service.
    pub(super) fn first_ones_warm(&self) -> bool {
        let mut all = self.all.values();
        all.any(|resource| resource.warming.is_some() && resource.active.is_none())
    }

    /// Lets serve what is ready. The result tells whether anything was.
    pub(super) fn promote(&mut self, mut is_ready: impl FnMut(&R) -> bool) -> bool {
        let mut any = false;
        for resource in self.all.values_mut() {
            if resource
                .warming
                .as_ref()
                .is_some_and(|it| is_ready(&it.run))
            {
                resource.active = resource.warming.take();
                any = true;
            }
        }
        any
    }

    pub(super) fn rejections(&self) -> impl Iterator<Item = Rejection> {
        let refused = self.all.iter();
        let refused =
            refused.filter_map(|(name, resource)| Some((name, &resource.refused.as_ref()?.reason)));
        refused
            .chain(&self.shadowed)
            .map(|(name, reason)| Rejection {
                kind: self.kind,
                name: name.as_str().into(),
                reason: Arc::clone(reason),
            })
    }

    /// The dynamic ones, by name.
    pub(super) fn held(&self) -> Vec<Held<M>> {
        let all = self.all.iter();
        let dynamic = all.filter(|(_, it)| !it.is_static && it.leaving.is_none());
        dynamic
            .map(|(name, resource)| Held {
                name: name.clone(),
                active: resource.active.as_ref().map(|form| form.source.clone()),
                warming: resource.warming.as_ref().map(|form| form.source.clone()),
                refused: resource.refused.clone(),
            })
            .collect()
    }
}

impl<M, R> Resource<M, R> {
    fn empty() -> Self {
        Self {
            is_static: false,
            active: None,
            warming: None,
            refused: None,
            hopes: false,
            leaving: None,
        }
    }

    fn forget_refusal(&mut self) {
        self.refused = None;
        self.hopes = false;
    }

    fn runs(&self) -> impl Iterator<Item = &R> + Clone {
        let forms = self.active.iter().chain(&self.warming);
        forms.map(|form| &form.run)
    }

    fn runs_mut(&mut self) -> impl Iterator<Item = &mut R> {
        let forms = self.active.iter_mut().chain(&mut self.warming);
        forms.map(|form| &mut form.run)
    }
}

impl<M: PartialEq, R> Resource<M, R> {
    /// Whether `message` is what serves already: then what came after it is forgotten.
    fn returns_to(&mut self, message: &Arc<M>) -> bool {
        let active = self.active.as_ref();
        let active = active.and_then(|form| form.source.message.as_ref());
        let returns = active.is_some_and(|it| Arc::ptr_eq(it, message) || it == message);
        if returns {
            self.warming = None;
            self.forget_refusal();
        }
        returns
    }

    /// Whether `message` is the one that came last, good or not.
    fn is_newest(&self, message: &Arc<M>) -> bool {
        let forms = self.warming.as_ref().or(self.active.as_ref());
        let newest = match &self.refused {
            Some(refused) => Some(&refused.source),
            None => forms.map(|form| &form.source),
        };
        newest
            .and_then(|source| source.message.as_ref())
            .is_some_and(|newest| Arc::ptr_eq(newest, message) || newest == message)
    }
}

impl Refusal {
    fn errors(&self) -> &ConfigErrors {
        match self {
            Self::Own(errors) | Self::Others(errors) => errors,
        }
    }
}

impl From<ConfigErrors> for Refusal {
    fn from(errors: ConfigErrors) -> Self {
        Self::Own(errors)
    }
}

/// Logs the refusal of a resource; its last good form stays.
pub(super) fn refused(name: &str, errors: &ConfigErrors) -> Arc<str> {
    tracing::warn!(resource = name, "refused: {errors}");
    errors.to_string().into()
}

fn kind_text(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::Cluster => "cluster",
        ResourceKind::Endpoints => "load assignment",
        ResourceKind::Listener => "listener",
        ResourceKind::Route => "route configuration",
        ResourceKind::Secret => "secret",
    }
}
