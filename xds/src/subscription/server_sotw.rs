//! The server's half of the state-of-the-world protocol.

use std::collections::{BTreeMap, BTreeSet};

use ithildin_proto::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{DiscoveryRequest, DiscoveryResponse},
};

use super::{Catalog, Claims, Heard, Interest, Server, Version, interest::WILDCARD, set_version};
use crate::TypeUrl;

/// One type on one stream.
#[derive(Debug)]
pub struct SotwServer {
    url: TypeUrl,
    interest: Interest,
    /// Once a name was given, an empty list means "nothing" and no longer "everything".
    named: bool,
    state: State,
    /// What the peer was sent last, by name; what it did with it is in `refused`.
    sent: BTreeMap<String, Version>,
    responses: u64,
    nonce: Option<String>,
    /// Whether the newest response was accepted or refused already.
    judged: bool,
    /// A repeated request is answered once more, see [`Server::allow_repeat`].
    repeat: Repeat,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// No request yet: nothing may be sent.
    Silent,
    /// A full-state type owes a first response even when it is empty.
    Owes,
    Steady,
}

#[derive(Debug, PartialEq, Eq)]
enum Repeat {
    Ignored,
    Allowed,
}

impl Server for SotwServer {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn new(url: impl Into<TypeUrl>) -> Self {
        Self {
            url: url.into(),
            interest: Interest::default(),
            named: false,
            state: State::Silent,
            sent: BTreeMap::new(),
            responses: 0,
            nonce: None,
            judged: false,
            repeat: Repeat::Ignored,
        }
    }

    fn interest(&self) -> &Interest {
        &self.interest
    }

    fn settled(&self) -> bool {
        self.nonce.is_none() || self.judged
    }

    fn request(&mut self, request: &DiscoveryRequest) -> Heard {
        let heard = self.judge(request);
        if heard == Heard::Stale {
            return heard;
        }
        let repeated = self.subscribe(&request.resource_names);
        if heard == Heard::First {
            self.state = if self.url.full_state() {
                State::Owes
            } else {
                State::Steady
            };
        }
        // Without a nonce, and with nothing under way: the peer begins anew, and has let go of what it was sent.
        let anew = request.response_nonce.is_empty() && self.judged;
        if heard == Heard::Spontaneous && repeated && (anew || self.repeat == Repeat::Allowed) {
            self.repeat = Repeat::Ignored;
            self.sent.clear();
        }
        heard
    }

    fn respond(&mut self, catalog: &Catalog, _: &BTreeSet<String>) -> Option<DiscoveryResponse> {
        let due: Vec<_> = match self.state {
            State::Silent => return None,
            State::Owes | State::Steady if self.url.full_state() => {
                let members = self.interest.select(catalog);
                let unchanged = members.clone().count() == self.sent.len()
                    && members
                        .clone()
                        .all(|(name, resource)| self.sent.get(name) == Some(&resource.version));
                if unchanged && self.state == State::Steady {
                    return None;
                }
                self.sent.clear();
                members.collect()
            }
            State::Owes | State::Steady => self
                .interest
                .select(catalog)
                .filter(|(name, resource)| self.sent.get(*name) != Some(&resource.version))
                .collect(),
        };
        if due.is_empty() && !self.url.full_state() {
            return None;
        }
        self.state = State::Steady;
        self.responses += 1;
        let nonce = self.responses.to_string();
        self.nonce = Some(nonce.clone());
        self.judged = false;
        for (name, resource) in &due {
            self.sent.insert((*name).clone(), resource.version.clone());
        }
        let versions = due.iter().map(|(name, r)| (name.as_str(), &r.version));
        Some(DiscoveryResponse {
            version_info: set_version(versions),
            resources: due.iter().map(|(_, r)| r.body.clone()).collect(),
            type_url: self.url.as_str().to_owned(),
            nonce,
            ..Default::default()
        })
    }

    fn forget<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        for name in names {
            self.sent.remove(name);
        }
    }

    fn allow_repeat(&mut self) {
        self.repeat = Repeat::Allowed;
    }

    fn node(request: &DiscoveryRequest) -> Option<&Node> {
        request.node.as_ref()
    }

    fn type_url(request: &DiscoveryRequest) -> &str {
        &request.type_url
    }

    fn nonce(request: &DiscoveryRequest) -> &str {
        &request.response_nonce
    }

    fn refusal(request: &DiscoveryRequest) -> Option<&str> {
        let error = request.error_detail.as_ref();
        error.map(|error| error.message.as_str())
    }

    fn response_nonce(response: &DiscoveryResponse) -> &str {
        &response.nonce
    }

    /// A version is of all names together.
    fn claims(request: &DiscoveryRequest) -> Claims {
        match request.version_info.is_empty() {
            true => Claims::default(),
            false => Claims::Everything,
        }
    }
}

impl SotwServer {
    fn judge(&mut self, request: &DiscoveryRequest) -> Heard {
        if self.state == State::Silent {
            return Heard::First;
        }
        let Some(nonce) = &self.nonce else {
            return Heard::Spontaneous;
        };
        if request.response_nonce.is_empty() {
            return Heard::Spontaneous;
        }
        if request.response_nonce != *nonce {
            return Heard::Stale;
        }
        match (&request.error_detail, self.judged) {
            (Some(error), _) => {
                self.judged = true;
                Heard::Nack(error.message.clone())
            }
            (None, false) => {
                self.judged = true;
                Heard::Ack
            }
            (None, true) => Heard::Spontaneous,
        }
    }

    /// Returns whether the request wants what was wanted before.
    fn subscribe(&mut self, names: &[String]) -> bool {
        let wanted = Interest::of(names.iter().map(String::as_str));
        let wanted = match wanted.is_empty() && !self.named {
            true => Interest::everything(),
            false => {
                self.named |= names
                    .iter()
                    .any(|name| !name.is_empty() && name != WILDCARD);
                wanted
            }
        };
        let repeated = wanted == self.interest;
        self.interest = wanted;
        if !self.url.full_state() {
            let interest = &self.interest;
            self.sent.retain(|name, _| interest.contains(name));
        }
        repeated
    }
}
