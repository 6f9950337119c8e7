//! What both server machines have in common, so that one loop drives either protocol.

use std::collections::BTreeSet;

use ithildin_proto::pb::envoy::config::core::v3::Node;

use super::{Catalog, Heard, Interest};
use crate::TypeUrl;

/// One type on one stream, seen from the server.
pub trait Server: Send + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;

    fn new(url: impl Into<TypeUrl>) -> Self;

    /// What the peer wants now.
    fn interest(&self) -> &Interest;

    /// Whether every response that was sent has been accepted or refused.
    fn settled(&self) -> bool;

    /// Takes a request; ask [`Server::respond`] afterwards.
    fn request(&mut self, request: &Self::Request) -> Heard;

    /// The response that is due, if any. Of `undecided` names nothing is said: whether they exist is
    /// not known yet.
    fn respond(
        &mut self,
        catalog: &Catalog,
        undecided: &BTreeSet<String>,
    ) -> Option<Self::Response>;

    /// Has these sent again although their versions did not change: Envoy waits for the endpoints of
    /// a cluster that it warms, also of one that it knows.
    fn forget<'a>(&mut self, names: impl IntoIterator<Item = &'a str>);

    /// The next request that repeats an accepted one is answered in full, once. Envoy repeats its
    /// EDS request, names and nonce unchanged, when it warms a cluster anew.
    fn allow_repeat(&mut self);

    fn node(request: &Self::Request) -> Option<&Node>;

    fn type_url(request: &Self::Request) -> &str;

    /// The response that it answers; empty if none.
    fn nonce(request: &Self::Request) -> &str;

    /// Why that is refused.
    fn refusal(request: &Self::Request) -> Option<&str>;

    fn response_nonce(response: &Self::Response) -> &str;

    /// What the peer says it holds from an earlier stream.
    fn claims(request: &Self::Request) -> Claims;
}

/// Which resources a peer holds from an earlier stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claims {
    Names(BTreeSet<String>),
    /// Whatever it subscribes to; the state-of-the-world protocol is no more precise.
    Everything,
}

impl Claims {
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::Names(names) => names.contains(name),
            Self::Everything => true,
        }
    }
}

impl Default for Claims {
    fn default() -> Self {
        Self::Names(BTreeSet::new())
    }
}
