//! Listener filters, and the predicates that switch them off for some connections.

use std::mem::discriminant;

use ithildin_proto::pb::{
    envoy::{
        config::core::v3::proxy_protocol_config::Version,
        config::listener::v3::{
            ListenerFilter as ListenerFilterProto, ListenerFilterChainMatchPredicate as Predicate,
            listener_filter,
            listener_filter_chain_match_predicate::{MatchSet, Rule},
        },
        extensions::filters::listener::{
            http_inspector::v3::HttpInspector, original_dst::v3::OriginalDst,
            original_src::v3::OriginalSrc, proxy_protocol::v3::ProxyProtocol,
            tls_inspector::v3::TlsInspector,
        },
    },
    google::protobuf::Any,
};

use crate::{
    config::listener::{
        ChainMatch, FilterChain, ListenerFilter, ListenerFilterKind, ListenerPredicate, Transport,
    },
    control::{
        any,
        report::{At, no_effect, refuse},
    },
    proxy_protocol::Accepted,
    stats::Registry,
};

/// The filters that are configured, and those that the rest of the listener implies.
pub(super) fn filters<'c>(
    configured: &[ListenerFilterProto],
    use_original_dst: bool,
    chains: impl IntoIterator<Item = &'c FilterChain>,
    stats: &Registry,
    at: &At<'_>,
) -> Vec<ListenerFilter> {
    let configured = configured.iter().enumerate();
    let mut filters: Vec<_> = configured
        .filter_map(|(i, config)| filter(config, stats, &at.index("listener_filters", i)))
        .collect();
    let mut imply = |kind, wanted: bool| {
        let is_it = |filter: &ListenerFilter| discriminant(&filter.kind) == discriminant(&kind);
        if wanted && !filters.iter().any(is_it) {
            let disabled = None;
            filters.push(ListenerFilter { kind, disabled });
        }
    };
    let inspected = chains
        .into_iter()
        .any(|chain| needs_tls_inspection(&chain.matches));
    imply(ListenerFilterKind::TlsInspector, inspected);
    imply(ListenerFilterKind::OriginalDst, use_original_dst);
    filters
}

/// Envoy adds the inspector by itself where chains cannot be told apart without it.
fn needs_tls_inspection(matches: &ChainMatch) -> bool {
    match matches.transport {
        Some(Transport::Tls) => true,
        Some(Transport::RawBuffer) => false,
        None => !matches.server_names.is_empty() || !matches.application_protocols.is_empty(),
    }
}

fn filter(config: &ListenerFilterProto, stats: &Registry, at: &At<'_>) -> Option<ListenerFilter> {
    let ListenerFilterProto {
        name,
        filter_disabled,
        config_type,
    } = config;
    let kind = match config_type {
        Some(listener_filter::ConfigType::TypedConfig(config)) => kind(config, stats, at),
        Some(listener_filter::ConfigType::ConfigDiscovery(_)) => {
            at.field("config_discovery").error("is not supported");
            None
        }
        None => by_name(name, stats, at),
    };
    let disabled = match filter_disabled {
        Some(config) => Some(predicate(config, &at.field("filter_disabled"))?),
        None => None,
    };
    Some(ListenerFilter {
        kind: kind?,
        disabled,
    })
}

fn by_name(name: &str, stats: &Registry, at: &At<'_>) -> Option<ListenerFilterKind> {
    match name {
        "envoy.filters.listener.original_dst" => Some(ListenerFilterKind::OriginalDst),
        "envoy.filters.listener.tls_inspector" => Some(ListenerFilterKind::TlsInspector),
        "envoy.filters.listener.http_inspector" => Some(ListenerFilterKind::HttpInspector),
        "envoy.filters.listener.proxy_protocol" => {
            proxy_protocol(&ProxyProtocol::default(), stats, at)
        }
        _ => {
            at.error(format_args!("filter {name:?} has no typed_config"));
            None
        }
    }
}

fn kind(config: &Any, stats: &Registry, at: &At<'_>) -> Option<ListenerFilterKind> {
    if any::is::<OriginalDst>(config) {
        Some(ListenerFilterKind::OriginalDst)
    } else if any::is::<HttpInspector>(config) {
        Some(ListenerFilterKind::HttpInspector)
    } else if any::is::<TlsInspector>(config) {
        tls_inspector(config, &at.field("typed_config"));
        Some(ListenerFilterKind::TlsInspector)
    } else if any::is::<ProxyProtocol>(config) {
        let at = at.field("typed_config");
        proxy_protocol(&any::read(config, &at)?, stats, &at)
    } else if any::is::<OriginalSrc>(config) {
        let at = at.field("typed_config");
        let OriginalSrc { bind_port, mark } = any::read(config, &at)?;
        at.unset("bind_port", &bind_port);
        Some(ListenerFilterKind::OriginalSrc { mark })
    } else {
        any::unsupported(config, at);
        None
    }
}

fn proxy_protocol(
    config: &ProxyProtocol,
    stats: &Registry,
    at: &At<'_>,
) -> Option<ListenerFilterKind> {
    let ProxyProtocol {
        rules,
        allow_requests_without_proxy_protocol,
        pass_through_tlvs,
        disallowed_versions,
        stat_prefix,
        tlv_location,
    } = config;
    // Where that is stored which the rules would name.
    no_effect!(tlv_location);
    refuse!(at; rules, pass_through_tlvs);
    let mut accepted = Accepted {
        v1: true,
        v2: true,
        optional: *allow_requests_without_proxy_protocol,
    };
    for version in disallowed_versions {
        match at.enumeration("disallowed_versions", *version)? {
            Version::V1 => accepted.v1 = false,
            Version::V2 => accepted.v2 = false,
        }
    }
    let stats = stats.proxy_protocol(stat_prefix);
    Some(ListenerFilterKind::ProxyProtocol(accepted, stats))
}

fn tls_inspector(config: &Any, at: &At<'_>) {
    let Some(config) = any::read::<TlsInspector>(config, at) else {
        return;
    };
    let TlsInspector {
        enable_ja3_fingerprinting,
        enable_ja4_fingerprinting,
        initial_read_buffer_size,
        close_connection_on_client_hello_parsing_errors,
        max_client_hello_size,
    } = &config;
    // Fingerprints are for logs; the buffer grows as it must.
    no_effect!(
        enable_ja3_fingerprinting,
        enable_ja4_fingerprinting,
        initial_read_buffer_size,
    );
    at.unset(
        "close_connection_on_client_hello_parsing_errors",
        close_connection_on_client_hello_parsing_errors,
    );
    at.unset("max_client_hello_size", max_client_hello_size);
}

fn predicate(config: &Predicate, at: &At<'_>) -> Option<ListenerPredicate> {
    match &config.rule {
        Some(Rule::AnyMatch(true)) => Some(ListenerPredicate::Any),
        Some(Rule::AnyMatch(false)) => {
            at.field("any_match").error("is false; it can only be true");
            None
        }
        Some(Rule::DestinationPortRange(range)) => {
            let end = range.end;
            match (u32::try_from(range.start), u32::try_from(end)) {
                (Ok(start), Ok(end)) if end <= 1 << 16 => {
                    Some(ListenerPredicate::DestinationPorts(start..end))
                }
                _ => {
                    at.field("destination_port_range").error(format_args!(
                        "{} to {end} is no range of ports",
                        range.start
                    ));
                    None
                }
            }
        }
        Some(Rule::NotMatch(rule)) => {
            let rule = predicate(rule, &at.field("not_match"))?;
            Some(ListenerPredicate::Not(Box::new(rule)))
        }
        Some(Rule::OrMatch(set)) => {
            predicates(set, &at.field("or_match")).map(ListenerPredicate::AnyOf)
        }
        Some(Rule::AndMatch(set)) => {
            predicates(set, &at.field("and_match")).map(ListenerPredicate::AllOf)
        }
        None => {
            at.error("has no rule");
            None
        }
    }
}

fn predicates(set: &MatchSet, at: &At<'_>) -> Option<Vec<ListenerPredicate>> {
    let rules = set.rules.iter().enumerate();
    rules
        .map(|(i, rule)| predicate(rule, &at.index("rules", i)))
        .collect()
}
