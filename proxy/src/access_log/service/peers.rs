//! Who the other ends are, as Istio's filters leave it for loggers.
//!
//! Of filter state nothing else is known; other names have no value, as in an Envoy where nothing sets
//! them.

use ithildin_proto::pb::google::protobuf::Any;
use prost::Message as _;
use serde_json::{Value, json};

use super::metadata;
use crate::{access_log::Entry, istio::Workload};

const STRUCT: &str = "type.googleapis.com/google.protobuf.Struct";

/// One end, under one of its two names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    is_upstream: bool,
    /// It is a message already, and not a value that tells its type.
    is_object: bool,
}

impl Peer {
    /// Of the name that filter state has.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let (is_upstream, is_object) = match name {
            "downstream_peer" => (false, false),
            "upstream_peer" => (true, false),
            "downstream_peer_obj" => (false, true),
            "upstream_peer_obj" => (true, true),
            _ => return None,
        };
        Some(Self {
            is_upstream,
            is_object,
        })
    }

    pub(super) fn message(self, entry: &Entry<'_>) -> Option<Any> {
        let fields = metadata::object(&self.of(entry)?.log_fields());
        Some(Any {
            type_url: STRUCT.to_owned(),
            value: fields.encode_to_vec(),
        })
    }

    /// The same in JSON.
    pub(super) fn json(self, entry: &Entry<'_>) -> Option<String> {
        let fields = Value::Object(self.of(entry)?.log_fields());
        let value = match self.is_object {
            true => fields,
            false => json!({"@type": STRUCT, "value": fields}),
        };
        Some(value.to_string())
    }

    fn of<'a>(self, entry: &Entry<'a>) -> Option<&'a Workload> {
        match self.is_upstream {
            true => entry.upstream_peer,
            false => entry.downstream_peer,
        }
    }
}
