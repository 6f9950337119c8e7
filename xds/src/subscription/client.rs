//! What both client machines have in common, so that one loop drives either protocol.

use std::collections::{BTreeMap, BTreeSet};

use ithildin_proto::pb::{
    envoy::config::core::v3::Node,
    google::{protobuf::Any, rpc::Status},
};
use prost::Message;

use super::{Interest, Version};
use crate::TypeUrl;

/// How much of a name is told, in bytes; no name of Istio's is as long.
const MAX_NAME: usize = 512;
/// How much is told of what is wrong with one resource, in bytes: it may have an error in each of thousands
/// of routes.
const MAX_REASON: usize = 16 << 10;
/// Once a text is as long, in bytes, the resources that are left are counted only. istiod takes no request
/// of more than 4 MiB, and would end the stream with each refusal.
const MAX_REASONS: usize = 64 << 10;

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
    /// All reasons in one text, as far as it may go to a server and into a log; `None` if nothing is
    /// refused.
    pub fn reason(&self) -> Option<String> {
        let mut left = self.refused.len() + usize::from(self.whole.is_some());
        let mut text = String::new();
        let refused = self.refused.iter().map(|(name, why)| (Some(name), why));
        for (name, why) in refused.chain(self.whole.iter().map(|why| (None, why))) {
            if text.len() >= MAX_REASONS {
                text.push_str(&format!("; and {left} more"));
                break;
            }
            if !text.is_empty() {
                text.push_str("; ");
            }
            if let Some(name) = name {
                push_bounded(&mut text, name, MAX_NAME);
                text.push_str(": ");
            }
            push_bounded(&mut text, why, MAX_REASON);
            left -= 1;
        }
        (!text.is_empty()).then_some(text)
    }
}

fn push_bounded(text: &mut String, more: &str, most: usize) {
    let end = more.floor_char_boundary(most);
    text.push_str(&more[..end]);
    if end < more.len() {
        text.push_str("...");
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(count: usize, name: &str, why: &str) -> Verdict {
        Verdict {
            refused: (0..count)
                .map(|i| (format!("{i:05}{name}"), why.to_owned()))
                .collect(),
            whole: None,
        }
    }

    #[test]
    fn a_few_reasons_are_told_whole() {
        assert_eq!(Verdict::default().reason(), None);
        let verdict = Verdict {
            whole: Some("c".to_owned()),
            ..refused(2, "", "b")
        };
        assert_eq!(verdict.reason().unwrap(), "00000: b; 00001: b; c");
    }

    #[test]
    fn what_is_told_of_many_or_of_one_is_bounded() {
        let text = refused(30_000, "", &"x".repeat(1000)).reason().unwrap();
        assert!(text.len() < 2 * MAX_REASONS, "{}", text.len());
        let (told, left) = text.rsplit_once("; and ").unwrap();
        assert_eq!(left, format!("{} more", 30_000 - told.split("; ").count()));
        let text = refused(2, &"é".repeat(1 << 20), &"ü".repeat(1 << 20));
        let text = text.reason().unwrap();
        assert!(text.len() < 2 * MAX_REASONS, "{}", text.len());
        assert!(text.starts_with("00000é") && text.contains("...; 00001é"));
    }
}
