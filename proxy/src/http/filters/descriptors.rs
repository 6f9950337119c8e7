//! What rate limits are told of a request: its descriptors.

use std::net::IpAddr;

use ithildin_proto::pb::{
    envoy::{
        extensions::common::ratelimit::v3::{
            RateLimitDescriptor,
            rate_limit_descriptor::{Entry, RateLimitOverride},
        },
        r#type::v3::RateLimitUnit,
    },
    google::protobuf::UInt64Value,
};
use serde_json::Value;

use crate::{
    config::{
        limit_rules::{LimitAction, LimitOverride, LimitRule, MetadataPlace},
        matchers::QueryMatch,
    },
    http::{filters::ext_authz::grpc::text, query::parameter, request::Request},
};

/// A request, and what else is known of it.
pub(super) struct Facts<'r> {
    pub(super) request: &'r Request,
    /// The client, as far as it can be trusted.
    pub(super) remote: IpAddr,
    /// Where the request goes.
    pub(super) cluster: &'r str,
    /// The cluster that this proxy belongs to.
    pub(super) own_cluster: &'r str,
}

/// The descriptor that a rule makes; none unless each of its actions agrees.
pub(super) fn descriptor(rule: &LimitRule, facts: &Facts<'_>) -> Option<RateLimitDescriptor> {
    let mut entries = Vec::with_capacity(rule.actions.len());
    for action in &rule.actions {
        match entry(action, facts) {
            Made::Entry(key, value) => entries.push(Entry {
                key: key.to_owned(),
                value,
            }),
            Made::Nothing => {}
            Made::NoDescriptor => return None,
        }
    }
    Some(RateLimitDescriptor {
        entries,
        limit: rule.limit.as_ref().and_then(|it| limit(it, facts)),
        hits_addend: rule.hits.map(|it| UInt64Value { value: it.number }),
        is_negative_hits: rule.hits.is_some_and(|it| it.is_negative),
    })
}

/// What comes of an action.
enum Made<'r> {
    Entry(&'r str, String),
    /// Its descriptor does without.
    Nothing,
    NoDescriptor,
}

impl<'r> Made<'r> {
    fn of(key: &'r str, value: Option<String>, optional: bool) -> Self {
        match value {
            Some(value) => Self::Entry(key, value),
            None if optional => Self::Nothing,
            None => Self::NoDescriptor,
        }
    }
}

fn entry<'r>(action: &'r LimitAction, facts: &Facts<'_>) -> Made<'r> {
    let request = facts.request;
    let fixed = |key: &'r str, value: &str, holds: bool| {
        let value = holds.then(|| value.to_owned());
        Made::of(key, value, false)
    };
    match action {
        LimitAction::SourceCluster => fixed("source_cluster", facts.own_cluster, true),
        LimitAction::DestinationCluster => fixed("destination_cluster", facts.cluster, true),
        LimitAction::Header {
            source,
            key,
            optional,
        } => {
            let value = source.value(request);
            Made::of(key, value.map(|it| text(&it)), *optional)
        }
        LimitAction::Parameter {
            name,
            key,
            optional,
        } => Made::of(key, parameter(request, name), *optional),
        LimitAction::RemoteAddress => {
            let address = facts.remote.to_string();
            Made::Entry("remote_address", address)
        }
        LimitAction::MaskedRemoteAddress { v4, v6 } => {
            let network = masked(facts.remote, *v4, *v6);
            Made::Entry("masked_remote_address", network)
        }
        LimitAction::Generic { key, value } => fixed(key, value, true),
        LimitAction::HeadersMatch {
            key,
            value,
            headers,
            expected,
        } => {
            let matches = headers.iter().all(|it| it.admits(request));
            fixed(key, value, matches == *expected)
        }
        LimitAction::ParametersMatch {
            key,
            value,
            parameters,
            expected,
        } => {
            let matches = parameters.iter().all(|it| has(it, request));
            fixed(key, value, matches == *expected)
        }
        LimitAction::Metadata {
            key,
            place,
            default,
            optional,
        } => {
            let found = find(place, request).and_then(Value::as_str);
            let found = found.filter(|it| !it.is_empty()).unwrap_or(default);
            let value = (!found.is_empty()).then(|| found.to_owned());
            Made::of(key, value, *optional)
        }
    }
}

/// Unlike a route, it looks at what percent-encoding stands for.
fn has(parameter: &QueryMatch, request: &Request) -> bool {
    let value = self::parameter(request, &parameter.name);
    parameter.admits_value(value.as_ref().map(String::as_bytes))
}

fn find<'r>(place: &MetadataPlace, request: &'r Request) -> Option<&'r Value> {
    let metadata = request.metadata.as_deref()?;
    metadata.get(&place.namespace, &place.path)
}

fn limit(limit: &LimitOverride, facts: &Facts<'_>) -> Option<RateLimitOverride> {
    match limit {
        LimitOverride::Fixed { requests, unit } => Some(RateLimitOverride {
            requests_per_unit: *requests,
            unit: *unit,
        }),
        LimitOverride::Metadata(place) => {
            let found = find(place, facts.request)?;
            let unit = found.get("unit")?.as_str()?;
            Some(RateLimitOverride {
                // What does not fit is cut to what does.
                requests_per_unit: found.get("requests_per_unit")?.as_f64()? as u32,
                unit: RateLimitUnit::from_str_name(unit)?.into(),
            })
        }
    }
}

/// The network of that length that the address is in.
fn masked(address: IpAddr, v4: u8, v6: u8) -> String {
    let (network, length) = match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(v4)).unwrap_or(0);
            (IpAddr::from((address.to_bits() & mask).to_be_bytes()), v4)
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(v6)).unwrap_or(0);
            (IpAddr::from((address.to_bits() & mask).to_be_bytes()), v6)
        }
    };
    format!("{network}/{length}")
}
