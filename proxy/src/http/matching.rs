//! Which route a request takes: host, then routes in order (`envoy.config.route.v3`).

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;

use super::request::Request;
use crate::config::{
    matchers::{HeaderMatch, HeaderSource, QueryMatch, ValueMatch},
    route::{PathMatch, Route, RouteMatch, RouteTable, VirtualHost},
};

impl RouteTable {
    /// The virtual host of `authority`: exact, longest suffix, longest prefix, then `*`.
    pub(super) fn virtual_host(&self, authority: &str) -> Option<(usize, &VirtualHost)> {
        let host = match self.ignore_port_in_host_matching {
            true => without_port(authority),
            false => authority,
        };
        let host = lower_case(host);
        let index = self
            .exact
            .get(&*host)
            .copied()
            .or_else(|| self.suffixes.longest(|length| suffix(&host, length)))
            .or_else(|| self.prefixes.longest(|length| prefix(&host, length)))
            .or(self.any)?;
        self.hosts.get(index).map(|host| (index, host))
    }
}

impl VirtualHost {
    /// The first route that matches.
    pub(super) fn route(&self, request: &Request) -> Option<&Arc<Route>> {
        self.routes
            .iter()
            .find(|route| route.matches.admits(request))
    }
}

/// The end of a host name, less than the whole.
fn suffix(host: &str, length: usize) -> Option<&str> {
    let start = host.len().checked_sub(length)?;
    host.get(start..).filter(|_| start > 0)
}

/// The begin of a host name, less than the whole.
fn prefix(host: &str, length: usize) -> Option<&str> {
    host.get(..length).filter(|_| length < host.len())
}

/// Most names are in lower case already.
pub(super) fn lower_case(text: &str) -> Cow<'_, str> {
    match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => text.to_ascii_lowercase().into(),
        false => text.into(),
    }
}

/// Host, in lower case, and port.
pub(super) fn host_and_port(authority: &str) -> (Cow<'_, str>, Option<u16>) {
    let host = without_port(authority);
    let port = authority[host.len()..].strip_prefix(':');
    (lower_case(host), port.and_then(|port| port.parse().ok()))
}

/// `host:port` and `[v6]:port` without the port.
pub(super) fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|b| b.is_ascii_digit())
                && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    }
}

impl RouteMatch {
    pub(super) fn admits(&self, request: &Request) -> bool {
        self.path.admits(request, self.case_sensitive)
            && (!self.grpc_only || request.is_grpc())
            && self.headers.iter().all(|header| header.admits(request))
            && self.query.iter().all(|query| query.admits(request))
            && {
                let metadata = request.metadata.as_deref();
                self.metadata.iter().all(|it| it.admits(metadata))
            }
    }
}

impl PathMatch {
    fn admits(&self, request: &Request, case_sensitive: bool) -> bool {
        let path = request.path_only();
        let starts = |prefix: &str| {
            path.get(..prefix.len())
                .is_some_and(|start| match case_sensitive {
                    true => start == prefix.as_bytes(),
                    false => start.eq_ignore_ascii_case(prefix.as_bytes()),
                })
        };
        match self {
            Self::Connect => request.is_connect(),
            _ if request.is_connect() && request.path.is_empty() => false,
            Self::Prefix(prefix) => starts(prefix),
            Self::SeparatedPrefix(prefix) => {
                starts(prefix) && matches!(path.get(prefix.len()), None | Some(b'/'))
            }
            Self::Exact(exact) => starts(exact) && path.len() == exact.len(),
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

impl HeaderMatch {
    /// Of several values each is looked at, and one that matches will do: else who repeats a header
    /// would pass a policy that denies one of its values (Envoy, `match_headers_individually`).
    pub(super) fn admits(&self, request: &Request) -> bool {
        // `None` as long as no value was seen.
        let mut matches = None;
        let mut look = |value: &[u8]| {
            matches = Some(matches == Some(true) || self.value.admits(value));
        };
        match &self.source {
            HeaderSource::Method => look(&request.method),
            HeaderSource::Authority => look(&request.authority),
            HeaderSource::Path => look(&request.path),
            HeaderSource::Scheme => request.scheme.iter().for_each(|it| look(it.as_bytes())),
            HeaderSource::Joined(name) => {
                request.headers.joined(name).iter().for_each(|it| look(it));
            }
            HeaderSource::Each(name) => request.headers.all(name).for_each(|it| look(it)),
        }
        let matches = match self.missing_is_empty {
            true => matches.or_else(|| Some(self.value.admits(b""))),
            false => matches,
        };
        match &self.value {
            ValueMatch::Present(present) => (matches.is_some() == *present) != self.invert,
            // Without the header there is nothing to match, inverted or not.
            _ => matches.is_some_and(|matches| matches != self.invert),
        }
    }
}

impl HeaderSource {
    /// The first value.
    pub(super) fn value(&self, request: &Request) -> Option<Bytes> {
        match self {
            Self::Method => Some(request.method.clone()),
            Self::Authority => Some(request.authority.clone()),
            Self::Path => Some(request.path.clone()),
            Self::Scheme => request.scheme.map(|it| Bytes::from_static(it.as_bytes())),
            Self::Joined(name) => request.headers.joined(name),
            Self::Each(name) => request.headers.get(name).cloned(),
        }
    }
}

impl QueryMatch {
    fn admits(&self, request: &Request) -> bool {
        let value = request.query().and_then(|query| {
            query.split(|b| *b == b'&').find_map(|pair| {
                let mut parts = pair.splitn(2, |b| *b == b'=');
                (parts.next() == Some(self.name.as_bytes()))
                    .then(|| parts.next().unwrap_or_default())
            })
        });
        self.admits_value(value)
    }

    /// `None`: there is no such parameter.
    pub(super) fn admits_value(&self, value: Option<&[u8]>) -> bool {
        match (&self.value, value) {
            (ValueMatch::Present(present), value) => value.is_some() == *present,
            (matcher, Some(value)) => matcher.admits(value),
            (_, None) => false,
        }
    }
}

impl ValueMatch {
    fn admits(&self, value: &[u8]) -> bool {
        match self {
            Self::Present(present) => *present,
            Self::String(matcher) => matcher.admits(value),
            Self::Range(start, end) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .is_some_and(|number| (*start..*end).contains(&number)),
        }
    }
}
