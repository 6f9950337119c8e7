//! What a control plane says of its resources, on the way to counters and `/config_dump`.
//!
//! Where none sends them, updates are numbered and every change counts as one.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use ithildin_proto::unpack;
use ithildin_xds::{KindProvenance, Provenance, ResourceKind};
use prost::{Message, Name};

use super::{
    Rejection,
    held::{Held, Refused, Source, Stamp},
};
use crate::{hashing::xxh64, stats::SubscriptionStats};

/// One type of resource in an update.
pub(super) struct Arrival<'a> {
    stamp: &'a Stamp,
    told: Option<&'a KindProvenance>,
}

impl<'a> Arrival<'a> {
    pub(super) fn new(
        stamp: &'a Stamp,
        provenance: Option<&'a Provenance>,
        kind: ResourceKind,
    ) -> Self {
        let told = provenance.and_then(|it| it.of(kind));
        Self { stamp, told }
    }

    pub(super) fn stamp_of(&self, name: &str) -> Stamp {
        let version = |told: &KindProvenance| match told.versions.get(name) {
            Some(version) => Arc::clone(version),
            None => "".into(),
        };
        Stamp {
            told: self.told.map(version),
            ..self.stamp.clone()
        }
    }

    /// Of the whole type: what the last response was called.
    pub(super) fn stamp(&self) -> Stamp {
        Stamp {
            told: self.told.map(|told| Arc::clone(&told.version)),
            ..self.stamp.clone()
        }
    }

    pub(super) fn told(&self) -> Option<&'a KindProvenance> {
        self.told
    }
}

impl Stamp {
    /// The `n`th update, now.
    pub(super) fn now(update: u64) -> Self {
        Self {
            update,
            told: None,
            at: SystemTime::now(),
        }
    }

    /// `version_info`; maybe empty.
    pub fn version_info(&self) -> Arc<str> {
        match &self.told {
            Some(version) => Arc::clone(version),
            None => self.update.to_string().into(),
        }
    }

    /// Counts this update for a subscription.
    pub(super) fn count(&self, subscription: &SubscriptionStats, accepted: bool) {
        let (accepted, rejected) = (u64::from(accepted), u64::from(!accepted));
        self.count_all(subscription, accepted, rejected);
    }

    /// Counts responses, the last of which is this one.
    pub(super) fn count_all(&self, subscription: &SubscriptionStats, accepted: u64, rejected: u64) {
        let block = &subscription.block;
        block.update_attempt.add(accepted + rejected);
        block.update_rejected.add(rejected);
        if accepted == 0 {
            return;
        }
        block.update_success.add(accepted);
        let version = self.version_info();
        // Envoy's gauge has no sign: the lowest bit of its hash is lost here.
        let hash = i64::try_from(xxh64(version.as_bytes(), 0) >> 1);
        block.version.set(hash.unwrap_or(i64::MAX));
        block.update_time.set(self.milliseconds());
        subscription.set_version(version);
    }

    /// Since the Unix epoch.
    fn milliseconds(&self) -> i64 {
        let since: std::time::Duration = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// Resources that were refused since `before`.
pub(super) fn newly_refused<'a>(
    kind: ResourceKind,
    before: Option<&'a Provenance>,
    now: Option<&'a Provenance>,
) -> BTreeSet<&'a str> {
    let refused = |told: Option<&'a Provenance>| told?.of(kind).map(|told| &told.refused);
    match (refused(before), refused(now)) {
        (_, None) => BTreeSet::new(),
        (None, Some(now)) => now.keys().map(String::as_str).collect(),
        (Some(before), Some(now)) => {
            let mut new = now.differing(before);
            new.retain(|name| now.contains_key(name));
            new
        }
    }
}

/// What never came to the control task: the client of the control plane refused it.
pub(super) fn rejections(provenance: Option<&Provenance>) -> impl Iterator<Item = Rejection> {
    let kinds = [
        ResourceKind::Cluster,
        ResourceKind::Endpoints,
        ResourceKind::Listener,
        ResourceKind::Route,
    ];
    let of = move |kind| Some((kind, provenance?.of(kind)?));
    kinds.into_iter().filter_map(of).flat_map(|(kind, told)| {
        told.refused.iter().map(move |(name, refused)| Rejection {
            kind,
            name: name.as_str().into(),
            reason: Arc::clone(&refused.reason),
        })
    })
}

/// Puts them beside what serves.
pub(super) fn add_refused<M: Message + Name + Default>(
    held: &mut Vec<Held<M>>,
    told: Option<&KindProvenance>,
) {
    for (name, refused) in told.into_iter().flat_map(|told| told.refused.iter()) {
        let known = held.iter().position(|held| held.name == *name);
        let at = known.unwrap_or_else(|| {
            held.push(Held {
                name: name.clone(),
                active: None,
                warming: None,
                refused: None,
            });
            held.len() - 1
        });
        let message = refused.body.as_ref().and_then(|body| unpack(body).ok());
        held[at].refused = Some(Refused {
            source: Source {
                message: message.map(Arc::new),
                stamp: Stamp {
                    update: 0,
                    told: Some(Arc::clone(&refused.version)),
                    at: refused.at,
                },
            },
            reason: Arc::clone(&refused.reason),
        });
    }
}
