//! Listeners: addresses, listener filters and filter chains.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ithildin_proto::pb::{
    envoy::{
        config::listener::v3::{
            AdditionalAddress, FilterChain as FilterChainProto,
            FilterChainMatch as ChainMatchProto, Listener as ListenerProto, ListenerFilter,
            listener_filter,
        },
        extensions::filters::listener::{
            http_inspector::v3::HttpInspector, tls_inspector::v3::TlsInspector,
        },
    },
    google::protobuf::Any,
};

use super::{Compiler, ListenerParts, access_log, address, network_filters, tls};
use crate::{
    config::listener::{ChainMatch, FilterChain, FilterChains, Listener, Terminal, Transport},
    control::{
        any,
        report::{At, no_effect, refuse},
    },
};

/// Envoy's defaults: time for the listener filters, and bytes buffered per connection.
const DEFAULT_FILTERS_TIMEOUT: Duration = Duration::from_secs(15);
pub(super) const DEFAULT_BUFFER_LIMIT: u32 = 1 << 20;

/// What the HTTP inspector can find.
const SNIFFED_PROTOCOLS: [&[u8]; 3] = [b"http/1.0", b"http/1.1", b"h2c"];

pub(super) fn listener(
    config: &ListenerProto,
    compiler: &mut Compiler,
    parts: &mut ListenerParts,
    at: &At<'_>,
) -> Option<Listener> {
    unsupported(config, at);
    let addresses = addresses(config, at);
    let name: Arc<str> = match (config.name.is_empty(), addresses.first()) {
        (true, Some(address)) => address.to_string().into(),
        _ => config.name.as_str().into(),
    };
    parts.stat_name = match (config.stat_prefix.is_empty(), addresses.first()) {
        (true, Some(address)) => address.to_string(),
        _ => config.stat_prefix.clone(),
    };
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
    let inspectors = listener_filters(&config.listener_filters, at);
    if inspectors.http
        && chains
            .iter()
            .any(|chain| needs_http_inspection(&chain.matches))
    {
        at.field("listener_filters").error(
            "envoy.filters.listener.http_inspector is not supported where a filter chain is chosen \
             by what it finds",
        );
    }
    let inspect_tls = inspectors.tls || chains.iter().any(|c| needs_tls_inspection(&c.matches));
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
        inspect_tls,
        inspect_timeout: at.limit(
            "listener_filters_timeout",
            &config.listener_filters_timeout,
            Some(DEFAULT_FILTERS_TIMEOUT),
        ),
        continue_on_inspect_timeout: config.continue_on_listener_filters_timeout,
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
        stats_matcher, fcds_config, filter_chain_matcher, use_original_dst,
        per_connection_buffer_high_watermark_timeout, metadata, deprecated_v1, drain_type,
        transparent, freebind, socket_options, tcp_fast_open_queue_length, traffic_direction,
        udp_listener_config, api_listener, connection_balance_config, reuse_port,
        enable_reuse_port, tcp_backlog_size, max_connections_to_accept_per_socket_event,
        enable_mptcp, ignore_global_conn_limit, bypass_overload_manager, tcp_keepalive,
        listener_specifier,
    } = config;
    // Statistics, and how the kernel hands connections out: each worker has a socket of its own.
    no_effect!(
        stats_matcher,
        metadata,
        drain_type,
        traffic_direction,
        connection_balance_config,
        reuse_port,
        enable_reuse_port,
        tcp_backlog_size,
        max_connections_to_accept_per_socket_event,
        ignore_global_conn_limit,
        bypass_overload_manager,
    );
    refuse!(
        at;
        fcds_config, filter_chain_matcher, per_connection_buffer_high_watermark_timeout,
        deprecated_v1, socket_options, tcp_fast_open_queue_length, udp_listener_config,
        api_listener, enable_mptcp, tcp_keepalive, listener_specifier,
    );
    at.not_true("use_original_dst", use_original_dst);
    at.not_true("transparent", transparent);
    at.not_true("freebind", freebind);
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

#[derive(Default)]
struct Inspectors {
    tls: bool,
    http: bool,
}

fn listener_filters(filters: &[ListenerFilter], at: &At<'_>) -> Inspectors {
    let mut inspectors = Inspectors::default();
    for (i, filter) in filters.iter().enumerate() {
        let at = at.index("listener_filters", i);
        let ListenerFilter {
            name,
            filter_disabled,
            config_type,
        } = filter;
        refuse!(at; filter_disabled);
        match config_type {
            Some(listener_filter::ConfigType::TypedConfig(config)) => {
                listener_filter(config, &mut inspectors, &at);
            }
            Some(listener_filter::ConfigType::ConfigDiscovery(_)) => {
                at.field("config_discovery").error("is not supported");
            }
            None if name == "envoy.filters.listener.tls_inspector" => inspectors.tls = true,
            None if name == "envoy.filters.listener.http_inspector" => inspectors.http = true,
            None => at.error(format_args!("filter {name:?} has no typed_config")),
        }
    }
    inspectors
}

fn listener_filter(config: &Any, inspectors: &mut Inspectors, at: &At<'_>) {
    if any::is::<HttpInspector>(config) {
        inspectors.http = true;
    } else if any::is::<TlsInspector>(config) {
        inspectors.tls = true;
        let at = at.field("typed_config");
        if let Some(TlsInspector {
            enable_ja3_fingerprinting,
            enable_ja4_fingerprinting,
            initial_read_buffer_size,
            close_connection_on_client_hello_parsing_errors,
            max_client_hello_size,
        }) = any::read(config, &at)
        {
            // Fingerprints are for logs; the buffer grows as it must.
            no_effect!(
                enable_ja3_fingerprinting,
                enable_ja4_fingerprinting,
                initial_read_buffer_size,
            );
            at.unset(
                "close_connection_on_client_hello_parsing_errors",
                &close_connection_on_client_hello_parsing_errors,
            );
            at.unset("max_client_hello_size", &max_client_hello_size);
        }
    } else {
        any::unsupported(config, at);
    }
}

fn needs_tls_inspection(matches: &ChainMatch) -> bool {
    !matches.server_names.is_empty()
        || !matches.application_protocols.is_empty()
        || matches.transport == Some(Transport::Tls)
}

fn needs_http_inspection(matches: &ChainMatch) -> bool {
    matches.transport != Some(Transport::Tls)
        && matches
            .application_protocols
            .iter()
            .any(|protocol| SNIFFED_PROTOCOLS.contains(&protocol.as_slice()))
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
    let (rbac, terminal) = filters?;
    Some(FilterChain {
        name,
        matches,
        tls,
        handshake_timeout: at.limit(
            "transport_socket_connect_timeout",
            transport_socket_connect_timeout,
            None,
        ),
        rbac,
        terminal,
    })
}

fn chain_match(config: &ChainMatchProto, at: &At<'_>) -> ChainMatch {
    let ChainMatchProto {
        destination_port,
        prefix_ranges,
        address_suffix,
        suffix_len,
        direct_source_prefix_ranges,
        source_type,
        source_prefix_ranges,
        source_ports,
        server_names,
        transport_protocol,
        application_protocols,
    } = config;
    refuse!(
        at;
        address_suffix, suffix_len, direct_source_prefix_ranges, source_type,
        source_prefix_ranges, source_ports,
    );
    let ranges = prefix_ranges.iter().enumerate();
    ChainMatch {
        destination_port: destination_port
            .and_then(|port| address::port(port.value, &at.field("destination_port"))),
        prefix_ranges: ranges
            .filter_map(|(i, range)| address::cidr(range, &at.index("prefix_ranges", i)))
            .collect(),
        server_names: server_names
            .iter()
            .enumerate()
            .map(|(i, name)| server_name(name, &at.index("server_names", i)))
            .collect(),
        transport: match transport_protocol.as_str() {
            "" => None,
            "tls" => Some(Transport::Tls),
            "raw_buffer" => Some(Transport::RawBuffer),
            other => {
                at.field("transport_protocol")
                    .error(format_args!("{other:?} is not supported"));
                None
            }
        },
        application_protocols: application_protocols
            .iter()
            .map(|protocol| protocol.as_bytes().to_vec())
            .collect(),
    }
}

fn server_name(name: &str, at: &At<'_>) -> String {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    if rest.is_empty() || rest.contains('*') {
        at.error(format_args!(
            "{name:?} is neither a name nor a wildcard of the form *.example.org"
        ));
    }
    name.to_ascii_lowercase()
}
