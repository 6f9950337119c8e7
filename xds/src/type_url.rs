//! A type of resource by its URL, also one that this crate knows nothing of.

use std::{fmt, sync::Arc};

use crate::ResourceKind;

/// The full type URL, cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeUrl(Arc<str>);

impl TypeUrl {
    pub fn new(url: &str) -> Self {
        Self(url.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `None` for a type that this crate only passes on.
    pub fn kind(&self) -> Option<ResourceKind> {
        ResourceKind::from_url(&self.0)
    }

    /// See [`ResourceKind::full_state`]. Of unknown types absence says nothing.
    pub fn full_state(&self) -> bool {
        self.kind().is_some_and(ResourceKind::full_state)
    }
}

impl From<ResourceKind> for TypeUrl {
    fn from(kind: ResourceKind) -> Self {
        Self(kind.url().into())
    }
}

impl fmt::Display for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            Some(kind) => f.write_str(kind.short()),
            None => f.write_str(&self.0),
        }
    }
}
