//! `opentelemetry.proto.logs.v1.LogRecord`: formats, in the shape that the configuration gives them.

use std::time::SystemTime;

use ithildin_proto::{
    opentelemetry::logs::LogRecord,
    pb::opentelemetry::proto::common::v1::{
        AnyValue, ArrayValue, KeyValue, KeyValueList, any_value::Value as ValueProto,
    },
};

use super::{Peer, tag_pairs, text};
use crate::{
    access_log::{Entry, Needs, Template, Unset},
    config::custom_tag::CustomTag,
};

/// How a logger tells of requests and connections.
#[derive(Debug)]
pub(crate) struct Records {
    pub(crate) body: Option<Value>,
    pub(crate) attributes: Vec<(Box<str>, Value)>,
    /// By the names that filters give them.
    pub(crate) peers: Vec<(Box<str>, Peer)>,
    pub(crate) tags: Box<[CustomTag]>,
}

/// Formats in a shape.
#[derive(Debug)]
pub(crate) enum Value {
    Text(Template),
    List(Vec<Self>),
    Fields(Vec<(Box<str>, Self)>),
}

impl Records {
    pub(super) fn needs(&self, needs: &mut Needs) {
        let attributes = self.attributes.iter().map(|(_, value)| value);
        attributes.chain(&self.body).for_each(|it| it.needs(needs));
        let templates = self.tags.iter().filter_map(CustomTag::template);
        templates.for_each(|template| template.needs(needs));
    }

    pub(super) fn record(&self, entry: &Entry<'_>) -> LogRecord {
        let since = entry.start.duration_since(SystemTime::UNIX_EPOCH);
        let nanos = since.map_or(0, |since| since.as_nanos());
        let peers = self.peers.iter();
        let peers = peers.filter_map(|(name, peer)| Some((name.to_string(), peer.json(entry)?)));
        let tags = tag_pairs(&self.tags, entry);
        let mut attributes = fields(&self.attributes, entry);
        attributes.extend(peers.chain(tags).map(|(key, value)| KeyValue {
            key,
            value: Some(string(value)),
            ..KeyValue::default()
        }));
        LogRecord {
            time_unix_nano: u64::try_from(nanos).unwrap_or(u64::MAX),
            body: self.body.as_ref().map(|body| body.message(entry)),
            attributes,
            trace_id: entry
                .span
                .map_or_else(Vec::new, |it| it.trace.to_be_bytes().into()),
            span_id: entry
                .span
                .map_or_else(Vec::new, |it| it.span.to_be_bytes().into()),
        }
    }
}

impl Value {
    fn needs(&self, needs: &mut Needs) {
        match self {
            Self::Text(template) => template.needs(needs),
            Self::List(items) => items.iter().for_each(|item| item.needs(needs)),
            Self::Fields(fields) => fields.iter().for_each(|(_, value)| value.needs(needs)),
        }
    }

    fn message(&self, entry: &Entry<'_>) -> AnyValue {
        let value = match self {
            Self::Text(template) => {
                let mut line = Vec::new();
                template.render(entry, Unset::Dash, &mut line);
                return string(text(&line));
            }
            Self::List(items) => ValueProto::ArrayValue(ArrayValue {
                values: items.iter().map(|item| item.message(entry)).collect(),
            }),
            Self::Fields(pairs) => ValueProto::KvlistValue(KeyValueList {
                values: fields(pairs, entry),
            }),
        };
        AnyValue { value: Some(value) }
    }
}

fn fields(pairs: &[(Box<str>, Value)], entry: &Entry<'_>) -> Vec<KeyValue> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| KeyValue {
            key: key.to_string(),
            value: Some(value.message(entry)),
            ..KeyValue::default()
        })
        .collect()
}

fn string(text: String) -> AnyValue {
    AnyValue {
        value: Some(ValueProto::StringValue(text)),
    }
}
