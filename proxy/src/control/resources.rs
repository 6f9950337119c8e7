//! Resources of one kind by name: for each the form that serves, the one that warms to replace it,
//! and what was refused.
//!
//! There may be tens of thousands. An update looks at those that it changes, and each state has a map of
//! its own, so that nobody goes through all of them for the few that warm or leave.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ithildin_xds::{NameMap, ResourceKind};
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
    /// Names of the bootstrap: what has them never changes.
    statics: BTreeSet<String>,
    active: BTreeMap<String, Form<M, R>>,
    warming: BTreeMap<String, Form<M, R>>,
    /// The newest messages, where these were refused.
    refused: BTreeMap<String, Refused<M>>,
    /// What was refused for what other resources are, which may change.
    hopeful: BTreeSet<String>,
    /// The control plane took them away; the active form serves who still names them.
    leaving: BTreeMap<String, Leaving>,
    /// Names of the bootstrap that a control plane tries to use too.
    shadowed: BTreeMap<String, Arc<str>>,
    revision: u64,
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
    /// For what other resources are: it is tried again when these change.
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
            statics: BTreeSet::new(),
            active: BTreeMap::new(),
            warming: BTreeMap::new(),
            refused: BTreeMap::new(),
            hopeful: BTreeSet::new(),
            leaving: BTreeMap::new(),
            shadowed: BTreeMap::new(),
            revision: 0,
        }
    }

    /// Rises with each form that comes, begins to serve, or goes: while it stays, so does what was derived from
    /// the forms.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Adds a resource of the bootstrap.
    pub(super) fn add_static(&mut self, name: &str, stamp: &Stamp, run: R) {
        let source = Source {
            message: None,
            stamp: stamp.clone(),
        };
        self.statics.insert(name.to_owned());
        self.warming.insert(name.to_owned(), Form { source, run });
        self.revision += 1;
    }

    /// Keeps of `gone`, which the control plane has no more, what serves and others may still use, until
    /// [`depart`](Self::depart) lets it go. Returns how many there are.
    pub(super) fn keep_named<'a>(
        &mut self,
        gone: impl Iterator<Item = &'a str>,
        named: impl Fn(&str) -> bool,
        now: Instant,
    ) -> u64 {
        let mut kept = 0;
        for name in gone.filter(|name| named(name)) {
            if self.active.contains_key(name) && !self.stays(name) {
                self.leaving.insert(name.to_owned(), Leaving::new(now));
                self.forget_newer(name);
                kept += 1;
            }
        }
        kept
    }

    pub(super) fn leave(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Lets go of what nobody names any more, or for too long. Returns the latter.
    pub(super) fn depart(&mut self, named: impl Fn(&str) -> bool, now: Instant) -> Vec<String> {
        let mut overdue = Vec::new();
        for (name, mut leaving) in std::mem::take(&mut self.leaving) {
            match leaving.check(named(&name), now) {
                Departure::NotYet => drop(self.leaving.insert(name, leaving)),
                Departure::Unnamed => drop(self.remove(&name)),
                Departure::Overdue => {
                    self.remove(&name);
                    overdue.push(name);
                }
            }
        }
        overdue
    }

    /// When something that leaves is to go.
    pub(super) fn departure(&self) -> Option<Instant> {
        self.leaving.values().map(Leaving::due).min()
    }

    /// Whether something was refused for the sake of others.
    pub(super) fn hope(&self) -> bool {
        !self.hopeful.is_empty()
    }

    /// Takes what the control plane `has` now under the names that changed, and tries again what was refused for
    /// the sake of others.
    pub(super) fn replace<'a>(
        &mut self,
        changed: &BTreeSet<&str>,
        has: impl Fn(&str) -> Option<&'a Arc<M>>,
        arrival: &Arrival<'_>,
        mut compile: impl FnMut(&M, &str) -> Result<R, Refusal>,
    ) -> Changes
    where
        M: 'a,
    {
        let mut changes = Changes::default();
        // What goes makes room for what comes.
        for name in changed.iter().filter(|name| has(name).is_none()) {
            changes.removed += u64::from(self.remove(name));
        }
        let hopeful = self.hopeful.clone();
        let hopeful = hopeful.iter().map(String::as_str);
        let names: BTreeSet<_> = changed.iter().copied().chain(hopeful).collect();
        for name in names {
            if let Some(message) = has(name) {
                self.take(name, message, arrival, &mut changes, &mut compile);
            }
        }
        changes
    }

    /// Takes a message that may be newer than what is there.
    fn take(
        &mut self,
        name: &str,
        message: &Arc<M>,
        arrival: &Arrival<'_>,
        changes: &mut Changes,
        compile: impl FnOnce(&M, &str) -> Result<R, Refusal>,
    ) {
        let kind = kind_text(self.kind);
        let path = || format!("{kind} {name:?}");
        if self.statics.contains(name) {
            let errors = ConfigErrors::one(path(), "a static resource has this name");
            let reason = refused(name, &errors);
            self.shadowed.insert(name.to_owned(), reason);
            changes.refused += 1;
            return;
        }
        let came_back = self.leaving.remove(name).is_some();
        if self.is_newest(name, message) {
            changes.added += u64::from(came_back);
            if self.hopeful.contains(name) {
                let compiled = compile(message, &path());
                self.retried(name, message, arrival, changes, compiled);
            }
            return;
        }
        match self.has(name) && !came_back {
            true => changes.modified += 1,
            false => changes.added += 1,
        }
        if self.returns_to(name, message) {
            return;
        }
        let compiled = compile(message, &path());
        changes.refused += u64::from(compiled.is_err());
        self.offer(name, message, arrival, compiled);
    }

    /// What was refused for what others were is compiled again. It counts if it can be used now.
    fn retried(
        &mut self,
        name: &str,
        message: &Arc<M>,
        arrival: &Arrival<'_>,
        changes: &mut Changes,
        compiled: Result<R, Refusal>,
    ) {
        match (&compiled, self.active.contains_key(name)) {
            (Ok(_), true) => changes.modified += 1,
            (Ok(_), false) => changes.added += 1,
            (Err(refusal), _) => {
                let reason = refusal.errors().to_string();
                let before = self.refused.get(name);
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
        self.hopeful.remove(name);
        match compiled {
            Ok(run) => {
                self.refused.remove(name);
                self.warming.insert(name.to_owned(), Form { source, run });
                self.revision += 1;
            }
            Err(refusal) => {
                if matches!(refusal, Refusal::Others(_)) {
                    self.hopeful.insert(name.to_owned());
                }
                let reason = refused(name, refusal.errors());
                let refused = Refused { source, reason };
                self.refused.insert(name.to_owned(), refused);
            }
        }
    }

    /// Whether it was there, and is gone now.
    fn remove(&mut self, name: &str) -> bool {
        self.shadowed.remove(name);
        if self.stays(name) || !self.has(name) {
            return false;
        }
        self.forget_newer(name);
        self.active.remove(name);
        self.revision += 1;
        true
    }

    /// Forgets all that came after the form that serves.
    fn forget_newer(&mut self, name: &str) {
        self.refused.remove(name);
        self.hopeful.remove(name);
        self.warming.remove(name);
        self.revision += 1;
    }

    /// Whether it is here although the control plane has it not.
    fn stays(&self, name: &str) -> bool {
        self.statics.contains(name) || self.leaving.contains_key(name)
    }

    fn has(&self, name: &str) -> bool {
        self.has_form(name) || self.refused.contains_key(name)
    }

    fn has_form(&self, name: &str) -> bool {
        self.active.contains_key(name) || self.warming.contains_key(name)
    }

    /// Whether the configuration has it, in some form that was not refused.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.has_form(name) && !self.leaving.contains_key(name)
    }

    /// Whether its first form warms.
    pub(super) fn is_to_come(&self, name: &str) -> bool {
        self.warming.contains_key(name) && !self.active.contains_key(name)
    }

    /// All compiled forms, those that warm too.
    pub(super) fn runs(&self) -> impl Iterator<Item = &R> + Clone {
        let forms = self.active.values().chain(self.warming.values());
        forms.map(|form| &form.run)
    }

    /// The newest forms of those that stay beside `set`.
    pub(super) fn staying(&self, set: &NameMap<M>) -> impl Iterator<Item = &R> {
        let active = self.active.iter();
        let active = active.filter(|(name, _)| !self.warming.contains_key(*name));
        let newest = active.chain(&self.warming);
        newest
            .filter(|(name, _)| self.statics.contains(*name) || set.contains_key(name))
            .map(|(_, form)| &form.run)
    }

    /// The forms of one resource.
    pub(super) fn runs_of(&self, name: &str) -> impl Iterator<Item = &R> {
        let forms = [self.active.get(name), self.warming.get(name)];
        forms.into_iter().flatten().map(|form| &form.run)
    }

    pub(super) fn runs_of_mut(&mut self, name: &str) -> impl Iterator<Item = &mut R> {
        let forms = [self.active.get_mut(name), self.warming.get_mut(name)];
        forms.into_iter().flatten().map(|form| &mut form.run)
    }

    /// By name.
    pub(super) fn active(&self) -> impl ExactSizeIterator<Item = &R> + Clone {
        self.active.values().map(|form| &form.run)
    }

    pub(super) fn warming(&self) -> impl ExactSizeIterator<Item = &R> {
        self.warming.values().map(|form| &form.run)
    }

    /// Whether some resource warms that has no form in service.
    pub(super) fn first_ones_warm(&self) -> bool {
        let mut warming = self.warming.keys();
        warming.any(|name| !self.active.contains_key(name))
    }

    /// Lets serve what is ready.
    pub(super) fn promote(&mut self, mut is_ready: impl FnMut(&R) -> bool) {
        let ready = |_: &String, form: &mut Form<M, R>| is_ready(&form.run);
        for (name, form) in self.warming.extract_if(.., ready) {
            self.active.insert(name, form);
            self.revision += 1;
        }
    }

    pub(super) fn rejections(&self) -> impl Iterator<Item = Rejection> {
        let refused = self.refused.iter();
        let refused = refused.map(|(name, refused)| (name, &refused.reason));
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
        let forms = self.active.keys().chain(self.warming.keys());
        let names: BTreeSet<_> = forms.chain(self.refused.keys()).collect();
        let source = |form: &Form<M, R>| form.source.clone();
        let dynamic = names.into_iter().filter(|name| !self.stays(name));
        dynamic
            .map(|name| Held {
                name: name.clone(),
                active: self.active.get(name).map(source),
                warming: self.warming.get(name).map(source),
                refused: self.refused.get(name).cloned(),
            })
            .collect()
    }

    /// Whether `message` is what serves already: then what came after it is forgotten.
    fn returns_to(&mut self, name: &str, message: &Arc<M>) -> bool {
        let active = self.active.get(name);
        let returns = active.is_some_and(|form| form.source.is(message));
        if returns {
            self.forget_newer(name);
        }
        returns
    }

    /// Whether `message` is the one that came last, good or not.
    fn is_newest(&self, name: &str, message: &Arc<M>) -> bool {
        let form = self.warming.get(name).or_else(|| self.active.get(name));
        let newest = match self.refused.get(name) {
            Some(refused) => Some(&refused.source),
            None => form.map(|form| &form.source),
        };
        newest.is_some_and(|source| source.is(message))
    }
}

impl<M: PartialEq> Source<M> {
    fn is(&self, message: &Arc<M>) -> bool {
        let known = self.message.as_ref();
        known.is_some_and(|known| Arc::ptr_eq(known, message) || known == message)
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
