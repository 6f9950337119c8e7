//! The client's half of the incremental protocol.

use std::collections::BTreeMap;

use ithildin_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};

use super::{Interest, client_sotw::refusal};
use crate::ResourceKind;

/// What became of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Refused resources by name, with the reason; the others are accepted.
    pub refused: BTreeMap<String, String>,
}

impl Verdict {
    /// All reasons in one text; `None` if nothing is refused.
    pub fn reason(&self) -> Option<String> {
        let reasons: Vec<_> = self
            .refused
            .iter()
            .map(|(name, why)| format!("{name}: {why}"))
            .collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

/// One type, across reconnects. Requests leave without `node`; the first of a stream must get it.
#[derive(Debug)]
pub struct DeltaClient {
    kind: ResourceKind,
    interest: Interest,
    /// Of every resource that is in force; survives a reconnect.
    versions: BTreeMap<String, String>,
    connected: bool,
}

impl DeltaClient {
    pub fn new(kind: ResourceKind, interest: Interest) -> Self {
        Self {
            kind,
            interest,
            versions: BTreeMap::new(),
            connected: false,
        }
    }

    /// Begins a new stream, and says what is known already. `None` if nothing is wanted.
    pub fn connect(&mut self) -> Option<DeltaDiscoveryRequest> {
        self.connected = !self.interest.is_empty();
        self.connected.then(|| DeltaDiscoveryRequest {
            resource_names_subscribe: self.interest.names().iter().cloned().collect(),
            initial_resource_versions: self.versions.clone().into_iter().collect(),
            ..self.request()
        })
    }

    /// Changes what is wanted; a request if the peer must know.
    ///
    /// Invariant: a client is created for names or for everything, and stays with it.
    pub fn subscribe(&mut self, interest: Interest) -> Option<DeltaDiscoveryRequest> {
        let before = std::mem::replace(&mut self.interest, interest);
        let interest = &self.interest;
        self.versions.retain(|name, _| interest.contains(name));
        if !self.connected {
            return self.connect();
        }
        let (old, new) = (before.names(), self.interest.names());
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: new.difference(old).cloned().collect(),
            resource_names_unsubscribe: old.difference(new).cloned().collect(),
            ..self.request()
        };
        let changed = old != new;
        changed.then_some(request)
    }

    /// ACKs `response`, or NACKs it with the reasons. Accepted resources of a refused response are
    /// in force; a refused one keeps the version that was in force before.
    pub fn answer(
        &mut self,
        response: &DeltaDiscoveryResponse,
        verdict: &Verdict,
    ) -> DeltaDiscoveryRequest {
        for resource in &response.resources {
            let wanted = self.interest.contains(&resource.name);
            if wanted && !verdict.refused.contains_key(&resource.name) {
                self.versions
                    .insert(resource.name.clone(), resource.version.clone());
            }
        }
        for name in &response.removed_resources {
            self.versions.remove(name);
        }
        DeltaDiscoveryRequest {
            response_nonce: response.nonce.clone(),
            error_detail: verdict.reason().map(refusal),
            ..self.request()
        }
    }

    fn request(&self) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: self.kind.url(),
            ..Default::default()
        }
    }
}
