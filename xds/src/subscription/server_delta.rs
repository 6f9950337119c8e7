//! The server's half of the incremental protocol.

use std::collections::{BTreeMap, BTreeSet};

use ithildin_proto::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
    },
};

use super::{Catalog, Claims, Heard, Interest, Server, Version, set_version};
use crate::TypeUrl;

/// One type on one stream.
#[derive(Debug)]
pub struct DeltaServer {
    url: TypeUrl,
    interest: Interest,
    /// What the peer was told last about each name.
    told: BTreeMap<String, Told>,
    state: State,
    responses: u64,
    nonce: Option<String>,
    judged: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Has(Version),
    /// That there is no such resource (`removed_resources`).
    Absent,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Silent,
    /// A wildcard subscription is owed a first response even when it is empty.
    Owes,
    Steady,
}

impl Server for DeltaServer {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn new(url: impl Into<TypeUrl>) -> Self {
        Self {
            url: url.into(),
            interest: Interest::default(),
            told: BTreeMap::new(),
            state: State::Silent,
            responses: 0,
            nonce: None,
            judged: false,
        }
    }

    fn interest(&self) -> &Interest {
        &self.interest
    }

    fn settled(&self) -> bool {
        self.nonce.is_none() || self.judged
    }

    fn request(&mut self, request: &DeltaDiscoveryRequest) -> Heard {
        let heard = self.judge(request);
        if heard == Heard::First {
            self.begin(request);
        } else {
            self.subscribe(&request.resource_names_subscribe);
        }
        self.unsubscribe(&request.resource_names_unsubscribe);
        heard
    }

    fn respond(
        &mut self,
        catalog: &Catalog,
        undecided: &BTreeSet<String>,
    ) -> Option<DeltaDiscoveryResponse> {
        if self.state == State::Silent {
            return None;
        }
        let changed: Vec<_> = self
            .interest
            .select(catalog)
            .filter(
                |(name, r)| !matches!(self.told.get(*name), Some(Told::Has(v)) if *v == r.version),
            )
            .collect();
        let removed = self.removed(catalog, undecided);
        if changed.is_empty() && removed.is_empty() && self.state == State::Steady {
            return None;
        }
        self.state = State::Steady;
        self.responses += 1;
        let nonce = self.responses.to_string();
        self.nonce = Some(nonce.clone());
        self.judged = false;
        for (name, resource) in &changed {
            let told = Told::Has(resource.version.clone());
            self.told.insert((*name).clone(), told);
        }
        for name in &removed {
            match self.interest.names().contains(name) {
                true => self.told.insert(name.clone(), Told::Absent),
                false => self.told.remove(name),
            };
        }
        let members = self.interest.select(catalog);
        let versions = members.map(|(name, r)| (name.as_str(), &r.version));
        Some(DeltaDiscoveryResponse {
            system_version_info: set_version(versions),
            resources: changed
                .into_iter()
                .map(|(name, resource)| WireResource {
                    name: name.clone(),
                    version: resource.version.to_string(),
                    resource: Some(resource.body.clone()),
                    ..Default::default()
                })
                .collect(),
            removed_resources: removed,
            type_url: self.url.as_str().to_owned(),
            nonce,
            ..Default::default()
        })
    }

    fn forget<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        for name in names {
            if matches!(self.told.get(name), Some(Told::Has(_))) {
                self.told.remove(name);
            }
        }
    }

    /// A delta client that wants a name again subscribes to it again, which is always answered.
    fn allow_repeat(&mut self) {}

    fn node(request: &DeltaDiscoveryRequest) -> Option<&Node> {
        request.node.as_ref()
    }

    fn type_url(request: &DeltaDiscoveryRequest) -> &str {
        &request.type_url
    }

    fn nonce(request: &DeltaDiscoveryRequest) -> &str {
        &request.response_nonce
    }

    fn refusal(request: &DeltaDiscoveryRequest) -> Option<&str> {
        let error = request.error_detail.as_ref();
        error.map(|error| error.message.as_str())
    }

    fn response_nonce(response: &DeltaDiscoveryResponse) -> &str {
        &response.nonce
    }

    fn claims(request: &DeltaDiscoveryRequest) -> Claims {
        Claims::Names(request.initial_resource_versions.keys().cloned().collect())
    }
}

impl DeltaServer {
    fn judge(&mut self, request: &DeltaDiscoveryRequest) -> Heard {
        if self.state == State::Silent {
            return Heard::First;
        }
        if request.response_nonce.is_empty() {
            return Heard::Spontaneous;
        }
        if self.nonce.as_ref() != Some(&request.response_nonce) {
            return Heard::Stale;
        }
        self.judged = true;
        match &request.error_detail {
            Some(error) => Heard::Nack(error.message.clone()),
            None => Heard::Ack,
        }
    }

    fn begin(&mut self, request: &DeltaDiscoveryRequest) {
        self.interest = match request.resource_names_subscribe.as_slice() {
            [] => Interest::everything(),
            names => Interest::of(names.iter().map(String::as_str)),
        };
        self.told = request
            .initial_resource_versions
            .iter()
            .filter(|(name, _)| self.interest.contains(name))
            .map(|(name, version)| (name.clone(), Told::Has(version.as_str().into())))
            .collect();
        self.state = match self.interest.is_wildcard() {
            true => State::Owes,
            false => State::Steady,
        };
    }

    /// A name that is subscribed to is answered, also when the peer had it before: it may have
    /// dropped it.
    fn subscribe(&mut self, names: &[String]) {
        for name in names {
            self.told.remove(name);
            self.interest.add(name.clone());
        }
    }

    fn unsubscribe(&mut self, names: &[String]) {
        for name in names {
            self.interest.remove(name);
            if self.interest.is_wildcard() {
                // The peer cannot know whether the wildcard covers the name: tell it.
                if let Some(told) = self.told.get_mut(name) {
                    *told = Told::Has("".into());
                }
            }
        }
        let interest = &self.interest;
        self.told.retain(|name, _| interest.contains(name));
    }

    /// Names that the peer has, or asked for by name, and that do not exist.
    fn removed(&self, catalog: &Catalog, undecided: &BTreeSet<String>) -> Vec<String> {
        let had = self
            .told
            .iter()
            .filter(|(_, told)| matches!(told, Told::Has(_)))
            .map(|(name, _)| name);
        let asked = self
            .interest
            .names()
            .iter()
            .filter(|name| !self.told.contains_key(*name));
        let mut removed: Vec<_> = had
            .chain(asked)
            .filter(|name| !catalog.contains_key(*name) && !undecided.contains(*name))
            .cloned()
            .collect();
        removed.sort_unstable();
        removed.dedup();
        removed
    }
}
