//! What filters leave for logs: `%DYNAMIC_METADATA(...)%` and `%FILTER_STATE(...)%`.
//!
//! Only what our filters leave is known: the verdicts of shadow rules, and who the other ends of a
//! request are. All else never has a value, as in an Envoy where nothing sets it.

use super::Entry;
use crate::istio::Workload;

/// One value of a filter.
#[derive(Clone, Debug)]
pub(super) enum FilterState {
    /// What the shadow rules with this prefix came to.
    ShadowResult(Box<str>),
    /// Which of their policies decided.
    ShadowPolicy(Box<str>),
    DownstreamPeer(PeerPart),
    UpstreamPeer(PeerPart),
}

/// A part of a [`Workload`].
type PeerPart = fn(&Workload) -> &str;

impl FilterState {
    /// `envoy.filters.http.rbac:<prefix>shadow_engine_result` and such.
    pub(super) fn of_metadata(argument: Option<&str>) -> Option<Self> {
        let key = argument?.strip_prefix("envoy.filters.http.rbac:")?;
        if let Some(prefix) = key.strip_suffix("shadow_engine_result") {
            return Some(Self::ShadowResult(prefix.into()));
        }
        let prefix = key.strip_suffix("shadow_effective_policy_id")?;
        Some(Self::ShadowPolicy(prefix.into()))
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

    pub(super) fn value<'a>(&self, entry: &Entry<'a>) -> Option<&'a str> {
        let verdict = |prefix: &str| entry.shadow.iter().find(|it| *it.prefix == *prefix);
        match self {
            Self::ShadowResult(prefix) => Some(match verdict(prefix)?.allowed {
                true => "allowed",
                false => "denied",
            }),
            Self::ShadowPolicy(prefix) => verdict(prefix)?.policy.as_deref(),
            Self::DownstreamPeer(part) => known(part(entry.downstream_peer?)),
            Self::UpstreamPeer(part) => known(part(entry.upstream_peer?)),
        }
    }
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
