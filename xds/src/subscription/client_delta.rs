//! The client's half of the incremental protocol.

use std::collections::{BTreeMap, BTreeSet};

use ithildin_proto::pb::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    },
    google::rpc::Status,
};

use super::{
    Client, Incoming, Interest, Receipt, Update, Verdict, client_sotw::refusal, interest::WILDCARD,
};
use crate::TypeUrl;

/// One type, across reconnects. Requests leave without `node`; the first of a stream must get it.
#[derive(Debug)]
pub struct DeltaClient {
    url: TypeUrl,
    interest: Interest,
    /// Of every resource that is in force; survives a reconnect.
    versions: BTreeMap<String, String>,
    connected: bool,
}

impl DeltaClient {
    pub fn new(url: impl Into<TypeUrl>, interest: Interest) -> Self {
        Self {
            url: url.into(),
            interest,
            versions: BTreeMap::new(),
            connected: false,
        }
    }

    /// Begins a new stream, and says what is known already. `None` if nothing is wanted.
    pub fn connect(&mut self) -> Option<DeltaDiscoveryRequest> {
        self.connected = !self.interest.is_empty();
        self.connected.then(|| DeltaDiscoveryRequest {
            resource_names_subscribe: asked(&self.interest).into_iter().collect(),
            initial_resource_versions: self.versions.clone().into_iter().collect(),
            ..self.request()
        })
    }

    /// Changes what is wanted; a request if the peer must know.
    pub fn subscribe(&mut self, interest: Interest) -> Option<DeltaDiscoveryRequest> {
        if self.connected && self.interest == interest {
            return None;
        }
        let before = std::mem::replace(&mut self.interest, interest);
        let interest = &self.interest;
        self.versions.retain(|name, _| interest.contains(name));
        if !self.connected {
            return self.connect();
        }
        // The wildcard has a name only where names stand beside it, or come or go with it.
        let alone = |interest: &Interest| interest.is_wildcard() && interest.names().is_empty();
        if alone(&before) && alone(&self.interest) {
            return None;
        }
        let (old, new) = (names(&before), names(&self.interest));
        Some(DeltaDiscoveryRequest {
            resource_names_subscribe: new.difference(&old).cloned().collect(),
            resource_names_unsubscribe: old.difference(&new).cloned().collect(),
            ..self.request()
        })
    }

    /// ACKs `response`, or NACKs it with the reasons. Accepted resources of a refused response are
    /// in force; a refused one keeps the version that was in force before.
    pub fn answer(
        &mut self,
        response: &DeltaDiscoveryResponse,
        verdict: &Verdict,
    ) -> DeltaDiscoveryRequest {
        self.judge(&receipt(response), verdict)
    }

    /// What is in force now.
    fn note(&mut self, receipt: &Receipt, verdict: &Verdict) {
        for (name, version) in &receipt.versions {
            let wanted = self.interest.contains(name);
            if wanted && !verdict.refused.contains_key(name) {
                self.versions.insert(name.clone(), version.clone());
            }
        }
        for name in &receipt.removed {
            self.versions.remove(name);
        }
    }

    fn request(&self) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: self.url.as_str().to_owned(),
            ..Default::default()
        }
    }
}

impl Client for DeltaClient {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn new(url: impl Into<TypeUrl>, interest: Interest) -> Self {
        Self::new(url, interest)
    }

    fn disconnect(&mut self) {
        self.connected = false;
    }

    fn subscribe(&mut self, interest: Interest) -> Option<DeltaDiscoveryRequest> {
        self.subscribe(interest)
    }

    fn renew(&mut self, names: &BTreeSet<String>) -> Option<DeltaDiscoveryRequest> {
        let wanted = names.intersection(self.interest.names());
        let again: Vec<_> = wanted.cloned().collect();
        (self.connected && !again.is_empty()).then(|| DeltaDiscoveryRequest {
            resource_names_subscribe: again,
            ..self.request()
        })
    }

    fn hold(&mut self, receipt: &Receipt) {
        self.note(receipt, &Verdict::default());
    }

    fn judge(&mut self, receipt: &Receipt, verdict: &Verdict) -> DeltaDiscoveryRequest {
        self.note(receipt, verdict);
        DeltaDiscoveryRequest {
            response_nonce: receipt.nonce.clone(),
            error_detail: verdict.reason().map(refusal),
            ..self.request()
        }
    }

    fn notice(url: &TypeUrl, error_detail: Option<Status>) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: url.as_str().to_owned(),
            error_detail,
            ..Default::default()
        }
    }

    fn introduce(request: &mut DeltaDiscoveryRequest, node: Node) {
        request.node = Some(node);
    }

    fn update(response: DeltaDiscoveryResponse) -> Update {
        let receipt = receipt(&response);
        let resources = response.resources.into_iter();
        Update {
            url: TypeUrl::new(&response.type_url),
            resources: resources
                .map(|resource| Incoming {
                    name: resource.name,
                    version: resource.version.into(),
                    body: resource.resource,
                })
                .collect(),
            removed: response.removed_resources,
            full: false,
            receipt,
        }
    }
}

fn receipt(response: &DeltaDiscoveryResponse) -> Receipt {
    let resources = response.resources.iter();
    Receipt {
        nonce: response.nonce.clone(),
        version: response.system_version_info.clone(),
        versions: resources
            .map(|resource| (resource.name.clone(), resource.version.clone()))
            .collect(),
        removed: response.removed_resources.clone(),
    }
}

/// What a first request lists: nothing for a wildcard alone, which every server understands.
fn asked(interest: &Interest) -> BTreeSet<String> {
    match interest.names().is_empty() {
        true => BTreeSet::new(),
        false => names(interest),
    }
}

fn names(interest: &Interest) -> BTreeSet<String> {
    let wildcard = interest.is_wildcard().then(|| WILDCARD.to_owned());
    let names = interest.names().iter().cloned();
    names.chain(wildcard).collect()
}
