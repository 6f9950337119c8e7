//! One stream of a proxy: what it subscribes to and what it has been sent, in either protocol.

use std::collections::{BTreeMap, BTreeSet};

use ithildin_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};

use super::{
    recording::short,
    state::{Heard, Kept, State},
};

/// istiod's order of pushes; other types follow.
const ORDER: [&str; 5] = [
    "Cluster",
    "ClusterLoadAssignment",
    "Listener",
    "RouteConfiguration",
    "Secret",
];
/// Everything of these types goes to everybody.
const WILDCARD: [&str; 2] = ["Cluster", "Listener"];

/// The state of one stream.
pub(super) struct Session {
    /// Its number, for the log.
    stream: u64,
    watched: BTreeMap<String, Watched>,
}

/// One type.
#[derive(Default)]
struct Watched {
    names: BTreeSet<String>,
    /// What was sent last of each name; 0 if it was told that there is no such resource.
    sent: BTreeMap<String, u64>,
    /// Names that were asked for since the last response.
    asked: BTreeSet<String>,
    /// Whether any response is owed, even an empty one.
    owed: bool,
}

/// What the two protocols say differently.
pub(super) trait Protocol {
    type Request: Send + 'static;
    type Response: Send + 'static;

    fn request(session: &mut Session, state: &mut State, request: &Self::Request);
    /// The next response that is due.
    fn respond(session: &mut Session, state: &mut State) -> Option<Self::Response>;
    /// A response of a test's own making, if it is of this protocol.
    fn raw(response: &DeltaDiscoveryResponse) -> Option<Self::Response>;
}

pub(super) struct Delta;
pub(super) struct Sotw;

impl Session {
    pub(super) fn new(stream: u64) -> Self {
        Self {
            stream,
            watched: BTreeMap::new(),
        }
    }

    fn urls(&self) -> Vec<String> {
        let mut urls: Vec<String> = self.watched.keys().cloned().collect();
        urls.sort_by_key(|url| ORDER.iter().position(|kind| *kind == short(url)));
        // `None` sorts first, and unknown types go last.
        let known = |url: &String| ORDER.contains(&short(url));
        urls.sort_by_key(|url| !known(url));
        urls
    }
}

impl Protocol for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn request(session: &mut Session, state: &mut State, request: &Self::Request) {
        let refusal = request.error_detail.as_ref();
        state.hear(Heard {
            stream: session.stream,
            node: request.node.as_ref().map(|node| node.id.clone()),
            url: request.type_url.clone(),
            names: request.resource_names_subscribe.clone(),
            nonce: request.response_nonce.clone(),
            refusal: refusal.map(|status| status.message.clone()),
        });
        let first = !session.watched.contains_key(&request.type_url);
        let watched = session.watched.entry(request.type_url.clone());
        let watched = watched.or_default();
        if first {
            watched.owed = true;
            // istiod sends all of it again, whatever its version, and tells what is gone.
            let held = request.initial_resource_versions.keys();
            watched
                .sent
                .extend(held.map(|name| (name.clone(), u64::MAX)));
        }
        let subscribed = request.resource_names_subscribe.iter().cloned();
        for name in subscribed.filter(|name| name != "*") {
            watched.names.insert(name.clone());
            watched.asked.insert(name);
        }
        for name in &request.resource_names_unsubscribe {
            watched.names.remove(name);
            watched.sent.remove(name);
        }
    }

    fn respond(session: &mut Session, state: &mut State) -> Option<Self::Response> {
        for url in session.urls() {
            let watched = session.watched.get_mut(&url)?;
            if state.is_mute(&url) {
                continue;
            }
            let (new, gone) = watched.changes(state, &url);
            let empty = new.is_empty() && gone.is_empty();
            if empty && !std::mem::take(&mut watched.owed) {
                continue;
            }
            watched.owed = false;
            let resource = |(name, kept): &(String, Kept)| Resource {
                name: name.clone(),
                version: kept.version.clone(),
                resource: Some(kept.body.clone()),
                ..Default::default()
            };
            return Some(DeltaDiscoveryResponse {
                system_version_info: state.version(),
                resources: new.iter().map(resource).collect(),
                removed_resources: gone,
                nonce: state.send(session.stream, &url),
                type_url: url,
                ..Default::default()
            });
        }
        None
    }

    fn raw(response: &DeltaDiscoveryResponse) -> Option<Self::Response> {
        Some(response.clone())
    }
}

impl Protocol for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn request(session: &mut Session, state: &mut State, request: &Self::Request) {
        let refusal = request.error_detail.as_ref();
        state.hear(Heard {
            stream: session.stream,
            node: request.node.as_ref().map(|node| node.id.clone()),
            url: request.type_url.clone(),
            names: request.resource_names.clone(),
            nonce: request.response_nonce.clone(),
            refusal: refusal.map(|status| status.message.clone()),
        });
        let first = !session.watched.contains_key(&request.type_url);
        let watched = session.watched.entry(request.type_url.clone());
        let watched = watched.or_default();
        watched.owed |= first;
        let names: BTreeSet<String> = request.resource_names.iter().cloned().collect();
        if !names.is_subset(&watched.names) {
            watched.asked.extend(names.iter().cloned());
            watched.owed = true;
        }
        watched.names = names;
    }

    fn respond(session: &mut Session, state: &mut State) -> Option<Self::Response> {
        for url in session.urls() {
            let watched = session.watched.get_mut(&url)?;
            if state.is_mute(&url) {
                continue;
            }
            let (new, gone) = watched.changes(state, &url);
            if new.is_empty() && gone.is_empty() && !watched.owed {
                continue;
            }
            watched.owed = false;
            let full = WILDCARD.contains(&short(&url));
            let bodies = match full {
                true => state
                    .of_type(&url)
                    .map(|(_, kept)| kept.body.clone())
                    .collect(),
                false => new.into_iter().map(|(_, kept)| kept.body).collect(),
            };
            return Some(DiscoveryResponse {
                version_info: state.version(),
                resources: bodies,
                nonce: state.send(session.stream, &url),
                type_url: url,
                ..Default::default()
            });
        }
        None
    }

    fn raw(_: &DeltaDiscoveryResponse) -> Option<Self::Response> {
        None
    }
}

impl Watched {
    /// What is new to the proxy, or was asked for, and what is gone; both count as sent from now on.
    fn changes(&mut self, state: &State, url: &str) -> (Vec<(String, Kept)>, Vec<String>) {
        let all = WILDCARD.contains(&short(url));
        let asked = std::mem::take(&mut self.asked);
        let mut new = Vec::new();
        for (name, kept) in state.of_type(url) {
            let wanted = all || self.names.contains(name);
            if wanted && (self.sent.get(name) != Some(&kept.serial) || asked.contains(name)) {
                self.sent.insert(name.clone(), kept.serial);
                new.push((name.clone(), kept.clone()));
            }
        }
        let known = self.sent.keys().chain(&self.names).cloned();
        let missing: BTreeSet<String> = known
            .filter(|name| state.get(url, name).is_none())
            .collect();
        let untold = |name: &String| self.sent.get(name) != Some(&0) || asked.contains(name);
        let gone: Vec<String> = missing.into_iter().filter(untold).collect();
        self.sent.extend(gone.iter().map(|name| (name.clone(), 0)));
        (new, gone)
    }
}
