//! Listeners: addresses, listener filters and filter chains.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ithildin_proto::pb::envoy::config::{
    core::v3::TrafficDirection as TrafficDirectionProto,
    listener::v3::{
        AdditionalAddress, FilterChain as FilterChainProto, Listener as ListenerProto,
        listener::DrainType as DrainTypeProto,
    },
};

use super::{
    Compiler, ListenerParts, access_log, address, chain_match::chain_match, listener_filters,
    network_filters, tls,
};
use crate::{
    config::listener::{
        ChainMatch, DrainType, FilterChain, FilterChains, Listener, ListenerFilters, SocketOptions,
        Terminal, TrafficDirection,
    },
    control::report::{At, no_effect, refuse},
};

/// Envoy's defaults: time for the listener filters, and bytes buffered per connection.
const DEFAULT_FILTERS_TIMEOUT: Duration = Duration::from_secs(15);
pub(super) const DEFAULT_BUFFER_LIMIT: u32 = 1 << 20;

pub(super) fn listener(
    config: &ListenerProto,
    compiler: &mut Compiler,
    parts: &mut ListenerParts,
    at: &At<'_>,
) -> Option<Listener> {
    unsupported(config, at);
    let hands_off = config.use_original_dst.is_some_and(|value| value.value);
    let addresses = addresses(config, at);
    let name: Arc<str> = match (config.name.is_empty(), addresses.first()) {
        (true, Some(address)) => address.to_string().into(),
        _ => config.name.as_str().into(),
    };
    parts.stat_name = match (config.stat_prefix.is_empty(), addresses.first()) {
        (true, Some(address)) => address.to_string(),
        _ => config.stat_prefix.clone(),
    };
    parts.inbound = config.traffic_direction == TrafficDirectionProto::Inbound as i32;
    parts.outbound = config.traffic_direction == TrafficDirectionProto::Outbound as i32;
    let chains = config.filter_chains.iter().enumerate();
    let chains: Vec<_> = chains
        .filter_map(|(i, chain)| {
            let label = chain_name(chain, i);
            let at = at.index("filter_chains", i);
            filter_chain(chain, label, &name, compiler, parts, &at)
        })
        .map(Arc::new)
        .collect();
    let default = config.default_filter_chain.as_ref().and_then(|chain| {
        let at = at.field("default_filter_chain");
        let label = non_empty(&chain.name, "default");
        filter_chain(chain, label, &name, compiler, parts, &at)
    });
    if config.filter_chains.is_empty() && config.default_filter_chain.is_none() {
        at.field("filter_chains").error("is empty");
    }
    let filters = listener_filters::filters(
        &config.listener_filters,
        hands_off,
        chains.iter().map(Arc::as_ref).chain(&default),
        &compiler.stats,
        at,
    );
    let tls = chains.iter().any(|chain| chain.tls.is_some())
        || default.as_ref().is_some_and(|chain| chain.tls.is_some());
    let chains = at
        .field("filter_chains")
        .check(FilterChains::new(chains, default.map(Arc::new)));
    let chains = chains?;
    let access_log = access_log::loggers(&config.access_log, compiler, at);
    Some(Listener {
        logs_connections: !access_log.is_empty() || chains.iter().any(|it| logs_sessions(it)),
        access_log,
        generation: compiler.next_generation(),
        bind_to_port: config.bind_to_port.is_none_or(|value| value.value),
        hands_off,
        is_always_accepted: config.ignore_global_conn_limit || config.bypass_overload_manager,
        direction: direction(config.traffic_direction, at),
        drain_type: drain_type(config.drain_type, at),
        socket: SocketOptions {
            transparent: config.transparent.is_some_and(|value| value.value),
            freebind: config.freebind.is_some_and(|value| value.value),
            backlog: config.tcp_backlog_size.map(|size| size.value),
        },
        filters: ListenerFilters {
            filters,
            timeout: at.limit(
                "listener_filters_timeout",
                &config.listener_filters_timeout,
                Some(DEFAULT_FILTERS_TIMEOUT),
            ),
            continue_on_timeout: config.continue_on_listener_filters_timeout,
        },
        chains,
        buffer_limit: config
            .per_connection_buffer_limit_bytes
            .map_or(DEFAULT_BUFFER_LIMIT, |value| value.value),
        stats: compiler.stats.listener(&parts.stat_name, tls),
        name,
        addresses,
    })
}

fn logs_sessions(chain: &FilterChain) -> bool {
    match &chain.terminal {
        Terminal::Tcp(proxy) => !proxy.access_log.is_empty(),
        Terminal::Http(_) => false,
    }
}

/// Refuses or passes over each field that [`listener`] does not read.
fn unsupported(config: &ListenerProto, at: &At<'_>) {
    #[rustfmt::skip]
    let ListenerProto {
        name: _, address: _, additional_addresses: _, filter_chains: _, default_filter_chain: _,
        per_connection_buffer_limit_bytes: _, listener_filters: _, listener_filters_timeout: _,
        continue_on_listener_filters_timeout: _, access_log: _, bind_to_port: _, stat_prefix: _,
        use_original_dst: _, transparent: _, freebind: _, tcp_backlog_size: _,
        traffic_direction: _, drain_type: _, stats_matcher, fcds_config, filter_chain_matcher,
        per_connection_buffer_high_watermark_timeout, metadata, deprecated_v1,
        socket_options, tcp_fast_open_queue_length, udp_listener_config, api_listener,
        connection_balance_config, reuse_port, enable_reuse_port,
        max_connections_to_accept_per_socket_event,
        enable_mptcp, ignore_global_conn_limit: _, bypass_overload_manager: _, tcp_keepalive,
        listener_specifier,
    } = config;
    // Statistics, and how the kernel hands connections out: each worker has a socket of its own.
    no_effect!(
        stats_matcher,
        metadata,
        connection_balance_config,
        reuse_port,
        enable_reuse_port,
        max_connections_to_accept_per_socket_event,
    );
    refuse!(
        at;
        fcds_config, filter_chain_matcher, per_connection_buffer_high_watermark_timeout,
        deprecated_v1, socket_options, tcp_fast_open_queue_length, udp_listener_config,
        api_listener, enable_mptcp, tcp_keepalive, listener_specifier,
    );
}

fn direction(direction: i32, at: &At<'_>) -> TrafficDirection {
    match TrafficDirectionProto::try_from(direction) {
        Ok(TrafficDirectionProto::Unspecified) => TrafficDirection::Unspecified,
        Ok(TrafficDirectionProto::Inbound) => TrafficDirection::Inbound,
        Ok(TrafficDirectionProto::Outbound) => TrafficDirection::Outbound,
        Err(_) => {
            at.field("traffic_direction")
                .error(format_args!("{direction} is not supported"));
            TrafficDirection::Unspecified
        }
    }
}

fn drain_type(kind: i32, at: &At<'_>) -> DrainType {
    match DrainTypeProto::try_from(kind) {
        Ok(DrainTypeProto::Default) => DrainType::Default,
        Ok(DrainTypeProto::ModifyOnly) => DrainType::ModifyOnly,
        Err(_) => {
            at.field("drain_type")
                .error(format_args!("{kind} is not supported"));
            DrainType::Default
        }
    }
}

fn addresses(config: &ListenerProto, at: &At<'_>) -> Vec<SocketAddr> {
    let first = address::socket(config.address.as_ref(), &at.field("address"));
    let more = config.additional_addresses.iter().enumerate();
    let more = more.filter_map(|(i, additional)| {
        let AdditionalAddress {
            address,
            socket_options,
            tcp_keepalive,
        } = additional;
        let at = at.index("additional_addresses", i);
        refuse!(at; socket_options, tcp_keepalive);
        address::socket(address.as_ref(), &at.field("address"))
    });
    first.into_iter().chain(more).collect()
}

fn chain_name(chain: &FilterChainProto, index: usize) -> Arc<str> {
    if chain.name.is_empty() {
        format!("{index}").into()
    } else {
        chain.name.as_str().into()
    }
}

fn non_empty(text: &str, default: &str) -> Arc<str> {
    if text.is_empty() { default } else { text }.into()
}

fn filter_chain(
    config: &FilterChainProto,
    name: Arc<str>,
    listener: &str,
    compiler: &mut Compiler,
    parts: &mut ListenerParts,
    at: &At<'_>,
) -> Option<FilterChain> {
    let FilterChainProto {
        filter_chain_match,
        filters,
        use_proxy_proto,
        metadata,
        transport_socket,
        transport_socket_connect_timeout,
        name: _,
    } = config;
    no_effect!(metadata);
    at.not_true("use_proxy_proto", use_proxy_proto);
    let matches = match filter_chain_match {
        Some(config) => chain_match(config, &at.field("filter_chain_match")),
        None => ChainMatch::default(),
    };
    let label: Arc<str> = format!("listener {listener:?}, filter chain {name:?}").into();
    let tls = tls::server(
        &label,
        transport_socket.as_ref(),
        &mut compiler.secrets,
        &at.field("transport_socket"),
    );
    let filters = network_filters::filters(filters, compiler, parts, at);
    let tls = tls?.map(|(context, keys)| {
        parts.secrets.extend(keys);
        context
    });
    let filters = filters?;
    Some(FilterChain {
        name,
        matches,
        tls,
        handshake_timeout: at.limit(
            "transport_socket_connect_timeout",
            transport_socket_connect_timeout,
            None,
        ),
        access: filters.access,
        sni_cluster: filters.sni_cluster,
        sni_forward: filters.sni_forward,
        peer_exchange: filters.peer_exchange,
        telemetry: filters.telemetry,
        terminal: filters.terminal,
    })
}
