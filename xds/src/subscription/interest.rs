//! Which resources a peer wants.

use std::{collections::BTreeSet, sync::Arc};

use super::{Catalog, Resource};

/// The name that subscribes to everything.
pub(super) const WILDCARD: &str = "*";

/// Names, or everything, or both: a name given beside the wildcard may lie outside of what the
/// server counts as everything. Cheap to clone, and to compare with a clone: there may be thousands of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    wildcard: bool,
    names: Arc<BTreeSet<String>>,
}

impl Interest {
    /// Everything that the server has.
    pub fn everything() -> Self {
        Self {
            wildcard: true,
            names: Arc::default(),
        }
    }

    /// The given names; `*` among them is the wildcard. Empty names are dropped.
    pub fn of<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        let mut interest = Self::default();
        for name in names {
            interest.add(name.into());
        }
        interest
    }

    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// The names that were given one by one.
    pub fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    pub fn is_empty(&self) -> bool {
        !self.wildcard && self.names.is_empty()
    }

    pub fn contains(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Returns whether it was new.
    pub(super) fn add(&mut self, name: String) -> bool {
        match name.as_str() {
            "" => false,
            WILDCARD => !std::mem::replace(&mut self.wildcard, true),
            _ => Arc::make_mut(&mut self.names).insert(name),
        }
    }

    /// Returns whether it was there.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        match name {
            WILDCARD => std::mem::replace(&mut self.wildcard, false),
            _ => Arc::make_mut(&mut self.names).remove(name),
        }
    }

    /// What `catalog` has of it.
    pub(super) fn select<'a>(
        &'a self,
        catalog: &'a Catalog,
    ) -> impl Iterator<Item = (&'a String, &'a Arc<Resource>)> + Clone {
        catalog.iter().filter(|(name, _)| self.contains(name))
    }
}
