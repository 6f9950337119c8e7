//! What is served, and what proxies say of it.

use std::collections::{BTreeMap, BTreeSet};

use ithildin_proto::pb::google::protobuf::Any;

use super::recording::{Answer, short};

/// A resource that is served.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) version: String,
    pub(super) body: Any,
    /// Each change has a new one.
    pub(super) serial: u64,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Counts streams from 1.
    pub stream: u64,
    /// The node's id, where the request says it.
    pub node: Option<String>,
    pub url: String,
    /// What it subscribes to.
    pub names: Vec<String>,
    /// Of the response that it answers; empty if it answers none.
    pub nonce: String,
    /// Why the response is refused, if it is.
    pub refusal: Option<String>,
}

#[derive(Default)]
pub(super) struct State {
    resources: BTreeMap<String, BTreeMap<String, Kept>>,
    mute: BTreeSet<String>,
    serial: u64,
    /// The newest version of a recording.
    version: String,
    pub(super) heard: Vec<Heard>,
    /// Stream, type and nonce of each response.
    sent: Vec<(u64, String, String)>,
    pub(super) streams: u64,
}

impl State {
    pub(super) fn apply(&mut self, answer: &Answer) {
        for recorded in answer {
            self.serial += 1;
            self.version.clone_from(&recorded.version);
            let kept = Kept {
                version: recorded.version.clone(),
                body: recorded.body.clone(),
                serial: self.serial,
            };
            let url = recorded.body.type_url.clone();
            let of_type = self.resources.entry(url).or_default();
            of_type.insert(recorded.name.clone(), kept);
        }
    }

    pub(super) fn remove(&mut self, url: &str, name: &str) {
        if let Some(of_type) = self.resources.get_mut(url) {
            of_type.remove(name);
        }
    }

    pub(super) fn clear(&mut self) {
        self.resources.clear();
    }

    pub(super) fn mute(&mut self, kind: &str, mute: bool) {
        match mute {
            true => self.mute.insert(kind.to_owned()),
            false => self.mute.remove(kind),
        };
    }

    pub(super) fn is_mute(&self, url: &str) -> bool {
        self.mute.contains(short(url))
    }

    pub(super) fn get(&self, url: &str, name: &str) -> Option<&Kept> {
        self.resources.get(url)?.get(name)
    }

    pub(super) fn of_type(&self, url: &str) -> impl Iterator<Item = (&String, &Kept)> {
        self.resources.get(url).into_iter().flatten()
    }

    pub(super) fn version(&self) -> String {
        self.version.clone()
    }

    pub(super) fn hear(&mut self, heard: Heard) {
        self.heard.push(heard);
    }

    /// The nonce for a response that is on its way.
    pub(super) fn send(&mut self, stream: u64, url: &str) -> String {
        let nonce = format!("{}/{}", self.version, self.sent.len() + 1);
        self.sent.push((stream, url.to_owned(), nonce.clone()));
        nonce
    }

    /// Of which types the newest response of the newest stream has no answer yet.
    pub(super) fn unanswered(&self) -> Vec<String> {
        let of_stream = self
            .sent
            .iter()
            .filter(|(stream, ..)| *stream == self.streams);
        let newest: BTreeMap<&str, &str> = of_stream
            .map(|(_, url, nonce)| (&**url, &**nonce))
            .collect();
        let answered = |nonce: &str| self.heard.iter().any(|heard| heard.nonce == nonce);
        let unanswered = newest.iter().filter(|(_, nonce)| !answered(nonce));
        unanswered.map(|(url, _)| short(url).to_owned()).collect()
    }

    /// The types of which the newest stream has had a response.
    pub(super) fn served(&self) -> BTreeSet<String> {
        let of_stream = self
            .sent
            .iter()
            .filter(|(stream, ..)| *stream == self.streams);
        of_stream.map(|(_, url, _)| short(url).to_owned()).collect()
    }
}
