//! What a decision changes: the request that passes, its response, and metadata.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::HeaderName;
use serde_json::{Map, Value};

use super::decision::{Allowance, Change, ResponseHeaders, Target};
use crate::{
    config::{ext_authz::ExtAuthz, route::AppendAction},
    http::{exchange::Exchange, headers::Headers, request::Request},
};

/// Where it leaves what the service says, whatever its own name is.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";

const FAILURE_ALLOWED: HeaderName = HeaderName::from_static("x-envoy-auth-failure-mode-allowed");

impl Exchange<'_> {
    pub(super) fn allow(&mut self, index: usize, allowance: Allowance) {
        for (change, target, value) in allowance.headers {
            self.request.change(change, target, value);
        }
        for name in allowance.remove {
            self.request.headers.remove(name.as_str());
        }
        if !allowance.parameters.is_empty() || !allowance.remove_parameters.is_empty() {
            let (set, remove) = (&allowance.parameters, &allowance.remove_parameters);
            self.request.path = with_parameters(&self.request.path, set, remove);
        }
        let response = allowance.response;
        if !response.0.is_empty() {
            self.filters.authorized.push((index, response));
        }
    }

    pub(super) fn leave_metadata(&mut self, filter: &ExtAuthz, metadata: Map<String, Value>) {
        if metadata.is_empty() {
            return;
        }
        if !filter.takes_metadata {
            let stats = filter.stats.worker(self.context.worker.index);
            stats.ignored_dynamic_metadata.inc();
            return;
        }
        let left = self.request.metadata.get_or_insert_default();
        for (key, value) in metadata {
            left.set(NAMESPACE, &key, value);
        }
    }

    /// Tells the upstream that nobody was asked, whatever the client says of it.
    pub(super) fn tell_of_failure(&mut self, filter: &ExtAuthz) {
        if filter.failure_mode_allow_header_add {
            let headers = &mut self.request.headers;
            headers.remove(FAILURE_ALLOWED.as_str());
            headers.append(FAILURE_ALLOWED, Bytes::from_static(b"true"));
        }
    }
}

impl Request {
    fn change(&mut self, change: Change, target: Target, value: Bytes) {
        match (change, target) {
            (_, Target::Method) => self.method = value,
            (_, Target::Authority) => self.authority = value,
            (_, Target::Path) => self.path = value,
            (Change::Set, Target::Header(name)) => {
                self.headers.remove(name.as_str());
                self.headers.append(name, value);
            }
            (Change::Add, Target::Header(name)) => self.headers.append(name, value),
            (Change::AppendIfThere, Target::Header(name)) => {
                if let Some(before) = self.headers.joined(name.as_str()) {
                    self.headers.remove(name.as_str());
                    let list = [&before[..], b",", &value[..]].concat();
                    self.headers.append(name, list.into());
                }
            }
        }
    }
}

impl ResponseHeaders {
    pub(in crate::http) fn apply(self, headers: &mut Headers) {
        for (action, name, value) in self.0 {
            let is_there = headers.get(name.as_str()).is_some();
            match action {
                AppendAction::AddIfAbsent if is_there => continue,
                AppendAction::OverwriteIfExists if !is_there => continue,
                AppendAction::OverwriteIfExists | AppendAction::OverwriteOrAdd => {
                    headers.remove(name.as_str());
                }
                AppendAction::AddIfAbsent | AppendAction::AppendOrAdd => {}
            }
            headers.append(name, value);
        }
    }
}

/// The path with another query, whose parameters are sorted, as Envoy writes them.
fn with_parameters(path: &[u8], set: &[(String, String)], remove: &[String]) -> Bytes {
    let (path, query) = match memchr::memchr(b'?', path) {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (path, &b""[..]),
    };
    let mut parameters: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
    for parameter in query
        .split(|byte| *byte == b'&')
        .filter(|it| !it.is_empty())
    {
        let (key, value) = match memchr::memchr(b'=', parameter) {
            Some(at) => (&parameter[..at], &parameter[at + 1..]),
            None => (parameter, &b""[..]),
        };
        parameters.entry(key).or_default().push(value);
    }
    for key in remove {
        parameters.remove(key.as_bytes());
    }
    for (key, value) in set {
        parameters.insert(key.as_bytes(), vec![value.as_bytes()]);
    }
    let mut new = path.to_vec();
    let mut separator = b'?';
    for (key, values) in parameters {
        for value in values {
            new.push(separator);
            new.extend([key, b"=", value].concat());
            separator = b'&';
        }
    }
    new.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_set_and_removed() {
        let set = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        for (path, expected) in [
            ("/p", "/p?n=1"),
            ("/p?n=0&n=2&x&a=b=c", "/p?a=b=c&n=1&x="),
            ("/p?gone=1&gone=2", "/p?n=1"),
            ("/p?b=2&b=1&&", "/p?b=2&b=1&n=1"),
        ] {
            let found = with_parameters(path.as_bytes(), &[set("n", "1")], &["gone".into()]);
            assert_eq!(found, expected, "{path}");
        }
        assert_eq!(with_parameters(b"/p?a=1", &[], &["a".into()]), "/p");
    }
}
