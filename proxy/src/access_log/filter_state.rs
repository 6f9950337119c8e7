//! What filters leave for logs: `%DYNAMIC_METADATA(...)%` and `%FILTER_STATE(...)%`.
//!
//! Of filter state only who the other ends of a request are is known. All else never has a value, as
//! in an Envoy where nothing sets it.

use serde_json::Value;

use super::{Entry, operator::Kind};
use crate::{istio::Workload, metadata::whole_numbers};

/// One value of a filter.
#[derive(Clone, Debug)]
pub(super) enum FilterState {
    /// Of a namespace: a value, or one below it, or all if there is no path.
    Metadata {
        namespace: Box<str>,
        path: Vec<Box<str>>,
    },
    DownstreamPeer(PeerPart),
    UpstreamPeer(PeerPart),
}

/// A part of a [`Workload`].
type PeerPart = fn(&Workload) -> &str;

impl FilterState {
    /// `envoy.filters.http.jwt_authn:payload:sub` and such.
    pub(super) fn of_metadata(argument: Option<&str>) -> Option<Self> {
        let mut parts = argument?.split(':').map(Into::into);
        Some(Self::Metadata {
            namespace: parts.next()?,
            path: parts.collect(),
        })
    }

    /// `downstream_peer_obj:FIELD:workload` and such.
    pub(super) fn of_state(argument: Option<&str>) -> Option<Self> {
        let (peer, field) = argument?.split_once(":FIELD:")?;
        let part = peer_part(field)?;
        match peer {
            "downstream_peer_obj" => Some(Self::DownstreamPeer(part)),
            "upstream_peer_obj" => Some(Self::UpstreamPeer(part)),
            _ => None,
        }
    }

    /// Appends the value to `out`; `None` if there is none.
    pub(super) fn write(&self, entry: &Entry<'_>, out: &mut Vec<u8>) -> Option<Kind> {
        let text = match self {
            Self::Metadata { namespace, path } => {
                let metadata = entry.metadata?;
                return match path.is_empty() {
                    true => write(Value::Object(metadata.namespace(namespace)?.clone()), out),
                    false => write(metadata.get(namespace, path)?.clone(), out),
                };
            }
            Self::DownstreamPeer(part) => part(entry.downstream_peer?),
            Self::UpstreamPeer(part) => part(entry.upstream_peer?),
        };
        out.extend_from_slice(known(text)?.as_bytes());
        Some(Kind::Text)
    }
}

/// Text as it is, all else as JSON with its names in order.
pub(super) fn write(mut value: Value, out: &mut Vec<u8>) -> Option<Kind> {
    if let Value::String(text) = &value {
        out.extend_from_slice(text.as_bytes());
        return Some(Kind::Text);
    }
    value.sort_all_objects();
    whole_numbers(&mut value);
    out.extend_from_slice(value.to_string().as_bytes());
    Some(Kind::Json)
}

fn known(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn peer_part(field: &str) -> Option<PeerPart> {
    let part: PeerPart = match field {
        "workload" => |peer| &peer.name,
        "namespace" => |peer| &peer.namespace,
        "cluster" => |peer| &peer.cluster,
        "name" => |peer| &peer.instance,
        "service" => |peer| &peer.canonical_name,
        "revision" => |peer| &peer.canonical_revision,
        "app" => |peer| &peer.app,
        "version" => |peer| &peer.version,
        "identity" => |peer| &peer.identity,
        "region" => |peer| &peer.region,
        "availability_zone" => |peer| &peer.zone,
        _ => return None,
    };
    Some(part)
}
