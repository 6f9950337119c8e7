//! The client's half of the state-of-the-world protocol.

use std::{collections::BTreeSet, sync::Arc};

use ithildin_proto::pb::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DiscoveryRequest, DiscoveryResponse},
    },
    google::rpc::{Code, Status},
};

use super::{
    Client, Incoming, Interest, Receipt, Update, Verdict, Version, client::name_of,
    interest::WILDCARD,
};
use crate::TypeUrl;

/// One type, across reconnects. Requests leave without `node`; the first of a stream must get it.
#[derive(Debug)]
pub struct SotwClient {
    url: TypeUrl,
    interest: Interest,
    /// Of the last accepted response; survives a reconnect.
    version: String,
    nonce: String,
    connected: bool,
}

impl SotwClient {
    pub fn new(url: impl Into<TypeUrl>, interest: Interest) -> Self {
        Self {
            url: url.into(),
            interest,
            version: String::new(),
            nonce: String::new(),
            connected: false,
        }
    }

    /// Begins a new stream. `None` if nothing is wanted: an empty list would ask for everything.
    pub fn connect(&mut self) -> Option<DiscoveryRequest> {
        self.nonce.clear();
        self.connected = !self.interest.is_empty();
        self.connected.then(|| self.request())
    }

    /// Changes what is wanted; a request if the peer must know.
    pub fn subscribe(&mut self, interest: Interest) -> Option<DiscoveryRequest> {
        if self.connected && self.interest == interest {
            return None;
        }
        self.interest = interest;
        match self.connected {
            true => Some(self.request()),
            false => self.connect(),
        }
    }

    /// ACKs `response`, or NACKs it with the reason for which it, or a part of it, is refused.
    pub fn answer(
        &mut self,
        response: &DiscoveryResponse,
        verdict: Result<(), String>,
    ) -> DiscoveryRequest {
        self.nonce.clone_from(&response.nonce);
        if verdict.is_ok() {
            self.version.clone_from(&response.version_info);
        }
        DiscoveryRequest {
            error_detail: verdict.err().map(refusal),
            ..self.request()
        }
    }

    fn request(&self) -> DiscoveryRequest {
        let interest = &self.interest;
        // A wildcard alone is the empty list, which every server understands.
        let wildcard = interest.is_wildcard() && !interest.names().is_empty();
        let wildcard = wildcard.then(|| WILDCARD.to_owned());
        DiscoveryRequest {
            version_info: self.version.clone(),
            resource_names: wildcard
                .into_iter()
                .chain(interest.names().iter().cloned())
                .collect(),
            type_url: self.url.as_str().to_owned(),
            response_nonce: self.nonce.clone(),
            ..Default::default()
        }
    }
}

impl Client for SotwClient {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn new(url: impl Into<TypeUrl>, interest: Interest) -> Self {
        Self::new(url, interest)
    }

    fn disconnect(&mut self) {
        self.connected = false;
    }

    fn subscribe(&mut self, interest: Interest) -> Option<DiscoveryRequest> {
        self.subscribe(interest)
    }

    /// The whole list again.
    fn renew(&mut self, names: &BTreeSet<String>) -> Option<DiscoveryRequest> {
        let wanted = names.iter().any(|name| self.interest.contains(name));
        (self.connected && wanted).then(|| self.request())
    }

    /// Each stream begins with everything.
    fn hold(&mut self, _: &Receipt) {}

    fn judge(&mut self, receipt: &Receipt, verdict: &Verdict) -> DiscoveryRequest {
        self.nonce.clone_from(&receipt.nonce);
        let reason = verdict.reason();
        if reason.is_none() {
            self.version.clone_from(&receipt.version);
        }
        DiscoveryRequest {
            error_detail: reason.map(refusal),
            ..self.request()
        }
    }

    fn notice(url: &TypeUrl, error_detail: Option<Status>) -> DiscoveryRequest {
        DiscoveryRequest {
            type_url: url.as_str().to_owned(),
            error_detail,
            ..Default::default()
        }
    }

    fn introduce(request: &mut DiscoveryRequest, node: Node) {
        request.node = Some(node);
    }

    fn update(response: DiscoveryResponse) -> Update {
        let url = TypeUrl::new(&response.type_url);
        let version: Version = response.version_info.as_str().into();
        let incoming = |body| Incoming {
            name: name_of(&body),
            version: Arc::clone(&version),
            body: Some(body),
        };
        Update {
            full: url.full_state(),
            url,
            resources: response.resources.into_iter().map(incoming).collect(),
            removed: Vec::new(),
            receipt: Receipt {
                nonce: response.nonce,
                version: response.version_info,
                ..Default::default()
            },
        }
    }
}

/// The `error_detail` of a NACK.
pub(super) fn refusal(message: String) -> Status {
    Status {
        code: Code::InvalidArgument.into(),
        message,
        details: Vec::new(),
    }
}
