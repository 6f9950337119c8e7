//! What both client machines have in common, so that one loop drives either protocol.

use std::collections::{BTreeMap, BTreeSet};

use ithildin_proto::pb::{
    envoy::config::core::v3::Node,
    google::{protobuf::Any, rpc::Status},
};
use prost::Message;

use super::{Interest, Version};
use crate::TypeUrl;

/// One type on one stream, and across reconnects, seen from the client. Requests leave without
/// `node`; the first of a stream must get it.
pub trait Client: Send + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;

    fn new(url: impl Into<TypeUrl>, interest: Interest) -> Self;

    /// The stream is gone.
    fn disconnect(&mut self);

    /// Changes what is wanted, or begins on a new stream; a request if the peer must know.
    fn subscribe(&mut self, interest: Interest) -> Option<Self::Request>;

    /// Asks again for names that are subscribed to already.
    fn renew(&mut self, names: &BTreeSet<String>) -> Option<Self::Request>;

    /// A response is held, and will be judged later: a new stream is told of it all the same.
    fn hold(&mut self, receipt: &Receipt);

    /// ACKs a response, or NACKs it with the reasons.
    fn judge(&mut self, receipt: &Receipt, verdict: &Verdict) -> Self::Request;

    /// A request that subscribes to nothing: it tells.
    fn notice(url: &TypeUrl, error: Option<Status>) -> Self::Request;

    fn introduce(request: &mut Self::Request, node: Node);

    /// Takes a response apart.
    fn update(response: Self::Response) -> Update;
}

/// What became of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Refused resources by name, with the reason; the others are accepted.
    pub refused: BTreeMap<String, String>,
    /// A reason that is not one resource's.
    pub whole: Option<String>,
}

impl Verdict {
    /// All reasons in one text; `None` if nothing is refused.
    pub fn reason(&self) -> Option<String> {
        let refused = self.refused.iter();
        let reasons: Vec<_> = refused
            .map(|(name, why)| format!("{name}: {why}"))
            .chain(self.whole.clone())
            .collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

/// A response of either protocol.
#[derive(Clone, Debug)]
pub struct Update {
    pub url: TypeUrl,
    pub resources: Vec<Incoming>,
    /// Names that are gone.
    pub removed: Vec<String>,
    /// Whether resources that are not in it are gone too.
    pub full: bool,
    pub receipt: Receipt,
}

/// One resource of a response.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub name: String,
    pub version: Version,
    pub body: Option<Any>,
}

/// What an answer to a response needs of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    pub nonce: String,
    /// Of the whole response.
    pub version: String,
    /// Of each resource; empty in the state-of-the-world protocol.
    pub versions: BTreeMap<String, String>,
    pub removed: Vec<String>,
}

/// The name of a resource: of every type that comes without one beside it, the first field.
pub(super) fn name_of(body: &Any) -> String {
    #[derive(Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
    }
    Named::decode(body.value.as_slice())
        .map(|named| named.name)
        .unwrap_or_default()
}
