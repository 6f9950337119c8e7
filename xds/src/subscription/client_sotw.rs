//! The client's half of the state-of-the-world protocol.

use ithildin_proto::pb::{
    envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse},
    google::rpc::{Code, Status},
};

use super::Interest;
use crate::ResourceKind;

/// One type, across reconnects. Requests leave without `node`; the first of a stream must get it.
#[derive(Debug)]
pub struct SotwClient {
    kind: ResourceKind,
    interest: Interest,
    /// Of the last accepted response; survives a reconnect.
    version: String,
    nonce: String,
    connected: bool,
}

impl SotwClient {
    pub fn new(kind: ResourceKind, interest: Interest) -> Self {
        Self {
            kind,
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
        if self.interest == interest {
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
        DiscoveryRequest {
            version_info: self.version.clone(),
            // A wildcard alone is the empty list, which every server understands.
            resource_names: self.interest.names().iter().cloned().collect(),
            type_url: self.kind.url(),
            response_nonce: self.nonce.clone(),
            ..Default::default()
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
