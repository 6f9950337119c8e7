//! Hash policies of routes.

use http::HeaderName;
use ithildin_proto::pb::envoy::config::route::v3::route_action::{
    HashPolicy as HashPolicyProto,
    hash_policy::{ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter},
};

use crate::{
    config::hash_policy::{HashOn, HashPolicy},
    control::report::{At, refuse},
};

/// The policies that are sound.
pub(super) fn policies(configs: &[HashPolicyProto], at: &At<'_>) -> Vec<HashPolicy> {
    let configs = configs.iter().enumerate();
    configs
        .filter_map(|(i, config)| policy(config, &at.index("hash_policy", i)))
        .collect()
}

fn policy(config: &HashPolicyProto, at: &At<'_>) -> Option<HashPolicy> {
    let HashPolicyProto {
        terminal,
        policy_specifier,
    } = config;
    let on = match policy_specifier {
        Some(PolicySpecifier::Header(Header {
            header_name,
            regex_rewrite,
        })) => {
            let at = at.field("header");
            refuse!(at; regex_rewrite);
            let name = HeaderName::from_bytes(header_name.as_bytes());
            HashOn::Header(at.field("header_name").check(name)?)
        }
        Some(PolicySpecifier::Cookie(config)) => cookie(config, &at.field("cookie"))?,
        Some(PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip })) => {
            if !source_ip {
                at.field("connection_properties")
                    .error("source_ip must be true");
            }
            HashOn::SourceIp
        }
        Some(PolicySpecifier::QueryParameter(QueryParameter { name })) => {
            HashOn::QueryParameter(name.as_str().into())
        }
        Some(PolicySpecifier::FilterState(_)) => {
            at.field("filter_state").error("is not supported");
            return None;
        }
        None => {
            at.error("has no policy");
            return None;
        }
    };
    Some(HashPolicy {
        on,
        terminal: *terminal,
    })
}

fn cookie(config: &Cookie, at: &At<'_>) -> Option<HashOn> {
    let Cookie {
        name,
        ttl,
        path,
        attributes,
    } = config;
    let ttl = at.duration("ttl", ttl);
    let mut text = String::new();
    if let Some(ttl) = ttl.filter(|ttl| !ttl.is_zero()) {
        text.push_str(&format!("; Max-Age={}", ttl.as_secs()));
    }
    if !path.is_empty() {
        text.push_str(&format!("; Path={path}"));
    }
    for attribute in attributes {
        text.push_str(&match attribute.value.as_str() {
            "" => format!("; {}", attribute.name),
            value => format!("; {}={value}", attribute.name),
        });
    }
    text.push_str("; HttpOnly");
    // They go into a header as they stand.
    if !name
        .chars()
        .chain(text.chars())
        .all(|c| c.is_ascii_graphic() || c == ' ')
    {
        at.error("has characters that no header may have");
        return None;
    }
    Some(HashOn::Cookie {
        name: name.as_str().into(),
        ttl,
        attributes: text.into(),
    })
}
