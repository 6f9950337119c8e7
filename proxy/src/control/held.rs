//! One dynamic resource as admin shows it: its messages, where they come from, and what was refused.

use std::{sync::Arc, time::SystemTime};

/// Where a form comes from.
#[derive(Debug)]
pub struct Source<M> {
    /// `None` for what stands in the bootstrap, which is kept only once.
    pub message: Option<Arc<M>>,
    pub stamp: Stamp,
}

/// Which update brought a resource.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// Counts the updates that the control task applied.
    pub update: u64,
    /// What the control plane calls it; maybe empty. `None` where there is none.
    pub told: Option<Arc<str>>,
    pub at: SystemTime,
}

/// A message that was refused.
#[derive(Debug)]
pub struct Refused<M> {
    pub source: Source<M>,
    /// Everything that is wrong with it, one line each.
    pub reason: Arc<str>,
}

/// One dynamic resource as `/config_dump` tells of it.
#[derive(Debug)]
pub struct Held<M> {
    pub name: String,
    pub active: Option<Source<M>>,
    pub warming: Option<Source<M>>,
    pub refused: Option<Refused<M>>,
}

impl<M> Clone for Source<M> {
    fn clone(&self) -> Self {
        Self {
            message: self.message.clone(),
            stamp: self.stamp.clone(),
        }
    }
}

impl<M> Clone for Held<M> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            active: self.active.clone(),
            warming: self.warming.clone(),
            refused: self.refused.clone(),
        }
    }
}

impl<M> Clone for Refused<M> {
    fn clone(&self) -> Self {
        Self {
            source: self.source.clone(),
            reason: Arc::clone(&self.reason),
        }
    }
}
