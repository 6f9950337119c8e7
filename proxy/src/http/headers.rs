//! A header list that both protocols share: names and values as bytes that nobody copies.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header::COOKIE};
use ithildin_http1::Known;

use super::names::Names;
use crate::config::http::HeaderFormat;

/// One header. `known` is found once, where the head is parsed.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) known: Known,
    pub(super) name: Name,
    pub(super) value: Bytes,
}

/// A header name as its source has it.
#[derive(Clone, Debug)]
pub(super) enum Name {
    /// Of an HTTP/1 message, in the case that the peer wrote.
    Raw(Bytes),
    Typed(HeaderName),
    Static(&'static str),
}

impl Name {
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Raw(name) => name,
            Self::Typed(name) => name.as_str().as_bytes(),
            Self::Static(name) => name.as_bytes(),
        }
    }

    fn to_typed(&self) -> Option<HeaderName> {
        match self {
            Self::Raw(name) => HeaderName::from_bytes(name).ok(),
            Self::Typed(name) => Some(name.clone()),
            Self::Static(name) => Some(HeaderName::from_static(name)),
        }
    }
}

/// The headers of one message, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Headers {
    list: Vec<Field>,
    /// How the sender wrote their names, where that goes on.
    names: Option<Arc<Names>>,
}

/// Room for what we add to a request or response.
const ADDED: usize = 6;

impl Headers {
    /// Of an HTTP/1 message, without what concerns its connection only.
    pub(super) fn from_http1(fields: &ithildin_http1::head::Fields, format: HeaderFormat) -> Self {
        let mut list = Vec::with_capacity(fields.len() + ADDED);
        for (field, ..) in fields.iter() {
            if !field.hop_by_hop && !is_connection_specific(field.known) {
                list.push(Field {
                    known: field.known,
                    name: Name::Raw(fields.shared_name(field)),
                    value: fields.shared(field),
                });
            }
        }
        Self {
            list,
            names: Names::of(fields, format).map(Arc::new),
        }
    }

    /// Of an HTTP/2 message, whose connection-specific headers `h2` has refused. The crumbs of a cookie
    /// become one field again (RFC 9113, section 8.2.3). Spaces around a value are no part of it: over
    /// HTTP/1 nobody sees them, and a policy must not see another value than the upstream.
    pub(super) fn from_map(map: HeaderMap) -> Self {
        let mut list: Vec<Field> = Vec::with_capacity(map.len() + ADDED);
        let mut last = None;
        for (name, value) in map {
            let repeats = name.is_none();
            let Some(name) = name.or_else(|| last.clone()) else {
                continue;
            };
            let known = Known::of(name.as_str().as_bytes());
            let value = value.as_bytes().trim_ascii();
            last = Some(name.clone());
            if repeats
                && name == COOKIE
                && let Some(cookie) = list.last_mut()
            {
                cookie.value = [&cookie.value, &b"; "[..], value].concat().into();
                continue;
            }
            if known == Known::Host || is_connection_specific(known) {
                continue;
            }
            list.push(Field {
                known,
                name: Name::Typed(name),
                value: Bytes::copy_from_slice(value),
            });
        }
        Self { list, names: None }
    }

    /// For an HTTP/2 message.
    pub(super) fn into_map(self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.list.len());
        for field in self.list {
            let value = HeaderValue::from_maybe_shared(field.value);
            if let (Some(name), Ok(value)) = (field.name.to_typed(), value) {
                map.append(name, value);
            }
        }
        map
    }

    /// How the sender wrote the names.
    pub(super) fn names(&self) -> Option<&Names> {
        self.names.as_deref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Field> {
        self.list.iter()
    }

    /// The first value of a known header.
    pub(super) fn known(&self, known: Known) -> Option<&Bytes> {
        let field = self.list.iter().find(|field| field.known == known)?;
        Some(&field.value)
    }

    /// The first value under `name`, in any case.
    pub(super) fn get(&self, name: &str) -> Option<&Bytes> {
        let field = self.list.iter().find(|field| is_named(field, name))?;
        Some(&field.value)
    }

    /// The values under `name`, in any case.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &Bytes> {
        let named = self.list.iter().filter(move |field| is_named(field, name));
        named.map(|field| &field.value)
    }

    /// All values under `name` as one list, as matchers see them.
    pub(super) fn joined(&self, name: &str) -> Option<Bytes> {
        let mut values = self.all(name);
        let first = values.next()?.clone();
        let mut joined: Option<Vec<u8>> = None;
        for value in values {
            let list = joined.get_or_insert_with(|| first.to_vec());
            list.push(b',');
            list.extend_from_slice(value);
        }
        Some(joined.map_or(first, Bytes::from))
    }

    /// Those of `names`, which are lower-case.
    pub(super) fn only(&self, names: &[Box<str>]) -> Self {
        let wanted = |field: &&Field| names.iter().any(|name| is_named(field, name));
        Self {
            list: self.list.iter().filter(wanted).cloned().collect(),
            names: None,
        }
    }

    pub(super) fn remove_known(&mut self, known: Known) {
        self.list.retain(|field| field.known != known);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.list.retain(|field| !is_named(field, name));
    }

    /// Takes away what the next hop gets in other words.
    pub(super) fn strip_connection(&mut self) {
        self.list
            .retain(|field| !is_connection_specific(field.known));
    }

    pub(super) fn retain(&mut self, keep: impl FnMut(&Field) -> bool) {
        self.list.retain(keep);
    }

    /// Adds without looking for others of that name.
    pub(super) fn push(&mut self, known: Known, name: &'static str, value: impl Into<Bytes>) {
        self.list.push(Field {
            known,
            name: Name::Static(name),
            value: value.into(),
        });
    }

    pub(super) fn push_raw(&mut self, known: Known, name: Bytes, value: Bytes) {
        self.list.push(Field {
            known,
            name: Name::Raw(name),
            value,
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Replaces all of that name.
    pub(super) fn set(&mut self, known: Known, name: &'static str, value: impl Into<Bytes>) {
        self.remove(name);
        self.push(known, name, value);
    }

    /// Adds all of `others`; their content type replaces the one that is there.
    pub(super) fn take_over(&mut self, others: Self) {
        if others.known(Known::ContentType).is_some() {
            self.remove_known(Known::ContentType);
        }
        self.list.extend(others.list);
    }

    pub(super) fn append(&mut self, name: HeaderName, value: Bytes) {
        self.list.push(Field {
            known: Known::of(name.as_str().as_bytes()),
            name: Name::Typed(name),
            value,
        });
    }
}

/// Whether a header belongs to its connection, so that no filter writes it.
pub(super) fn is_of_connection(name: &HeaderName) -> bool {
    is_connection_specific(Known::of(name.as_str().as_bytes()))
}

fn is_named(field: &Field, name: &str) -> bool {
    field.name.as_bytes().eq_ignore_ascii_case(name.as_bytes())
}

/// Framing and connection headers are written anew for each hop.
fn is_connection_specific(known: Known) -> bool {
    matches!(
        known,
        Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::TransferEncoding
            | Known::ContentLength
            | Known::Upgrade
    )
}
